//! Waiting for a server's process and ending it, without blocking the runtime and within a bounded time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::task::TaskTracker;

use crate::launch::{Ending, ExitReport, ExitStatus, Launch, LaunchError, Launched, ServerProcess};

/// How long the launcher may take to signal and reap a server after its input was closed and the policy's
/// stop timeout has passed. TERM, a few seconds of grace, KILL: the kernel then needs milliseconds.
pub(crate) const STOP_BACKSTOP: Duration = Duration::from_secs(15);

/// A running server's process.
pub(crate) struct Process {
    process: Box<dyn ServerProcess>,
    notice: AsyncFd<OwnedFd>,
}

impl Process {
    pub(crate) fn watch(process: Box<dyn ServerProcess>) -> io::Result<Self> {
        let notice = process.exit_notice()?;
        #[expect(
            deprecated,
            reason = "unsound only for types whose descriptor may change or close under tokio (tokio#8587); an \
                      OwnedFd's cannot, and the replacement is an unsafe function, which only runtime/sys may call"
        )]
        let notice = AsyncFd::with_interest(notice, Interest::READABLE)?;
        Ok(Process { process, notice })
    }

    /// Returns once the server and all its processes have ended.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + '_ {
        let notice = &self.notice;
        async move {
            // An error of epoll cannot be told from an end here; `stop` then settles it.
            if let Err(error) = notice.readable().await {
                tracing::error!(%error, "cannot wait for a server's process");
            }
        }
    }

    /// Waits for the end for at most `grace`, then ends the server.
    pub(crate) async fn stop(self, grace: Duration) -> ExitReport {
        let by_itself = tokio::time::timeout(grace, self.ended()).await.is_ok();
        let Process { mut process, notice } = self;
        drop(notice);
        let reaping =
            tokio::task::spawn_blocking(move || if by_itself { process.wait() } else { process.stop() });
        let Ok(Ok(report)) = tokio::time::timeout(STOP_BACKSTOP, reaping).await else {
            tracing::error!("a server's process could not be reaped");
            return ExitReport { status: ExitStatus::Unknown, ending: Ending::Stopped };
        };
        report
    }
}

/// Launches on a blocking thread. When this future is dropped (a deadline has passed), the server that is
/// launched late is stopped by that same thread.
pub(crate) async fn launch(launch: Arc<dyn Launch>, tasks: &TaskTracker) -> Result<Launched, LaunchError> {
    let (ready, launched) = tokio::sync::oneshot::channel();
    tasks.spawn_blocking(move || {
        if let Err(Ok(late)) = ready.send(launch.launch()) {
            stop_late(late);
        }
    });
    launched.await.unwrap_or_else(|_panicked| Err(LaunchError::new("the launcher of the server failed")))
}

/// Stops a server whose start could not be written down, without waiting for it.
pub(crate) fn discard(launched: Launched, tasks: &TaskTracker) {
    drop(tasks.spawn_blocking(move || {
        let report = stop(launched);
        tracing::warn!(status = %report.status, "a server whose start could not be recorded was stopped");
    }));
}

fn stop(launched: Launched) -> ExitReport {
    let Launched { stdin, stdout, stderr, mut process, facts: _ } = launched;
    drop((stdin, stdout, stderr));
    process.stop()
}

fn stop_late(launched: Launched) {
    let report = stop(launched);
    tracing::warn!(status = %report.status, "a server that started after its deadline was stopped");
}
