//! What will be enforced, as data: every mount, id, limit, call and rule of one sandbox.
//!
//! `palisade explain` prints exactly this value and the audit log holds its digest. Resolving is
//! pure: the same policy, image facts and host facts give the same spec. No secret can be in it,
//! only the names of secrets.

mod enforcement;
mod environment;
mod filesystem;
mod image;
mod limits;

use std::path::{Path, PathBuf};

use palisade_policy::{Baseline, CallChange, Policy, SeccompMode, SecretDelivery, Syscalls};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use enforcement::{Enforcement, Layer, State};
pub use filesystem::{LandlockAccess, LandlockRule, Mount, MountKind, SECRETS_DIR};
pub use image::{ImageFacts, ImageFactsError};
pub use limits::{CgroupKind, CgroupLimits, Rlimit, RlimitKind};

use crate::host::{HostSupport, UserNamespaces};
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
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Limits of the cgroup.
    pub cgroup: CgroupLimits,
    /// Milliseconds between TERM and KILL.
    pub stop_grace_ms: u64,
    /// What is enforced by what, and what this host cannot do.
    pub enforcement: Vec<Enforcement>,
}

/// The one user and group id that exist in the sandbox, and what they are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id as the server sees it.
    pub inside_uid: u32,
    /// Group id as the server sees it.
    pub inside_gid: u32,
    /// User id as the host sees it.
    pub outside_uid: u32,
    /// Group id as the host sees it.
    pub outside_gid: u32,
    /// How the outside id was chosen.
    pub started_by: StartedBy,
}

/// Who starts the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartedBy {
    /// Root: the outside id belongs to nobody.
    Root,
    /// An ordinary user: the outside id is that user's.
    OrdinaryUser,
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
        /// The least that makes read-only mean it.
        needed: u32,
    },
    /// overlayfs is absent.
    #[error("this kernel has no overlayfs")]
    Overlayfs,
    /// A limit that the host cannot enforce and the policy does not give up.
    #[error("this host cannot enforce the limit on {limit}: {reason}")]
    NotEnforced {
        /// The policy's word for it.
        limit: &'static str,
        /// Why.
        reason: String,
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
            Self::Landlock { .. } => Some(
                "boot with `lsm=landlock,…` on Linux 6.2 or later, or write `accept_degraded: [landlock]` in the policy"
                    .into(),
            ),
            Self::Overlayfs => Some("load the module: `modprobe overlay`".into()),
            Self::NotEnforced { limit, .. } => Some(format!(
                "run where cgroups can be written (`palisade doctor` says where), or write `accept_degraded: [{limit}]` in the policy"
            )),
            Self::UnixSockets { .. } => Some(
                "remove the mounts or the baseline `browser`, or write `accept_degraded: [unix-sockets]` in the policy, if no mount holds a socket file that matters"
                    .into(),
            ),
            Self::NoCommand(_) => Some("give the image an ENTRYPOINT, or the policy `args: [program, …]`".into()),
            Self::NoHome(_) => Some("write an absolute path".into()),
            Self::WorkingDirectory(_) => Some("rebuild the image with a WORKDIR that is absolute, without `..`, and not below /proc or /dev".into()),
            Self::Syscalls { source, .. } => source.hint(),
        }
    }
}

/// Host ids for sandboxes that root starts: above the range that systemd hands to containers
/// (524288 to 1879048191, `systemd.io/UIDS-GIDS`) and below 2^31, where some programs see negative
/// numbers. 2^16 of them, chosen by the server's name.
const UNOWNED_ID_BASE: u32 = 0x7000_0000;

impl SandboxSpec {
    /// Decides everything about the sandbox of `input.policy`.
    ///
    /// # Errors
    /// When this host or image cannot honour the policy; nothing is weakened unless the policy's
    /// `accept_degraded` names it.
    pub fn resolve(input: ResolveInput<'_>) -> Result<Self, ResolveError> {
        let ResolveInput { policy, image, host, home } = input;
        check_host(host)?;
        let landlock_abi = enforcement::landlock_abi(policy, host)?;
        let cgroup = limits::cgroup(policy, host)?;
        let mounts = filesystem::mounts(policy, home)?;
        let list = Allowlist::of(&policy.syscalls)
            .map_err(|source| ResolveError::Syscalls { server: policy.server.to_string(), source })?;
        let filter = enforcement::filter_lines(policy, &list)?;
        Ok(Self {
            server: policy.server.to_string(),
            image_digest: image.map(|image| image.manifest_digest.clone()),
            command: environment::command(policy, image)?,
            environment: environment::variables(policy, image),
            working_directory: environment::working_directory(image)?,
            identity: identity(policy, image, host),
            namespaces: NAMESPACES.map(str::to_owned).to_vec(),
            landlock: LandlockLine {
                abi: landlock_abi,
                rules: filesystem::landlock_rules(&mounts),
                tcp_ports: Vec::new(),
                scoped: landlock_abi >= enforcement::LANDLOCK_SCOPES,
            },
            secrets: policy.secrets.iter().map(secret_line).collect(),
            rlimits: limits::rlimits(policy),
            enforcement: [enforcement::lines(&cgroup, landlock_abi), filter].concat(),
            stop_grace_ms: u64::try_from(policy.lifecycle.stop_timeout.as_millis()).unwrap_or(u64::MAX),
            mounts,
            seccomp: seccomp_line(&policy.syscalls, &list),
            cgroup,
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
    if !host.overlayfs {
        return Err(ResolveError::Overlayfs);
    }
    Ok(())
}

fn identity(policy: &Policy, image: Option<&ImageFacts>, host: &HostSupport) -> Identity {
    let inside = image.map_or((0, 0), |image| (image.uid, image.gid));
    if host.user.is_root() {
        let outside = unowned_id(policy.server.as_str());
        return Identity {
            inside_uid: inside.0,
            inside_gid: inside.1,
            outside_uid: outside,
            outside_gid: outside,
            started_by: StartedBy::Root,
        };
    }
    Identity {
        inside_uid: inside.0,
        inside_gid: inside.1,
        outside_uid: host.user.uid,
        outside_gid: host.user.gid,
        started_by: StartedBy::OrdinaryUser,
    }
}

/// Two servers seldom share one, so that they cannot meet through per-user kernel objects.
fn unowned_id(server: &str) -> u32 {
    let digest = Sha256::digest(server.as_bytes());
    let [high, low, ..] = *digest.as_slice() else { return UNOWNED_ID_BASE };
    UNOWNED_ID_BASE.saturating_add(u32::from(u16::from_be_bytes([high, low])))
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
