//! The processes behind a sandbox, as the gateway holds them: a keeper and a socket to talk over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::start::SpawnError;
use crate::protocol::{self, Exit, MemoryLimitBy, Reply, Request, Standing};
use crate::spec::SandboxSpec;

/// The processes behind a running sandbox. Dropping it ends them.
#[derive(Debug)]
pub struct SandboxProcess {
    server: String,
    control: OwnedFd,
    keeper: Child,
    grace: Duration,
    exit: Option<Exit>,
    over_memory: Option<MemoryLimitBy>,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitReport {
    /// Its status or signal; `None` when the supervisor itself was killed.
    pub exit: Option<Exit>,
    /// Whether it was ended, or a process of it, because it used more memory than it may.
    pub over_memory: Option<MemoryLimitBy>,
}

/// Longest time from start to "the sandbox stands", 100 times what was measured on a busy machine;
/// a host that takes longer is not making progress.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);

/// What the supervisor and the keeper take after KILL to clean up; removing a cgroup can wait for
/// the kernel to reap its tasks.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

impl SandboxProcess {
    pub(super) fn new(spec: &SandboxSpec, control: OwnedFd, keeper: Child) -> Self {
        let grace = Duration::from_millis(spec.stop_grace_ms);
        Self { server: spec.server.clone(), control, keeper, grace, exit: None, over_memory: None }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        protocol::send(&self.control, request, fds)
    }

    /// A descriptor that becomes readable when the server has ended, and stays so.
    pub fn exit_notice(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Ends the server: TERM, the policy's grace, KILL; returns when nothing of it is left.
    pub fn stop(&mut self) -> ExitReport {
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        if self.exit.is_none() && self.ask(&Request::Stop { grace_ms }).is_ok() {
            self.read_exit(self.grace.saturating_add(CLEANUP_TIMEOUT));
        }
        self.finish()
    }

    /// Waits for the server to end by itself, for as long as it takes.
    pub fn wait(&mut self) -> ExitReport {
        while self.exit.is_none() && self.read_exit(Duration::from_hours(1)) == Waited::TimedOut {}
        self.finish()
    }

    pub(super) fn expect_created(&self) -> Result<Box<Standing>, SpawnError> {
        match self.reply(SETUP_TIMEOUT)? {
            Reply::Created(standing) => Ok(standing),
            Reply::Failed(failure) => Err(SpawnError::Setup { server: self.server.clone(), failure }),
            Reply::Started | Reply::Exited(_) | Reply::OverMemory(_) => Err(self.out_of_turn()),
        }
    }

    pub(super) fn expect_started(&self) -> Result<(), SpawnError> {
        match self.reply(SETUP_TIMEOUT)? {
            Reply::Started => Ok(()),
            Reply::Failed(failure) => Err(SpawnError::Setup { server: self.server.clone(), failure }),
            Reply::Created(_) | Reply::Exited(_) | Reply::OverMemory(_) => Err(self.out_of_turn()),
        }
    }

    fn out_of_turn(&self) -> SpawnError {
        self.lost("answered out of turn", io::ErrorKind::InvalidData.into())
    }

    pub(super) fn lost(&self, what: &'static str, source: io::Error) -> SpawnError {
        SpawnError::Supervisor { server: self.server.clone(), what, source }
    }

    pub(super) fn ask(&self, request: &Request) -> Result<(), SpawnError> {
        protocol::send(&self.control, request, &[]).map_err(|source| self.lost("went away", source))
    }

    fn reply(&self, timeout: Duration) -> Result<Reply, SpawnError> {
        match self.readable_within(timeout) {
            Ok(true) => {}
            Ok(false) => return Err(self.lost("did not answer", io::ErrorKind::TimedOut.into())),
            Err(source) => return Err(self.lost("went away", source)),
        }
        match protocol::receive(&self.control) {
            Ok(Some((reply, _no_fds))) => Ok(reply),
            Ok(None) => Err(self.lost("went away", io::ErrorKind::UnexpectedEof.into())),
            Err(source) => Err(self.lost("went away", source)),
        }
    }

    fn readable_within(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, timeout) {
                Err(nix::Error::EINTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }

    fn read_exit(&mut self, timeout: Duration) -> Waited {
        loop {
            match self.readable_within(timeout) {
                Ok(true) => {}
                Ok(false) => return Waited::TimedOut,
                Err(_gone) => return Waited::Over,
            }
            match protocol::receive(&self.control) {
                Ok(Some((Reply::OverMemory(by), _no_fds))) => self.over_memory = Some(by),
                Ok(Some((Reply::Exited(exit), _no_fds))) => {
                    self.exit = Some(exit);
                    return Waited::Over;
                }
                Ok(_) | Err(_) => return Waited::Over,
            }
        }
    }

    fn finish(&mut self) -> ExitReport {
        if self.exit.is_some() {
            self.read_last_word();
        }
        self.end_keeper();
        ExitReport { exit: self.exit, over_memory: self.over_memory }
    }

    /// The keeper looks at the cgroup once all is over; then it ends, and the socket with it.
    fn read_last_word(&mut self) {
        while self.readable_within(CLEANUP_TIMEOUT).unwrap_or(false) {
            match protocol::receive(&self.control) {
                Ok(Some((Reply::OverMemory(by), _no_fds))) => self.over_memory = Some(by),
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// The keeper ends once it has cleaned up; if it does not, its death takes the rest along.
    fn end_keeper(&mut self) {
        let deadline = std::time::Instant::now().checked_add(CLEANUP_TIMEOUT);
        if nix::sys::socket::shutdown(raw(&self.control), nix::sys::socket::Shutdown::Both).is_err() {
            // Already gone on the other side: what we want.
        }
        while deadline.is_some_and(|deadline| std::time::Instant::now() < deadline) {
            match self.keeper.try_wait() {
                Ok(Some(_status)) => return,
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_not_ours) => return,
            }
        }
        if self.keeper.kill().is_ok() && self.keeper.wait().is_err() {
            // It was reaped between the two calls.
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Waited {
    Over,
    TimedOut,
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

impl Drop for SandboxProcess {
    fn drop(&mut self) {
        if matches!(self.keeper.try_wait(), Ok(None)) {
            self.end_keeper();
        }
    }
}
