//! The disks behind layers and mounts, as the kernel's limits on traffic name them.
//!
//! A limit belongs to a whole disk; a partition is refused by the kernel. File systems that are on no disk of their
//! own (tmpfs, overlay, btrfs, network and FUSE file systems) have an anonymous device number, major 0: there is
//! nothing to limit, or nothing that says where it is.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{fstat, major, minor};
use palisade_sys::dir::{path_of, read_ambient_bounded};

use super::super::{During, StepError};
use crate::spec::{IoLimit, WithoutDisk};

/// A whole disk, by its device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk {
    pub(super) major: u64,
    pub(super) minor: u64,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

const STEP: &str = "finding the disks that `limits.io` is about";

/// `MAJOR:MINOR` and a line break.
const DEV_MAX: u64 = 64;

/// The disks that hold what `fds` are.
pub(super) fn behind<'a>(
    limit: IoLimit,
    fds: impl IntoIterator<Item = &'a OwnedFd>,
) -> Result<Vec<Disk>, StepError> {
    let mut disks = BTreeSet::new();
    for fd in fds {
        match (disk_of(fstat(fd).during(STEP)?.st_dev).during(STEP)?, limit.without_disk) {
            (Some(disk), _) => drop(disks.insert(disk)),
            (None, WithoutDisk::Accept) => {}
            (None, WithoutDisk::Refuse) => {
                let path = path_of(fd.as_fd()).during(STEP)?;
                let message = format!(
                    "`{}` is on no disk that the kernel could slow down; write `accept_degraded: [io]` to accept that",
                    path.display()
                );
                return Err(StepError::new(STEP, message));
            }
        }
    }
    Ok(disks.into_iter().collect())
}

fn disk_of(device: u64) -> std::io::Result<Option<Disk>> {
    let device = Disk { major: major(device), minor: minor(device) };
    if device.major == 0 {
        return Ok(None);
    }
    // `/sys/dev/block/8:1` leads to `…/block/sda/sda1`; a partition lies in its disk's directory.
    let link = format!("/sys/dev/block/{device}");
    if !Path::new(&link).join("partition").is_file() {
        return Ok(Some(device));
    }
    let text = read_ambient_bounded(&Path::new(&link).join("../dev"), DEV_MAX)?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

fn parse(text: &str) -> Option<Disk> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(Disk { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_and_written() {
        assert_eq!(parse("254:16\n"), Some(Disk { major: 254, minor: 16 }));
        assert_eq!(parse("254"), None);
        assert_eq!(Disk { major: 8, minor: 1 }.to_string(), "8:1");
    }

    #[test]
    fn memory_is_on_no_disk() {
        let memory = nix::sys::memfd::memfd_create(c"x", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let limit = |without_disk| IoLimit { bytes_per_second: 1, without_disk };
        assert_eq!(behind(limit(WithoutDisk::Accept), [&memory]).unwrap(), []);
        let refused = behind(limit(WithoutDisk::Refuse), [&memory]).unwrap_err();
        assert!(refused.to_string().contains("accept_degraded: [io]"), "{refused}");
    }
}
