//! `palisade run FILE`: one server in the place of itself. The client's lines go to the server's standard
//! input and the server's lines to the client, byte for byte; only tools that the policy does not allow are
//! missing from the list and refused when called.
//!
//! ```text
//! client ──► parse ──► permit ──► server's stdin
//! client ◄── filter tools/list ◄── parse ◄── server's stdout
//! ```
//!
//! It works for both eras of MCP, because it takes no part in the handshake. When the server ends, every
//! request that is pending is answered with an error that says why, and the caller exits with the server's
//! status.

mod books;
mod end;
mod pump;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Event, Log, Unwritable};
use crate::envelope::{self, Message};
use crate::launch::{ExitReport, LaunchError, ServerEntry};
use crate::line::{Line, LineReader, LineWriter, MAX_MESSAGE_BYTES};
use crate::rpc;
use crate::upstream::pipes::Pipes;
use crate::upstream::process;
use crate::upstream::server::chain;

use self::end::End;
use self::pump::Proxy;

pub use self::end::Fault;
pub(crate) use self::pump::call_outcome;

/// How long to wait for the first request of a client whose server cannot be started, so that it gets an
/// answer instead of a closed pipe. Clients send `initialize` at once.
const FIRST_REQUEST_WAIT: std::time::Duration = std::time::Duration::from_millis(500);

/// What every run needs besides its servers.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where events are recorded.
    pub audit: Arc<Log>,
    /// Cancelled when the gateway shall end (a signal).
    pub shutdown: CancellationToken,
}

/// How a single server's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleExit {
    /// The server's status.
    pub exit: ExitReport,
    /// Why it ended.
    pub reason: ExitReason,
    /// What to tell whoever started it, when it did not end as runs do.
    pub fault: Option<Fault>,
}

/// Why a single server's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// The client closed its side.
    ClientLeft,
    /// The gateway was told to end.
    ShutDown,
    /// The server ended by itself.
    ServerEnded,
    /// The server was stopped, for this reason.
    ServerStopped(String),
}

/// A single server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    /// The launcher refused.
    #[error("server `{server}` cannot be started")]
    Launch {
        /// The server's name.
        server: String,
        /// The launcher's reason.
        #[source]
        source: LaunchError,
    },
    /// The launch took longer than the policy allows.
    #[error("server `{server}` did not start within {seconds} s")]
    Late {
        /// The server's name.
        server: String,
        /// The policy's start timeout.
        seconds: f32,
    },
    /// The launcher returned descriptors that are no pipes.
    #[error("server `{server}` has no usable pipes")]
    Pipes {
        /// The server's name.
        server: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl SingleError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            SingleError::Launch { source, .. } => source.hint(),
            SingleError::Late { .. } => Some("raise `lifecycle.start_timeout` in the policy".to_owned()),
            SingleError::Pipes { .. } => None,
        }
    }
}

/// Runs one server until the client leaves, the server ends, or the gateway shall end.
pub async fn run_single<R, W>(
    entry: ServerEntry,
    (input, output): (R, W),
    context: Context,
) -> Result<SingleExit, SingleError>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let mut client_in = LineReader::new(input, MAX_MESSAGE_BYTES);
    let mut client_out = LineWriter::new(output);
    let pipes = match open(&entry, &context.audit).await {
        Ok(pipes) => pipes,
        Err(error) => {
            let sentence = chain(&error);
            context.audit.record(&entry.name(), &Event::LaunchFailed { error: &sentence });
            answer_first_request(&mut client_in, &mut client_out, &sentence).await;
            return Err(error);
        }
    };
    let Pipes { input, mut output, process, errors, errors_read } = pipes;
    let proxy = Proxy::new(&entry, &context.audit, client_out, input);
    let end = proxy.run(&mut client_in, &mut output, &context.shutdown).await;
    let ended = end::Ended { proxy: &proxy, process, errors, errors_read };
    let exit = ended.settle(end).await;
    if let Some(fault) = &exit.fault
        && !proxy.was_asked()
    {
        // The server was quicker than the client.
        answer_first_request(&mut client_in, &mut proxy.into_client(), &fault.sentence).await;
    }
    Ok(exit)
}

async fn open(entry: &ServerEntry, audit: &Log) -> Result<Pipes, SingleError> {
    let server = entry.name();
    let tasks = TaskTracker::new();
    let unrecorded = |error: Unwritable| SingleError::Launch {
        server: entry.name(),
        source: LaunchError::new(error.to_string())
            .with_hint("make room on its disk, or name another file with `--audit-log`"),
    };
    audit.check().map_err(unrecorded)?;
    let launch = process::launch(Arc::clone(&entry.launch), &tasks);
    let launched = match tokio::time::timeout(entry.start_timeout(), launch).await {
        Ok(Ok(launched)) => launched,
        Ok(Err(source)) => return Err(SingleError::Launch { server, source }),
        Err(_elapsed) => {
            return Err(SingleError::Late { server, seconds: entry.start_timeout().as_secs_f32() });
        }
    };
    if let Err(error) = audit.try_record(&server, &Event::ServerStart { facts: &launched.facts }) {
        process::discard(launched, &tasks);
        tasks.close();
        tasks.wait().await;
        return Err(unrecorded(error));
    }
    Pipes::open(entry, launched).map_err(|source| SingleError::Pipes { server, source })
}

/// A client whose server cannot be started has mostly sent its first request by now.
async fn answer_first_request<R, W>(
    client_in: &mut LineReader<R>,
    client_out: &mut LineWriter<W>,
    sentence: &str,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let exchange = async {
        let Ok(Some(Line::Message(line))) = client_in.next().await else { return };
        let Ok(Message::Request(request)) = envelope::parse(&line) else { return };
        let answer = rpc::error(request.raw_id.get(), rpc::SERVER_UNAVAILABLE, sentence);
        if client_out.write(&answer).await.is_err() {
            tracing::debug!("the client left before it was told");
        }
    };
    if tokio::time::timeout(FIRST_REQUEST_WAIT, exchange).await.is_err() {
        tracing::debug!("the client asked nothing");
    }
}

impl End {
    fn reason(&self) -> ExitReason {
        match self {
            End::ClientLeft => ExitReason::ClientLeft,
            End::ShutDown => ExitReason::ShutDown,
            End::ServerEnded => ExitReason::ServerEnded,
            End::ServerBroken(what) => ExitReason::ServerStopped(what.to_string()),
        }
    }
}
