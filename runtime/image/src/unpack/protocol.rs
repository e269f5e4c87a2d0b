//! What parent and child say to each other: one JSON message each way, bounded.

use serde::{Deserialize, Serialize};

use super::LayerFault;
use crate::document::Compression;
use crate::store::{LayerForm, LayerPlace};

/// From the parent, with three descriptors: the blob, the tree, the staging directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) compression: Compression,
    /// Bytes of the blob.
    pub(super) size: u64,
    pub(super) place: Place,
    pub(super) landlock_required: bool,
    /// The parent's process id: the child ends when it is no longer its parent.
    pub(super) parent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    Bottom,
    Above,
}

impl From<LayerPlace> for Place {
    fn from(place: LayerPlace) -> Self {
        match place {
            LayerPlace::Bottom => Self::Bottom,
            LayerPlace::Above => Self::Above,
        }
    }
}

/// From the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done(LayerReport),
    Failed(LayerFault),
}

/// What unpacking one layer did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// SHA-256 of the compressed bytes.
    pub(super) blob: String,
    /// SHA-256 of the archive inside.
    pub(super) diff_id: String,
    pub(super) form: Form,
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of file contents written.
    pub bytes: u64,
    /// Device nodes below `dev/` that were left out: a sandbox has a `/dev` of its own.
    pub skipped_devices: u64,
    /// Deletions translated for the kernel, or dropped in a lowest layer.
    pub whiteouts: u64,
    /// The Landlock ABI that confined the child; `None` when the kernel has no Landlock.
    pub landlock_abi: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Form {
    Plain,
    Deleting,
    Bottom,
    Opaque,
}

impl From<Form> for LayerForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Plain => Self::Plain,
            Form::Deleting => Self::Deleting,
            Form::Bottom => Self::Bottom,
            Form::Opaque => Self::Opaque,
        }
    }
}
