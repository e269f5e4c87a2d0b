//! Listing and removing: a plain mark and sweep from the names, under the store's exclusive lock.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use palisade_policy::Digest;
use palisade_sys::dir::{Dir, LockMode};
use serde::Serialize;

use super::{Record, Staging, Store, StoreError};
use crate::document::{self, Manifest};
use crate::limits::DOCUMENT_BYTES_MAX;
use crate::name::ImageName;

/// One line of `palisade image ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The name, with its tag.
    pub name: String,
    /// The manifest that is run under this name.
    pub manifest: Digest,
    /// The index that the manifest was chosen from.
    pub index: Option<Digest>,
    /// Bytes of configuration and compressed layers.
    pub size_bytes: u64,
    /// Number of layers.
    pub layers: usize,
    /// Whether every layer is unpacked.
    pub unpacked: bool,
    /// Signature manifests known for it; whether one of them counts is for the policy to say.
    pub signatures: usize,
}

/// What removing a name freed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Blobs removed.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Unpacked layers removed.
    pub layers: usize,
    /// Unpacked layers that a running server still uses; a later removal takes them.
    pub layers_in_use: usize,
}

/// What the remaining names need, as hexadecimal digests.
#[derive(Default)]
struct Marked {
    blobs: BTreeSet<String>,
    subjects: BTreeSet<String>,
    diff_ids: BTreeSet<String>,
}

impl Store {
    /// Every image, by name.
    pub fn ls(&self) -> Result<Vec<Listed>, StoreError> {
        let _lock = self.lock_shared()?;
        self.names()?
            .into_iter()
            .map(|name| {
                let named = |source| StoreError::Image { name: name.to_string(), source: Box::new(source) };
                self.listed(&name).map_err(named)
            })
            .collect()
    }

    fn listed(&self, name: &ImageName) -> Result<Listed, StoreError> {
        let record = self.record(name)?;
        let manifest = self.manifest_of(&record)?;
        let diff_ids = self.diff_ids_of(&manifest)?;
        let mut unpacked = true;
        for diff_id in &diff_ids {
            unpacked &= self.has_layer(diff_id)?;
        }
        let mut signatures = BTreeSet::new();
        for subject in record.digests() {
            signatures.extend(self.signatures(subject)?);
        }
        Ok(Listed {
            name: name.to_string(),
            size_bytes: manifest.blobs().fold(0, |sum, blob| sum.saturating_add(blob.size)),
            layers: manifest.layers.len(),
            unpacked,
            signatures: signatures.len(),
            manifest: record.manifest,
            index: record.index,
        })
    }

    /// Removes a name, and then everything that no name needs any more.
    pub fn rm(&self, name: &ImageName) -> Result<Removed, StoreError> {
        let _lock = self.lock_exclusive()?;
        match self.record(name) {
            // Removing it is the way out of a name that is not readable.
            Ok(_) | Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        // Marking is finished before anything is removed: what fails leaves the store as it was.
        let marked = self.mark(Some(name))?;
        self.remove_name(name)?;
        self.sweep_unmarked(&marked)
    }

    /// Removes what no name needs: what a failed or killed import left, and what a replaced name meant.
    /// When somebody else uses the store just now, that is for the next import or removal.
    pub(crate) fn sweep_unnamed(&self) -> Result<(), StoreError> {
        let lock = self.root.try_lock(LockMode::Exclusive).map_err(StoreError::io("lock the store"))?;
        if lock.is_some() {
            let removed = self.sweep_unmarked(&self.mark(None)?)?;
            tracing::debug!(?removed, "swept what no name needs");
        }
        Ok(())
    }

    fn sweep_unmarked(&self, marked: &Marked) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        // First, since on a full disk there is no room for a temporary directory.
        self.sweep_blobs(marked, &mut removed)?;
        let staging = self.stage()?;
        self.sweep_layers(marked, &staging, &mut removed)?;
        for subject in self.signed_subjects()? {
            if !marked.subjects.contains(&subject) {
                self.forget_signatures(&subject)?;
            }
        }
        Ok(removed)
    }

    fn manifest_of(&self, record: &Record) -> Result<Manifest, StoreError> {
        Manifest::parse(&self.read_blob(&record.manifest, DOCUMENT_BYTES_MAX)?, None).map_err(damaged)
    }

    fn diff_ids_of(&self, manifest: &Manifest) -> Result<Vec<Digest>, StoreError> {
        let bytes = self.read_blob(&manifest.config.digest, DOCUMENT_BYTES_MAX)?;
        Ok(document::Configuration::parse(&bytes).map_err(damaged)?.diff_ids)
    }

    fn mark(&self, but: Option<&ImageName>) -> Result<Marked, StoreError> {
        let mut marked = Marked::default();
        for name in self.names()?.iter().filter(|name| Some(*name) != but) {
            match self.mark_image(name, &mut marked) {
                // It cannot be run any more, and must not keep others from being removed.
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, image = %name, "an image in the store is damaged; import it again");
                }
                Err(source) => {
                    return Err(StoreError::Image { name: name.to_string(), source: Box::new(source) });
                }
                Ok(()) => {}
            }
        }
        Ok(marked)
    }

    /// What was found before the damage is marked.
    fn mark_image(&self, name: &ImageName, marked: &mut Marked) -> Result<(), StoreError> {
        let record = self.record(name)?;
        for subject in record.digests() {
            marked.blobs.insert(subject.hex().to_owned());
            marked.subjects.insert(subject.hex().to_owned());
            marked.mark_signatures(self, subject)?;
        }
        let manifest = self.manifest_of(&record)?;
        marked.blobs.extend(manifest.blobs().map(|blob| blob.digest.hex().to_owned()));
        let diff_ids = self.diff_ids_of(&manifest)?;
        marked.diff_ids.extend(diff_ids.iter().map(|digest| digest.hex().to_owned()));
        Ok(())
    }

    fn sweep_blobs(&self, marked: &Marked, removed: &mut Removed) -> Result<(), StoreError> {
        let io = StoreError::io("remove a blob");
        for entry in self.blobs.entries().map_err(io)? {
            if entry.to_str().is_some_and(|hex| marked.blobs.contains(hex)) {
                continue;
            }
            let size = self.blobs.stat(Path::new(&entry)).map_err(io)?.st_size;
            self.blobs.remove_file(Path::new(&entry)).map_err(io)?;
            removed.blobs = removed.blobs.saturating_add(1);
            removed.blob_bytes = removed.blob_bytes.saturating_add(u64::try_from(size).unwrap_or(0));
        }
        self.blobs.sync().map_err(io)
    }

    fn sweep_layers(
        &self,
        marked: &Marked,
        staging: &Staging<'_>,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let io = StoreError::io("remove an unpacked layer");
        for entry in self.rootfs.entries().map_err(io)? {
            if marked.needs_layer(&entry) {
                continue;
            }
            let dir = self.rootfs.open_dir(Path::new(&entry)).map_err(io)?;
            let Some(_alone) = dir.try_lock(LockMode::Exclusive).map_err(io)? else {
                removed.layers_in_use = removed.layers_in_use.saturating_add(1);
                continue;
            };
            // Out of sight first: a layer that is half removed must not look published.
            move_away(&self.rootfs, &entry, staging.dir()).map_err(io)?;
            staging.dir().remove_tree(Path::new(&entry)).map_err(io)?;
            removed.layers = removed.layers.saturating_add(1);
        }
        for entry in self.locks.entries().map_err(io)? {
            if !marked.needs_layer(&entry) {
                self.locks.remove_tree(Path::new(&entry)).map_err(io)?;
            }
        }
        self.rootfs.sync().map_err(io)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn damaged(what: document::DocumentError) -> StoreError {
    StoreError::Damaged { what: what.to_string() }
}

fn move_away(from: &Dir, entry: &OsString, to: &Dir) -> std::io::Result<()> {
    from.rename_noreplace(Path::new(entry), to, Path::new(entry))
}

impl Marked {
    fn mark_signatures(&mut self, store: &Store, subject: &Digest) -> Result<(), StoreError> {
        for signature in store.signatures(subject)? {
            self.blobs.insert(signature.hex().to_owned());
            let read = store.read_blob(&signature, DOCUMENT_BYTES_MAX);
            match read.and_then(|bytes| document::SignatureManifest::parse(&bytes).map_err(damaged)) {
                Ok(manifest) => {
                    self.blobs.extend(manifest.blobs().map(|blob| blob.digest.hex().to_owned()));
                }
                // One signature less; the image itself may be whole.
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, %signature, "a signature in the store is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The directory names of layers are a diffID, and perhaps a dot and a form.
    fn needs_layer(&self, entry: &OsString) -> bool {
        let name = entry.to_string_lossy();
        let hex = name.split('.').next().unwrap_or_default();
        self.diff_ids.contains(hex)
    }
}
