//! Names, and the signatures that were found for a manifest.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use palisade_policy::Digest;
use palisade_sys::dir::Dir;
use serde::{Deserialize, Serialize};

use super::{DIRECTORY_MODE, Staging, Store, StoreError};
use crate::limits::{RECORD_BYTES_MAX, SIGNATURE_MANIFESTS_MAX};
use crate::name::ImageName;

/// Some names in a hint are help, all of them are noise.
const NAMES_SHOWN_MAX: usize = 8;

/// What the file of a signature holds: one that came with an import,
const IMPORTED_SIGNATURE: &[u8] = b"";

/// or one that was made here, which no import displaces.
const OWN_SIGNATURE: &[u8] = b"own\n";

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The manifest for this host's platform: what is run.
    pub(crate) manifest: Digest,
    /// The index that it was chosen from.
    pub(crate) index: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    manifest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<String>,
}

impl Record {
    /// The manifest and, when there is one, the index.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.manifest).chain(self.index.as_ref())
    }

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let file = RecordFile {
            manifest: self.manifest.to_string(),
            index: self.index.as_ref().map(ToString::to_string),
        };
        serde_json::to_vec(&file).map_err(io::Error::other)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let file: RecordFile = serde_json::from_slice(bytes).ok()?;
        let index = match file.index {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Self { manifest: file.manifest.parse().ok()?, index })
    }
}

impl Store {
    /// Makes `name` mean `record`, at once and durably.
    pub(crate) fn write_name(
        &self,
        staging: &Staging<'_>,
        name: &ImageName,
        record: &Record,
    ) -> Result<(), StoreError> {
        let io = StoreError::io("write a name");
        let temporary = Path::new("name");
        let mut file = staging.dir().create_file(temporary, 0o600).map_err(io)?;
        file.write_all(&record.to_bytes().map_err(io)?).map_err(io)?;
        file.sync_all().map_err(io)?;
        staging.dir().rename(temporary, &self.names, Path::new(&name.file_name())).map_err(io)?;
        self.names.sync().map_err(io)
    }

    /// What `name` means.
    pub(crate) fn record(&self, name: &ImageName) -> Result<Record, StoreError> {
        let damaged = || StoreError::Damaged { what: format!("the name `{name}` is not readable") };
        match self.names.read_bounded(Path::new(&name.file_name()), RECORD_BYTES_MAX) {
            Ok(bytes) => Record::from_bytes(&bytes).ok_or_else(damaged),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(damaged()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let known = self.names()?.iter().take(NAMES_SHOWN_MAX).map(ToString::to_string).collect();
                Err(StoreError::UnknownName { name: name.to_string(), known })
            }
            Err(error) => Err(StoreError::io("read a name")(error)),
        }
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> Result<Vec<ImageName>, StoreError> {
        let mut names = Vec::new();
        for entry in self.names.entries().map_err(StoreError::io("list the names"))? {
            match entry.to_str().and_then(ImageName::from_file_name) {
                // An editor's swap file, say: not ours, and no reason to hide the images.
                Some(name) if *name.file_name() == *entry => names.push(name),
                Some(_) | None => tracing::warn!(?entry, "the image store's names/ holds what is no name"),
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a name; what it meant stays until it is swept.
    pub(super) fn remove_name(&self, name: &ImageName) -> Result<(), StoreError> {
        let io = StoreError::io("remove a name");
        self.names.remove_file(Path::new(&name.file_name())).map_err(io)?;
        self.names.sync().map_err(io)
    }

    /// Remembers that `signature` (a manifest that is stored), which was made here, speaks about `subject`.
    pub(crate) fn add_own_signature(&self, subject: &Digest, signature: &Digest) -> Result<(), StoreError> {
        let io = StoreError::io("remember a signature");
        let dir = self.signatures.ensure_dir(Path::new(subject.hex()), DIRECTORY_MODE).map_err(io)?;
        remember(&dir, signature, OWN_SIGNATURE).and_then(|()| dir.sync()).map_err(io)
    }

    /// Remembers the signatures that one import brought. Those of earlier imports go when there are too
    /// many: otherwise whoever brings junk first keeps out what counts.
    pub(crate) fn add_imported_signatures(
        &self,
        subject: &Digest,
        signatures: &[Digest],
    ) -> Result<(), StoreError> {
        let io = StoreError::io("remember a signature");
        let dir = self.signatures.ensure_dir(Path::new(subject.hex()), DIRECTORY_MODE).map_err(io)?;
        let is_new = |entry: &OsString| signatures.iter().any(|new| *new.hex() == **entry);
        let (mut imported, mut earlier) = (signatures.len(), Vec::new());
        for entry in dir.entries().map_err(io)? {
            if !is_new(&entry) && !is_own(&dir, &entry).map_err(io)? {
                imported = imported.saturating_add(1);
                earlier.push(entry);
            }
        }
        for entry in earlier.iter().take(imported.saturating_sub(SIGNATURE_MANIFESTS_MAX)) {
            remove_if_there(&dir, entry).map_err(io)?;
        }
        signatures.iter().try_for_each(|new| remember(&dir, new, IMPORTED_SIGNATURE)).map_err(io)?;
        dir.sync().map_err(io)
    }

    /// How many signatures of `subject` were made here.
    pub(crate) fn own_signatures(&self, subject: &Digest) -> Result<usize, StoreError> {
        let io = StoreError::io("list signatures");
        let Some(dir) = self.signatures_of(subject)? else { return Ok(0) };
        let mut own = 0_usize;
        for entry in dir.entries().map_err(io)? {
            own = own.saturating_add(usize::from(is_own(&dir, &entry).map_err(io)?));
        }
        Ok(own)
    }

    fn signatures_of(&self, subject: &Digest) -> Result<Option<Dir>, StoreError> {
        match self.signatures.open_dir(Path::new(subject.hex())) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("list signatures")(error)),
        }
    }

    /// The signature manifests known for `subject`: imported ones and those made here, at most
    /// [`SIGNATURE_MANIFESTS_MAX`] of each.
    pub(crate) fn signatures(&self, subject: &Digest) -> Result<Vec<Digest>, StoreError> {
        let io = StoreError::io("list signatures");
        let Some(dir) = self.signatures_of(subject)? else { return Ok(Vec::new()) };
        let damaged =
            || StoreError::Damaged { what: format!("the signatures of {subject} are not readable") };
        let entries = dir.entries().map_err(io)?;
        let digest = |entry: &OsString| {
            entry.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()).ok_or_else(damaged)
        };
        entries.iter().take(SIGNATURE_MANIFESTS_MAX.saturating_mul(2)).map(digest).collect()
    }

    /// For sweeping: everything that has signatures.
    pub(super) fn signed_subjects(&self) -> Result<Vec<String>, StoreError> {
        let entries = self.signatures.entries().map_err(StoreError::io("list signatures"))?;
        Ok(entries.iter().map(|entry| entry.to_string_lossy().into_owned()).collect())
    }

    /// For sweeping: forgets the signatures of one subject.
    pub(super) fn forget_signatures(&self, subject: &str) -> Result<(), StoreError> {
        self.signatures.remove_tree(Path::new(subject)).map_err(StoreError::io("forget signatures"))
    }
}

/// What is known already stays as it is.
fn remember(dir: &Dir, signature: &Digest, origin: &[u8]) -> io::Result<()> {
    match dir.create_file(Path::new(signature.hex()), 0o600) {
        Ok(mut file) => file.write_all(origin).and_then(|()| file.sync_all()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// A parallel import may have displaced the same one.
fn remove_if_there(dir: &Dir, entry: &OsString) -> io::Result<()> {
    match dir.remove_file(Path::new(entry)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn is_own(dir: &Dir, entry: &OsString) -> io::Result<bool> {
    match dir.stat(Path::new(entry)) {
        Ok(stat) => Ok(stat.st_size > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
