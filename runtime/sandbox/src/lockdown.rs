//! Inside the sandbox: from the last capability to `execve`.
//!
//! libcontainer has made the namespaces, pivoted, taken the sandbox's ids and left one capability,
//! `CAP_SETPCAP`. What follows is a straight line; each step takes the proof of the one before it
//! and gives its own, so that another order does not compile:
//!
//! ```text
//! rlimits → securebits → no capability → no_new_privs → label → Landlock → seccomp → read back → execve
//! ```
//!
//! - *rlimits* first: nothing later needs more descriptors than the server may have.
//! - *securebits* need `CAP_SETPCAP`, so they come before the last capability goes.
//! - `no_new_privs` is what lets an unprivileged process install the two that follow.
//! - the *label* before Landlock, which lets nobody write below `/proc` ([`label`]).
//! - *Landlock* before *seccomp*, whose list does not have the calls that make a ruleset.
//! - *seccomp* last but for reading `/proc/self/status` back, which any server may do as well.
//!
//! Then the process forks: pid 1 stays as the reaper ([`reaper`]), the child becomes the server.
//! There is no other way into the sandbox: the runtime specification that libcontainer gets names
//! no program, and [`exec::run`] takes the proof of the last step.

pub mod exec;
mod label;
mod landlock;
mod privileges;
mod readback;
mod reaper;
mod rlimits;
mod secrets;

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::protocol::Failure;
use crate::seccomp::CompiledFilter;
use crate::spec::SandboxSpec;

pub use readback::LockdownReport;

/// Everything that the lock-down needs, carried over the clone into pid 1.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What to enforce.
    pub(crate) spec: SandboxSpec,
    /// The filters, in order.
    pub(crate) filters: Vec<CompiledFilter>,
    /// Where the secrets come from, once, just before `execve`.
    pub(crate) secrets: OwnedFd,
    /// Where the outcome goes.
    pub(crate) status: OwnedFd,
    /// End of file when the supervisor is gone.
    pub(crate) supervisor_alive: OwnedFd,
}

/// What the supervisor learns through the status pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The lock-down holds; `execve` follows.
    Running(LockdownReport),
    /// A step failed.
    Failed(Failure),
}

/// A step of the lock-down that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub struct LockdownError {
    step: &'static str,
    message: String,
}

impl LockdownError {
    fn new(step: &'static str, message: impl std::fmt::Display) -> Self {
        Self { step, message: format!("{message}") }
    }
}

/// Our executor: libcontainer calls it in pid 1, after the pivot.
#[derive(Clone)]
pub(crate) struct SandboxExecutor(Rc<Plan>);

impl SandboxExecutor {
    pub(crate) fn new(plan: Rc<Plan>) -> Self {
        Self(plan)
    }
}

impl Executor for SandboxExecutor {
    /// Runs before pid 1 starts to wait for its start signal: from here on it dies with the
    /// supervisor, since nobody else would ever send that signal.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        die_with_supervisor(&self.0)
            .map_err(|error| ExecutorValidationError::ArgValidationError(error.to_string()))
    }

    /// The environment is built in [`exec`], from the spec and the secrets; the specification that
    /// libcontainer read from disk has none.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    /// Locks down and becomes the server, or says why not. Never returns success.
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let failure = match run(&self.0) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        say(&self.0.status, &Outcome::Failed(failure.clone()));
        Err(ExecutorError::Other(format!("{}: {}", failure.step, failure.message)))
    }
}

enum Never {}

fn run(plan: &Plan) -> Result<Never, Failure> {
    let host = |error: LockdownError| Failure {
        step: error.step.into(),
        message: error.message,
        kind: crate::protocol::FailureKind::Host,
    };
    // Secrets are put in place while the process may still write below /run/secrets.
    let environment = secrets::deliver(plan).map_err(host)?;
    let locked = lock_down(plan).map_err(host)?;
    say(&plan.status, &Outcome::Running(locked.report().clone()));
    exec::run(locked, plan, environment)
}

/// The line itself.
fn lock_down(plan: &Plan) -> Result<readback::Locked, LockdownError> {
    let limited = rlimits::set(&plan.spec.rlimits)?;
    let bits = privileges::lock_securebits(limited)?;
    let bare = privileges::drop_last_capability(bits)?;
    let stuck = privileges::forbid_new_privileges(bare)?;
    let labelled = label::set(stuck, &plan.spec.labels)?;
    let walled = landlock::restrict(labelled, &plan.spec.landlock)?;
    let filtered = install_filters(walled, &plan.filters)?;
    readback::verify(filtered, plan)
}

/// The last layer: from here on only the calls of the baseline are left to this process itself.
fn install_filters(_walled: landlock::Walled, filters: &[CompiledFilter]) -> Result<Filtered, LockdownError> {
    for filter in filters {
        filter.install().map_err(|error| LockdownError::new("installing a seccomp filter", chain(&error)))?;
    }
    Ok(Filtered(()))
}

/// The seccomp filters are installed.
#[derive(Debug)]
pub(crate) struct Filtered(());

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn die_with_supervisor(plan: &Plan) -> Result<(), LockdownError> {
    const STEP: &str = "asking to die with the supervisor";
    nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL)).map_err(|error| LockdownError::new(STEP, error))?;
    // Inside a pid namespace getppid(2) is 0 whether the parent lives or not; the pipe knows.
    let mut fds = [PollFd::new(plan.supervisor_alive.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) => Ok(()),
        Ok(_) => Err(LockdownError::new(STEP, "the supervisor is gone")),
        Err(error) => Err(LockdownError::new(STEP, error)),
    }
}

/// One line of JSON; when the supervisor does not listen any more, there is nobody to tell.
fn say(status: &OwnedFd, outcome: &Outcome) {
    let Ok(mut line) = serde_json::to_vec(outcome) else { return };
    line.push(b'\n');
    let Ok(pipe) = status.try_clone() else { return };
    match std::fs::File::from(pipe).write_all(&line) {
        Ok(()) | Err(_) => {}
    }
}
