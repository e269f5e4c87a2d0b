//! From "the sandbox stands" to its end: the supervisor's conversation with the gateway.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use palisade_sys::process::pidfd_signal;

use super::launch::Created;
use super::seal::{Sealed, Walls, seal};
use super::{During, StepError};
use crate::lockdown::{GO, Outcome};
use crate::protocol::{self, Exit, Failure, FailureKind, Reply, Request, Standing};

/// Waits for the lock-down, confines this process, and only then serves: from here on there may be
/// hostile code at the other end.
pub(super) fn seal_and_serve(
    control: &OwnedFd,
    mut created: Created,
    walls: &Walls,
) -> Result<(), StepError> {
    let report = match first_word(&mut created.status)? {
        Outcome::Locked(report) => *report,
        Outcome::Failed(failure) => return give_up(control, &created, failure),
    };
    let sealed = seal(walls)?;
    let limits = std::mem::take(&mut created.limits);
    reply(control, &Reply::Created(Box::new(Standing { report, limits })))?;
    if !matches!(next_request(control)?, Some(Request::Start)) {
        return end(&created);
    }
    open_gate(&sealed, &mut created)?;
    if let Some(failure) = last_word(&mut created.status)? {
        return give_up(control, &created, failure);
    }
    reply(control, &Reply::Started)?;
    let exit = watch(control, &created)?;
    reply(control, &Reply::Exited(exit))
}

fn give_up(control: &OwnedFd, created: &Created, failure: Failure) -> Result<(), StepError> {
    end(created)?;
    reply(control, &Reply::Failed(failure))
}

/// The server starts. Takes the proof that this process is confined.
fn open_gate(_sealed: &Sealed, created: &mut Created) -> Result<(), StepError> {
    created.gate.write_all(GO).during("starting the server")
}

/// A lock-down report is some 900 bytes, a failure less.
const STATUS_MAX: usize = 16 * 1024;

const LOCKING: &str = "waiting for the lock-down";
const EXECUTING: &str = "waiting for the server to be executed";

/// The lock-down's line: it holds, or why not.
fn first_word(status: &mut File) -> Result<Outcome, StepError> {
    match next_line(status, LOCKING)? {
        Some(line) => serde_json::from_slice(&line).during(LOCKING),
        None => Ok(Outcome::Failed(silent(LOCKING))),
    }
}

/// Nothing when `execve` has succeeded, which closes the pipe; otherwise why it has not.
fn last_word(status: &mut File) -> Result<Option<Failure>, StepError> {
    match next_line(status, EXECUTING)? {
        None => Ok(None),
        Some(line) => match serde_json::from_slice(&line).during(EXECUTING)? {
            Outcome::Failed(failure) => Ok(Some(failure)),
            Outcome::Locked(_) => Ok(Some(silent(EXECUTING))),
        },
    }
}

fn silent(step: &str) -> Failure {
    Failure {
        step: step.into(),
        message: "pid 1 of the sandbox ended without a word".into(),
        kind: FailureKind::Host,
    }
}

/// One line without its end, or nothing at the end of the pipe. The writer writes a line at once.
fn next_line(status: &mut File, step: &'static str) -> Result<Option<Vec<u8>>, StepError> {
    let mut line = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = status.read(&mut part).during(step)?;
        let read = part.get(..length).unwrap_or_default();
        line.extend_from_slice(read);
        if line.last() == Some(&b'\n') {
            line.truncate(line.len().saturating_sub(1));
            return Ok(Some(line));
        }
        match (length, line.is_empty()) {
            (0, true) => return Ok(None),
            (0, false) => return Err(StepError::new(step, "a line that was cut short")),
            _ if line.len() > STATUS_MAX => return Err(StepError::new(step, "a line that is too long")),
            _ => {}
        }
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
fn watch(control: &OwnedFd, created: &Created) -> Result<Exit, StepError> {
    const STEP: &str = "waiting for the server";
    let pidfd = &created.pidfd;
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

fn end(created: &Created) -> Result<(), StepError> {
    match pidfd_signal(&created.pidfd, Signal::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
            return Err(StepError::new("killing the sandbox", error));
        }
        Ok(()) | Err(_) => {}
    }
    waitpid(created.init, None).map(|_status| ()).during("waiting for pid 1")
}

#[expect(clippy::as_conversions, reason = "nix gives the number of a signal no other way")]
fn number(signal: Signal) -> i32 {
    signal as i32
}
