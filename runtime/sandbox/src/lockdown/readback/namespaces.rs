//! Which namespaces a process is in, by the inode of each (`namespaces(7)`).

use std::io;
use std::path::Path;

use nix::sys::stat::stat;
use serde::{Deserialize, Serialize};

/// The kinds, as `/proc/PID/ns` names them. A time namespace is not made: clocks are the host's.
const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

/// One inode number for each kind of namespace, in the order user, mnt, pid, ipc, uts, net, cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces([u64; 7]);

impl Namespaces {
    /// Those of the calling process.
    ///
    /// # Errors
    /// When `/proc` is not a procfs.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mut inodes = [0; 7];
        for (inode, kind) in inodes.iter_mut().zip(KINDS) {
            *inode = stat(&Path::new("/proc/self/ns").join(kind))?.st_ino;
        }
        Ok(Self(inodes))
    }

    /// The first kind in which both are the same.
    pub(crate) fn shared_with(&self, other: &Self) -> Option<&'static str> {
        KINDS.into_iter().zip(self.0.iter().zip(&other.0)).find_map(|(kind, (a, b))| (a == b).then_some(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shared_namespace_is_named() {
        let host = Namespaces([1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(Namespaces([11, 12, 13, 14, 15, 16, 17]).shared_with(&host), None);
        assert_eq!(Namespaces([11, 12, 13, 14, 15, 6, 17]).shared_with(&host), Some("net"));
    }

    #[test]
    fn a_process_shares_all_with_itself() {
        let own = Namespaces::of_this_process().unwrap();
        assert_eq!(own.shared_with(&own), Some("user"));
    }
}
