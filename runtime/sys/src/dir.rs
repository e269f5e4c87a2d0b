//! Directories as descriptors.
//!
//! A path is a name that somebody else can rebind between two uses; a descriptor is not. Code that
//! touches a store, a layer or a root file system holds a [`Dir`] and names things below it with
//! relative paths, which the kernel resolves with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//! `RESOLVE_NO_MAGICLINKS` (`openat2(2)`, Linux 5.6): no `..`, no absolute path and no link leads
//! out, whoever made it.
//!
//! The functions with `ambient` in their name are the only ones that take a person's path.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir as DirStream;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::UnlinkatFlags;

/// A directory that stays the same directory whatever happens to its name.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// An advisory lock on a directory, released when dropped or when the process dies.
#[derive(Debug)]
pub struct DirLock {
    _lock: Flock<OwnedFd>,
}

/// Whether others may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// With other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

const DIR_FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// `openat2` answers EAGAIN when a rename or mount races with a `RESOLVE_BENEATH` walk; the man page
/// says to try again. Somebody who renames in a loop can make it fail forever, so the tries end.
const RACE_TRIES: u32 = 32;

impl Dir {
    /// Opens a directory by a person's path; links in it are followed.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_ambient(path: &Path) -> io::Result<Self> {
        let fd = nix::fcntl::open(path, DIR_FLAGS, Mode::empty())?;
        Ok(Self(fd))
    }

    /// Makes a directory and its missing parents with `mode`, then opens it.
    ///
    /// # Errors
    /// As `mkdir(2)` and `open(2)`.
    pub fn create_ambient(path: &Path, mode: u32) -> io::Result<Self> {
        match Self::open_ambient(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            drop(Self::create_ambient(parent, mode)?);
        }
        match nix::unistd::mkdir(path, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(nix::Error::EEXIST) => Self::open_ambient(path),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a descriptor that is known to be a directory.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// A second descriptor of the same directory.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// `ELOOP` for a symbolic link anywhere in `path`, `EXDEV` for `..` or an absolute path.
    pub fn open_dir(&self, path: &Path) -> io::Result<Self> {
        Ok(Self(self.open(path, DIR_FLAGS, 0)?))
    }

    /// Makes a directory; it must not exist.
    ///
    /// # Errors
    /// `EEXIST`; `ELOOP` and `EXDEV` as [`Dir::open_dir`].
    pub fn create_dir(&self, path: &Path, mode: u32) -> io::Result<Self> {
        let (parent, name) = self.parent_of(path)?;
        nix::sys::stat::mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(mode))?;
        parent.open_dir(Path::new(name))
    }

    /// Opens a directory, making it when it is not there; its parent must be.
    ///
    /// # Errors
    /// As [`Dir::create_dir`] and [`Dir::open_dir`].
    pub fn ensure_dir(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.create_dir(path, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_dir(path),
            created => created,
        }
    }

    /// Opens a file below this directory for reading.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        // O_NONBLOCK: a FIFO put in the file's place must not hang us.
        Ok(self
            .open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, 0)?
            .into())
    }

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn open_file_rw(&self, path: &Path) -> io::Result<File> {
        Ok(self.open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, 0)?.into())
    }

    /// Opens a file for appending and reading, making it with `mode` when it is not there.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn append_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        Ok(self.open(path, flags, mode)?.into())
    }

    /// Makes a new file for writing; it must not exist.
    ///
    /// # Errors
    /// `EEXIST`, and as [`Dir::open_dir`].
    pub fn create_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(self.open(path, flags, mode)?.into())
    }

    /// An `O_PATH` descriptor of whatever is at `path`; of a link itself when it is a link.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn open_path(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, 0)
    }

    /// Reads a whole file of at most `max` bytes.
    ///
    /// # Errors
    /// `FileTooLarge` when there is more.
    pub fn read_bounded(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        read_all_bounded(self.open_file(path)?, max)
    }

    /// What is at `path`, without following a link in its last part.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let (parent, name) = self.parent_of(path)?;
        Ok(nix::sys::stat::fstatat(parent.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// What this directory itself is.
    ///
    /// # Errors
    /// None in practice.
    pub fn stat_self(&self) -> io::Result<FileStat> {
        Ok(nix::sys::stat::fstat(&self.0)?)
    }

    /// Renames, replacing what is at `to`.
    ///
    /// # Errors
    /// As `renameat2(2)`.
    pub fn rename(&self, from: &Path, target: &Dir, to: &Path) -> io::Result<()> {
        self.rename_with(from, target, to, RenameFlags::empty())
    }

    /// Renames; what is at `to` stays and is an error (`EEXIST`).
    ///
    /// # Errors
    /// As `renameat2(2)`.
    pub fn rename_noreplace(&self, from: &Path, target: &Dir, to: &Path) -> io::Result<()> {
        self.rename_with(from, target, to, RenameFlags::RENAME_NOREPLACE)
    }

    fn rename_with(&self, from: &Path, target: &Dir, to: &Path, flags: RenameFlags) -> io::Result<()> {
        let (from_dir, from_name) = self.parent_of(from)?;
        let (to_dir, to_name) = target.parent_of(to)?;
        nix::fcntl::renameat2(from_dir.as_fd(), from_name, to_dir.as_fd(), to_name, flags)?;
        Ok(())
    }

    /// Makes a symbolic link; `content` is not looked at.
    ///
    /// # Errors
    /// `EEXIST`, and as [`Dir::open_dir`].
    pub fn symlink(&self, content: &OsStr, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        nix::unistd::symlinkat(content, parent.as_fd(), name)?;
        Ok(())
    }

    /// Makes a hard link `to` of the file at `from`, both below this directory.
    ///
    /// # Errors
    /// `EEXIST`, and as [`Dir::open_dir`].
    pub fn hardlink(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.parent_of(from)?;
        let (to_dir, to_name) = self.parent_of(to)?;
        nix::unistd::linkat(from_dir.as_fd(), from_name, to_dir.as_fd(), to_name, AtFlags::empty())?;
        Ok(())
    }

    /// Removes a file or link.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        nix::unistd::unlinkat(parent.as_fd(), name, UnlinkatFlags::NoRemoveDir)?;
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        nix::unistd::unlinkat(parent.as_fd(), name, UnlinkatFlags::RemoveDir)?;
        Ok(())
    }

    /// Removes whatever is at `path`, with everything below it; links are removed, not followed.
    ///
    /// # Errors
    /// The first failure; what is left can be removed by another call.
    pub fn remove_tree(&self, path: &Path) -> io::Result<()> {
        if SFlag::from_bits_truncate(self.stat(path)?.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFDIR {
            return self.remove_file(path);
        }
        self.make_listable(path)?;
        let dir = self.open_dir(path)?;
        for name in dir.entries()? {
            dir.remove_tree(Path::new(&name))?;
        }
        drop(dir);
        self.remove_dir(path)
    }

    /// Directories of an image may lack the write or search permission that removing needs.
    fn make_listable(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let flags = nix::sys::stat::FchmodatFlags::FollowSymlink;
        // Known to be a directory of ours; a swapped link could at most get u+rwx on our own file.
        nix::sys::stat::fchmodat(parent.as_fd(), name, Mode::S_IRWXU, flags)?;
        Ok(())
    }

    /// The names in this directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    /// As `getdents64(2)`.
    pub fn entries(&self) -> io::Result<Vec<OsString>> {
        let again = self.open(Path::new("."), DIR_FLAGS, 0)?;
        let mut stream = DirStream::from_fd(again)?;
        let mut names = Vec::new();
        for entry in stream.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Sets an extended attribute of the directory itself.
    ///
    /// # Errors
    /// As `fsetxattr(2)`.
    pub fn set_xattr(&self, name: &str, value: &[u8]) -> io::Result<()> {
        set_xattr(&self.0, name, value)
    }

    /// Sets the permission bits of the directory itself.
    ///
    /// # Errors
    /// As `fchmod(2)`.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        nix::sys::stat::fchmod(&self.0, Mode::from_bits_truncate(mode))?;
        Ok(())
    }

    /// Writes the directory's own entries through to the disk.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&self) -> io::Result<()> {
        nix::unistd::fsync(&self.0)?;
        Ok(())
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// As `flock(2)`.
    pub fn lock(&self, mode: LockMode) -> io::Result<DirLock> {
        let how = match mode {
            LockMode::Shared => FlockArg::LockShared,
            LockMode::Exclusive => FlockArg::LockExclusive,
        };
        // A new open file description: two locks of one process must not be one lock.
        let fd = self.open(Path::new("."), DIR_FLAGS, 0)?;
        Ok(DirLock { _lock: Flock::lock(fd, how).map_err(|(_, error)| io::Error::from(error))? })
    }

    /// Takes the lock when that is possible at once.
    ///
    /// # Errors
    /// As `flock(2)`; that somebody holds it is not an error but `None`.
    pub fn try_lock(&self, mode: LockMode) -> io::Result<Option<DirLock>> {
        let how = match mode {
            LockMode::Shared => FlockArg::LockSharedNonblock,
            LockMode::Exclusive => FlockArg::LockExclusiveNonblock,
        };
        let fd = self.open(Path::new("."), DIR_FLAGS, 0)?;
        match Flock::lock(fd, how) {
            Ok(lock) => Ok(Some(DirLock { _lock: lock })),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// The directory that holds the last part of `path`, and that part.
    fn parent_of<'a>(&self, path: &'a Path) -> io::Result<(Dir, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        if name.as_bytes().contains(&b'/') || path.as_os_str().as_bytes().ends_with(b"/..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Ok((self.open_dir(parent)?, name)),
            Some(_) | None => Ok((self.try_clone()?, name)),
        }
    }

    fn open(&self, path: &Path, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags).mode(Mode::from_bits_truncate(mode)).resolve(BENEATH);
        let mut tries = RACE_TRIES;
        loop {
            tries = tries.saturating_sub(1);
            match nix::fcntl::openat2(&self.0, path, how) {
                Err(nix::Error::EAGAIN) if tries > 0 => {}
                opened => return Ok(opened?),
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sets an extended attribute on an open file or directory.
///
/// # Errors
/// As `fsetxattr(2)`.
pub fn set_xattr(file: impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the name is NUL-terminated, and the value's pointer and length belong together.
    let returned = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    crate::check(libc::c_long::from(returned))?;
    Ok(())
}

/// Whether a file has capabilities that `execve` gives (`capabilities(7)`, "File capabilities").
pub fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: both strings are NUL-terminated; with size 0 nothing is written.
    let size =
        unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    size > 0
}

/// Reads everything from `source`, at most `max` bytes.
///
/// # Errors
/// `FileTooLarge` when there is more.
pub fn read_all_bounded(source: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "bounded by take")]
    source.take(max.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).map_err(io::Error::other)? > max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Reads a file by a person's path (a policy, a key); links are followed.
///
/// # Errors
/// `FileTooLarge` when it holds more than `max` bytes.
pub fn read_ambient_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_all_bounded(open_ambient_file(path)?, max)
}

/// Opens a file by a person's path for reading; links are followed, a FIFO does not hang.
///
/// # Errors
/// As `open(2)`.
pub fn open_ambient_file(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty())?.into())
}

/// An `O_PATH` descriptor of whatever a person's path leads to.
///
/// # Errors
/// As `open(2)`.
pub fn open_ambient_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// As [`open_ambient_path`], but a symbolic link anywhere in the path is an error (`ELOOP`).
///
/// # Errors
/// As `openat2(2)`.
pub fn open_without_links(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let links = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    Ok(nix::fcntl::openat2(AT_FDCWD, path, OpenHow::new().flags(flags).resolve(links))?)
}

/// The path that the kernel gives for a descriptor, without links; for another look at it or a message.
///
/// # Errors
/// As `readlink(2)`.
pub fn path_of(fd: impl AsFd) -> io::Result<std::path::PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(nix::fcntl::readlink(link.as_str())?.into())
}

/// Takes ownership of a descriptor that this process was started with (0, or one named by number).
///
/// # Errors
/// `EBADF` when it is not open.
pub fn take_inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag and touches no memory.
    crate::check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_GETFD) }))?;
    // SAFETY: it is open, and the callers call this once for each descriptor they were given,
    // before anything else can have taken it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
