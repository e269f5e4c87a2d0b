//! From a prepared sandbox to a running server, in two moves.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use palisade_sys::child::{RoleProcess, spawn_self};
use zeroize::Zeroizing;

use super::PreparedSandbox;
use super::process::SandboxProcess;
use crate::lockdown::LockdownReport;
use crate::protocol::{Failure, LaunchFds, Request, Standing};
use crate::secret::Secrets;
use crate::spec::{BY_RLIMITS, FoundLimit};
use crate::supervisor::ROLE;

/// A sandbox that stands, locked down, and waits. It holds no secret, and nothing of the image has run.
///
/// Dropping it ends it.
#[derive(Debug)]
pub struct CreatedSandbox {
    secret_names: Vec<String>,
    pipes: OurEnds,
    standing: Box<Standing>,
    process: SandboxProcess,
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
    /// What was read back of its cgroup.
    pub limits: Vec<FoundLimit>,
    process: SandboxProcess,
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
                crate::protocol::FailureKind::Host
                    if failure.step == crate::supervisor::MAPPING_SUBORDINATE_IDS =>
                {
                    "correct this user's lines in /etc/subuid and /etc/subgid, or remove them to go without"
                        .into()
                }
                crate::protocol::FailureKind::Host => "`palisade doctor` shows what this host offers".into(),
                crate::protocol::FailureKind::NotFound | crate::protocol::FailureKind::NotExecutable => {
                    "look at the image's ENTRYPOINT and at `args` in the policy".into()
                }
            }),
        }
    }
}

impl PreparedSandbox {
    /// Builds the sandbox, as far as it goes without secrets.
    ///
    /// # Errors
    /// When a step of the set-up or of the lock-down fails; nothing is left then.
    pub fn create(&self) -> Result<CreatedSandbox, SpawnError> {
        let server = self.spec.server.clone();
        let lost = |what| {
            let server = server.clone();
            move |source| SpawnError::Supervisor { server, what, source }
        };
        let (theirs, ours) = pipes().map_err(lost("could not get its pipes"))?;
        let RoleProcess { child, control } = spawn_self(ROLE).map_err(lost("could not be started"))?;
        let process = SandboxProcess::new(&self.spec, control, child);
        self.hand_over(&process, theirs).map_err(lost("went away"))?;
        let standing = process.expect_created()?;
        Ok(CreatedSandbox { secret_names: self.secret_names(), pipes: ours, standing, process })
    }

    /// Builds the sandbox and starts the server.
    ///
    /// # Errors
    /// When a secret is missing, a step fails, or the image has no such program.
    pub fn spawn(&self, secrets: &Secrets) -> Result<RunningSandbox, SpawnError> {
        // Before anything is started for nothing.
        drop(encode(&self.spec.server, secrets, &self.secret_names())?);
        self.create()?.start(secrets)
    }

    fn secret_names(&self) -> Vec<String> {
        self.spec.secrets.iter().map(|secret| secret.name.clone()).collect()
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
        process.send(&self.request(), &fds.as_fds())
    }
}

impl CreatedSandbox {
    /// Starts the server. The secrets enter last, when nothing else can fail but `execve` itself.
    ///
    /// # Errors
    /// When a secret is missing, the sandbox is gone, or the image has no such program.
    pub fn start(self, secrets: &Secrets) -> Result<RunningSandbox, SpawnError> {
        let Self { secret_names, pipes, standing, process } = self;
        let OurEnds { stdin, stdout, stderr, secrets: pipe } = pipes;
        let payload = encode(process.server(), secrets, &secret_names)?;
        process.ask(&Request::Start)?;
        // pid 1 reads until end of file, so the pipe's capacity does not limit the secrets.
        let mut pipe = std::fs::File::from(pipe);
        pipe.write_all(&payload).map_err(|source| process.lost("went away", source))?;
        drop(pipe);
        process.expect_started()?;
        let Standing { report, limits } = *standing;
        Ok(RunningSandbox { stdin, stdout, stderr, report, limits, process })
    }
}

fn encode(server: &str, secrets: &Secrets, names: &[String]) -> Result<Zeroizing<Vec<u8>>, SpawnError> {
    secrets.encode(names).map_err(|secret| SpawnError::MissingSecret { server: server.to_owned(), secret })
}

struct TheirEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    secrets: OwnedFd,
}

#[derive(Debug)]
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
    /// Every limit that was read back: of its cgroup, and of its process.
    pub fn found_limits(&self) -> Vec<FoundLimit> {
        let rlimits: Vec<String> =
            self.report.rlimits.iter().map(|limit| format!("{:?} {}", limit.kind, limit.value)).collect();
        let rlimits = FoundLimit { what: BY_RLIMITS.into(), found: rlimits.join(", ") };
        self.limits.iter().cloned().chain([rlimits]).collect()
    }

    /// Separates the pipes from the process, so that each can have its own owner.
    pub fn into_parts(self) -> (OwnedFd, OwnedFd, OwnedFd, SandboxProcess) {
        (self.stdin, self.stdout, self.stderr, self.process)
    }
}
