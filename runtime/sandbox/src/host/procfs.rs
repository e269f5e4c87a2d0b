//! Whether a sandbox can get a procfs of its own here.
//!
//! A new procfs would show what is covered in the old one, so the kernel refuses to mount one in a user
//! namespace unless a procfs is visible there of which nothing is hidden (`mount_too_revealing` in
//! `fs/namespace.c`). Containers cover parts of `/proc`, so inside them it is refused.

use serde::Serialize;

/// What `/proc` is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Procfs {
    /// All of it is visible.
    Whole,
    /// Something is mounted over parts of it.
    Covered {
        /// Over which.
        by: Vec<String>,
    },
    /// It is mounted read-only, and so would a new one have to be.
    ReadOnly,
    /// It is not mounted.
    Absent,
}

/// What stands in the way, in words; of a whole one, that nothing does.
impl std::fmt::Display for Procfs {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole => write!(out, "all of /proc is visible"),
            Self::Covered { by } => {
                write!(out, "something is mounted over {}", by.first().map_or("", String::as_str))?;
                match by.len().saturating_sub(1) {
                    0 => Ok(()),
                    more => write!(out, " and {more} more places"),
                }
            }
            Self::ReadOnly => write!(out, "/proc is mounted read-only"),
            Self::Absent => write!(out, "/proc is not a procfs"),
        }
    }
}

/// Directories of a procfs that exist to be mounted over: they hide nothing (`proc_create_mount_point`).
const MADE_FOR_MOUNTS: [&str; 4] =
    ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/xen", "/proc/openprom"];

/// Reads `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
pub(super) fn procfs(mountinfo: &str) -> Procfs {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
    // A second procfs elsewhere does not help: a sandbox is built where only this one is.
    // The last one that is mounted there is the one that is seen.
    let Some(proc) = mounts.iter().rev().find(|mount| mount.target == "/proc") else { return Procfs::Absent };
    if proc.kind != "proc" || proc.root != "/" {
        return Procfs::Absent;
    }
    let covered: Vec<String> = mounts
        .iter()
        .filter(|mount| mount.target.starts_with("/proc/") && !MADE_FOR_MOUNTS.contains(&mount.target))
        .map(|mount| mount.target.to_owned())
        .collect();
    if !covered.is_empty() {
        return Procfs::Covered { by: covered };
    }
    if proc.options.split(',').any(|option| option == "ro") { Procfs::ReadOnly } else { Procfs::Whole }
}

struct Mount<'a> {
    root: &'a str,
    target: &'a str,
    options: &'a str,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /root /target options … - type source options`.
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, target, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { root, target, options, kind: after.split(' ').next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                        30 22 0:30 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n\
                        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";

    #[test]
    fn a_host_hides_nothing() {
        assert_eq!(procfs(HOST), Procfs::Whole);
    }

    #[test]
    fn a_container_covers_parts() {
        let masked = format!(
            "{HOST}40 22 0:40 / /proc/kcore rw - tmpfs tmpfs rw\n41 22 0:21 /sys /proc/sys ro - proc proc rw\n"
        );
        assert_eq!(procfs(&masked), Procfs::Covered { by: vec!["/proc/kcore".into(), "/proc/sys".into()] });
    }

    #[test]
    fn what_is_not_a_procfs_is_none() {
        assert_eq!(procfs(""), Procfs::Absent);
        assert_eq!(procfs("22 27 0:21 / /proc rw - tmpfs tmpfs rw"), Procfs::Absent);
        assert_eq!(procfs("22 27 0:21 /sys /proc rw - proc proc rw"), Procfs::Absent);
        assert_eq!(procfs("22 27 0:21 / /proc ro,nosuid - proc proc rw"), Procfs::ReadOnly);
    }
}
