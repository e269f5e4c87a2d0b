//! Files of this process below `/proc`, on a procfs that is one.
//!
//! A security label that is written to a file which somebody has put in the place of
//! `/proc/self/attr/exec` is not set, and nobody notices (CVE-2019-16884: an image with a volume over
//! `/proc`; CVE-2025-52881: a link that is swapped). So the directory must be the root of a procfs, the
//! way below it crosses no mount and follows no link, `self` included, and what is found must be on procfs
//! as well.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

/// The inode of a procfs' root directory (`PROC_ROOT_INO` in the kernel's `include/linux/proc_fs.h`);
/// a bind mount of some other directory of a procfs has another one.
const PROC_ROOT_INODE: u64 = 1;

const PATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_XDEV)
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// Opens a file of this process (`attr/exec`) for reading and writing.
///
/// # Errors
/// `NotFound` when this kernel has no such file; `InvalidData` when `/proc` is not a procfs; `EXDEV` when
/// something is mounted on the way, `ELOOP` for a link.
pub fn open_own_rw(name: &Path) -> io::Result<File> {
    open_own_below(Path::new("/proc"), name)
}

fn open_own_below(proc: &Path, name: &Path) -> io::Result<File> {
    let root = openat2(
        AT_FDCWD,
        proc,
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS),
    )?;
    if !is_procfs(&root)? || fstat(&root)?.st_ino != PROC_ROOT_INODE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/proc is not a procfs"));
    }
    let own = Path::new(&nix::unistd::getpid().to_string()).join(name);
    let how = OpenHow::new().flags(OFlag::O_RDWR | OFlag::O_CLOEXEC).mode(Mode::empty()).resolve(PATH);
    let file = openat2(&root, &own, how)?;
    if !is_procfs(&file)? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is not on a procfs"));
    }
    Ok(file.into())
}

fn is_procfs(fd: &OwnedFd) -> io::Result<bool> {
    Ok(fstatfs(fd.as_fd())?.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_of_this_process_is_found() {
        let mut text = String::new();
        #[expect(clippy::disallowed_methods, reason = "comm is 16 bytes")]
        open_own_rw(Path::new("comm")).unwrap().read_to_string(&mut text).unwrap();
        assert!(!text.trim().is_empty());
        assert_eq!(open_own_rw(Path::new("no/such")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nothing_but_the_root_of_a_procfs_will_do() {
        for (proc, name) in [("/tmp", "comm"), ("/dev", "null"), ("/proc/sys", "comm")] {
            let error = open_own_below(Path::new(proc), Path::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{proc}");
        }
    }

    /// The volume of CVE-2019-16884, in a mount namespace of this thread's own; as root only.
    #[test]
    fn what_is_mounted_over_a_file_is_not_taken_for_it() {
        use nix::mount::{MsFlags, mount};
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let covered = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            open_own_rw(Path::new("comm")).unwrap();
            let comm = format!("/proc/{}/comm", nix::unistd::getpid());
            mount(Some("/dev/null"), comm.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            open_own_rw(Path::new("comm")).unwrap_err().raw_os_error()
        });
        assert_eq!(covered.join().unwrap(), Some(libc::EXDEV));
    }

    #[test]
    fn no_link_is_followed() {
        let refused = |name: &str| open_own_rw(Path::new(name)).unwrap_err().raw_os_error();
        assert_eq!(refused("cwd/file"), Some(libc::ELOOP));
        assert_eq!(refused("root/etc/passwd"), Some(libc::ELOOP));
        assert_eq!(refused("../self/comm"), Some(libc::ELOOP));
        assert_eq!(refused("../../etc/passwd"), Some(libc::EXDEV));
    }
}
