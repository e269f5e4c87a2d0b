//! `palisade run` and `palisade gateway run`: the gateway in the foreground, until the client leaves
//! or a signal comes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use palisade_gateway::audit::Log;
use palisade_gateway::{
    CancellationToken, Context, ExitReason, ExitStatus, HttpOptions, ServerEntry, SingleError, Token,
    Transport, run_gateway, run_single,
};
use palisade_profiles::Profile;
use palisade_sandbox::HostSupport;
use palisade_sys::dir::Dir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::Done;
use crate::assemble::{self, launch_status, load, open_store, prepare, read_secret_file};
use crate::cli::{self, GatewayRun, Run};
use crate::environment::Environment;
use crate::failure::{Failure, Status};

/// One server in the place of itself; its exit status is ours.
pub(super) fn run_one(
    options: &Run,
    store: Option<&Path>,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let loaded = load(&options.policy)?;
    let (store, store_path) = open_store(store, environment)?;
    let server = prepare(&store, loaded, &HostSupport::probe(), environment, &options.start)?;
    let log = audit_log(options.start.audit_log.as_deref(), &store_path)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let context = context(log)?;
        Ok(run_single(entry(server), standard_streams(), context).await)
    });
    // A read from a terminal or file cannot be called off; it must not hold up the end.
    runtime.shutdown_background();
    match ended? {
        Ok(exit) => Ok(exit_code(&exit.reason, exit.exit.status)),
        Err(error) => Err(single_failure(&error)),
    }
}

/// Several servers behind one endpoint.
pub(super) fn run_many(options: &GatewayRun, store: Option<&Path>, environment: &Environment) -> Done {
    let (store, store_path) = open_store(store, environment)?;
    let host = HostSupport::probe();
    let loaded = options.policies.iter().map(|file| load(file)).collect::<Result<Vec<_>, _>>()?;
    // Before anything is unpacked.
    Profile::new(loaded.iter().map(|loaded| &loaded.policy).collect()).map_err(|error| {
        Failure::new(Status::Usage, &error, Some("give each policy's `server` a name of its own".into()))
    })?;
    let mut servers = Vec::new();
    for policy in loaded {
        servers.push(entry(prepare(&store, policy, &host, environment, &options.start)?));
    }
    let token = match options.transport {
        cli::Transport::Stdio => None,
        cli::Transport::Http => Some(token(options.token_file.as_deref())?),
    };
    let log = audit_log(options.start.audit_log.as_deref(), &store_path)?;
    let runtime = runtime()?;
    let served = runtime.block_on(serve(servers, token, options, log));
    runtime.shutdown_background();
    served
}

/// Serves already prepared servers on standard input and output; used by `demo --serve`.
pub(super) fn serve_on_stdio(servers: Vec<ServerEntry>, log: Log) -> Done {
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let (input, output) = standard_streams();
        gateway(servers, Transport::Stdio { input, output }, context(log)?).await
    });
    runtime.shutdown_background();
    served
}

async fn serve(servers: Vec<ServerEntry>, token: Option<Token>, options: &GatewayRun, log: Log) -> Done {
    let context = context(log)?;
    let transport = match token {
        None => {
            let (input, output) = standard_streams();
            Transport::Stdio { input, output }
        }
        Some(token) => {
            let listener = TcpListener::bind(options.listen).await.map_err(|error| {
                Failure::new(Status::Failed, &error, Some("choose another address with `--listen`".into()))
                    .because(format!("the address {} cannot be listened on", options.listen))
            })?;
            let address =
                listener.local_addr().map_err(|error| Failure::new(Status::Failed, &error, None))?;
            tracing::warn!("listening on http://{address}/mcp");
            let options = HttpOptions { token, allowed_origins: Vec::new(), allowed_hosts: Vec::new() };
            Transport::Http { listener, options }
        }
    };
    gateway(servers, transport, context).await
}

async fn gateway(servers: Vec<ServerEntry>, transport: Transport, context: Context) -> Done {
    run_gateway(servers, transport, context)
        .await
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))
}

/// The gateway's view of a prepared server.
pub(super) fn entry(server: assemble::PreparedServer) -> ServerEntry {
    ServerEntry { policy: server.policy(), launch: Arc::new(server) }
}

fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Status::Failed, &error, None).because("the event loop cannot be started")
    })
}

/// Ends on the signals that end a program.
fn context(log: Log) -> Result<Context, Failure> {
    let shutdown = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(|error| {
            Failure::new(Status::Failed, &error, None).because("signals cannot be watched")
        })?;
        let shutdown = shutdown.clone();
        drop(tokio::spawn(async move {
            if signals.recv().await.is_some() {
                shutdown.cancel();
            }
        }));
    }
    Ok(Context { audit: Arc::new(log), shutdown })
}

/// Opens the audit log for appending, readable by its owner only.
pub(super) fn audit_log(chosen: Option<&Path>, store: &Path) -> Result<Log, Failure> {
    let path = chosen.map_or_else(|| store.join("audit.jsonl"), Path::to_path_buf);
    let file = open_log(&path).map_err(|error| {
        Failure::new(Status::Failed, &error, Some("name another file with `--audit-log`".into()))
            .because(format!("the audit log `{}` cannot be opened", path.display()))
    })?;
    Ok(Log::append_to(file))
}

fn open_log(path: &Path) -> std::io::Result<std::fs::File> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        Some(_) | None => PathBuf::from("."),
    };
    Dir::create_ambient(&folder, 0o700)?.append_file(Path::new(name), 0o600)
}

/// The token of the HTTP endpoint: the caller's, or one made now and shown once.
fn token(file: Option<&Path>) -> Result<Token, Failure> {
    let value = match file {
        Some(path) => read_secret_file("token", path)?,
        None => {
            let made = random_token().map_err(|error| {
                Failure::new(Status::Failed, &error, None).because("no random numbers can be had")
            })?;
            tracing::warn!("no --token-file was given; clients must send this bearer token: {made}");
            made.into_bytes()
        }
    };
    Token::new(value).map_err(|error| Failure::new(Status::Usage, &error, error.hint()))
}

/// 256 bits in hexadecimal.
fn random_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

type Input = Box<dyn AsyncRead + Send + Unpin>;
type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Standard input and output without a thread in between where they are what clients use: a pipe, or
/// (for clients on Node.js) a Unix socket. A hop through a blocking thread costs some 50 µs a message.
fn standard_streams() -> (Input, Output) {
    let input: Input = match stdin_pipe() {
        Some(input) => input,
        None => Box::new(tokio::io::stdin()),
    };
    let output: Output = match stdout_pipe() {
        Some(output) => output,
        None => Box::new(tokio::io::stdout()),
    };
    (input, output)
}

/// A pipe is opened again through /proc, so that only our own description of it becomes non-blocking.
fn stdin_pipe() -> Option<Input> {
    match pipe::OpenOptions::new().open_receiver("/proc/self/fd/0") {
        Ok(receiver) => Some(Box::new(receiver)),
        Err(_not_a_pipe) => {
            Some(Box::new(socket(std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned())?))
        }
    }
}

fn stdout_pipe() -> Option<Output> {
    match pipe::OpenOptions::new().open_sender("/proc/self/fd/1") {
        Ok(sender) => Some(Box::new(sender)),
        Err(_not_a_pipe) => {
            Some(Box::new(socket(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned())?))
        }
    }
}

fn socket(fd: std::io::Result<OwnedFd>) -> Option<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd.ok()?);
    // Fails with ENOTSOCK for anything but a socket.
    stream.local_addr().ok()?;
    stream.set_nonblocking(true).ok()?;
    UnixStream::from_std(stream).ok()
}

/// A client that leaves is success; a server that ends by itself ends us with its status.
fn exit_code(reason: &ExitReason, status: ExitStatus) -> ExitCode {
    match (reason, status) {
        (ExitReason::ClientLeft | ExitReason::ShutDown, _) => ExitCode::SUCCESS,
        (ExitReason::ServerStopped(_), _) | (_, ExitStatus::Unknown) => ExitCode::from(125),
        (ExitReason::ServerEnded, ExitStatus::Code(code)) => {
            ExitCode::from(u8::try_from(code).unwrap_or(125))
        }
        (ExitReason::ServerEnded, ExitStatus::Signal(signal)) => {
            ExitCode::from(u8::try_from(signal.saturating_add(128)).unwrap_or(125))
        }
    }
}

fn single_failure(error: &SingleError) -> Failure {
    let status = match error {
        SingleError::Launch { source, .. } => launch_status(source),
        _ => Status::Failed,
    };
    Failure::new(status, error, error.hint())
}
