//! The end of a single server's run: the process is stopped, everybody who waits is answered, the end is logged.

use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::task::JoinHandle;

use super::pump::Proxy;
use super::{ExitReason, SingleExit};
use crate::audit::Event;
use crate::upstream::process::Process;
use crate::upstream::stderr::Tail;

/// How long a client that does not read may delay the end.
const CLIENT_GRACE: Duration = Duration::from_secs(2);

/// How long to read the last lines of standard error, and to wait for the status of a server whose output ended.
const ERRORS_GRACE: Duration = Duration::from_millis(500);

/// Why the pumps stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    ClientLeft,
    ShutDown,
    ServerEnded,
    ServerBroken(String),
}

pub(super) struct Ended<'p, W> {
    pub(super) proxy: &'p Proxy<'p, W>,
    pub(super) process: Process,
    pub(super) errors: Tail,
    pub(super) errors_read: JoinHandle<()>,
}

impl<W: AsyncWrite + Unpin> Ended<'_, W> {
    pub(super) async fn settle(self, end: End) -> SingleExit {
        let Ended { proxy, process, errors, errors_read } = self;
        proxy.close_input().await;
        let name = proxy.entry.name();
        // A pending request is answered before the stop timeout has passed, with the status if it is known.
        let prompt = tokio::time::timeout(ERRORS_GRACE, process.ended()).await.is_ok();
        if !prompt {
            proxy.fail_pending(&sentence(&name, &end, None, errors.last()), CLIENT_GRACE).await;
        }
        let exit = process.stop(proxy.entry.stop_timeout()).await;
        if tokio::time::timeout(ERRORS_GRACE, errors_read).await.is_err() {
            tracing::debug!(server = name, "the server's standard error stayed open after its end");
        }
        let reason = sentence(&name, &end, Some(exit.status.to_string()), errors.last());
        proxy.fail_pending(&reason, CLIENT_GRACE).await;
        proxy.audit.record(&name, &Event::stop(&reason, &exit));
        let unexpected = !matches!(end.reason(), ExitReason::ClientLeft | ExitReason::ShutDown);
        if unexpected {
            tracing::error!(server = name, "{reason}");
        }
        SingleExit { exit, reason: end.reason() }
    }
}

fn sentence(name: &str, end: &End, status: Option<String>, last_line: Option<String>) -> String {
    let what = match end {
        End::ServerBroken(what) => return format!("server `{name}` was stopped: {what}"),
        End::ClientLeft => return format!("server `{name}` was stopped because the client left"),
        End::ShutDown => return format!("server `{name}` was stopped because the gateway ends"),
        End::ServerEnded => status.unwrap_or_else(|| "closed its output".to_owned()),
    };
    match last_line {
        Some(line) => format!("server `{name}` {what}; its last line of standard error: {line}"),
        None => format!("server `{name}` {what}"),
    }
}
