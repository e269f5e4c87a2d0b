//! What will be enforced, as data: every mount, id, limit, call and rule of one sandbox.
//!
//! `palisade explain` prints exactly this value and the audit log holds its digest. Resolving is
//! pure: the same policy, image facts and host facts give the same spec. No secret can be in it,
//! only the names of secrets.

mod enforcement;
mod environment;
mod filesystem;
mod identity;
mod image;
mod label;
mod limits;

use std::path::{Path, PathBuf};

use palisade_policy::{Baseline, CallChange, Policy, SeccompMode, SecretDelivery, Syscalls};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use enforcement::{BY_RLIMITS, IN_CGROUP};
pub use enforcement::{Enforcement, FoundLimit, Layer, State};
pub use filesystem::{DEVICES, LandlockAccess, LandlockRule, Mount, MountKind, SECRETS_DIR};
pub use identity::{Identity, Outside, OwnId, StartedBy};
pub use image::{ImageFacts, ImageFactsError};
pub(crate) use label::server_context;
pub use label::{LabelLine, LabelWrite};
pub use limits::{CgroupKind, CgroupLimits, IoLimit, Rlimit, RlimitKind, WithoutDisk};

use crate::host::{HostSupport, Mounts, Procfs, UserNamespaces};
use crate::seccomp::Allowlist;

/// One sandbox, completely described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The server's name.
    pub server: String,
    /// Digest of the manifest that runs; `None` when the image is not in the store.
    pub image_digest: Option<String>,
    /// Program and arguments; empty when the image is not in the store.
    pub command: Vec<String>,
    /// The whole environment but for secrets, in order; nothing of the caller's is in it.
    pub environment: Vec<(String, String)>,
    /// Where the program starts.
    pub working_directory: PathBuf,
    /// Who the server is, inside and outside.
    pub identity: Identity,
    /// Namespaces of its own.
    pub namespaces: Vec<String>,
    /// Every mount below `/`, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// The secrets it is given: names and places, no values.
    pub secrets: Vec<SecretLine>,
    /// The seccomp allowlist.
    pub seccomp: SeccompLine,
    /// The Landlock ruleset.
    pub landlock: LandlockLine,
    /// AppArmor and SELinux labels.
    pub labels: LabelLine,
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Limits of the cgroup.
    pub cgroup: CgroupLimits,
    /// Bytes of memory and swap at which the server is ended, where no cgroup limits them.
    pub memory_watch: Option<u64>,
    /// Milliseconds between TERM and KILL.
    pub stop_grace_ms: u64,
    /// What is enforced by what, and what this host cannot do.
    pub enforcement: Vec<Enforcement>,
}

/// A secret's name and where the server finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretLine {
    /// The policy's name for it.
    pub name: String,
    /// Where it is put.
    pub delivery: SecretPlace,
}

/// Where a secret is put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretPlace {
    /// An environment variable.
    Env(String),
    /// A file on a tmpfs, read-only for the server.
    File(PathBuf),
}

/// The seccomp filter: where its list comes from, and the list in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompLine {
    /// Which list.
    pub baseline: String,
    /// What the policy adds to it.
    pub added: Vec<CallChange>,
    /// What the policy removes from it.
    pub removed: Vec<CallChange>,
    /// What becomes of calls outside of it.
    pub mode: SeccompMode,
    /// The digest of the resolved list with its mode: what [`Allowlist::digest`](crate::seccomp::Allowlist::digest) says.
    pub digest: String,
    /// System calls that are allowed, some only with certain arguments.
    pub allowed_calls: usize,
    /// Of those, the ones whose arguments are looked at.
    pub with_argument_rules: usize,
    /// What every other call gets, in words.
    pub otherwise: String,
}

/// The Landlock ruleset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockLine {
    /// The ABI whose rights are all handled; 0 when the host has none and the policy accepts that.
    pub abi: u32,
    /// What is allowed beneath which path.
    pub rules: Vec<LandlockRule>,
    /// TCP ports that may be bound or connected to.
    pub tcp_ports: Vec<u16>,
    /// Whether signals and abstract sockets end at the sandbox.
    pub scoped: bool,
}

/// Everything that decides a spec.
#[derive(Debug, Clone, Copy)]
pub struct ResolveInput<'a> {
    /// The checked policy.
    pub policy: &'a Policy,
    /// What the image says; `None` to explain a policy whose image is not here.
    pub image: Option<&'a ImageFacts>,
    /// What the kernel offers.
    pub host: &'a HostSupport,
    /// What `~` stands for in mount sources.
    pub home: Option<&'a Path>,
}

/// Why a policy cannot be honoured on this host or with this image.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// User namespaces are switched off.
    #[error("this host forbids user namespaces: {by}")]
    UserNamespaces {
        /// The setting.
        by: String,
        /// What changes it.
        remedy: String,
    },
    /// seccomp filters are switched off.
    #[error("this kernel has no seccomp filters")]
    Seccomp,
    /// Landlock is absent or too old.
    #[error("this kernel offers Landlock ABI {found}, and {needed} is needed")]
    Landlock {
        /// The kernel's.
        found: u32,
        /// The policy's `landlock.minimum_abi`.
        needed: u32,
    },
    /// The kernel is older than anything here was made for.
    #[error("this kernel (Linux {release}) has no `mount_setattr`, which came with Linux 5.12")]
    TooOld {
        /// The kernel's.
        release: String,
    },
    /// overlayfs is absent.
    #[error("this kernel has no overlayfs")]
    Overlayfs,
    /// A sandbox cannot have a procfs.
    #[error("the kernel lets no sandbox have a procfs here: {0}")]
    Procfs(String),
    /// Root that may not map its own id.
    #[error("root without CAP_SETFCAP may not map its own id into a user namespace")]
    NoOwnId,
    /// The server would have root's id outside.
    #[error("the server would be root outside its sandbox: {because}")]
    RootOutside {
        /// Why no other id can be had.
        because: String,
    },
    /// Every id that was tried belongs to somebody.
    #[error("no user id is free for a server: the last that was tried belongs to {by}")]
    NoFreeId {
        /// Whose it is.
        by: String,
    },
    /// A limit that the host cannot enforce and the policy does not give up.
    #[error("this host cannot enforce the limit on {limit}: {reason}")]
    NotEnforced {
        /// The policy's word for it.
        limit: &'static str,
        /// Why.
        reason: String,
        /// What would change that.
        remedy: Option<String>,
    },
    /// A server that may open Unix sockets would find those of the host in a mount.
    #[error("server `{server}` may open Unix sockets, and socket files in the mount `{}` may lead to programs of the host", target.display())]
    UnixSockets {
        /// The server.
        server: String,
        /// Where the first mount is, inside.
        target: PathBuf,
    },
    /// Neither image nor policy names a program.
    #[error("neither the image nor the policy of server `{0}` names a program")]
    NoCommand(String),
    /// `~` without a home directory.
    #[error("the mount source `{}` needs a home directory, and there is none", .0.display())]
    NoHome(PathBuf),
    /// Secrets as files do not fit into the limits.
    #[error("server `{server}` has secrets as files, which need `limits.{limit}` to be at least {needed}")]
    SecretFiles {
        /// The server.
        server: String,
        /// The policy's key.
        limit: &'static str,
        /// The least, as the policy would write it.
        needed: String,
    },
    /// The image's working directory is not absolute.
    #[error("the image's working directory `{0}` is not a plain directory of the image")]
    WorkingDirectory(String),
    /// The list of system calls cannot be what the policy asks for.
    #[error("the list of system calls of server `{server}` cannot be made")]
    Syscalls {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: crate::seccomp::ListError,
    },
}

impl ResolveError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UserNamespaces { remedy, .. } => Some(remedy.clone()),
            Self::Seccomp => Some("use a kernel with CONFIG_SECCOMP_FILTER=y".into()),
            Self::Landlock { found: 0, .. } => Some(
                "boot a kernel with Landlock with `lsm=landlock,…`, or write `accept_degraded: [landlock]` in the policy"
                    .into(),
            ),
            Self::Landlock { .. } => Some(
                "use a newer Linux (ABI 3: 6.2, ABI 6: 6.12), lower `landlock.minimum_abi`, or write `accept_degraded: [landlock]` in the policy"
                    .into(),
            ),
            Self::TooOld { .. } => Some("use Linux 6.2 or later, which has all that palisade asks for".into()),
            Self::Overlayfs => Some("load the module: `modprobe overlay`".into()),
            Self::Procfs(_) => Some(
                "start the container with the whole of /proc (podman: `--security-opt unmask=ALL`, docker: `--security-opt systempaths=unconfined`), or run palisade on the host"
                    .into(),
            ),
            Self::NoOwnId => {
                Some("run palisade as another user of the container, or give the container CAP_SETFCAP".into())
            }
            // The kernel counts no processes of root's id against RLIMIT_NPROC, and much of the host is root's.
            Self::RootOutside { .. } => {
                Some("run palisade as another user, or give root of this container CAP_SYS_ADMIN".into())
            }
            Self::NoFreeId { .. } => Some(
                "free a part of the ids from 1879048192 to 1879113727 in /etc/passwd, /etc/group, /etc/subuid and /etc/subgid"
                    .into(),
            ),
            Self::NotEnforced { limit, remedy: Some(remedy), .. } => {
                Some(format!("{remedy}; or write `accept_degraded: [{limit}]` in the policy"))
            }
            Self::NotEnforced { limit, remedy: None, .. } => Some(format!(
                "run where it can be enforced (`palisade doctor` says what there is), or write `accept_degraded: [{limit}]` in the policy"
            )),
            Self::UnixSockets { .. } => Some(
                "remove the mounts or the baseline `browser`, or write `accept_degraded: [unix-sockets]` in the policy, if no mount holds a socket file that matters"
                    .into(),
            ),
            Self::NoCommand(_) => Some("give the image an ENTRYPOINT, or the policy `args: [program, …]`".into()),
            Self::NoHome(_) => Some("write an absolute path".into()),
            Self::SecretFiles { limit, .. } => Some(format!("raise `limits.{limit}`, or deliver the secrets with `env`")),
            Self::WorkingDirectory(_) => Some("rebuild the image with a WORKDIR that is absolute, without `..`, and not below /proc, /dev or /tmp".into()),
            Self::Syscalls { source, .. } => source.hint(),
        }
    }
}

impl SandboxSpec {
    /// Decides everything about the sandbox of `input.policy`.
    ///
    /// # Errors
    /// When this host or image cannot honour the policy; nothing is weakened unless the policy's
    /// `accept_degraded` names it.
    pub fn resolve(input: ResolveInput<'_>) -> Result<Self, ResolveError> {
        let ResolveInput { policy, image, host, home } = input;
        check_host(host)?;
        limits::check_secret_files(policy)?;
        let landlock_abi = enforcement::landlock_abi(policy, host)?;
        let limits = limits::resolve(policy, host)?;
        let mounts = filesystem::mounts(policy, home)?;
        let labels = label::labels(policy.server.as_str(), &host.labels);
        let list = Allowlist::of(&policy.syscalls)
            .map_err(|source| ResolveError::Syscalls { server: policy.server.to_string(), source })?;
        let filter = enforcement::filter_lines(policy, &list)?;
        Ok(Self {
            server: policy.server.to_string(),
            image_digest: image.map(|image| image.manifest_digest.clone()),
            command: environment::command(policy, image)?,
            environment: environment::variables(policy, image),
            working_directory: environment::working_directory(image)?,
            identity: identity::identity(policy, image, host, &mounts)?,
            namespaces: NAMESPACES.map(str::to_owned).to_vec(),
            landlock: LandlockLine {
                abi: landlock_abi,
                rules: filesystem::landlock_rules(&mounts),
                tcp_ports: Vec::new(),
                scoped: landlock_abi >= enforcement::LANDLOCK_SCOPES,
            },
            secrets: policy.secrets.iter().map(secret_line).collect(),
            rlimits: limits.rlimits,
            enforcement: [enforcement::lines(policy, landlock_abi, &labels), filter, limits.lines].concat(),
            memory_watch: limits.memory_watch,
            labels,
            stop_grace_ms: u64::try_from(policy.lifecycle.stop_timeout.as_millis()).unwrap_or(u64::MAX),
            mounts,
            seccomp: seccomp_line(&policy.syscalls, &list),
            cgroup: limits.cgroup,
        })
    }

    /// `sha256:…` of the canonical JSON of this spec.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&json).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// The namespaces that each server has for itself.
const NAMESPACES: [&str; 7] = ["user", "mount", "pid", "ipc", "uts", "network", "cgroup"];

fn check_host(host: &HostSupport) -> Result<(), ResolveError> {
    if let UserNamespaces::Blocked { by, remedy } = &host.user_namespaces {
        return Err(ResolveError::UserNamespaces { by: by.clone(), remedy: remedy.clone() });
    }
    if !host.seccomp_filters {
        return Err(ResolveError::Seccomp);
    }
    if host.mounts == Mounts::TooOld {
        return Err(ResolveError::TooOld { release: host.kernel.clone() });
    }
    if !host.overlayfs {
        return Err(ResolveError::Overlayfs);
    }
    match &host.procfs {
        Procfs::Whole => Ok(()),
        Procfs::Covered { .. } | Procfs::ReadOnly | Procfs::Absent => {
            Err(ResolveError::Procfs(host.procfs.to_string()))
        }
    }
}

fn secret_line(grant: &palisade_policy::SecretGrant) -> SecretLine {
    let delivery = match &grant.delivery {
        SecretDelivery::Env { variable } => SecretPlace::Env(variable.clone()),
        SecretDelivery::File { path } => SecretPlace::File(path.clone()),
    };
    SecretLine { name: grant.name.to_string(), delivery }
}

fn seccomp_line(syscalls: &Syscalls, list: &Allowlist) -> SeccompLine {
    let Syscalls { baseline, seccomp, add, remove } = syscalls.clone();
    SeccompLine {
        baseline: baseline_name(baseline).into(),
        added: add,
        removed: remove,
        mode: seccomp,
        digest: list.digest(),
        allowed_calls: list.calls(),
        with_argument_rules: list.calls_with_argument_rules(),
        otherwise: otherwise(seccomp).into(),
    }
}

/// What becomes of a call that is not on the list.
fn otherwise(mode: SeccompMode) -> &'static str {
    match mode {
        SeccompMode::Enforce => "EPERM (clone3: ENOSYS, another architecture: kill)",
        SeccompMode::Kill => "kill (clone3: ENOSYS, what runtimes only try and refused arguments: EPERM)",
        SeccompMode::Log => {
            "CARRIED OUT and logged (clone3: ENOSYS, refused arguments and what no policy can add: EPERM, another architecture: kill)"
        }
    }
}

/// As the policy writes it.
fn baseline_name(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::Static => "static",
        Baseline::Node => "node",
        Baseline::Python => "python",
        Baseline::Browser => "browser",
    }
}
