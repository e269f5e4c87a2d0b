//! Which ids there are: those that exist in this user namespace, those that belong to somebody, and the
//! subordinate ones that this user was given.
//!
//! [`Ids::probe`] reads, everything else is pure: which id a server gets outside is decided by
//! [`SandboxSpec::resolve`](crate::SandboxSpec::resolve) from these facts alone.

use std::path::{Path, PathBuf};

use nix::sys::stat::stat;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, Uid, User};
use serde::Serialize;

use super::{HostUser, read};

/// A range of ids, as in `/etc/subuid` and in `/proc/self/uid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IdRange {
    /// The first id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// A range; ids beyond the largest are left out.
    pub const fn new(first: u32, count: u32) -> Self {
        Self { first, count }
    }

    /// Whether `id` is in it.
    pub const fn contains(self, id: u32) -> bool {
        match id.checked_sub(self.first) {
            Some(offset) => offset < self.count,
            None => false,
        }
    }

    /// Whether all of `other` is in it.
    pub const fn covers(self, other: Self) -> bool {
        other.count > 0
            && self.contains(other.first)
            && self.contains(other.first.saturating_add(other.count.saturating_sub(1)))
    }
}

/// Ids that belong to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub range: IdRange,
    /// Whose, in words for a message.
    pub by: String,
}

/// What this process may do with ids that are not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Powers {
    /// Root with its capabilities: mount, map any id, idmap a mount.
    All,
    /// Root of a container without `CAP_SYS_ADMIN`: map any id of this user namespace.
    MapIds,
    /// Map its own id.
    OwnId,
    /// Root without `CAP_SETFCAP` may not even map its own (`verify_root_map` in the kernel's
    /// `kernel/user_namespace.c`).
    Nothing,
}

/// The ranges of this user in `/etc/subuid` and `/etc/subgid`, if they can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum SubordinateIds {
    /// They can.
    Usable {
        /// From `/etc/subuid`.
        uids: IdRange,
        /// From `/etc/subgid`.
        gids: IdRange,
    },
    /// They cannot.
    Unusable {
        /// Why, in words that follow "since".
        reason: String,
        /// The way out.
        remedy: String,
    },
}

/// Everything that decides which id a server gets outside.
#[derive(Debug, Clone, Serialize)]
pub struct Ids {
    /// User ids that exist in the user namespace of this process.
    pub uids: Vec<IdRange>,
    /// Group ids that exist there.
    pub gids: Vec<IdRange>,
    /// What may be done with them.
    pub powers: Powers,
    /// Whether this user is root, and root around this user namespace as well: as far as can be seen, the
    /// host's.
    pub host_root: bool,
    /// Subordinate ids of this user.
    pub subordinate: SubordinateIds,
    /// Ids that belong to somebody. A site has thousands, so they are not printed.
    #[serde(skip)]
    pub taken: Vec<Taken>,
}

/// Where `newuidmap` and `newgidmap` are: Debian, Fedora, Arch and SUSE; a package built from source;
/// NixOS. Directories of root's, never `PATH`.
const HELPER_DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// The absolute path of one of the two set-id programs of the package `uidmap`.
pub(crate) fn helper(name: &str) -> Option<PathBuf> {
    HELPER_DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| stat(path).is_ok())
}

impl Ids {
    pub(super) fn probe(user: HostUser) -> Self {
        let map = read("/proc/self/uid_map");
        let uids = parse_map(&map);
        let gids = parse_map(&read("/proc/self/gid_map"));
        let [users, groups] = ["/etc/subuid", "/etc/subgid"].map(read);
        let powers = powers(user, &read("/proc/self/status"));
        let subordinate = match user_facts(user) {
            Err(unusable) => unusable,
            Ok(facts) => subordinate(&facts, [&users, &groups], [&uids, &gids]),
        };
        let mut taken = accounts(&read("/etc/passwd"), "the user");
        taken.extend(accounts(&read("/etc/group"), "the group"));
        taken.extend(delegated(&users, "/etc/subuid"));
        taken.extend(delegated(&groups, "/etc/subgid"));
        let host_root = user.is_root() && maps_zero_to_zero(&map);
        Self { uids, gids, powers, host_root, subordinate, taken }
    }

    /// Whether `id` exists here, as a user and as a group.
    pub fn exists(&self, id: u32) -> bool {
        let within = |ranges: &[IdRange]| ranges.iter().any(|range| range.contains(id));
        within(&self.uids) && within(&self.gids)
    }
}

/// The lines of an id map: `inside outside count`.
fn parse_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let first = numbers.next()?.ok()?;
            let _outside = numbers.next()?.ok()?;
            Some(IdRange::new(first, numbers.next()?.ok()?))
        })
        .collect()
}

fn maps_zero_to_zero(map: &str) -> bool {
    map.lines().any(|line| line.split_whitespace().take(2).eq(["0", "0"]))
}

/// Bits of `CapEff` (`linux/capability.h`).
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const CHOWN: u64 = 1;
const SYS_ADMIN: u64 = 1 << 21;
const SETFCAP: u64 = 1 << 31;

fn powers(user: HostUser, status: &str) -> Powers {
    if !user.is_root() {
        return Powers::OwnId;
    }
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |mask: u64| effective & mask == mask;
    if has(SYS_ADMIN | SETUID | SETGID | CHOWN) {
        Powers::All
    } else if has(SETUID | SETGID | CHOWN | SETFCAP) {
        Powers::MapIds
    } else if has(SETFCAP) {
        Powers::OwnId
    } else {
        Powers::Nothing
    }
}

fn accounts(text: &str, what: &str) -> Vec<Taken> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.parse().ok()?;
            Some(Taken { range: IdRange::new(id, 1), by: format!("{what} `{}`", name.escape_debug()) })
        })
        .collect()
}

fn delegated(text: &str, file: &str) -> Vec<Taken> {
    entries(text)
        .map(|(owner, range)| Taken { range, by: format!("`{}` by {file}", owner.escape_debug()) })
        .collect()
}

/// The lines of `subuid(5)`: `user:first:count`.
fn entries(text: &str) -> impl Iterator<Item = (&str, IdRange)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        Some((owner, IdRange::new(first, fields.next()?.parse().ok()?)))
    })
}

/// What [`subordinate`] needs of a user besides the two files.
#[derive(Debug)]
struct UserFacts {
    name: String,
    uid: u32,
}

fn unusable(reason: impl Into<String>, remedy: impl Into<String>) -> SubordinateIds {
    SubordinateIds::Unusable { reason: reason.into(), remedy: remedy.into() }
}

/// Reads what has nothing to do with the ranges themselves; the error says what is in the way.
fn user_facts(user: HostUser) -> Result<UserFacts, SubordinateIds> {
    if user.is_root() {
        return Err(unusable("root needs none", "none"));
    }
    let ask = "add the user with useradd(8), or ask an administrator";
    let entry = User::from_uid(Uid::from_raw(user.uid)).ok().flatten();
    let Some(entry) = entry else { return Err(unusable("no user has this id", ask)) };
    // Both are what newuidmap and newgidmap insist on.
    if entry.gid != Gid::from_raw(user.gid) {
        return Err(unusable(
            "this process has another group than the user's own",
            "start it without newgrp(1)",
        ));
    }
    if read("/proc/self/status").lines().any(|line| line == "NoNewPrivs:\t1") {
        return Err(unusable(
            "no_new_privs is set, under which set-id programs are not",
            "start palisade without it",
        ));
    }
    for name in ["newuidmap", "newgidmap"] {
        usable_helper(name)?;
    }
    Ok(UserFacts { name: entry.name, uid: user.uid })
}

fn usable_helper(name: &str) -> Result<(), SubordinateIds> {
    const INSTALL: &str =
        "install the package that has newuidmap (Debian and Ubuntu: uidmap; Fedora: shadow-utils)";
    let Some(path) = helper(name) else { return Err(unusable(format!("{name} is not installed"), INSTALL)) };
    let set_id = stat(&path).is_ok_and(|stat| stat.st_uid == 0 && stat.st_mode & nix::libc::S_ISUID != 0);
    // Fedora and Arch give it file capabilities in the place of the set-id bit.
    if !set_id && !palisade_sys::dir::has_file_capabilities(&path) {
        return Err(unusable(
            format!("`{}` has neither set-id bit nor capabilities", path.display()),
            INSTALL,
        ));
    }
    if statvfs(&path).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID)) {
        return Err(unusable(
            format!("`{}` is on a file system with nosuid", path.display()),
            "mount it without nosuid",
        ));
    }
    Ok(())
}

/// The larger of a user's ranges in each file, if this user namespace has them.
fn subordinate(user: &UserFacts, files: [&str; 2], exist: [&[IdRange]; 2]) -> SubordinateIds {
    let range = |index: usize, name: &str| -> Result<IdRange, SubordinateIds> {
        let (text, exist) =
            (files.get(index).copied().unwrap_or_default(), exist.get(index).copied().unwrap_or_default());
        let own = |owner: &str| owner == user.name || owner.parse() == Ok(user.uid);
        let found = entries(text)
            .filter(|(owner, _)| own(owner))
            .map(|(_, range)| range)
            .max_by_key(|range| range.count);
        let add = format!(
            "as root: usermod --add-sub{}s 100000-165535 {} (a range that nobody has)",
            name.trim_start_matches("/etc/sub"),
            user.name
        );
        match found.filter(|range| range.count > 0) {
            None => Err(unusable(format!("{name} has no range for this user"), add)),
            Some(range) if exist.iter().any(|known| known.covers(range)) => Ok(range),
            Some(range) => Err(unusable(
                format!("the ids from {} on do not exist in this container", range.first),
                "give the container more ids, or run palisade on the host",
            )),
        }
    };
    match (range(0, "/etc/subuid"), range(1, "/etc/subgid")) {
        (Ok(uids), Ok(gids)) => SubordinateIds::Usable { uids, gids },
        (Err(unusable), _) | (_, Err(unusable)) => unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[IdRange] = &[IdRange::new(0, u32::MAX)];

    fn alice(users: &str, groups: &str, exist: &[IdRange]) -> SubordinateIds {
        subordinate(&UserFacts { name: "alice".into(), uid: 1000 }, [users, groups], [exist, exist])
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let usable = |first, count| SubordinateIds::Usable {
            uids: IdRange::new(first, count),
            gids: IdRange::new(300_000, 65_536),
        };
        let groups = "alice:300000:65536\n";
        assert_eq!(alice("bob:1:9\nalice:100000:65536\n", groups, HOST), usable(100_000, 65_536));
        assert_eq!(alice("1000:100000:65536", groups, HOST), usable(100_000, 65_536));
        // Of several, the largest.
        assert_eq!(alice("alice:5000:10\n1000:200000:300\n", groups, HOST), usable(200_000, 300));
    }

    #[test]
    fn what_is_missing_is_said() {
        let reason = |found: SubordinateIds| match found {
            SubordinateIds::Unusable { reason, .. } => reason,
            SubordinateIds::Usable { .. } => panic!("it is usable"),
        };
        let line = "alice:100000:65536";
        assert!(reason(alice("", line, HOST)).contains("/etc/subuid has no range"));
        assert!(reason(alice(line, "alicia:1:2", HOST)).contains("/etc/subgid has no range"));
        for damaged in ["alice:100000", "alice:x:65536", "alice:100000:0", "alice:-1:5", "alice"] {
            assert!(reason(alice(damaged, line, HOST)).contains("no range"), "{damaged}");
        }
        // In a container that has 65536 ids.
        let container = [IdRange::new(0, 65_536)];
        assert!(reason(alice(line, line, &container)).contains("do not exist in this container"));
        // A range that is half there is not there.
        assert!(reason(alice("alice:60000:65536", line, &container)).contains("do not exist"));
    }

    #[test]
    fn what_root_may_do_is_read_from_its_capabilities() {
        let root = HostUser { uid: 0, gid: 0 };
        let status = |mask: u64| format!("Name:\tx\nCapEff:\t{mask:016x}\n");
        assert_eq!(powers(root, &status(0x1ff_ffff_ffff)), Powers::All);
        // Docker's default set.
        assert_eq!(powers(root, &status(0xa804_25fb)), Powers::MapIds);
        assert_eq!(powers(root, &status(SETFCAP)), Powers::OwnId);
        assert_eq!(powers(root, &status(0)), Powers::Nothing);
        assert_eq!(powers(HostUser { uid: 1000, gid: 1000 }, &status(0)), Powers::OwnId);
    }

    #[test]
    fn who_has_an_id_is_known() {
        let taken = accounts("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:\nbroken\n", "the user");
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[1].by, "the user `alice`");
        let ranges = delegated("alice:100000:65536\n", "/etc/subuid");
        assert!(ranges[0].range.contains(165_535) && !ranges[0].range.contains(165_536));
    }

    #[test]
    fn maps_are_read() {
        assert_eq!(parse_map("         0          0 4294967295\n"), HOST);
        assert_eq!(parse_map("0 1000 1\n1 100000 65536\n"), [IdRange::new(0, 1), IdRange::new(1, 65_536)]);
        assert!(
            !IdRange::new(1, 10).covers(IdRange::new(5, 7)) && IdRange::new(1, 10).covers(IdRange::new(5, 6))
        );
    }
}
