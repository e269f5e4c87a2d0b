//! What can go wrong with unpacking.

use std::fmt;
use std::io;

use palisade_policy::Digest;
use serde::{Deserialize, Serialize};

use crate::shown::{Escaped, Shown, lossy};
use crate::store::StoreError;
use crate::tarball::TarFault;
use crate::verify::VerifiedLayer;

/// Why an image was not unpacked. Layers that were finished before stay; nothing else does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// One layer was refused, or could not be unpacked.
    #[error("the layer {layer} cannot be unpacked: {fault}")]
    Layer {
        /// The layer's blob.
        layer: Digest,
        /// What is wrong.
        fault: LayerFault,
    },
    /// There is nothing to unpack.
    #[error("the image has no layers")]
    NoLayers,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UnpackError {
    pub(super) fn fault(layer: &VerifiedLayer, fault: LayerFault) -> Self {
        Self::Layer { layer: layer.packed.blob.digest.clone(), fault }
    }

    /// Whether the host is too weak for the caller's [`LandlockNeed`](super::LandlockNeed), which could be another.
    pub fn can_be_accepted(&self) -> bool {
        matches!(self, Self::Layer { fault: LayerFault::NoLandlock, .. })
    }

    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Layer { fault, .. } => Some(fault.hint().into()),
            Self::NoLayers => Some("an image that is run needs at least one layer".into()),
            Self::Store(error) => error.hint(),
        }
    }
}

/// What is wrong with one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum LayerFault {
    /// Another digest than the image says.
    #[error("the digest of {what} is {}, but the image says {}", Escaped(.found), Escaped(.expected))]
    Digest {
        /// Of the blob or of the archive inside.
        what: DigestOf,
        /// As the image says.
        expected: String,
        /// As computed.
        found: String,
    },
    /// Another size than the image says.
    #[error("it has {found} bytes, but the image says {expected}")]
    Size {
        /// As the image says.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// Its contents are not of its media type.
    #[error("its contents are not {}, which is what the image says", Escaped(.expected))]
    Content {
        /// What they should be.
        expected: String,
    },
    /// The compressed bytes are damaged or cut short.
    #[error("its compressed bytes are damaged: {}", Escaped(.detail))]
    Inflate {
        /// What the decompressor says.
        detail: String,
    },
    /// The archive is refused as an archive.
    #[error("{0}")]
    Tar(TarFault),
    /// An entry is refused.
    #[error("its entry {} is refused: {rule}", Shown(.entry))]
    Entry {
        /// The entry's name.
        entry: String,
        /// Why.
        rule: EntryRule,
    },
    /// Too much of something.
    #[error("it has more than {max} {}", Escaped(.what))]
    Limit {
        /// Of what.
        what: String,
        /// The limit.
        max: u64,
    },
    /// It took too long.
    #[error("unpacking took more than {} seconds", crate::limits::LAYER_TIME_MAX.as_secs())]
    Time,
    /// The disk or the quota is full.
    #[error("there is no room left in the image store")]
    NoSpace,
    /// The file system cannot hold the kernel's marker of a deleted name.
    #[error("the file system of the image store has no user extended attributes")]
    NoXattrs,
    /// This kernel cannot hide deleted names in a way that an ordinary user may use.
    #[error("it deletes files of the layer below, which needs Linux 6.8; this is {}", Shown(.release))]
    KernelCannotHide {
        /// The running kernel.
        release: String,
    },
    /// The child could not confine itself.
    #[error("the unpacking process could not confine itself: {}", Escaped(.step))]
    Confinement {
        /// Which step failed.
        step: String,
    },
    /// The kernel has no Landlock.
    #[error("the unpacking process needs Landlock, which this kernel does not offer")]
    NoLandlock,
    /// The child ended without a reply.
    #[error("the unpacking process died ({})", Escaped(.status))]
    ChildDied {
        /// Its exit status.
        status: String,
    },
    /// Parent and child did not understand each other.
    #[error("the unpacking process sent what is no reply: {}", Escaped(.detail))]
    Protocol {
        /// What was wrong with it.
        detail: String,
    },
    /// It was published and is not there.
    #[error("it was unpacked but is not in the store")]
    Unpublished,
    /// Any other failure of the operating system.
    #[error("failed to {}: {}", Escaped(.doing), Escaped(.detail))]
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        detail: String,
    },
}

/// Which of a layer's two digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DigestOf {
    /// The compressed bytes.
    Blob,
    /// The archive inside: the diffID.
    Archive,
}

impl fmt::Display for DigestOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blob => "its bytes",
            Self::Archive => "the archive in it",
        })
    }
}

/// Why an entry of a layer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum EntryRule {
    /// `..`
    #[error("its path leads upwards")]
    DotDot,
    /// Nothing is left of the name.
    #[error("its path is empty")]
    EmptyPath,
    /// More components than allowed.
    #[error("its path is too deep")]
    TooDeep,
    /// A component that is longer than Linux allows.
    #[error("a part of its path is too long")]
    LongComponent,
    /// A parent is a symbolic link.
    #[error("its path leads through a symbolic link")]
    ThroughLink,
    /// A parent is a file.
    #[error("its path leads through a file")]
    ThroughFile,
    /// The root as something other than a directory.
    #[error("it would replace the root directory")]
    ReplacesRoot,
    /// A link to nothing.
    #[error("it is a link without a target")]
    EmptyTarget,
    /// A hard link to something that this layer did not make before it.
    #[error("it is a hard link to something that is no earlier file of the same layer")]
    HardlinkTarget,
    /// A device node outside dev/.
    #[error("it is a device node")]
    Device,
    /// A FIFO outside dev/.
    #[error("it is a FIFO")]
    Fifo,
    /// The kernel's own marker of a deleted name.
    #[error("it is a marker of the overlay file system, which only we may make")]
    OverlayMarker,
    /// `.wh.` followed by nothing usable, or in the middle of a path.
    #[error("it is a malformed deletion")]
    Whiteout,
    /// Fewer bytes than its header says.
    #[error("it is cut short")]
    CutShort,
    /// Larger than a file may be.
    #[error("it is too large")]
    TooLarge,
}

impl LayerFault {
    pub(super) fn entry(path: &[u8], rule: EntryRule) -> Self {
        Self::Entry { entry: lossy(path), rule }
    }

    pub(super) fn io(doing: &str, error: &io::Error) -> Self {
        if crate::store::is_full(error) {
            return Self::NoSpace;
        }
        Self::Io { doing: doing.into(), detail: lossy(error.to_string().as_bytes()) }
    }

    /// Whether other bytes in the blob could be the reason.
    pub(super) fn is_of_the_contents(&self) -> bool {
        match self {
            Self::Content { .. }
            | Self::Inflate { .. }
            | Self::Tar(_)
            | Self::Entry { .. }
            | Self::Limit { .. } => true,
            // The first two say already that it is the blob.
            Self::Digest { .. }
            | Self::Size { .. }
            | Self::Time
            | Self::NoSpace
            | Self::NoXattrs
            | Self::KernelCannotHide { .. }
            | Self::Confinement { .. }
            | Self::NoLandlock
            | Self::ChildDied { .. }
            | Self::Protocol { .. }
            | Self::Unpublished
            | Self::Io { .. } => false,
        }
    }

    pub(super) fn protocol(error: &serde_json::Error) -> Self {
        Self::Protocol { detail: lossy(error.to_string().as_bytes()) }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Digest { .. } | Self::Size { .. } | Self::Inflate { .. } | Self::Unpublished => {
                "the stored image is damaged: remove it with `palisade image rm NAME` and import it again; when \
                 that does not help, its publisher made it so"
            }
            Self::Content { .. } | Self::Tar(_) | Self::Entry { .. } => {
                "no honest build tool makes such a layer: ask whoever published the image, or rebuild it"
            }
            Self::Limit { .. } | Self::Time => "the image is too large to be unpacked here; make it smaller",
            Self::NoSpace => {
                "remove images with `palisade image rm NAME`, or choose a larger disk with --store"
            }
            Self::NoXattrs => {
                "keep the store on ext4, xfs, btrfs or a tmpfs of Linux 6.6 (choose it with --store)"
            }
            Self::KernelCannotHide { .. } => {
                "use a newer kernel, or an image whose layers are squashed into one"
            }
            Self::Confinement { .. } => "`palisade doctor` shows what this host offers",
            Self::NoLandlock => {
                "enable Landlock (boot with lsm=landlock,…), or accept its absence in the policy's \
                 `accept_degraded`"
            }
            Self::ChildDied { .. } | Self::Protocol { .. } | Self::Io { .. } => {
                "nothing half-made was kept; try again, and look at the system's log when it happens twice"
            }
        }
    }
}
