//! `palisade run` and `palisade gateway run`: the gateway in the foreground, until the client leaves
//! or a signal comes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use palisade_gateway::audit::Log;
use palisade_gateway::{
    CancellationToken, Context, ExitReason, ExitReport, ExitStatus, Fault, HttpOptions, ServerEntry,
    SingleError, Token, Transport, run_gateway, run_single, standard_streams,
};
use palisade_profiles::Profile;
use palisade_sandbox::HostSupport;
use palisade_sys::dir::Dir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::Done;
use crate::assemble::{self, launch_status, load, no_stranger, open_store, prepare, read_secret_file};
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
    no_stranger(&[&loaded.policy], &options.start)?;
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
        Ok(exit) => {
            if let Some(Fault { sentence, hint }) = exit.fault {
                // The status is the server's own where it has one.
                let _status = Failure::say(Status::Failed, sentence, hint).report();
            }
            Ok(exit_code(&exit.reason, exit.exit))
        }
        Err(error) => Err(single_failure(&error)),
    }
}

/// Several servers behind one endpoint.
pub(super) fn run_many(options: &GatewayRun, store: Option<&Path>, environment: &Environment) -> Done {
    let (store, store_path) = open_store(store, environment)?;
    let host = HostSupport::probe();
    if options.transport == cli::Transport::Http && !options.listen.ip().is_loopback() {
        return Err(Failure::say(
            Status::Usage,
            format!(
                "the gateway listens on this machine only, and {} is not a loopback address",
                options.listen
            ),
            "listen on 127.0.0.1, and put a proxy that speaks TLS in front of it",
        ));
    }
    let loaded = options.policies.iter().map(|file| load(file)).collect::<Result<Vec<_>, _>>()?;
    // Before anything is unpacked.
    Profile::new(loaded.iter().map(|loaded| &loaded.policy).collect()).map_err(|error| {
        Failure::new(Status::Usage, &error, Some("give each policy's `server` a name of its own".into()))
    })?;
    no_stranger(&loaded.iter().map(|loaded| &loaded.policy).collect::<Vec<_>>(), &options.start)?;
    let mut servers = Vec::new();
    for policy in loaded {
        let server = prepare(&store, policy, &host, environment, &options.start)?;
        server.keep_warm();
        servers.push(entry(server));
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
pub(super) async fn serve_on_stdio(servers: Vec<ServerEntry>, context: Context) -> Done {
    let (input, output) = standard_streams();
    gateway(servers, Transport::Stdio { input: Box::new(input), output: Box::new(output) }, context).await
}

async fn serve(servers: Vec<ServerEntry>, token: Option<Token>, options: &GatewayRun, log: Log) -> Done {
    let context = context(log)?;
    let transport = match token {
        None => {
            let (input, output) = standard_streams();
            Transport::Stdio { input: Box::new(input), output: Box::new(output) }
        }
        Some(token) => {
            let listener = TcpListener::bind(options.listen).await.map_err(|error| {
                Failure::new(Status::Failed, &error, Some("choose another address with `--listen`".into()))
                    .because(format!("the address {} cannot be listened on", options.listen))
            })?;
            let address = listener
                .local_addr()
                .map_err(|error| Failure::new(Status::Failed, &error, Some(host_hint())))?;
            tracing::warn!("listening on http://{address}/mcp");
            let options = HttpOptions { token, allowed_origins: Vec::new(), allowed_hosts: Vec::new() };
            Transport::Http { listener, options }
        }
    };
    gateway(servers, transport, context).await
}

pub(super) async fn gateway(servers: Vec<ServerEntry>, transport: Transport, context: Context) -> Done {
    run_gateway(servers, transport, context)
        .await
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))
}

/// The gateway's view of a prepared server.
pub(super) fn entry(server: assemble::PreparedServer) -> ServerEntry {
    ServerEntry { policy: server.policy(), launch: Arc::new(server) }
}

pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Status::Failed, &error, Some(host_hint())).because("the event loop cannot be started")
    })
}

/// What a run of the gateway needs; it ends on the signals that end a program.
fn context(log: Log) -> Result<Context, Failure> {
    Ok(Context { audit: Arc::new(log), shutdown: cancelled_by_signals()? })
}

/// Cancelled by the signals that end a program, which from now on end nothing by themselves.
pub(super) fn cancelled_by_signals() -> Result<CancellationToken, Failure> {
    let shutdown = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(|error| {
            Failure::new(Status::Failed, &error, Some(host_hint())).because("signals cannot be watched")
        })?;
        let shutdown = shutdown.clone();
        drop(tokio::spawn(async move {
            if signals.recv().await.is_some() {
                shutdown.cancel();
            }
        }));
    }
    Ok(shutdown)
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
    let value = if let Some(path) = file {
        read_secret_file("token", path)?
    } else {
        let made = random_token().map_err(|error| {
            Failure::new(Status::Failed, &error, Some(host_hint())).because("no random numbers can be had")
        })?;
        tracing::warn!("no --token-file was given; clients must send this bearer token: {made}");
        made.into_bytes()
    };
    Token::new(value).map_err(|error| Failure::new(Status::Usage, &error, error.hint()))
}

/// For what fails only where the host withholds something that every program gets.
fn host_hint() -> String {
    "the host may limit what this process gets: see `ulimit -a`, and what it is started under".into()
}

/// 256 bits in hexadecimal.
fn random_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// A client that leaves is success, unless its server had to be killed; a server that ends by itself ends us with
/// its status.
fn exit_code(reason: &ExitReason, exit: ExitReport) -> ExitCode {
    match (reason, exit.status) {
        (ExitReason::ClientLeft | ExitReason::ShutDown, ExitStatus::Signal(signal)) if exit.was_killed() => {
            of_signal(signal)
        }
        (ExitReason::ClientLeft | ExitReason::ShutDown, _) => ExitCode::SUCCESS,
        (ExitReason::ServerStopped(_), _) | (_, ExitStatus::Unknown) => ExitCode::from(125),
        (ExitReason::ServerEnded, ExitStatus::Code(code)) => {
            ExitCode::from(u8::try_from(code).unwrap_or(125))
        }
        (ExitReason::ServerEnded, ExitStatus::Signal(signal)) => of_signal(signal),
    }
}

fn of_signal(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(signal.saturating_add(128)).unwrap_or(125))
}

fn single_failure(error: &SingleError) -> Failure {
    let status = match error {
        SingleError::Launch { source, .. } => launch_status(source),
        SingleError::Late { .. } | SingleError::Pipes { .. } => Status::Failed,
    };
    Failure::new(status, error, error.hint())
}
