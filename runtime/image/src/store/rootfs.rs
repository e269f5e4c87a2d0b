//! Unpacked layers: one directory each, shared by every image that has the layer.

use std::io;
use std::path::Path;

use palisade_policy::Digest;
use palisade_sys::dir::{Dir, DirLock, LockMode};

use super::{DIRECTORY_MODE, Staging, Store, StoreError};

/// Where in an image a layer lies.
///
/// It matters for layers that delete: the kernel hides a deleted name only in a layer that has another
/// below it; in the lowest one, the marker itself would be half visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerPlace {
    /// The lowest layer: nothing is below it, so there is nothing to delete.
    Bottom,
    /// Above another.
    Above,
}

/// What an unpacked layer does to the layers below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerForm {
    /// It only adds and replaces, and can lie anywhere.
    Plain,
    /// It holds the kernel's markers of deleted names: only above another layer.
    Deleting,
    /// It would delete, but was unpacked for the bottom, without the markers.
    Bottom,
    /// It deletes everything: what lies below is not mounted at all. (The kernel does not honour the
    /// marker for that on the root of a layer.)
    Opaque,
}

impl LayerForm {
    const ALL: [Self; 4] = [Self::Plain, Self::Deleting, Self::Bottom, Self::Opaque];

    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Deleting => ".deleting",
            Self::Bottom => ".bottom",
            Self::Opaque => ".opaque",
        }
    }

    fn fits(self, place: LayerPlace) -> bool {
        match (self, place) {
            (Self::Plain | Self::Opaque, _)
            | (Self::Deleting, LayerPlace::Above)
            | (Self::Bottom, LayerPlace::Bottom) => true,
            (Self::Deleting, LayerPlace::Bottom) | (Self::Bottom, LayerPlace::Above) => false,
        }
    }
}

/// A published layer, held so that it is not removed while in use.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) dir: Dir,
    pub(crate) form: LayerForm,
    pub(crate) lock: DirLock,
}

impl Store {
    /// The published layer that serves at `place`.
    pub(crate) fn find_layer(
        &self,
        diff_id: &Digest,
        place: LayerPlace,
    ) -> Result<Option<Published>, StoreError> {
        let io = StoreError::io("open an unpacked layer");
        for form in LayerForm::ALL.into_iter().filter(|form| form.fits(place)) {
            match self.rootfs.open_dir(Path::new(&directory_name(diff_id, form))) {
                Ok(dir) => {
                    let lock = dir.lock(LockMode::Shared).map_err(io)?;
                    return Ok(Some(Published { dir, form, lock }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io(error)),
            }
        }
        Ok(None)
    }

    /// Held while a layer is being unpacked, so that parallel runs unpack it once.
    pub(crate) fn lock_layer(&self, diff_id: &Digest) -> Result<DirLock, StoreError> {
        let io = StoreError::io("lock a layer");
        let dir = self.locks.ensure_dir(Path::new(diff_id.hex()), DIRECTORY_MODE).map_err(io)?;
        dir.lock(LockMode::Exclusive).map_err(io)
    }

    /// Publishes a finished layer. All of it is on the disk before its name is.
    pub(crate) fn publish_layer(
        &self,
        staging: &Staging<'_>,
        staged: &Path,
        diff_id: &Digest,
        form: LayerForm,
    ) -> Result<(), StoreError> {
        let io = StoreError::io("publish an unpacked layer");
        nix::unistd::syncfs(staging.dir()).map_err(|error| io(error.into()))?;
        let name = directory_name(diff_id, form);
        staging.dir().rename_noreplace(staged, &self.rootfs, Path::new(&name)).map_err(io)?;
        self.rootfs.sync().map_err(io)
    }

    /// For listing: whether a layer is there in any form.
    pub(super) fn has_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        for form in LayerForm::ALL {
            match self.rootfs.stat(Path::new(&directory_name(diff_id, form))) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("look for an unpacked layer")(error)),
            }
        }
        Ok(false)
    }
}

fn directory_name(diff_id: &Digest, form: LayerForm) -> String {
    format!("{}{}", diff_id.hex(), form.suffix())
}
