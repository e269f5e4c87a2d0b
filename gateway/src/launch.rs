//! The seam to the sandbox: how the gateway starts and stops a server without knowing what confines it.
//!
//! The gateway sees three pipes and a process that it can wait for and stop. Secrets, images and policies of
//! confinement are the business of whoever implements [`Launch`]; nothing of them passes through here.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use palisade_policy::Policy;

/// Starts one kind of server, any number of times, one after the other.
pub trait Launch: Send + Sync + 'static {
    /// Starts the server. Blocks; called on a blocking thread. When the gateway gave up waiting, the server
    /// that is returned late is stopped at once.
    fn launch(&self) -> Result<Launched, LaunchError>;
}

/// A server that has just been started.
pub struct Launched {
    /// Write end of the pipe that is the server's standard input.
    pub stdin: OwnedFd,
    /// Read end of the pipe that is the server's standard output.
    pub stdout: OwnedFd,
    /// Read end of the pipe that is the server's standard error.
    pub stderr: OwnedFd,
    /// The process.
    pub process: Box<dyn ServerProcess>,
    /// What the audit log says about this start: image digest, spec digest, evidence, enforcement.
    pub facts: serde_json::Value,
}

impl fmt::Debug for Launched {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Launched").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// A running server. Dropping it must end the server too (at the latest when the gateway's process ends).
pub trait ServerProcess: Send + 'static {
    /// A descriptor that becomes readable, and stays so, once the server and all its processes have ended.
    fn exit_notice(&self) -> io::Result<OwnedFd>;

    /// Ends the server: TERM, then KILL after a deadline of its own. The server's standard input has been
    /// closed before, and the policy's stop timeout has passed. Blocks, for a bounded time.
    fn stop(&mut self) -> ExitReport;

    /// The report of a server whose exit notice is readable.
    fn wait(&mut self) -> ExitReport;
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitReport {
    /// What the server's first process returned.
    pub status: ExitStatus,
    /// Whether it ended by itself.
    pub ending: Ending,
}

impl ExitReport {
    /// Whether it ended neither by itself nor at TERM.
    pub fn was_killed(&self) -> bool {
        const SIGKILL: i32 = 9;
        self.ending == Ending::Stopped && self.status == ExitStatus::Signal(SIGKILL)
    }

    /// What happened, to follow the server's name.
    pub fn sentence(&self) -> String {
        match self.ending {
            Ending::Itself | Ending::Stopped => self.status.to_string(),
            Ending::OverMemory => "was killed: it used more memory than `limits.memory` allows".to_owned(),
        }
    }
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The launcher could not find out.
    Unknown,
}

/// Who ended the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended by itself, or at the end of its input.
    Itself,
    /// It had to be signalled.
    Stopped,
    /// It used more memory than `limits.memory` allows, and was killed for that.
    OverMemory,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(out, "exited with status {code}"),
            ExitStatus::Signal(signal) => write!(out, "was ended by signal {signal}"),
            ExitStatus::Unknown => out.write_str("ended with an unknown status"),
        }
    }
}

/// A server could not be started. The message says who refused what; it must not hold a secret.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LaunchError {
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl LaunchError {
    /// An error with a sentence such as "the image of `github` was not verified".
    pub fn new(message: impl Into<String>) -> Self {
        LaunchError { message: message.into(), hint: None, source: None }
    }

    /// The way out.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        LaunchError { hint: Some(hint.into()), ..self }
    }

    /// What caused it.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        LaunchError { source: Some(source.into()), ..self }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// A server that the gateway may start: its policy and the way to start it.
#[derive(Clone)]
pub struct ServerEntry {
    /// What the server may do.
    pub policy: Arc<Policy>,
    /// How it is started.
    pub launch: Arc<dyn Launch>,
}

impl fmt::Debug for ServerEntry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServerEntry").field("server", &self.policy.server).finish_non_exhaustive()
    }
}

impl ServerEntry {
    pub(crate) fn name(&self) -> String {
        self.policy.server.to_string()
    }

    pub(crate) fn start_timeout(&self) -> Duration {
        self.policy.lifecycle.start_timeout
    }

    pub(crate) fn stop_timeout(&self) -> Duration {
        self.policy.lifecycle.stop_timeout
    }
}
