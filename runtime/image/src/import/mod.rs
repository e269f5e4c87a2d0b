//! From an OCI image layout to the store.
//!
//! The layout is a directory or an uncompressed tar archive of one. Its `index.json` leads to a
//! manifest for this host's platform; configuration and layers are stored as they are, each checked by
//! size and digest while it is read; signature manifests that lie beside the image (tags of the form
//! `sha256-<hex>.sig`) come along. The name is written last, so an interrupted import leaves nothing
//! that has a name.
//!
//! Nothing is verified here beyond digests: who made the image is for [`mod@crate::verify`].

mod error;
mod select;
mod source;

use std::path::Path;

use palisade_policy::Digest;
use serde::Serialize;

pub use error::ImportError;
use select::Selected;
use source::Source;

use crate::Store;
use crate::document::{Configuration, Entry, Manifest, SignatureManifest};
use crate::limits::{DOCUMENT_BYTES_MAX, PAYLOAD_BYTES_MAX, SIGNATURE_MANIFESTS_MAX};
use crate::name::ImageName;
use crate::store::{Expected, Record, Staging};

/// What an import stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The manifest for this host's platform.
    pub manifest: Digest,
    /// The index that it was chosen from, when the image has one.
    pub index: Option<Digest>,
    /// Number of layers.
    pub layers: usize,
    /// Bytes of configuration and compressed layers.
    pub size_bytes: u64,
    /// Signature manifests found in the layout for this image.
    pub signatures: usize,
}

impl Store {
    /// Stores the image in the layout at `source` and gives it `name`.
    pub fn import(&self, source: &Path, name: &ImageName) -> Result<Imported, ImportError> {
        let source = Source::open(source)?;
        let top = source.read("index.json", DOCUMENT_BYTES_MAX)?;
        let entries = crate::document::parse_index(&top, None)?;
        let selected = select::select(&source, &entries, name)?;

        let imported = self.import_selected(&source, &entries, &selected, name);
        // After a failure the blobs that were stored until then have no name, and after a success those
        // that the name meant before have none. What this finds is no reason to report another outcome.
        if let Err(error) = self.sweep_unnamed() {
            tracing::warn!(%error, "what no name needs was left in the image store");
        }
        imported
    }

    fn import_selected(
        &self,
        source: &Source,
        entries: &[Entry],
        selected: &Selected,
        name: &ImageName,
    ) -> Result<Imported, ImportError> {
        let _lock = self.lock_shared()?;
        let staging = self.stage()?;
        let import = Import { store: self, staging: &staging, source };
        let manifest = import.image(selected)?;
        let signatures = import.signatures(entries, selected)?;
        let record = selected.record();
        self.write_name(&staging, name, &record)?;
        Ok(Imported {
            manifest: record.manifest,
            index: record.index,
            layers: manifest.layers.len(),
            size_bytes: manifest.blobs().fold(0, |sum, blob| sum.saturating_add(blob.size)),
            signatures,
        })
    }
}

struct Import<'a> {
    store: &'a Store,
    staging: &'a Staging<'a>,
    source: &'a Source,
}

impl Import<'_> {
    fn image(&self, selected: &Selected) -> Result<Manifest, ImportError> {
        if let Some(index) = &selected.index {
            self.blob(index)?;
        }
        let bytes = self.source.document(&selected.manifest)?;
        let manifest = Manifest::parse(&bytes, Some(&selected.media_type))?;
        let config = Configuration::parse(&self.source.document(&manifest.config)?)?;
        config.check_against(&manifest)?;
        select::check_platform(&config)?;
        self.blob(&selected.manifest)?;
        for blob in manifest.blobs() {
            self.blob(blob)?;
        }
        Ok(manifest)
    }

    /// Signatures of the manifest, or of the index that it was chosen from.
    fn signatures(&self, entries: &[Entry], selected: &Selected) -> Result<usize, ImportError> {
        let record = selected.record();
        let of_this_image =
            |entry: &Entry| record.digests().find(|subject| speaks_about(entry, subject, selected)).cloned();
        let found: Vec<(&Entry, Digest)> =
            entries.iter().filter_map(|entry| Some((entry, of_this_image(entry)?))).collect();
        if found.len() > SIGNATURE_MANIFESTS_MAX {
            return Err(ImportError::TooManySignatures);
        }
        found.iter().try_for_each(|(entry, _)| self.signature(entry))?;
        for subject in record.digests() {
            let of_subject = found.iter().filter(|(_, of)| of == subject);
            let manifests: Vec<Digest> = of_subject.map(|(entry, _)| entry.blob.digest.clone()).collect();
            if !manifests.is_empty() {
                self.store.add_imported_signatures(subject, &manifests)?;
            }
        }
        Ok(found.len())
    }

    fn signature(&self, entry: &Entry) -> Result<(), ImportError> {
        let manifest = SignatureManifest::parse(&self.source.document(&entry.blob)?)?;
        self.small_blob(&manifest.config, DOCUMENT_BYTES_MAX)?;
        // By its place and not by its digest: a payload can be the configuration as well.
        for layer in &manifest.layers {
            self.small_blob(&layer.blob, PAYLOAD_BYTES_MAX)?;
        }
        self.blob(&entry.blob)
    }

    fn small_blob(&self, blob: &Expected, max: u64) -> Result<(), ImportError> {
        if blob.size > max {
            return Err(ImportError::BlobTooLarge { digest: blob.digest.clone(), size: blob.size, max });
        }
        self.blob(blob)
    }

    fn blob(&self, expected: &Expected) -> Result<(), ImportError> {
        let mut reader = self.source.open_blob(expected)?;
        self.store
            .put_blob(self.staging, expected, &mut reader)
            .map_err(|error| ImportError::of_blob(expected, error))
    }
}

/// Whether an entry of the layout holds signatures of `subject`: by cosign's tag in a registry, or by
/// the mark that `cosign save` makes, which belongs to the one image of its layout.
fn speaks_about(entry: &Entry, subject: &Digest, selected: &Selected) -> bool {
    let by_tag = entry.tag.as_ref().is_some_and(|tag| {
        // A layout may hold whole references; the tag is what follows the last colon.
        let tag = tag.rsplit(':').next().unwrap_or(tag);
        tag.strip_prefix("sha256-").and_then(|tag| tag.strip_suffix(".sig")) == Some(subject.hex())
    });
    let by_kind =
        entry.cosign_kind.as_deref() == Some("dev.cosignproject.cosign/sigs") && selected.is_top(subject);
    by_tag || by_kind
}

impl Selected {
    fn record(&self) -> Record {
        Record {
            manifest: self.manifest.digest.clone(),
            index: self.index.as_ref().map(|index| index.digest.clone()),
        }
    }

    /// Whether `digest` is what the layout's own index names.
    fn is_top(&self, digest: &Digest) -> bool {
        self.index.as_ref().map_or(&self.manifest.digest, |index| &index.digest) == digest
    }
}
