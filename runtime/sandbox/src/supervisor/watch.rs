//! From "the sandbox stands" to its end: the supervisor's conversation with the gateway.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use palisade_sys::process::{pidfd_open, pidfd_signal};

use super::launch::Created;
use super::{During, StepError};
use crate::lockdown::Outcome;
use crate::protocol::{self, Exit, Failure, FailureKind, Reply, Request};

/// Serves one sandbox until it has ended.
pub(super) fn serve(control: &OwnedFd, mut created: Created) -> Result<(), StepError> {
    let pidfd = pidfd_open(created.init).during("opening a descriptor of pid 1")?;
    reply(control, &Reply::Created(std::mem::take(&mut created.limits)))?;
    if !matches!(next_request(control)?, Some(Request::Start)) {
        return end(&pidfd, created.init);
    }
    created.start()?;
    match outcome(&mut created)? {
        Outcome::Running(report) => reply(control, &Reply::Started(report))?,
        Outcome::Failed(failure) => {
            end(&pidfd, created.init)?;
            return reply(control, &Reply::Failed(failure));
        }
    }
    let exit = watch(control, &pidfd, &created)?;
    reply(control, &Reply::Exited(exit))
}

/// A lock-down report is some 600 bytes, a failure less.
const STATUS_MAX: u64 = 16 * 1024;

/// Reads what the lock-down says; the pipe closes when `execve` succeeds or the process ends.
fn outcome(created: &mut Created) -> Result<Outcome, StepError> {
    const STEP: &str = "waiting for the server to be executed";
    let mut text = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "bounded by take")]
    (&created.status).take(STATUS_MAX).read_to_end(&mut text).during(STEP)?;
    // One JSON value a line; a failure after the report is the last word.
    let last = text.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    match last {
        Some(line) => serde_json::from_slice(line).during(STEP),
        None => Ok(Outcome::Failed(Failure {
            step: STEP.into(),
            message: "pid 1 of the sandbox ended without a word".into(),
            kind: FailureKind::Host,
        })),
    }
}

fn reply(control: &OwnedFd, reply: &Reply) -> Result<(), StepError> {
    match protocol::send(control, reply, &[]) {
        // The gateway is gone; what follows ends this process and with it the sandbox.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent.during("answering the gateway"),
    }
}

fn next_request(control: &OwnedFd) -> Result<Option<Request>, StepError> {
    match protocol::receive::<Request>(control) {
        Ok(Some((request, _no_fds))) => Ok(Some(request)),
        Ok(None) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(StepError::new("reading a request", error)),
    }
}

/// Waits for pid 1 to end, or for the gateway to want that or be gone.
fn watch(control: &OwnedFd, pidfd: &OwnedFd, created: &Created) -> Result<Exit, StepError> {
    const STEP: &str = "waiting for the server";
    let mut kill_at: Option<Instant> = None;
    loop {
        let mut fds =
            [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout(kill_at)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(StepError::new(STEP, error)),
        }
        let [ended, asked] = fds.map(|fd| fd.any().unwrap_or(false));
        if ended {
            return reap(created);
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            pidfd_signal(pidfd, Signal::SIGKILL).during("killing the sandbox")?;
            return reap(created);
        }
        if asked {
            match next_request(control)? {
                Some(Request::Stop { grace_ms }) if kill_at.is_none() => {
                    // pid 1 passes it on to the server.
                    pidfd_signal(pidfd, Signal::SIGTERM).during("stopping the sandbox")?;
                    kill_at = Instant::now().checked_add(Duration::from_millis(grace_ms));
                }
                Some(Request::Stop { .. } | Request::Launch(_) | Request::Start) => {}
                None => {
                    pidfd_signal(pidfd, Signal::SIGKILL).during("killing the sandbox")?;
                    return reap(created);
                }
            }
        }
    }
}

fn timeout(kill_at: Option<Instant>) -> PollTimeout {
    match kill_at {
        None => PollTimeout::NONE,
        Some(at) => {
            PollTimeout::try_from(at.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX)
        }
    }
}

/// pid 1 ends with the server's own status (see [`crate::lockdown`]).
fn reap(created: &Created) -> Result<Exit, StepError> {
    loop {
        match waitpid(created.init, None) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(from_reaper(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Exit::Signal(number(signal))),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(StepError::new("waiting for pid 1", error)),
        }
    }
}

/// The reaper cannot die of its child's signal, so it exits with 128 and the number, as a shell does.
fn from_reaper(status: i32) -> Exit {
    match status.checked_sub(128) {
        Some(signal) if signal > 0 && signal <= 64 => Exit::Signal(signal),
        _ => Exit::Status(status),
    }
}

fn end(pidfd: &OwnedFd, init: nix::unistd::Pid) -> Result<(), StepError> {
    match pidfd_signal(pidfd, Signal::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
            return Err(StepError::new("killing the sandbox", error));
        }
        Ok(()) | Err(_) => {}
    }
    waitpid(init, None).map(|_status| ()).during("waiting for pid 1")
}

#[expect(clippy::as_conversions, reason = "nix gives the number of a signal no other way")]
fn number(signal: Signal) -> i32 {
    signal as i32
}
