//! What this host offers: read once, shown by `palisade doctor`, an input of
//! [`SandboxSpec::resolve`](crate::SandboxSpec::resolve).
//!
//! Reading is not trying: the supervisor still reports a kernel that refuses what it advertises.

pub(crate) mod cgroups;

use std::path::Path;

use nix::unistd::{Gid, Uid};
use palisade_sys::dir::read_ambient_bounded;
use serde::Serialize;

pub(crate) use cgroups::CGROUP_ROOT;
pub use cgroups::{CgroupPlace, Cgroups, DELEGATE_COMMAND, Swap};

/// The facts about this kernel and this user that decide what can be enforced.
#[derive(Debug, Clone, Serialize)]
pub struct HostSupport {
    /// `uname -r`.
    pub kernel: String,
    /// The user that starts the sandboxes.
    pub user: HostUser,
    /// Whether that user may make user namespaces.
    pub user_namespaces: UserNamespaces,
    /// Landlock's ABI version; 0 when absent.
    pub landlock_abi: u32,
    /// Whether seccomp filters with `SECCOMP_RET_ERRNO` are there.
    pub seccomp_filters: bool,
    /// Whether mounts can be made by descriptor.
    pub mounts: Mounts,
    /// How cgroups are mounted, and what of them may be written.
    pub cgroups: Cgroups,
    /// Whether overlayfs is known to the kernel, or may be loaded when it is first mounted.
    pub overlayfs: bool,
    /// Subordinate ids of this user (`/etc/subuid`); not needed, listed for completeness.
    pub subordinate_ids: bool,
}

/// The user that starts the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HostUser {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

impl HostUser {
    /// Whether this is root in the user namespace that we were started in.
    pub const fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// Whether the kernel has the calls that make mounts by descriptor. `mount_setattr` (Linux 5.12) is the newest of
/// them; whoever has it has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mounts {
    /// All of them.
    ByDescriptor,
    /// The kernel is older than anything here was made for.
    TooOld,
}

/// Whether user namespaces can be made, and what stops it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum UserNamespaces {
    /// Nothing that we can read forbids them.
    Available,
    /// A setting forbids them.
    Blocked {
        /// The file or module that does.
        by: String,
        /// What an administrator would run.
        remedy: String,
    },
}

/// Sizes of the files under `/proc` and `/etc` that are read here; `/etc/subuid` of a large site
/// with a thousand users is some 30 KiB.
const FILE_MAX: u64 = 256 * 1024;

impl HostSupport {
    /// Reads the facts. Starts no process and changes nothing.
    pub fn probe() -> Self {
        let user = HostUser { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() };
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            user,
            user_namespaces: user_namespaces(user),
            landlock_abi: palisade_sys::process::landlock_abi(),
            seccomp_filters: palisade_sys::process::seccomp_action_available(SECCOMP_RET_ERRNO),
            mounts: mounts(),
            cgroups: cgroups::probe(user),
            overlayfs: overlayfs(),
            subordinate_ids: subordinate_ids(user),
        }
    }
}

const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;

fn read(path: &str) -> String {
    let bytes = read_ambient_bounded(Path::new(path), FILE_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn mounts() -> Mounts {
    if palisade_sys::mount::attributes_available() { Mounts::ByDescriptor } else { Mounts::TooOld }
}

/// The three switches that distributions use, in the order in which the kernel looks at them.
fn user_namespaces(user: HostUser) -> UserNamespaces {
    let blocked = |by: &str, remedy: &str| UserNamespaces::Blocked { by: by.into(), remedy: remedy.into() };
    let setting = |name: &str| read(&format!("/proc/sys/{name}")).trim().to_owned();
    if !Path::new("/proc/self/ns/user").is_symlink() {
        return blocked("the kernel (CONFIG_USER_NS is off)", "use a kernel with CONFIG_USER_NS=y");
    }
    if setting("user/max_user_namespaces") == "0" {
        return blocked("user.max_user_namespaces = 0", "sysctl -w user.max_user_namespaces=15000");
    }
    if user.is_root() {
        return UserNamespaces::Available;
    }
    if setting("kernel/unprivileged_userns_clone") == "0" {
        return blocked(
            "kernel.unprivileged_userns_clone = 0",
            "sysctl -w kernel.unprivileged_userns_clone=1, or run palisade as root",
        );
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return blocked(
            "kernel.apparmor_restrict_unprivileged_userns = 1",
            "load an AppArmor profile that grants `userns` to the palisade binary, or run it as root",
        );
    }
    UserNamespaces::Available
}

/// A module that is not loaded yet is not listed; it is loaded when it is first mounted.
fn overlayfs() -> bool {
    read("/proc/filesystems").lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
        || Path::new("/sys/module/overlay").is_dir()
        || !read("/proc/sys/kernel/modules_disabled").starts_with('1')
}

fn subordinate_ids(user: HostUser) -> bool {
    let name = nix::unistd::User::from_uid(Uid::from_raw(user.uid)).ok().flatten().map(|entry| entry.name);
    let listed = |file: &str| {
        read(file)
            .lines()
            .filter_map(|line| line.split(':').next())
            .any(|owner| owner == user.uid.to_string() || name.as_deref() == Some(owner))
    };
    listed("/etc/subuid") && listed("/etc/subgid")
}
