//! What is being made: a directory below `tmp/` that is removed unless it was renamed away.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use palisade_sys::dir::{Dir, DirLock, LockMode};

use super::{DIRECTORY_MODE, Store, StoreError};

/// Several threads of one process stage at the same time.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A private directory on the store's own file system, removed when dropped.
#[derive(Debug)]
pub(crate) struct Staging<'s> {
    tmp: &'s Dir,
    name: String,
    dir: Dir,
    _lock: DirLock,
}

impl Staging<'_> {
    /// The directory.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove_entry(self.tmp, Path::new(&self.name)) {
            // The next open sweeps it.
            tracing::warn!(%error, entry = self.name, "a temporary directory of the image store is left");
        }
    }
}

impl Store {
    /// Makes a staging directory.
    pub(crate) fn stage(&self) -> Result<Staging<'_>, StoreError> {
        let io = StoreError::io("make a temporary directory");
        // A sweeper must not see the directory between its making and its locking.
        let against_sweepers = self.tmp.lock(LockMode::Shared).map_err(io)?;
        let name = unique_name();
        let dir = self.tmp.create_dir(Path::new(&name), DIRECTORY_MODE).map_err(io)?;
        // Shared: the unpacking child takes a second lock, so that the entry counts as alive until
        // both are gone.
        let lock = dir.lock(LockMode::Shared).map_err(io)?;
        drop(against_sweepers);
        Ok(Staging { tmp: &self.tmp, name, dir, _lock: lock })
    }

    /// Removes what dead processes left below `tmp/`.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let io = StoreError::io("remove what an interrupted run left");
        let _against_makers = self.tmp.lock(LockMode::Exclusive).map_err(io)?;
        for entry in self.tmp.entries().map_err(io)? {
            let entry = Path::new(&entry);
            if is_alive(&self.tmp, entry) {
                continue;
            }
            tracing::debug!(?entry, "sweeping what an interrupted run left");
            remove_entry(&self.tmp, entry).map_err(io)?;
        }
        Ok(())
    }
}

/// Its maker may remove it at the same moment: that it is gone is what was wanted.
pub(super) fn remove_entry(tmp: &Dir, entry: &Path) -> io::Result<()> {
    match tmp.remove_tree(entry) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Whatever keeps us from looking (too many open files, say) also keeps us from calling it dead.
pub(super) fn is_alive(tmp: &Dir, entry: &Path) -> bool {
    match tmp.open_dir(entry).and_then(|dir| dir.try_lock(LockMode::Exclusive)) {
        Ok(lock) => lock.is_none(),
        // Gone already, or not a directory: nothing of ours that could be alive.
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

fn unique_name() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{count}", std::process::id(), since_epoch.as_nanos())
}
