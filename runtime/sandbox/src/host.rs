//! What this host offers: read once, shown by `palisade doctor`, an input of
//! [`SandboxSpec::resolve`](crate::SandboxSpec::resolve).
//!
//! Reading is not trying: the supervisor still reports a kernel that refuses what it advertises.

pub(crate) mod cgroups;
pub mod ids;
pub mod labels;
pub mod procfs;

use std::path::Path;

use nix::unistd::{Gid, Uid};
use palisade_sys::dir::read_ambient_bounded;
use serde::Serialize;

pub(crate) use cgroups::CGROUP_ROOT;
pub use cgroups::{CgroupPlace, Cgroups, DELEGATE_COMMAND, Swap};
pub use ids::{IdRange, Ids, Powers, SubordinateIds};
pub use labels::{AppArmor, Labels, SeLinux};
pub use procfs::Procfs;

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
    /// Which ids there are, and which of them this user may give to a server.
    pub ids: Ids,
    /// Whether a sandbox can have a procfs.
    pub procfs: Procfs,
    /// AppArmor and SELinux.
    pub labels: Labels,
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
        let labels = Labels::probe();
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            user,
            user_namespaces: user_namespaces(user, labels.apparmor.as_ref(), |name| {
                read(&format!("/proc/sys/{name}")).trim().to_owned()
            }),
            landlock_abi: palisade_sys::process::landlock_abi(),
            seccomp_filters: palisade_sys::process::seccomp_action_available(SECCOMP_RET_ERRNO),
            mounts: mounts(),
            cgroups: cgroups::probe(user),
            overlayfs: overlayfs(),
            ids: Ids::probe(user),
            procfs: procfs::procfs(&read("/proc/self/mountinfo")),
            labels,
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

/// What an administrator runs where AppArmor lets only named programs make user namespaces.
pub const LOAD_APPARMOR_PROFILE: &str = "sudo install -m 0644 packaging/apparmor/palisade /etc/apparmor.d/ && \
                                         sudo apparmor_parser -r /etc/apparmor.d/palisade, or run palisade as root";

/// The switches that distributions use, in the order in which the kernel looks at them. `setting` reads
/// one below `/proc/sys`.
fn user_namespaces(
    user: HostUser,
    apparmor: Option<&AppArmor>,
    setting: impl Fn(&str) -> String,
) -> UserNamespaces {
    let blocked = |by: &str, remedy: &str| UserNamespaces::Blocked { by: by.into(), remedy: remedy.into() };
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
    match apparmor {
        // A program under a profile of its own is asked for `userns` there, and trying tells.
        Some(AppArmor { restricts_user_namespaces: true, own, .. }) if own == "unconfined" => {
            blocked("kernel.apparmor_restrict_unprivileged_userns = 1", LOAD_APPARMOR_PROFILE)
        }
        Some(_) | None => UserNamespaces::Available,
    }
}

/// A module that is not loaded yet is not listed; it is loaded when it is first mounted.
fn overlayfs() -> bool {
    read("/proc/filesystems").lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
        || Path::new("/sys/module/overlay").is_dir()
        || !read("/proc/sys/kernel/modules_disabled").starts_with('1')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: HostUser = HostUser { uid: 1000, gid: 1000 };

    fn apparmor(own: &str, restricts: bool) -> AppArmor {
        AppArmor { own: own.into(), server_profile: None, restricts_user_namespaces: restricts }
    }

    fn by(found: UserNamespaces) -> String {
        match found {
            UserNamespaces::Available => "nothing".into(),
            UserNamespaces::Blocked { by, remedy } => format!("{by}: {remedy}"),
        }
    }

    #[test]
    fn switches_that_forbid_user_namespaces_are_named() {
        let setting = |name: &'static str, value: &'static str| {
            move |asked: &str| if asked == name { value.to_owned() } else { String::new() }
        };
        let none = |_: &str| String::new();
        assert_eq!(user_namespaces(ALICE, None, none), UserNamespaces::Available);
        let blocked = by(user_namespaces(ALICE, None, setting("user/max_user_namespaces", "0")));
        assert!(blocked.starts_with("user.max_user_namespaces"), "{blocked}");
        let clone = setting("kernel/unprivileged_userns_clone", "0");
        assert!(by(user_namespaces(ALICE, None, clone)).starts_with("kernel.unprivileged_userns_clone"));
        // The switch is for ordinary users.
        let root = HostUser { uid: 0, gid: 0 };
        let clone = setting("kernel/unprivileged_userns_clone", "0");
        assert_eq!(user_namespaces(root, None, clone), UserNamespaces::Available);
    }

    #[test]
    fn where_apparmor_restricts_user_namespaces_the_profile_is_named() {
        let none = |_: &str| String::new();
        let blocked = by(user_namespaces(ALICE, Some(&apparmor("unconfined", true)), none));
        assert!(blocked.contains("apparmor_restrict_unprivileged_userns"), "{blocked}");
        assert!(blocked.contains("apparmor_parser -r /etc/apparmor.d/palisade"), "{blocked}");
        for (own, restricts) in [("unconfined", false), ("palisade (unconfined)", true)] {
            assert_eq!(
                user_namespaces(ALICE, Some(&apparmor(own, restricts)), none),
                UserNamespaces::Available
            );
        }
    }
}
