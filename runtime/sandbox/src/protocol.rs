//! What the gateway and the supervisor say to each other, over the control socket.
//!
//! ```text
//! gateway ── Launch + descriptors ──► supervisor     stdin, stdout, stderr, secrets, layers, mounts
//! gateway ◄── Created ────────────────               locked down, waiting; or Failed
//! gateway ── Start ──────────────────►               the secrets follow in their pipe
//! gateway ◄── Started ────────────────               execve succeeded; or Failed
//! gateway ── Stop ───────────────────►               or the socket closes: the same
//! gateway ◄── Exited ─────────────────               OverMemory beside it, from the keeper
//! ```
//!
//! Every message is one JSON packet. The gateway is the trusted side; the supervisor's answers are
//! bounded all the same, since it shares a kernel with hostile code.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::lockdown::LockdownReport;
use crate::seccomp::CompiledFilter;
use crate::spec::{FoundLimit, SandboxSpec};

/// One packet. A spec with 32 mounts, 128 environment variables and a filter of 800 instructions
/// is some 60 KiB; the kernel's default socket buffer takes 208 KiB.
pub const MESSAGE_MAX: usize = 160 * 1024;

/// From the gateway.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Build the sandbox; the descriptors come in the order of [`LaunchFds`].
    Launch(Box<Launch>),
    /// Run the server.
    Start,
    /// End it: TERM, then KILL after this many milliseconds.
    Stop {
        /// Milliseconds between the two.
        grace_ms: u64,
    },
}

/// Everything that is needed to build a sandbox, except its descriptors and its secrets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Launch {
    /// What is to be enforced.
    pub spec: SandboxSpec,
    /// The compiled seccomp filters of the server, in the order in which they are installed.
    pub filters: Vec<CompiledFilter>,
    /// The filter of the supervisor itself.
    pub supervisor_filter: CompiledFilter,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The sandbox stands, locked down; nothing of the image has run.
    Created(Box<Standing>),
    /// The server runs.
    Started,
    /// It could not be done; nothing is left.
    Failed(Failure),
    /// The server has ended.
    Exited(Exit),
    /// It used more memory than it may. From the keeper: before `Exited` when the keeper is about to end it, after
    /// it when the kernel has done so.
    OverMemory(MemoryLimitBy),
}

/// What was read back of a sandbox that stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Inside, by the process that becomes the server.
    pub report: LockdownReport,
    /// Of its cgroup, from outside.
    pub limits: Vec<FoundLimit>,
}

/// Who holds a server to its memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryLimitBy {
    /// The kernel, by a cgroup.
    Kernel,
    /// The keeper, by looking.
    Watchdog,
}

/// A step that failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Which step, in words that follow "while".
    pub step: String,
    /// What was said, without the step.
    pub message: String,
    /// What kind of failure it is for the exit code.
    pub kind: FailureKind,
}

/// The exit code that a failure deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The host or this program failed.
    Host,
    /// The image has no such program.
    NotFound,
    /// The program cannot be executed.
    NotExecutable,
}

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// The descriptors of a [`Request::Launch`].
#[derive(Debug)]
pub struct LaunchFds {
    /// The server's standard input.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// The read end of the pipe that the secrets come through.
    pub secrets: OwnedFd,
    /// The layers of the root file system, lowest first.
    pub layers: Vec<OwnedFd>,
    /// The sources of the policy's mounts, in its order.
    pub mounts: Vec<OwnedFd>,
}

impl LaunchFds {
    /// In the order in which they are sent.
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        [&self.stdin, &self.stdout, &self.stderr, &self.secrets]
            .into_iter()
            .chain(&self.layers)
            .chain(&self.mounts)
            .map(AsFd::as_fd)
            .collect()
    }

    /// Takes received descriptors apart again.
    pub fn from_received(fds: Vec<OwnedFd>, layers: usize, mounts: usize) -> Option<Self> {
        let mut fds = fds.into_iter();
        let taken = Self {
            stdin: fds.next()?,
            stdout: fds.next()?,
            stderr: fds.next()?,
            secrets: fds.next()?,
            layers: fds.by_ref().take(layers).collect(),
            mounts: fds.by_ref().take(mounts).collect(),
        };
        let complete = taken.layers.len() == layers && taken.mounts.len() == mounts && fds.next().is_none();
        complete.then_some(taken)
    }
}

/// Sends one message.
///
/// # Errors
/// `EPIPE` when the peer is gone; `InvalidData` when it would be larger than [`MESSAGE_MAX`].
pub fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    palisade_sys::socket::send(socket, &bytes, fds)
}

/// Receives one message; `None` when the peer has closed the socket.
///
/// # Errors
/// `InvalidData` when it is not one of ours.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (bytes, fds) = palisade_sys::socket::receive(socket, MESSAGE_MAX)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}
