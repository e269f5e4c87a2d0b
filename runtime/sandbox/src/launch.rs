//! The gateway's side: from a spec to a running server.
//!
//! [`prepare`](SandboxSpec::prepare) does all that can fail without a process; [`PreparedSandbox::spawn`]
//! starts the keeper, waits until the sandbox stands, and only then lets the secrets into their
//! pipe. Everything blocks, a launch for some 30 ms.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use palisade_image::UnpackedRootfs;
use palisade_policy::Syscalls;
use palisade_sys::child::{RoleProcess, spawn_self};
use palisade_sys::dir::{open_ambient_path, open_without_links, path_of};

use crate::lockdown::LockdownReport;
use crate::protocol::{self, Exit, Failure, Launch, LaunchFds, MESSAGE_MAX, Reply, Request};
use crate::seccomp::{Allowlist, CompiledFilter, FilterError, ListError};
use crate::secret::Secrets;
use crate::spec::{MountKind, SandboxSpec};
use crate::supervisor::ROLE;

/// A sandbox whose parts are all at hand; nothing has been started.
#[derive(Debug)]
pub struct PreparedSandbox {
    spec: SandboxSpec,
    filters: Vec<CompiledFilter>,
    layers: Vec<OwnedFd>,
    mounts: Vec<OwnedFd>,
}

/// Why a sandbox could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A mount source is not there, or may not be opened.
    #[error("the mount source `{}` cannot be opened", path.display())]
    MountSource {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path of a mount source leads through a symbolic link.
    #[error("the mount source `{}` leads through a symbolic link", path.display())]
    MountLink {
        /// As the policy writes it.
        path: PathBuf,
        /// Where it leads now.
        real: PathBuf,
    },
    /// A mount source is a socket, a device or a FIFO.
    #[error("the mount source `{}` is neither a directory nor a file", path.display())]
    MountKind {
        /// Its path.
        path: PathBuf,
    },
    /// The spec does not fit into one message.
    #[error("server `{server}` has an environment and arguments of more than {MESSAGE_MAX} bytes together")]
    TooLarge {
        /// The server.
        server: String,
    },
    /// The list of the policy could not be made.
    #[error("the list of system calls could not be made")]
    List(#[from] ListError),
    /// Its filter did not compile.
    #[error("the seccomp filter could not be made")]
    Filter(#[from] FilterError),
    /// These are not the calls that the spec was resolved with.
    #[error("the list of system calls of server `{server}` is not the one of its spec")]
    OtherList {
        /// The server.
        server: String,
    },
    /// A descriptor could not be copied.
    #[error("a layer of the image cannot be opened")]
    Layer(#[source] io::Error),
}

impl PrepareError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MountSource { path, .. } => {
                Some(format!("create `{}`, or correct `filesystem.mounts` in the policy", path.display()))
            }
            Self::MountLink { real, .. } => Some(format!("write the real path, `{}`", real.display())),
            Self::MountKind { .. } => Some("mount the directory that holds what the server needs".into()),
            Self::TooLarge { .. } => Some("shorten the variables of the image or the policy".into()),
            Self::List(error) => error.hint(),
            Self::Filter(_) | Self::OtherList { .. } => None,
            Self::Layer(_) => Some("run `palisade image prepare` again".into()),
        }
    }
}

/// Why a sandbox could not be started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A secret that the policy declares was not given.
    #[error("the policy of server `{server}` declares the secret `{secret}`, and it was not given")]
    MissingSecret {
        /// The server.
        server: String,
        /// The secret's name.
        secret: String,
    },
    /// Our own process could not be started or went away.
    #[error("the supervisor of server `{server}` {what}")]
    Supervisor {
        /// The server.
        server: String,
        /// What happened to it.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step of the set-up failed.
    #[error("the sandbox of server `{server}` could not be set up while {step}: {message}", step = failure.step, message = failure.message)]
    Setup {
        /// The server.
        server: String,
        /// Which step, and what was said.
        failure: Failure,
    },
}

impl SpawnError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingSecret { secret, .. } => Some(format!(
                "give it with `--secret-file {secret}=PATH` (a file of mode 0600), or with `--secret-env {secret}=VARIABLE`"
            )),
            Self::Supervisor { .. } => Some("`palisade doctor` shows what this host offers".into()),
            Self::Setup { failure, .. } => Some(match failure.kind {
                protocol::FailureKind::Host => "`palisade doctor` shows what this host offers".into(),
                protocol::FailureKind::NotFound | protocol::FailureKind::NotExecutable => {
                    "look at the image's ENTRYPOINT and at `args` in the policy".into()
                }
            }),
        }
    }
}

impl SandboxSpec {
    /// Opens what the spec names and compiles its filters.
    ///
    /// # Errors
    /// When a mount source is missing.
    pub fn prepare(
        self,
        syscalls: &Syscalls,
        rootfs: &UnpackedRootfs,
    ) -> Result<PreparedSandbox, PrepareError> {
        let list = Allowlist::of(syscalls)?;
        if list.digest() != self.seccomp.digest {
            return Err(PrepareError::OtherList { server: self.server });
        }
        let filters = list.compile()?;
        let mut mounts = Vec::new();
        for mount in &self.mounts {
            if let MountKind::Host { source, .. } = &mount.kind {
                mounts.push(open_source(source)?);
            }
        }
        let layers = rootfs
            .layers()
            .iter()
            .map(|layer| layer.as_fd().try_clone_to_owned())
            .collect::<Result<_, _>>()
            .map_err(PrepareError::Layer)?;
        let prepared = PreparedSandbox { spec: self, filters, layers, mounts };
        let size = serde_json::to_vec(&prepared.request()).map_or(usize::MAX, |message| message.len());
        if size > MESSAGE_MAX {
            return Err(PrepareError::TooLarge { server: prepared.spec.server });
        }
        Ok(prepared)
    }
}

/// Opens a mount source once; every start of the server gets this same directory or file.
///
/// A link anywhere in the path is refused: the path may lead through a directory that another mount
/// lets a server write, and then the server would choose what is mounted at the next start.
fn open_source(path: &Path) -> Result<OwnedFd, PrepareError> {
    let failed = |source| PrepareError::MountSource { path: path.to_owned(), source };
    let fd = match open_without_links(path) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            let real = open_ambient_path(path).and_then(|fd| path_of(&fd)).map_err(failed)?;
            return Err(PrepareError::MountLink { path: path.to_owned(), real });
        }
        opened => opened.map_err(failed)?,
    };
    let kind = nix::sys::stat::fstat(&fd).map_err(|error| failed(error.into()))?.st_mode & nix::libc::S_IFMT;
    if kind == nix::libc::S_IFDIR || kind == nix::libc::S_IFREG {
        return Ok(fd);
    }
    Err(PrepareError::MountKind { path: path.to_owned() })
}

/// A server that runs in its sandbox.
#[derive(Debug)]
pub struct RunningSandbox {
    /// The server's standard input; dropping it is the end of input.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// What was read back inside the sandbox before the server started.
    pub report: LockdownReport,
    process: SandboxProcess,
}

/// The processes behind a running sandbox. Dropping it ends them.
#[derive(Debug)]
pub struct SandboxProcess {
    server: String,
    control: OwnedFd,
    keeper: Child,
    grace: Duration,
    exit: Option<Exit>,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitReport {
    /// Its status or signal; `None` when the supervisor itself was killed.
    pub exit: Option<Exit>,
}

/// Longest time from start to "the sandbox stands", 100 times what was measured on a busy machine;
/// a host that takes longer is not making progress.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);

/// What the supervisor and the keeper take after KILL to clean up; removing a cgroup can wait for
/// the kernel to reap its tasks.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

impl PreparedSandbox {
    /// What will be enforced.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Starts the server. The secrets enter last, when nothing else can fail but `execve` itself.
    ///
    /// # Errors
    /// When a secret is missing, a step fails, or the image has no such program.
    pub fn spawn(&self, secrets: &Secrets) -> Result<RunningSandbox, SpawnError> {
        let names: Vec<String> = self.spec.secrets.iter().map(|secret| secret.name.clone()).collect();
        let server = self.spec.server.clone();
        let payload = secrets
            .encode(&names)
            .map_err(|secret| SpawnError::MissingSecret { server: server.clone(), secret })?;
        let lost = |what| {
            let server = server.clone();
            move |source| SpawnError::Supervisor { server, what, source }
        };
        let (theirs, ours) = pipes().map_err(lost("could not get its pipes"))?;
        let RoleProcess { child, control } = spawn_self(ROLE).map_err(lost("could not be started"))?;
        let grace = Duration::from_millis(self.spec.stop_grace_ms);
        let mut process =
            SandboxProcess { server: server.clone(), control, keeper: child, grace, exit: None };
        self.hand_over(&process, theirs).map_err(lost("went away"))?;
        process.expect_created()?;
        // The server reads until end of file, so the pipe's capacity does not limit the secrets:
        // it is running by the time we write.
        process.ask(&Request::Start)?;
        let mut pipe = std::fs::File::from(ours.secrets);
        pipe.write_all(&payload).map_err(|source| process.lost("went away", source))?;
        drop(pipe);
        let report = process.expect_started()?;
        Ok(RunningSandbox { stdin: ours.stdin, stdout: ours.stdout, stderr: ours.stderr, report, process })
    }

    fn hand_over(&self, process: &SandboxProcess, theirs: TheirEnds) -> io::Result<()> {
        let TheirEnds { stdin, stdout, stderr, secrets } = theirs;
        let copy = |fds: &[OwnedFd]| fds.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
        let fds = LaunchFds {
            stdin,
            stdout,
            stderr,
            secrets,
            layers: copy(&self.layers)?,
            mounts: copy(&self.mounts)?,
        };
        protocol::send(&process.control, &self.request(), &fds.as_fds())
    }

    fn request(&self) -> Request {
        Request::Launch(Box::new(Launch { spec: self.spec.clone(), filters: self.filters.clone() }))
    }
}

struct TheirEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    secrets: OwnedFd,
}

struct OurEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    secrets: OwnedFd,
}

/// Pipes and not sockets: node and python treat a socket as standard output differently (node makes
/// its writes asynchronous), and a pipe cannot be used to send descriptors.
fn pipes() -> io::Result<(TheirEnds, OurEnds)> {
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
    let (stdin_read, stdin_write) = pipe()?;
    let (stdout_read, stdout_write) = pipe()?;
    let (stderr_read, stderr_write) = pipe()?;
    let (secrets_read, secrets_write) = pipe()?;
    Ok((
        TheirEnds { stdin: stdin_read, stdout: stdout_write, stderr: stderr_write, secrets: secrets_read },
        OurEnds { stdin: stdin_write, stdout: stdout_read, stderr: stderr_read, secrets: secrets_write },
    ))
}

impl RunningSandbox {
    /// Separates the pipes from the process, so that each can have its own owner.
    pub fn into_parts(self) -> (OwnedFd, OwnedFd, OwnedFd, SandboxProcess) {
        (self.stdin, self.stdout, self.stderr, self.process)
    }
}

impl SandboxProcess {
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

    fn expect_created(&mut self) -> Result<(), SpawnError> {
        match self.reply(SETUP_TIMEOUT)? {
            Reply::Created => Ok(()),
            Reply::Failed(failure) => Err(SpawnError::Setup { server: self.server.clone(), failure }),
            Reply::Started(_) | Reply::Exited(_) => Err(self.out_of_turn()),
        }
    }

    fn expect_started(&mut self) -> Result<LockdownReport, SpawnError> {
        match self.reply(SETUP_TIMEOUT)? {
            Reply::Started(report) => Ok(report),
            Reply::Failed(failure) => Err(SpawnError::Setup { server: self.server.clone(), failure }),
            Reply::Created | Reply::Exited(_) => Err(self.out_of_turn()),
        }
    }

    fn out_of_turn(&self) -> SpawnError {
        self.lost("answered out of turn", io::ErrorKind::InvalidData.into())
    }

    fn lost(&self, what: &'static str, source: io::Error) -> SpawnError {
        SpawnError::Supervisor { server: self.server.clone(), what, source }
    }

    fn ask(&self, request: &Request) -> Result<(), SpawnError> {
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
        match self.readable_within(timeout) {
            Ok(true) => {}
            Ok(false) => return Waited::TimedOut,
            Err(_gone) => return Waited::Over,
        }
        if let Ok(Some((Reply::Exited(exit), _no_fds))) = protocol::receive(&self.control) {
            self.exit = Some(exit);
        }
        Waited::Over
    }

    fn finish(&mut self) -> ExitReport {
        self.end_keeper();
        ExitReport { exit: self.exit }
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
