//! The launch through libcontainer, up to the point where the server waits to be started.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::NOTIFY_FILE;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use palisade_sys::process::pidfd_open;

use super::cgroup::Seats;
use super::identity::Confined;
use super::stage::{BUNDLE, STATE, Staged};
use super::{During, StepError, oci};
use crate::lockdown::{Namespaces, Plan, SandboxExecutor};
use crate::seccomp::CompiledFilter;
use crate::spec::{FoundLimit, SandboxSpec};

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
    /// The host's namespaces.
    pub(super) outside: Namespaces,
    pub(super) filters: Vec<CompiledFilter>,
    pub(super) stdio: Stdio,
    /// The read end of the pipe that the secrets will come through.
    pub(super) secrets: OwnedFd,
}

/// A sandbox that stands, on its way through the lock-down; nothing of the image has run.
pub(super) struct Created {
    /// pid 1 of the sandbox, our child.
    pub(super) init: Pid,
    /// The same, as a descriptor that never names another process.
    pub(super) pidfd: OwnedFd,
    /// What the lock-down reports, and end of file once `execve` has succeeded.
    pub(super) status: File,
    /// One byte into it lets the server start; its end, with this process, ends the sandbox.
    pub(super) gate: File,
    /// What its cgroup was found to be.
    pub(super) limits: Vec<FoundLimit>,
}

/// Builds the sandbox. Only a process that has given up the host's ids and paths may.
pub(super) fn create(
    _confined: &Confined,
    _staged: &Staged,
    contents: Contents,
    cgroup: Seats,
) -> Result<Created, StepError> {
    let Contents { spec, outside, filters, stdio, secrets } = contents;
    write_bundle(&spec)?;
    let (status, status_in_sandbox) = pipe2(OFlag::O_CLOEXEC).during("making the status pipe")?;
    let (gate_in_sandbox, gate) = pipe2(OFlag::O_CLOEXEC).during("making the gate")?;
    let plan = Plan {
        spec,
        outside,
        filters,
        secrets,
        status: status_in_sandbox,
        gate: gate_in_sandbox,
        gate_outside: gate.as_raw_fd(),
    };
    let executor = SandboxExecutor::new(Rc::new(plan));
    let container = cgroup.around(|| {
        ContainerBuilder::new(NAME.to_owned(), SyscallType::default())
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
    let init = container.pid().ok_or_else(|| StepError::new("building the sandbox", "it has no process"))?;
    let init = Pid::from_raw(init.as_raw());
    let pidfd = pidfd_open(init).during("opening a descriptor of pid 1")?;
    let limits = cgroup.read_back(init)?;
    release()?;
    Ok(Created { init, pidfd, status: status.into(), gate: gate.into(), limits })
}

/// libcontainer's name for the one container that it sees.
const NAME: &str = "sandbox";

/// Lets pid 1 go on from libcontainer to our executor, which locks down and waits at its own gate.
///
/// `Container::start` would do the same and then write the state anew, which nobody reads: libcontainer
/// waits for the end of file on the first connection.
fn release() -> Result<(), StepError> {
    const STEP: &str = "handing pid 1 over to the lock-down";
    let socket = Path::new(STATE).join(NAME).join(NOTIFY_FILE);
    drop(UnixStream::connect(socket).during(STEP)?);
    Ok(())
}

fn write_bundle(spec: &SandboxSpec) -> Result<(), StepError> {
    let json = serde_json::to_vec(&oci::runtime_spec(spec)?).during("writing the runtime specification")?;
    let bundle = palisade_sys::dir::Dir::open_ambient(Path::new(BUNDLE)).during("opening the bundle")?;
    let mut file = bundle.create_file(Path::new("config.json"), 0o600).during("writing the bundle")?;
    file.write_all(&json).during("writing the bundle")
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
