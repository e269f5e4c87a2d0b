//! Deletions: from the image format's names to the kernel's markers.
//!
//! An image layer deletes `name` of the layers below with an empty file `.wh.name`, and everything that
//! they have in a directory with `.wh..wh..opq` (OCI image specification, "Whiteouts"). The overlay file
//! system wants a directory's `overlay.opaque` attribute set to `y`, and for one name either a device
//! node 0/0, which an ordinary user cannot make, or an empty file with the attribute `overlay.whiteout`
//! in a directory whose `overlay.opaque` is `x` (Linux `Documentation/filesystems/overlayfs.rst`). The
//! attributes are in the `user.` namespace, which the mount option `userxattr` selects.
//!
//! All of it is done at the end, since a deletion speaks about the layers below wherever it stands in
//! the archive.

use std::collections::BTreeSet;

use super::LayerFault;
use super::error::EntryRule;
use super::path::EntryPath;
use super::protocol::{Form, Place};
use super::tree::{Found, Tree, joined};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that the old AUFS driver kept for itself; Docker ignores them in layers, and so do we.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// The deletions of one layer, collected.
#[derive(Default)]
pub(super) struct Whiteouts {
    deleted: BTreeSet<EntryPath>,
    opaque: BTreeSet<EntryPath>,
    count: u64,
}

impl Whiteouts {
    /// Takes an entry in when its name is a deletion.
    pub(super) fn take(&mut self, path: &EntryPath) -> Result<bool, LayerFault> {
        let refused = || LayerFault::entry(path.bytes(), EntryRule::Whiteout);
        let above = path.parent();
        if above.bytes().split(|byte| *byte == b'/').any(|component| component.starts_with(PREFIX)) {
            return Err(refused());
        }
        let Some(name) = path.name().strip_prefix(PREFIX) else { return Ok(false) };
        self.count = self.count.saturating_add(1);
        if path.name() == OPAQUE {
            self.opaque.insert(above);
        } else if !path.name().starts_with(AUFS_PREFIX) {
            if matches!(name, b"" | b"." | b"..") {
                return Err(refused());
            }
            self.deleted.insert(joined(&above, name)?);
        }
        Ok(true)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Writes the markers, and says what the layer has become.
    pub(super) fn apply(mut self, tree: &mut Tree, place: Place) -> Result<Form, LayerFault> {
        if self.opaque.iter().any(EntryPath::is_root) {
            return Ok(Form::Opaque);
        }
        if self.deleted.is_empty() && self.opaque.is_empty() {
            return Ok(Form::Plain);
        }
        if place == Place::Bottom {
            return Ok(Form::Bottom);
        }
        let markers = self.markers(tree)?;
        for directory in &self.opaque {
            tree.make_parents(directory)?;
            if !tree.has_directory(directory) {
                tree.directory(directory, 0o755, 0)?;
            }
            tree.mark_directory(directory, b"y")?;
        }
        for marker in &markers {
            tree.make_parents(marker)?;
            tree.whiteout(marker)?;
            tree.mark_directory(&marker.parent(), b"x")?;
        }
        Ok(Form::Deleting)
    }

    /// The names that need a marker of their own. A name that this layer has itself hides the one below
    /// by being there; a directory of this layer hides it by being opaque; and in an opaque directory
    /// nothing from below is visible, but a marker would be.
    fn markers(&mut self, tree: &Tree) -> Result<Vec<EntryPath>, LayerFault> {
        let mut markers = Vec::new();
        // A deletion or opaque mark below something that a later entry made a file of, is of no use.
        self.opaque.retain(|directory| !is_hidden_by_file(tree, directory));
        let deleted: Vec<EntryPath> = std::mem::take(&mut self.deleted).into_iter().collect();
        for path in deleted {
            if is_hidden_by_file(tree, &path.parent()) {
                continue;
            }
            let found = if tree.has_directory(&path.parent()) { tree.look(&path)? } else { Found::Nothing };
            match found {
                Found::Directory => drop(self.opaque.insert(path)),
                Found::Nothing => markers.push(path),
                Found::File | Found::Link => {}
            }
        }
        markers.retain(|path| {
            let mut above =
                std::iter::successors(Some(path.parent()), |path| (!path.is_root()).then(|| path.parent()));
            !above.any(|directory| self.opaque.contains(&directory))
        });
        Ok(markers)
    }
}

/// Whether `directory`, or something above it, is a file or link of this layer.
fn is_hidden_by_file(tree: &Tree, directory: &EntryPath) -> bool {
    let mut at = directory.clone();
    while !at.is_root() {
        if !tree.has_directory(&at) && tree.has_directory(&at.parent()) {
            return matches!(tree.look(&at), Ok(Found::File | Found::Link));
        }
        at = at.parent();
    }
    false
}
