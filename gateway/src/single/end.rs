//! The end of a single server's run: the process is stopped, everybody who waits is answered, the end is logged.

use std::fmt;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::task::JoinHandle;

use super::SingleExit;
use super::pump::Proxy;
use crate::audit::Event;
use crate::launch::{Ending, ExitReport};
use crate::text;
use crate::upstream::deadline::Overrun;
use crate::upstream::garbage::TooMuch;
use crate::upstream::process::Process;
use crate::upstream::stderr::Tail;

/// How long a client that does not read may delay the end.
const CLIENT_GRACE: Duration = Duration::from_secs(2);

/// How long to read the last lines of standard error, and to wait for the status of a server whose output ended.
const ERRORS_GRACE: Duration = Duration::from_millis(500);

/// Why the pumps stopped.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    ClientLeft,
    ShutDown,
    ServerEnded,
    ServerBroken(Broken),
}

/// What a server did that ended the conversation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Broken {
    Garbage(TooMuch),
    LongLine,
    Silent { seconds: f32 },
    Overrun(Overrun),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Garbage(too_much) => too_much.fmt(f),
            Broken::LongLine => f.write_str("it sent a line over the limit of 16 MiB"),
            Broken::Silent { seconds } => write!(f, "it did not answer `initialize` within {seconds} s"),
            Broken::Overrun(overrun) => overrun.fmt(f),
        }
    }
}

impl Broken {
    fn hint(self) -> &'static str {
        match self {
            Broken::Garbage(_) => {
                "a server's standard output is for MCP messages only: see whether it can log elsewhere, and whether \
                 `args` in the policy start it as a server on stdio"
            }
            Broken::Overrun(_) => "raise `limits.call_time` in the policy if its tools need longer",
            Broken::LongLine => "ask it for less at a time, or ask its author for pages or links",
            Broken::Silent { .. } => {
                "raise `lifecycle.start_timeout` in the policy if it needs longer; `--verbose` shows what it says on \
                 its standard error"
            }
        }
    }
}

/// A run that did not end as runs do, for whoever started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub sentence: String,
    /// What to do about it.
    pub hint: String,
}

fn fault(name: &str, end: &End, exit: ExitReport, sentence: String, stop_timeout: Duration) -> Option<Fault> {
    match end {
        End::ServerBroken(broken) => Some(Fault { sentence, hint: broken.hint().to_owned() }),
        End::ServerEnded if exit.ending == Ending::OverMemory => Some(Fault {
            sentence,
            hint: "raise `limits.memory` in the policy, or ask it for less at a time".to_owned(),
        }),
        End::ServerEnded => Some(Fault {
            sentence,
            hint: "`--verbose` shows all that it says on its standard error".to_owned(),
        }),
        End::ClientLeft | End::ShutDown if exit.was_killed() => Some(Fault {
            sentence: format!("server `{name}` ignored the end of its input and TERM, and was killed"),
            hint: format!(
                "raise `lifecycle.stop_timeout` in the policy if it needs longer than {stop_timeout:?} to finish"
            ),
        }),
        End::ClientLeft | End::ShutDown => None,
    }
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
        proxy.sum_up();
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
        let reason = sentence(&name, &end, Some(exit.sentence()), errors.last());
        proxy.fail_pending(&reason, CLIENT_GRACE).await;
        proxy.audit.record(&name, &Event::stop(text::without_quotes(&reason), &exit));
        let fault = fault(&name, &end, exit, reason, proxy.entry.stop_timeout());
        SingleExit { exit, reason: end.reason(), fault }
    }
}

fn sentence(name: &str, end: &End, status: Option<String>, last_line: Option<String>) -> String {
    let what = match end {
        End::ServerBroken(what) => return format!("server `{name}` was stopped: {what}"),
        End::ClientLeft => return format!("server `{name}` was stopped because the client left"),
        End::ShutDown => return format!("server `{name}` was stopped because the gateway ends"),
        End::ServerEnded => status.unwrap_or_else(|| "closed its output".to_owned()),
    };
    text::with_last_line(format!("server `{name}` {what}"), last_line)
}
