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
        self.names()?.into_iter().map(|name| self.listed(&name)).collect()
    }

    fn listed(&self, name: &ImageName) -> Result<Listed, StoreError> {
        let record = self.record(name)?;
        let (manifest, diff_ids) = self.image_of(&record)?;
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
        self.remove_name(name)?;
        // Marking is finished before anything is removed: a name that cannot be read stops it all.
        let marked = self.mark()?;
        let staging = self.stage()?;
        let mut removed = Removed::default();
        self.sweep_blobs(&marked, &mut removed)?;
        self.sweep_layers(&marked, &staging, &mut removed)?;
        for subject in self.signed_subjects()? {
            if !marked.subjects.contains(&subject) {
                self.forget_signatures(&subject)?;
            }
        }
        Ok(removed)
    }

    fn image_of(&self, record: &Record) -> Result<(Manifest, Vec<Digest>), StoreError> {
        let damaged = |what: document::DocumentError| StoreError::Damaged { what: what.to_string() };
        let bytes = self.read_blob(&record.manifest, DOCUMENT_BYTES_MAX)?;
        let manifest = Manifest::parse(&bytes, None).map_err(damaged)?;
        let bytes = self.read_blob(&manifest.config.digest, DOCUMENT_BYTES_MAX)?;
        let config = document::Configuration::parse(&bytes).map_err(damaged)?;
        Ok((manifest, config.diff_ids))
    }

    fn mark(&self) -> Result<Marked, StoreError> {
        let mut marked = Marked::default();
        for name in self.names()? {
            let record = self.record(&name)?;
            let (manifest, diff_ids) = self.image_of(&record)?;
            marked.diff_ids.extend(diff_ids.iter().map(|digest| digest.hex().to_owned()));
            marked.blobs.extend(manifest.blobs().map(|blob| blob.digest.hex().to_owned()));
            for subject in record.digests() {
                marked.blobs.insert(subject.hex().to_owned());
                marked.subjects.insert(subject.hex().to_owned());
                marked.mark_signatures(self, subject)?;
            }
        }
        Ok(marked)
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

fn move_away(from: &Dir, entry: &OsString, to: &Dir) -> std::io::Result<()> {
    from.rename_noreplace(Path::new(entry), to, Path::new(entry))
}

impl Marked {
    fn mark_signatures(&mut self, store: &Store, subject: &Digest) -> Result<(), StoreError> {
        for signature in store.signatures(subject)? {
            let bytes = store.read_blob(&signature, DOCUMENT_BYTES_MAX)?;
            let manifest = document::SignatureManifest::parse(&bytes)
                .map_err(|what| StoreError::Damaged { what: what.to_string() })?;
            self.blobs.insert(signature.hex().to_owned());
            self.blobs.extend(manifest.blobs().map(|blob| blob.digest.hex().to_owned()));
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
