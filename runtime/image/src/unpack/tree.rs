//! The tree of one layer as it grows, and every write to it.
//!
//! All paths go through [`Dir`], where the kernel refuses `..`, absolute paths and symbolic links; on top
//! of that this module knows every directory that it made and refuses a path through anything else by
//! name, so that the error says which entry it was.
//!
//! Permission bits: set-id and sticky bits are dropped, and what the owner may read and execute, group and
//! others may as well. The sandbox runs under one id, which need not be the id that owns the store (as
//! root, it is not), and everything in the image is meant for that one id. Nobody else gains by it: the
//! store's directories have mode 0700. Writing is not widened, since a root file system is mounted
//! read-only, and some programs refuse files that others could write.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag};
use nix::sys::time::TimeSpec;
use palisade_sys::dir::Dir;

use super::LayerFault;
use super::error::EntryRule;
use super::path::EntryPath;
use crate::limits::FILE_BYTES_MAX;

/// Directories that no entry describes, as every unpacker makes them.
const IMPLIED_MODE: u32 = 0o755;

/// While unpacking, and so that we can still remove it should we die here.
const WORKING_MODE: u32 = 0o700;

/// What a directory gets at the end: its mode would stop us, and every entry in it changes its time.
#[derive(Debug, Clone, Copy)]
struct Finish {
    mode: u32,
    mtime: u64,
}

/// A tree that is being written.
pub(super) struct Tree {
    root: Dir,
    /// Every directory below the root.
    directories: BTreeMap<PathBuf, Finish>,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    File,
    Link,
}

impl Tree {
    pub(super) fn new(root: Dir) -> Self {
        Self { root, directories: BTreeMap::new() }
    }

    pub(super) fn directory(&mut self, path: &EntryPath, mode: u32, mtime: u64) -> Result<(), LayerFault> {
        if path.is_root() {
            return Ok(());
        }
        self.make_parents(path)?;
        if !self.directories.contains_key(path.as_path()) {
            self.clear(path)?;
            drop(self.root.create_dir(path.as_path(), WORKING_MODE).map_err(io_fault("make a directory"))?);
        }
        self.directories.insert(path.as_path().to_path_buf(), Finish { mode: widened(mode), mtime });
        Ok(())
    }

    /// Writes a regular file with its mode, time and size.
    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        (mode, mtime, size): (u32, u64, u64),
        contents: &mut dyn Read,
    ) -> Result<(), LayerFault> {
        if size > FILE_BYTES_MAX {
            return Err(LayerFault::entry(path.bytes(), EntryRule::TooLarge));
        }
        self.make_room(path)?;
        let doing = "write a file";
        let mut file = self.root.create_file(path.as_path(), 0o600).map_err(io_fault(doing))?;
        if copy(contents, &mut file)? != size {
            return Err(LayerFault::entry(path.bytes(), EntryRule::CutShort));
        }
        let mode = Mode::from_bits_truncate(widened(mode));
        nix::sys::stat::fchmod(&file, mode).map_err(|error| LayerFault::io(doing, &error.into()))?;
        set_time(&file, mtime)
    }

    pub(super) fn symlink(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), LayerFault> {
        if target.is_empty() {
            return Err(LayerFault::entry(path.bytes(), EntryRule::EmptyTarget));
        }
        self.make_room(path)?;
        self.root.symlink(OsStr::from_bytes(target), path.as_path()).map_err(io_fault("make a symbolic link"))
    }

    /// Links to a regular file that this layer made before; the tree was empty, so every one is its own.
    pub(super) fn hardlink(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), LayerFault> {
        let refused = || LayerFault::entry(path.bytes(), EntryRule::HardlinkTarget);
        if target.is_empty() {
            return Err(LayerFault::entry(path.bytes(), EntryRule::EmptyTarget));
        }
        let target = EntryPath::parse(target)?;
        let parent_is_ours =
            target.parent().is_root() || self.directories.contains_key(target.parent().as_path());
        if target.is_root() || !parent_is_ours || self.look(&target)? != Found::File {
            return Err(refused());
        }
        if target == *path {
            return Ok(());
        }
        self.make_room(path)?;
        // Making room can have removed the target: a link to `d/f` at `d`.
        match self.root.hardlink(target.as_path(), path.as_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(refused()),
            linked => linked.map_err(io_fault("make a hard link")),
        }
    }

    /// What lies at a path whose parent is a directory of this tree.
    pub(super) fn look(&self, path: &EntryPath) -> Result<Found, LayerFault> {
        match self.root.stat(path.as_path()) {
            Ok(stat) => Ok(match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFDIR => Found::Directory,
                SFlag::S_IFLNK => Found::Link,
                _ => Found::File,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(LayerFault::io("look at an entry", &error)),
        }
    }

    /// Makes the directories above an entry that no entry described.
    pub(super) fn make_parents(&mut self, path: &EntryPath) -> Result<(), LayerFault> {
        for above in path.ancestors() {
            if self.directories.contains_key(&above) {
                continue;
            }
            match self.root.create_dir(&above, WORKING_MODE) {
                Ok(_) => drop(self.directories.insert(above, Finish { mode: IMPLIED_MODE, mtime: 0 })),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(self.through(path, &above));
                }
                Err(error) => return Err(LayerFault::io("make a directory", &error)),
            }
        }
        Ok(())
    }

    /// Something that is no directory is in the way.
    fn through(&self, path: &EntryPath, above: &Path) -> LayerFault {
        let look = EntryPath::parse(above.as_os_str().as_bytes()).and_then(|above| self.look(&above));
        match look {
            Ok(Found::Link) => LayerFault::entry(path.bytes(), EntryRule::ThroughLink),
            Ok(Found::File | Found::Directory | Found::Nothing) => {
                LayerFault::entry(path.bytes(), EntryRule::ThroughFile)
            }
            Err(fault) => fault,
        }
    }

    /// Makes the parents, and removes what an earlier entry of the same name made.
    fn make_room(&mut self, path: &EntryPath) -> Result<(), LayerFault> {
        if path.is_root() {
            return Err(LayerFault::entry(b"/", EntryRule::ReplacesRoot));
        }
        self.make_parents(path)?;
        self.clear(path)
    }

    fn clear(&mut self, path: &EntryPath) -> Result<(), LayerFault> {
        let found = self.look(path)?;
        if found == Found::Nothing {
            return Ok(());
        }
        self.root.remove_tree(path.as_path()).map_err(io_fault("replace an entry"))?;
        if found == Found::Directory {
            // Paths are ordered by component, so what lies below a directory follows it at once.
            let from = self.directories.range(path.as_path().to_path_buf()..);
            let below: Vec<PathBuf> =
                from.map(|(at, _)| at.clone()).take_while(|at| at.starts_with(path.as_path())).collect();
            for directory in below {
                self.directories.remove(&directory);
            }
        }
        Ok(())
    }

    /// Whether a directory of this tree is at `path`.
    pub(super) fn has_directory(&self, path: &EntryPath) -> bool {
        path.is_root() || self.directories.contains_key(path.as_path())
    }

    /// Marks a directory for the overlay file system.
    pub(super) fn mark_directory(&self, path: &EntryPath, value: &[u8]) -> Result<(), LayerFault> {
        let doing = "mark a directory";
        let dir = if path.is_root() { self.root.try_clone() } else { self.root.open_dir(path.as_path()) };
        dir.map_err(io_fault(doing))?
            .set_xattr("user.overlay.opaque", value)
            .map_err(|error| xattr_fault(&error))
    }

    /// Makes the overlay file system's marker of a deleted name.
    ///
    /// Readable by all: the overlay reads it under the id of whoever mounts it.
    pub(super) fn whiteout(&self, path: &EntryPath) -> Result<(), LayerFault> {
        let doing = "mark a deleted name";
        let file = self.root.create_file(path.as_path(), 0o600).map_err(io_fault(doing))?;
        palisade_sys::dir::set_xattr(&file, "user.overlay.whiteout", b"y")
            .map_err(|error| xattr_fault(&error))?;
        nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(0o644))
            .map_err(|error| LayerFault::io(doing, &error.into()))
    }

    /// Gives the directories their modes and times, children before parents.
    pub(super) fn finish(self) -> Result<(), LayerFault> {
        let doing = "finish a directory";
        for (path, finish) in self.directories.iter().rev() {
            let dir = self.root.open_dir(path).map_err(io_fault(doing))?;
            dir.set_mode(finish.mode).map_err(io_fault(doing))?;
            set_time(&dir, finish.mtime)?;
        }
        // Whatever the archive says about its root: renaming it into place needs the write permission.
        self.root.set_mode(IMPLIED_MODE).map_err(io_fault(doing))
    }
}

/// The owner's permissions to read and execute for group and others too; no set-id, no sticky bit. Not
/// the permission to write: nothing in a layer is ever written, and programs distrust files that anybody can.
fn widened(mode: u32) -> u32 {
    let owner = mode & 0o500;
    (mode & 0o777) | owner >> 3 | owner >> 6
}

fn set_time(file: impl std::os::fd::AsFd, mtime: u64) -> Result<(), LayerFault> {
    let time = TimeSpec::new(i64::try_from(mtime).unwrap_or(0), 0);
    nix::sys::stat::futimens(file, &time, &time).map_err(|error| LayerFault::io("set a time", &error.into()))
}

fn io_fault(doing: &'static str) -> impl Fn(io::Error) -> LayerFault {
    move |error| LayerFault::io(doing, &error)
}

fn xattr_fault(error: &io::Error) -> LayerFault {
    if error.kind() == io::ErrorKind::Unsupported {
        LayerFault::NoXattrs
    } else {
        LayerFault::io("set a mark", error)
    }
}

/// Copies all of an entry; a failing source is told from a full disk.
fn copy(source: &mut dyn Read, target: &mut impl Write) -> Result<u64, LayerFault> {
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut copied = 0_u64;
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(super::pipeline::read_fault(&error)),
        };
        target.write_all(buffer.get(..read).unwrap_or_default()).map_err(io_fault("write a file"))?;
        copied = copied.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

/// A path that is known to be one: for tests and for the whiteouts of this tree.
pub(super) fn joined(parent: &EntryPath, name: &[u8]) -> Result<EntryPath, LayerFault> {
    EntryPath::parse(parent.as_path().join(Path::new(OsStr::from_bytes(name))).as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_a_directory_forgets_what_was_below_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(Dir::open_ambient(dir.path()).unwrap());
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
        for directory in ["a", "a/b", "a/b/c", "a-b", "a.b/c", "ab"] {
            tree.directory(&path(directory), 0o755, 0).unwrap();
        }
        tree.file(&path("a"), (0o644, 0, 0), &mut io::empty()).unwrap();
        let left: Vec<_> = tree.directories.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(left, ["a-b", "a.b", "a.b/c", "ab"]);
        tree.finish().unwrap();
    }

    #[test]
    fn modes_are_widened_and_stripped() {
        for (mode, expected) in [
            (0o4755, 0o755),
            (0o2700, 0o755),
            (0o1777, 0o777),
            (0o600, 0o644),
            (0o500, 0o555),
            (0o044, 0o044),
        ] {
            assert_eq!(widened(mode), expected, "{mode:o}");
        }
    }
}
