//! Every mount of the sandbox, and the Landlock rules that follow from them.

use std::path::{Path, PathBuf};

use palisade_policy::{Access, Policy, SecretDelivery};
use serde::{Deserialize, Serialize};

use super::ResolveError;

/// Where secrets that a policy delivers as files are.
pub const SECRETS_DIR: &str = "/run/secrets";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is, inside.
    pub target: PathBuf,
    /// What it is.
    pub kind: MountKind,
    /// Its flags, as `mount(8)` calls them. Every mount has nosuid and nodev.
    pub flags: Vec<String>,
}

/// What a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum MountKind {
    /// The image's layers, below a layer of empty mount points that we make.
    Layers,
    /// A fresh procfs that shows only the sandbox's own processes and no kernel setting.
    Proc,
    /// A fresh tmpfs with null, zero, full, random, urandom and tty.
    Devices,
    /// A fresh, empty tmpfs.
    Tmpfs {
        /// Its size.
        bytes: u64,
        /// How many files, directories and links fit.
        files: u64,
    },
    /// A directory or file of the host that the policy mounts.
    Host {
        /// Its path on the host, resolved.
        source: PathBuf,
        /// Whether the server may write there.
        write: bool,
    },
}

/// What is allowed beneath a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockRule {
    /// The path, inside.
    pub path: PathBuf,
    /// What is allowed there.
    pub access: LandlockAccess,
}

/// The sets of rights that rules use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandlockAccess {
    /// Read files, list directories, execute.
    ReadExecute,
    /// Also write, make and remove files, directories, links, sockets and FIFOs.
    ReadWrite,
    /// Read and write one device file; no ioctl.
    Device,
}

/// POSIX shared memory: Python's `multiprocessing` keeps semaphores there, a few pages each.
const SHM_BYTES: u64 = 16 * 1024 * 1024;

/// A semaphore or a shared array is one page at least.
const SHM_FILES: u64 = SHM_BYTES / 4096;

/// Room for 32 secrets of 32 KiB, in pages.
const SECRETS_BYTES: u64 = 2 * 1024 * 1024;

/// The directory and 32 secrets, rounded up.
const SECRETS_FILES: u64 = 64;

pub(super) fn mounts(policy: &Policy, home: Option<&Path>) -> Result<Vec<Mount>, ResolveError> {
    let (tmp, tmp_files) = (policy.limits.tmp.bytes(), u64::from(policy.limits.tmp_files));
    let mut mounts = vec![
        mount("/", MountKind::Layers, &["ro"]),
        mount("/proc", MountKind::Proc, &["noexec", "subset=pid", "hidepid=invisible"]),
        mount("/dev", MountKind::Devices, &["ro", "noexec"]),
        mount("/dev/shm", MountKind::Tmpfs { bytes: SHM_BYTES, files: SHM_FILES }, &["noexec"]),
        mount("/tmp", MountKind::Tmpfs { bytes: tmp, files: tmp_files }, &["noexec"]),
    ];
    if policy.secrets.iter().any(|secret| matches!(secret.delivery, SecretDelivery::File { .. })) {
        mounts.push(mount(
            SECRETS_DIR,
            MountKind::Tmpfs { bytes: SECRETS_BYTES, files: SECRETS_FILES },
            &["noexec"],
        ));
    }
    for grant in &policy.filesystem.mounts {
        let source = expand_home(&grant.source, home)?;
        let (write, flags): (bool, &[&str]) = match grant.access {
            Access::ReadOnly => (false, &["ro", "noexec"]),
            Access::ReadWrite => (true, &["noexec"]),
        };
        mounts.push(Mount {
            target: grant.target.clone(),
            kind: MountKind::Host { source, write },
            flags: base_flags(flags),
        });
    }
    Ok(mounts)
}

fn mount(target: &str, kind: MountKind, flags: &[&str]) -> Mount {
    Mount { target: target.into(), kind, flags: base_flags(flags) }
}

fn base_flags(more: &[&str]) -> Vec<String> {
    ["nosuid", "nodev"].iter().chain(more).map(|&flag| flag.to_owned()).collect()
}

fn expand_home(source: &Path, home: Option<&Path>) -> Result<PathBuf, ResolveError> {
    match source.strip_prefix("~") {
        Ok(below) => Ok(home.ok_or_else(|| ResolveError::NoHome(source.to_owned()))?.join(below)),
        Err(_absolute) => Ok(source.to_owned()),
    }
}

/// The devices that every sandbox has; none of them does anything.
pub const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

pub(super) fn landlock_rules(mounts: &[Mount]) -> Vec<LandlockRule> {
    let mut rules = vec![LandlockRule { path: "/".into(), access: LandlockAccess::ReadExecute }];
    for device in DEVICES {
        rules.push(LandlockRule { path: Path::new("/dev").join(device), access: LandlockAccess::Device });
    }
    for mount in mounts {
        let writable = match mount.kind {
            MountKind::Tmpfs { .. } => mount.target != Path::new(SECRETS_DIR),
            MountKind::Host { write, .. } => write,
            MountKind::Layers | MountKind::Proc | MountKind::Devices => false,
        };
        if writable {
            rules.push(LandlockRule { path: mount.target.clone(), access: LandlockAccess::ReadWrite });
        }
    }
    rules
}
