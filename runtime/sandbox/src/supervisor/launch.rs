//! The launch through libcontainer, up to the point where the server waits to be started.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::cgroup::Seats;
use super::identity::Confined;
use super::stage::{BUNDLE, STATE, Staged};
use super::{During, StepError, oci};
use crate::lockdown::{Plan, SandboxExecutor};
use crate::seccomp::CompiledFilter;
use crate::spec::SandboxSpec;

/// The server's standard descriptors.
#[derive(Debug)]
pub(super) struct Stdio {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What goes into the sandbox.
pub(super) struct Contents {
    pub(super) spec: SandboxSpec,
    pub(super) filters: Vec<CompiledFilter>,
    pub(super) stdio: Stdio,
    /// The read end of the pipe that the secrets will come through.
    pub(super) secrets: OwnedFd,
}

/// A sandbox that stands and waits; nothing of the image has run.
pub(super) struct Created {
    container: Container,
    /// pid 1 of the sandbox, our child.
    pub(super) init: Pid,
    /// What the lock-down reports, and end of file once `execve` has succeeded.
    pub(super) status: File,
}

/// Builds the sandbox. Only a process that has given up the host's ids and paths may.
pub(super) fn create(
    _confined: &Confined,
    _staged: &Staged,
    contents: Contents,
    cgroup: Seats,
) -> Result<Created, StepError> {
    let Contents { spec, filters, stdio, secrets } = contents;
    write_bundle(&spec)?;
    let (status, status_in_sandbox) = pipe2(OFlag::O_CLOEXEC).during("making the status pipe")?;
    let (alive, alive_end) = pipe2(OFlag::O_CLOEXEC).during("making the liveness pipe")?;
    let plan = Plan { spec, filters, secrets, status: status_in_sandbox, supervisor_alive: alive };
    let executor = SandboxExecutor::new(Rc::new(plan));
    let container = cgroup.around(|| {
        ContainerBuilder::new("sandbox".to_owned(), SyscallType::default())
            .with_executor(executor)
            .with_stdin(stdio.stdin)
            .with_stdout(stdio.stdout)
            .with_stderr(stdio.stderr)
            .with_root_path(STATE)
            .during("naming libcontainer's state")?
            .as_init(BUNDLE)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .map_err(|error| StepError::new("building the sandbox", chain(&error)))
    })?;
    // libcontainer has done so; from here on this process may come to hold secrets.
    palisade_sys::process::forbid_inspection().during("closing /proc/self")?;
    // Held open until this process ends: pid 1 sees the end of file if that comes too early.
    keep_until_exit(alive_end);
    let init = container.pid().ok_or_else(|| StepError::new("building the sandbox", "it has no process"))?;
    Ok(Created { container, init: Pid::from_raw(init.as_raw()), status: status.into() })
}

impl Created {
    /// Lets pid 1 go on to the lock-down and `execve`.
    pub(super) fn start(&mut self) -> Result<(), StepError> {
        self.container.start().map_err(|error| StepError::new("starting the sandbox", chain(&error)))
    }
}

fn write_bundle(spec: &SandboxSpec) -> Result<(), StepError> {
    let json = serde_json::to_vec(&oci::runtime_spec(spec)?).during("writing the runtime specification")?;
    let bundle = palisade_sys::dir::Dir::open_ambient(Path::new(BUNDLE)).during("opening the bundle")?;
    let mut file = bundle.create_file(Path::new("config.json"), 0o600).during("writing the bundle")?;
    file.write_all(&json).during("writing the bundle")
}

#[expect(clippy::mem_forget, reason = "the descriptor's end is the process's end, by design")]
fn keep_until_exit(fd: OwnedFd) {
    std::mem::forget(fd);
}

/// An error with its causes in one line; libcontainer puts the reason in the source.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
