//! What can go wrong with the store itself.

use std::io;
use std::path::PathBuf;

use palisade_policy::Digest;

use crate::shown::{Escaped, Shown};

/// Why the store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Its directory cannot be opened or made.
    #[error("the image store {} cannot be opened", Shown(&.path.to_string_lossy()))]
    Open {
        /// As the person wrote it.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its directory belongs to somebody else.
    #[error("the image store {} belongs to user {uid}, not to the user who runs this", Shown(&.path.to_string_lossy()))]
    Owner {
        /// As the person wrote it.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others may write to its directory.
    #[error("the image store {} can be changed by other users", Shown(&.path.to_string_lossy()))]
    Writable {
        /// As the person wrote it.
        path: PathBuf,
    },
    /// It was made by another version.
    #[error("the image store has the unknown format {}", Shown(.found))]
    Format {
        /// What its format file says.
        found: String,
    },
    /// The disk or the quota is full.
    #[error("there is no room left in the image store to {doing}")]
    NoSpace {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("the image store failed to {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No image has this name.
    #[error("there is no image {} in the store", Shown(.name))]
    UnknownName {
        /// The name as given.
        name: String,
        /// Some names that are there.
        known: Vec<String>,
    },
    /// A blob that an image needs is not there.
    #[error("the blob {digest} is missing from the image store")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// What is stored is not what its name says.
    #[error("the image store is damaged: {}", Escaped(.what))]
    Damaged {
        /// What was found.
        what: String,
    },
    /// One image cannot be read; the others can.
    #[error("the image {} cannot be read from the store", Shown(.name))]
    Image {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<StoreError>,
    },
}

impl StoreError {
    /// For `map_err`: an I/O error while `doing`.
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self + Copy {
        move |source| {
            if is_full(&source) { Self::NoSpace { doing, source } } else { Self::Io { doing, source } }
        }
    }

    /// Whether this is about what is stored, and not about the attempt to read it.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }

    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Open { .. } => "choose another directory with --store, or make this one yourself".into(),
            Self::Owner { .. } => {
                "each user has a store of their own: choose a directory with --store".into()
            }
            Self::Writable { path } => format!("take the permission away: chmod go-w {}", path.display()),
            Self::Format { .. } => {
                "it was made by another version; choose another directory with --store".into()
            }
            Self::NoSpace { .. } => {
                "what was being added is removed again; remove images with `palisade image rm NAME`, or choose \
                 a larger disk with --store"
                    .into()
            }
            Self::Io { .. } => "the cause is the operating system's; nothing half-made was kept".into(),
            Self::UnknownName { known, .. } if known.is_empty() => {
                "the store is empty: `palisade image import LAYOUT --as NAME:TAG` adds an image".into()
            }
            Self::UnknownName { known, .. } => format!("it holds {}", known.join(", ")),
            Self::Image { name, source } if source.is_damage() => {
                format!("remove it with `palisade image rm {name}` and import it again")
            }
            Self::Image { source, .. } => return source.hint(),
            Self::Missing { .. } | Self::Damaged { .. } => {
                "remove the image with `palisade image rm NAME` and import it again".into()
            }
        })
    }
}

/// Whether an error means that the disk or the quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
