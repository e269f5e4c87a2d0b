//! Inside the sandbox: from the last capability to `execve`.
//!
//! libcontainer has made the namespaces, pivoted, taken the sandbox's ids and left one capability,
//! `CAP_SETPCAP`. What follows is a straight line; each step takes the proof of the one before it
//! and gives its own, so that another order does not compile:
//!
//! ```text
//! rlimits → securebits → no capability → no_new_privs → label → Landlock → seccomp → read back
//! → gate → execve
//! ```
//!
//! This compiles:
//!
//! ```no_run
//! # use palisade_sandbox::lockdown::{LockdownError, Plan, exec, filters, label, landlock, privileges, readback, rlimits};
//! # use palisade_sandbox::{seccomp::CompiledFilter, spec::{LabelLine, LandlockLine}};
//! # fn line(plan: &Plan, labels: &LabelLine, rules: &LandlockLine, lists: &[CompiledFilter]) -> Result<(), LockdownError> {
//! let before = readback::Before::read()?;
//! let limited = rlimits::set(&[])?;
//! let bits = privileges::lock_securebits(limited)?;
//! let bare = privileges::drop_last_capability(bits)?;
//! let stuck = privileges::forbid_new_privileges(bare)?;
//! let labelled = label::set(stuck, labels)?;
//! let walled = landlock::restrict(labelled, rules)?;
//! let filtered = filters::install(walled, lists)?;
//! let locked = readback::verify(filtered, plan, before)?;
//! let failure = exec::run(locked, plan, Vec::new());
//! # drop(failure);
//! # Ok(())
//! # }
//! ```
//!
//! and none of these does: a step that is left out, two that change places, a proof that is used twice or
//! made by hand.
//!
//! ```compile_fail
//! # use palisade_sandbox::lockdown::{LockdownError, privileges, rlimits::Limited};
//! # fn line(limited: Limited) -> Result<(), LockdownError> {
//! privileges::drop_last_capability(limited)?; // before the securebits are locked
//! # Ok(())
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::lockdown::{LockdownError, privileges::{self, SecurebitsLocked}};
//! # fn line(bits: SecurebitsLocked) -> Result<(), LockdownError> {
//! privileges::forbid_new_privileges(bits)?; // with a capability left
//! # Ok(())
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::{lockdown::{LockdownError, label, privileges::NoCapability}, spec::LabelLine};
//! # fn line(bare: NoCapability, labels: &LabelLine) -> Result<(), LockdownError> {
//! label::set(bare, labels)?; // without no_new_privs
//! # Ok(())
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::{lockdown::{LockdownError, landlock, privileges::NoNewPrivileges}, spec::LandlockLine};
//! # fn line(stuck: NoNewPrivileges, rules: &LandlockLine) -> Result<(), LockdownError> {
//! landlock::restrict(stuck, rules)?; // without the label
//! # Ok(())
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::{lockdown::{LockdownError, filters, label::Labelled}, seccomp::CompiledFilter};
//! # fn line(labelled: Labelled, lists: &[CompiledFilter]) -> Result<(), LockdownError> {
//! filters::install(labelled, lists)?; // without Landlock
//! # Ok(())
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::lockdown::{LockdownError, Plan, landlock::Walled, readback::{self, Before}};
//! # fn line(walled: Walled, plan: &Plan, before: Before) -> Result<(), LockdownError> {
//! readback::verify(walled, plan, before)?; // before the filters
//! # Ok(())
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::lockdown::{Plan, exec, filters::Filtered};
//! # fn line(filtered: Filtered, plan: &Plan) {
//! drop(exec::run(filtered, plan, Vec::new())); // without reading back
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::lockdown::{Plan, exec, readback::Locked};
//! # fn line(locked: Locked, plan: &Plan) {
//! drop(exec::run(locked, plan, Vec::new()));
//! drop(exec::run(locked, plan, Vec::new())); // twice
//! # }
//! ```
//! ```compile_fail
//! # use palisade_sandbox::lockdown::filters::Filtered;
//! let forged = Filtered(()); // by hand
//! ```
//!
//! - *rlimits* first: nothing later needs more descriptors than the server may have.
//! - *securebits* need `CAP_SETPCAP`, so they come before the last capability goes.
//! - `no_new_privs` is what lets an unprivileged process install the two that follow.
//! - the *label* before Landlock, which lets nobody write below `/proc` ([`label`]).
//! - *Landlock* before *seccomp*, whose list does not have the calls that make a ruleset.
//! - *seccomp* last but for reading `/proc/self` back, which any server may do as well.
//! - At the *gate* the process waits until the supervisor, which has confined itself by then, lets it go.
//!   Secrets are delivered after that, so a sandbox that waits in a pool holds none.
//!
//! Then the process forks: pid 1 stays as the reaper ([`reaper`]), the child becomes the server.
//! There is no other way into the sandbox: the runtime specification that libcontainer gets names
//! no program, and [`exec::run`] takes the proof of the last step.

pub mod exec;
pub mod filters;
pub mod label;
pub mod landlock;
pub mod privileges;
pub mod readback;
mod reaper;
pub mod rlimits;
mod secrets;
mod strays;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use palisade_sys::dir::take_inherited;
use palisade_sys::process::exit_now;
use serde::{Deserialize, Serialize};

use crate::protocol::Failure;
use crate::seccomp::CompiledFilter;
use crate::spec::SandboxSpec;

pub use readback::LockdownReport;
pub use readback::namespaces::Namespaces;

/// Everything that the lock-down needs, carried over the clone into pid 1.
#[derive(Debug)]
pub struct Plan {
    /// What to enforce.
    pub(crate) spec: SandboxSpec,
    /// The namespaces of the host, as the keeper saw them: none of them may be ours.
    pub(crate) outside: Namespaces,
    /// The filters, in order.
    pub(crate) filters: Vec<CompiledFilter>,
    /// Where the secrets come from, once, just before `execve`.
    pub(crate) secrets: OwnedFd,
    /// Where the outcome goes.
    pub(crate) status: OwnedFd,
    /// One byte lets the server start; end of file means that the supervisor is gone.
    pub(crate) gate: OwnedFd,
    /// The number of the gate's other end. A clone copies every descriptor, so pid 1 has it as well and must
    /// close it: as long as it is open anywhere, there is no end of file.
    pub(crate) gate_outside: i32,
}

/// What the supervisor learns through the status pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The lock-down holds; `execve` follows when the gate opens.
    Locked(Box<LockdownReport>),
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
        say(&self.0.status, &Outcome::Failed(failure));
        // Not back to libcontainer, whose descriptors have been closed.
        exit_now(127)
    }
}

fn run(plan: &Plan) -> Result<Infallible, Failure> {
    let host = |error: LockdownError| Failure {
        step: error.step.into(),
        message: error.message,
        kind: crate::protocol::FailureKind::Host,
    };
    name_pid_one();
    strays::close_all_but(&[&plan.secrets, &plan.status, &plan.gate]).map_err(host)?;
    // Opened while the process may still make files below /run/secrets; filled when all else is done.
    let places = secrets::open_files(plan).map_err(host)?;
    let locked = lock_down(plan).map_err(host)?;
    say(&plan.status, &Outcome::Locked(Box::new(locked.report().clone())));
    wait_at_gate(plan).map_err(host)?;
    let environment = secrets::deliver(&locked, plan, places).map_err(host)?;
    exec::run(locked, plan, environment)
}

/// What `ps` shows; libcontainer had a name of its own for it.
fn name_pid_one() {
    // A name is for people, and its absence harms nobody.
    if nix::sys::prctl::set_name(c"palisade-init").is_err() {}
}

/// What the supervisor writes to let the server start.
pub(crate) const GO: &[u8; 1] = b"g";

/// Here a sandbox of the warm pool waits: locked down, without secrets, one `execve` away.
fn wait_at_gate(plan: &Plan) -> Result<(), LockdownError> {
    const STEP: &str = "waiting to be started";
    let mut byte = [0];
    loop {
        match nix::unistd::read(&plan.gate, &mut byte) {
            Ok(1) if byte == *GO => return Ok(()),
            Ok(_) => return Err(LockdownError::new(STEP, "the supervisor is gone")),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(LockdownError::new(STEP, error)),
        }
    }
}

/// The line itself.
fn lock_down(plan: &Plan) -> Result<readback::Locked, LockdownError> {
    let before = readback::Before::read()?;
    let limited = rlimits::set(&plan.spec.rlimits)?;
    let bits = privileges::lock_securebits(limited)?;
    let bare = privileges::drop_last_capability(bits)?;
    let stuck = privileges::forbid_new_privileges(bare)?;
    let labelled = label::set(stuck, &plan.spec.labels)?;
    let walled = landlock::restrict(labelled, &plan.spec.landlock)?;
    let filtered = filters::install(walled, &plan.filters)?;
    readback::verify(filtered, plan, before)
}

fn die_with_supervisor(plan: &Plan) -> Result<(), LockdownError> {
    const STEP: &str = "asking to die with the supervisor";
    drop(take_inherited(plan.gate_outside).map_err(|error| LockdownError::new(STEP, error))?);
    nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL)).map_err(|error| LockdownError::new(STEP, error))?;
    if nix::sys::prctl::get_pdeathsig() != Ok(Some(Signal::SIGKILL)) {
        return Err(LockdownError::new(STEP, "it did not take effect"));
    }
    // Inside a pid namespace getppid(2) is 0 whether the parent lives or not; the pipe knows.
    let mut fds = [PollFd::new(plan.gate.as_fd(), PollFlags::POLLIN)];
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
