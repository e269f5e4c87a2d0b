//! Where images are kept: content-addressed, below one directory that belongs to one user.
//!
//! ```text
//! blobs/sha256/<hex>     manifests, configurations, layers, signatures: exactly as they came
//! names/<name>%3A<tag>   one small file each: which manifest the name means
//! signatures/<hex>/<hex> small files: which signature manifests were found, or made, for a manifest
//! rootfs/<diffid>        one unpacked layer each, published by rename (see `crate::unpack`)
//! locks/<diffid>         one directory each, locked while that layer is being unpacked
//! tmp/<unique>           what is being made; locked by its maker, swept when the maker is dead
//! ```
//!
//! Everything is made below `tmp/` and then renamed, so that a process killed at any point leaves
//! nothing but an entry of `tmp/`, which the next [`Store::open`] removes.
//!
//! Locks, all `flock(2)` on directories, so that the kernel releases them with the process: the
//! store's own is shared while something is added or unpacked and exclusive while something is removed;
//! each layer in use is held shared by the process that runs it, so that removing an image never
//! pulls files from under a running server.

mod blob;
mod error;
mod names;
mod remove;
mod rootfs;
mod staging;

use std::path::Path;

use palisade_sys::dir::{Dir, DirLock, LockMode};

pub(crate) use blob::{BlobError, Expected};
pub use error::StoreError;
pub(crate) use error::is_full;
pub(crate) use names::Record;
pub use remove::{Listed, Removed};
pub(crate) use rootfs::{LayerForm, LayerPlace, Published};
pub(crate) use staging::Staging;

/// Nobody but the owner: an image may hold what its owner would not publish, and the permission bits
/// of unpacked files are widened on purpose (see `crate::unpack::tree`).
const DIRECTORY_MODE: u32 = 0o700;

/// The layout of this version of the store.
const FORMAT: &[u8] = b"palisade-store 1\n";

/// The format file holds one short line.
const FORMAT_BYTES_MAX: u64 = 64;

/// Write permission of the group and of everybody.
const OTHERS_WRITE: u32 = 0o022;

/// An opened store.
#[derive(Debug)]
pub struct Store {
    root: Dir,
    blobs: Dir,
    names: Dir,
    signatures: Dir,
    rootfs: Dir,
    locks: Dir,
    tmp: Dir,
}

impl Store {
    /// Opens the store at `path`, making it when it is not there, and sweeps what dead processes left.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let root = Dir::create_ambient(path, DIRECTORY_MODE)
            .map_err(|source| StoreError::Open { path: path.to_path_buf(), source })?;
        check_owner(&root, path)?;
        check_format(&root)?;
        let directory = |name: &'static str| {
            let dir = root
                .ensure_dir(Path::new(name), DIRECTORY_MODE)
                .map_err(StoreError::io("make its directories"))?;
            check_owner(&dir, &path.join(name)).map(|()| dir)
        };
        drop(directory("blobs")?);
        let store = Self {
            blobs: directory("blobs/sha256")?,
            names: directory("names")?,
            signatures: directory("signatures")?,
            rootfs: directory("rootfs")?,
            locks: directory("locks")?,
            tmp: directory("tmp")?,
            root,
        };
        store.sweep()?;
        Ok(store)
    }

    /// Held while something is added: nothing is removed meanwhile.
    pub(crate) fn lock_shared(&self) -> Result<DirLock, StoreError> {
        self.root.lock(LockMode::Shared).map_err(StoreError::io("lock the store"))
    }

    fn lock_exclusive(&self) -> Result<DirLock, StoreError> {
        self.root.lock(LockMode::Exclusive).map_err(StoreError::io("lock the store"))
    }
}

/// Somebody else's store could be changed under us at any time.
fn check_owner(dir: &Dir, path: &Path) -> Result<(), StoreError> {
    let stat = dir.stat_self().map_err(StoreError::io("inspect its directory"))?;
    if stat.st_uid != nix::unistd::geteuid().as_raw() {
        return Err(StoreError::Owner { path: path.to_path_buf(), uid: stat.st_uid });
    }
    if stat.st_mode & OTHERS_WRITE != 0 {
        return Err(StoreError::Writable { path: path.to_path_buf() });
    }
    Ok(())
}

fn check_format(root: &Dir) -> Result<(), StoreError> {
    let name = Path::new("format");
    let io = StoreError::io("read its format");
    match root.read_bounded(name, FORMAT_BYTES_MAX) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(StoreError::Format { found: crate::shown::lossy(&found) }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_format(root),
        Err(error) => Err(io(error)),
    }
}

/// By rename, so that a second process that opens the new store at the same time reads all or nothing.
fn write_format(root: &Dir) -> Result<(), StoreError> {
    use std::io::Write as _;
    let temporary = format!("format.{}.{:?}", std::process::id(), std::thread::current().id());
    let write = || {
        let mut file = root.create_file(Path::new(&temporary), 0o600)?;
        file.write_all(FORMAT)?;
        file.sync_all()?;
        root.rename(Path::new(&temporary), root, Path::new("format"))
    };
    write().map_err(|error| {
        // Whether it was made at all depends on where the disk became full.
        if let Err(left) = root.remove_file(Path::new(&temporary)) {
            tracing::debug!("the store's temporary format file was not removed: {left}");
        }
        StoreError::io("write its format")(error)
    })
}

#[cfg(test)]
mod tests;
