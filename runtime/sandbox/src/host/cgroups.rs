//! How cgroups are mounted here, and where this user may make some.
//!
//! ```text
//! one hierarchy (v2)    root of the machine       at the top
//!                       anybody else              below the own cgroup, when it was delegated
//! several (v1, hybrid)  root                      at the top of each
//!                       anybody else              nowhere
//! ```
//!
//! "Delegated" is what cgroups(7) means by it: the directory, `cgroup.procs` and `cgroup.subtree_control` may be
//! written. A cgroup with processes in it cannot have limits on cgroups below it ("no internal processes"), so
//! ours are moved aside by the first launch; those of others are not ours to move.

use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};
use palisade_sys::dir::{Dir, read_ambient_bounded};
use serde::{Deserialize, Serialize};

use super::HostUser;

/// The cgroup set-up of this host, as far as this user can use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "version", rename_all = "kebab-case")]
pub enum Cgroups {
    /// One hierarchy at `/sys/fs/cgroup`.
    V2 {
        /// Where in it.
        place: CgroupPlace,
        /// Those of `memory`, `cpu`, `pids` and `io` that may be used there.
        controllers: Vec<String>,
        /// What can be done about swap.
        swap: Swap,
    },
    /// A hierarchy for each controller, writable by this user.
    V1 {
        /// Those of `memory`, `cpu`, `pids` and `blkio` that are there.
        controllers: Vec<String>,
        /// What can be done about swap.
        swap: Swap,
    },
    /// There, but this user may not make one, or not there at all.
    Unusable {
        /// Why.
        reason: String,
        /// The way out.
        remedy: String,
    },
}

/// Where in the one hierarchy of v2 cgroups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupPlace {
    /// At its top.
    Top,
    /// Below the cgroup that palisade was started in.
    Own,
}

/// Whether swap can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// By a file of the cgroup.
    Limited,
    /// This kernel counts no swap for cgroups.
    Unlimited,
    /// This kernel has none.
    None,
}

/// Where distributions mount cgroups.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The cgroup that our own processes are moved to, so that the one they were in may have limits below it.
pub(crate) const OWN_LEAF: &str = "palisade-gateway";

/// Control files hold a number or a short list; `cgroup.procs` of a sandbox at its pids limit of
/// 32768 is 224 KiB.
pub(crate) const FILE_MAX: u64 = 256 * 1024;

/// What gives an ordinary user a cgroup of his own on a host with systemd.
pub const DELEGATE_COMMAND: &str = "systemd-run --user --scope -p Delegate=yes palisade …";

const V2_CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "io"];
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "blkio"];

/// Looks; changes nothing.
pub(super) fn probe(user: HostUser) -> Cgroups {
    let Ok(root) = Dir::open_ambient(Path::new(CGROUP_ROOT)) else {
        return unusable("there is no /sys/fs/cgroup", "mount cgroup2 there");
    };
    if read_only(&root) {
        return unusable(
            "/sys/fs/cgroup is mounted read-only",
            "mount it read-write, or let the policy accept that limits are degraded",
        );
    }
    let unified = has(&root, "cgroup.controllers");
    match (unified, user.is_root()) {
        // The root of the hierarchy has no `cgroup.events`; what a cgroup namespace shows as root does.
        (true, true) if !has(&root, "cgroup.events") => top(&root),
        (true, _) => own(),
        (false, true) => v1(&root),
        (false, false) => unusable(
            "an ordinary user may not make a cgroup where each controller has its own hierarchy (cgroup v1)",
            &format!(
                "run as root, or boot with cgroup v2 alone (`systemd.unified_cgroup_hierarchy=1`) and start it as `{DELEGATE_COMMAND}`"
            ),
        ),
    }
}

fn unusable(reason: &str, remedy: &str) -> Cgroups {
    Cgroups::Unusable { reason: reason.into(), remedy: remedy.into() }
}

fn top(root: &Dir) -> Cgroups {
    let controllers = offered(root);
    if controllers.is_empty() {
        return unusable("the kernel offers no controller on cgroup v2", "use them on v2 and not on v1");
    }
    // The file is in every cgroup but this one; since Linux 5.8 it is only missing where there is no swap.
    let swap = if Path::new("/proc/swaps").is_file() { Swap::Limited } else { Swap::None };
    Cgroups::V2 { place: CgroupPlace::Top, controllers, swap }
}

fn v1(root: &Dir) -> Cgroups {
    let controllers: Vec<String> = V1_CONTROLLERS
        .into_iter()
        .filter(|name| has(root, &format!("{name}/cgroup.procs")))
        .map(str::to_owned)
        .collect();
    let Some(first) = controllers.first() else {
        return unusable("no cgroup controller is mounted below /sys/fs/cgroup", "mount cgroup2 there");
    };
    match root.open_dir(Path::new(first)) {
        Ok(dir) if read_only(&dir) => unusable("cgroups are mounted read-only", "mount them read-write"),
        // Root of a user namespace is somebody else to the owner of the directory.
        Ok(dir) if !writable(&dir, "") => unusable(
            "/sys/fs/cgroup belongs to somebody else than root of this container",
            "let the policy accept that limits are degraded, or run palisade on the host",
        ),
        Err(error) => unusable(&error.to_string(), "run as root"),
        Ok(_writable) => {
            let limited = has(root, "memory/memory.memsw.limit_in_bytes");
            let swap = match (limited, Path::new("/proc/swaps").is_file()) {
                (true, _) => Swap::Limited,
                (false, true) => Swap::Unlimited,
                (false, false) => Swap::None,
            };
            Cgroups::V1 { controllers, swap }
        }
    }
}

/// The cgroup that palisade was started in.
fn own() -> Cgroups {
    let Some((path, dir)) = own_base() else {
        return unusable("/proc/self/cgroup names no cgroup that is there", "mount /proc and /sys/fs/cgroup");
    };
    let shown = path.strip_prefix(CGROUP_ROOT).unwrap_or(&path).display().to_string();
    let missing =
        ["", "cgroup.procs", "cgroup.subtree_control"].into_iter().any(|file| !writable(&dir, file));
    if missing {
        return unusable(
            &format!("the cgroup `/{shown}` is not delegated to this user"),
            &with_systemd(&format!("start it as `{DELEGATE_COMMAND}`")),
        );
    }
    if let Some(pid) = stranger_in(&dir, std::process::id()) {
        return unusable(
            &format!("the cgroup `/{shown}` also holds process {pid}, which is not ours to move"),
            &with_systemd(&format!("give palisade a cgroup of its own: `{DELEGATE_COMMAND}`")),
        );
    }
    let controllers = offered(&dir);
    if controllers.is_empty() {
        return unusable(
            &format!("the cgroup `/{shown}` is offered no controller"),
            "delegate memory, cpu and pids to it (`Delegate=memory pids cpu io` in the unit)",
        );
    }
    let swap = match (has(&dir, "memory.swap.max"), Path::new("/proc/swaps").is_file()) {
        (true, _) => Swap::Limited,
        (false, true) => Swap::Unlimited,
        (false, false) => Swap::None,
    };
    Cgroups::V2 { place: CgroupPlace::Own, controllers, swap }
}

/// The remedy where systemd runs, and a general one elsewhere.
fn with_systemd(remedy: &str) -> String {
    if Path::new("/run/systemd/system").is_dir() {
        remedy.to_owned()
    } else {
        "start it in a cgroup that belongs to this user, is offered controllers and holds no other process (cgroups(7))"
            .to_owned()
    }
}

/// The cgroup below which ours are made: the one that this process is in, or was in before it was moved aside.
pub(crate) fn own_base() -> Option<(PathBuf, Dir)> {
    let text = read_ambient_bounded(Path::new("/proc/self/cgroup"), FILE_MAX).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let path = base_of(group_in(&text, "")?);
    let path = Path::new(CGROUP_ROOT).join(path);
    let dir = Dir::open_ambient(&path).ok()?;
    Some((path, dir))
}

/// Where a process is in a hierarchy, without the leading `/` (`proc_pid_cgroup(5)`: `id:controllers:path`, with no
/// controllers for v2).
pub(crate) fn group_in<'a>(proc_cgroup: &'a str, hierarchy: &str) -> Option<&'a str> {
    proc_cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers.split(',').any(|name| name == hierarchy).then(|| path.trim_start_matches('/'))
    })
}

fn base_of(path: &str) -> &str {
    match path.strip_suffix(OWN_LEAF) {
        Some(base) if base.is_empty() || base.ends_with('/') => base.trim_end_matches('/'),
        Some(_) | None => path,
    }
}

/// A process in the cgroup that is neither the gateway nor below it.
pub(crate) fn stranger_in(dir: &Dir, gateway: u32) -> Option<u32> {
    let procs = dir.read_bounded(Path::new("cgroup.procs"), FILE_MAX).unwrap_or_default();
    stranger(&pids(&procs), gateway, parent_of)
}

/// The process ids in a `cgroup.procs`; one that cannot be seen from here is 0.
pub(crate) fn pids(procs: &[u8]) -> Vec<u32> {
    String::from_utf8_lossy(procs).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// How far up a process's parents are followed: the gateway is the third above a server.
const ANCESTORS_MAX: usize = 16;

fn stranger(members: &[u32], gateway: u32, parent_of: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let ours = |member: u32| {
        let chain = std::iter::successors(Some(member), |pid| parent_of(*pid)).take(ANCESTORS_MAX);
        // A process that has just ended has no parent to be found, and is no obstacle either.
        let gone = parent_of(member).is_none() && member != 0;
        gone || chain.into_iter().any(|pid| pid == gateway)
    };
    members.iter().copied().find(|member| !ours(*member))
}

/// Field 4 of `/proc/PID/stat`.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = read_ambient_bounded(Path::new(&format!("/proc/{pid}/stat")), FILE_MAX).ok()?;
    // The name in field 2 may hold blanks and parentheses; the last one ends it.
    String::from_utf8_lossy(&stat).rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The controllers that a cgroup may give to those below it.
fn offered(dir: &Dir) -> Vec<String> {
    let text = dir.read_bounded(Path::new("cgroup.controllers"), FILE_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    V2_CONTROLLERS
        .into_iter()
        .filter(|name| text.split_whitespace().any(|offered| offered == *name))
        .map(str::to_owned)
        .collect()
}

fn has(dir: &Dir, file: &str) -> bool {
    dir.open_path(Path::new(file)).is_ok()
}

/// Asks without opening: opening a control file for writing is harmless, but root may write what it should not.
fn writable(dir: &Dir, file: &str) -> bool {
    let path = if file.is_empty() { Path::new(".") } else { Path::new(file) };
    faccessat(dir, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok()
}

/// A container often has /sys/fs/cgroup mounted read-only.
fn read_only(dir: &Dir) -> bool {
    nix::sys::statvfs::fstatvfs(dir)
        .is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/user.slice/x.scope\n";

    #[test]
    fn a_process_is_found_in_each_hierarchy() {
        assert_eq!(group_in(HYBRID, "memory"), Some("a/b"));
        assert_eq!(group_in(HYBRID, "cpu"), Some("c"));
        assert_eq!(group_in(HYBRID, ""), Some("user.slice/x.scope"));
        assert_eq!(group_in(HYBRID, "pids"), None);
        assert_eq!(group_in("", ""), None);
    }

    #[test]
    fn a_gateway_that_was_moved_aside_is_still_at_home_above() {
        assert_eq!(base_of("user.slice/x.scope"), "user.slice/x.scope");
        assert_eq!(base_of("user.slice/x.scope/palisade-gateway"), "user.slice/x.scope");
        assert_eq!(base_of("palisade-gateway"), "");
        assert_eq!(base_of(""), "");
    }

    #[test]
    fn strangers_are_those_that_the_gateway_did_not_start() {
        // 1 ─ 10 shell ─ 20 gateway ─ 30 keeper ─ 40 supervisor
        let parent = |pid| match pid {
            40 => Some(30),
            30 => Some(20),
            20 => Some(10),
            10 => Some(1),
            1 => Some(0),
            _ => None,
        };
        assert_eq!(stranger(&[20, 30, 40], 20, parent), None);
        assert_eq!(stranger(&[10, 20, 30], 20, parent), Some(10), "the shell that started it");
        assert_eq!(stranger(&[1], 20, parent), Some(1));
        assert_eq!(stranger(&[20, 0], 20, parent), Some(0), "somebody in another pid namespace");
        assert_eq!(stranger(&[20, 99], 20, parent), None, "99 has ended");
        assert_eq!(stranger(&[], 20, parent), None);
    }
}
