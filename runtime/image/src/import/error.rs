//! What can go wrong with an import.

use std::io;
use std::path::PathBuf;

use palisade_policy::Digest;

use crate::document::DocumentError;
use crate::limits::SIGNATURE_MANIFESTS_MAX;
use crate::shown::Shown;
use crate::store::{BlobError, Expected, StoreError};
use crate::tarball::TarFault;

/// Why an image was not imported. Nothing that it had was given a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The layout cannot be opened.
    #[error("the image layout {} cannot be opened", Shown(&.path.to_string_lossy()))]
    Open {
        /// As the person wrote it.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is {found}, not an OCI image layout", Shown(&.path.to_string_lossy()))]
    NotALayout {
        /// As the person wrote it.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
    },
    /// Its archive is refused.
    #[error("the image layout's archive is refused")]
    Archive(#[source] TarFault),
    /// A file of it is missing.
    #[error("the image layout has no file {}", Shown(.file))]
    MissingFile {
        /// Path in the layout.
        file: String,
    },
    /// A file of it cannot be read.
    #[error("the image layout's file {} cannot be read", Shown(.file))]
    ReadFile {
        /// Path in the layout.
        file: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// One of its documents is refused.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A blob has another size than its descriptor says.
    #[error("the blob {digest} has {found} bytes, but the image says {announced}")]
    Size {
        /// Its digest as announced.
        digest: Digest,
        /// The announced size.
        announced: u64,
        /// The size found; one more than announced can mean "even more".
        found: u64,
    },
    /// A blob has another digest than its name says.
    #[error("the blob {announced} is corrupt: its digest is {found}")]
    Digest {
        /// As announced.
        announced: Digest,
        /// As computed.
        found: Digest,
    },
    /// A document or payload beyond its limit.
    #[error("the blob {digest} has {size} bytes; a blob of its kind may have {max}")]
    BlobTooLarge {
        /// Its digest.
        digest: Digest,
        /// As announced.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// Nothing in it is an image.
    #[error("the image layout holds no image")]
    Empty,
    /// Several images, and none is the one.
    #[error("the image layout holds several images: {}", .tags.join(", "))]
    Ambiguous {
        /// Their tags.
        tags: Vec<String>,
    },
    /// No image for this host.
    #[error("the image is for {}, and this host is {host}", .found.join(", "))]
    Platform {
        /// This host's platform.
        host: String,
        /// The platforms that it is for.
        found: Vec<String>,
    },
    /// An index inside the image's own index. No tool makes that, and a signature of the outer one would
    /// speak for the inner one only in a roundabout way.
    #[error("the image's index names another index where its manifest should be")]
    Nesting,
    /// More signature manifests than any image has.
    #[error("the image layout holds too many signatures of this image")]
    TooManySignatures,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    pub(super) fn of_blob(expected: &Expected, error: BlobError) -> Self {
        let digest = expected.digest.clone();
        match error {
            BlobError::Read(source) => {
                Self::ReadFile { file: format!("blobs/sha256/{}", digest.hex()), source }
            }
            BlobError::Size { found } => Self::Size { digest, announced: expected.size, found },
            BlobError::Digest { found } => Self::Digest { announced: digest, found },
            BlobError::Store(error) => Self::Store(error),
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Open { .. } => "give the directory that holds `index.json`, or a tar archive of it".into(),
            Self::NotALayout { found, .. } if found.starts_with("a directory") => {
                "give the directory that holds `index.json` and `oci-layout`; `skopeo copy SOURCE \
                 oci:DIRECTORY:latest` makes one"
                    .into()
            }
            Self::NotALayout { path, .. } => format!(
                "convert it, for example: skopeo copy docker-archive:{} oci:layout:latest",
                path.display()
            ),
            Self::MissingFile { .. } | Self::ReadFile { .. } | Self::Size { .. } | Self::Digest { .. } => {
                "the layout is incomplete or was damaged on its way; copy it again".into()
            }
            Self::Archive(_) => "make the archive with `tar -C LAYOUT -cf layout.tar .`".into(),
            Self::Document(error) => return error.hint(),
            Self::BlobTooLarge { .. } | Self::Nesting => {
                "the image was not made by a usual tool; ask whoever published it".into()
            }
            Self::TooManySignatures => format!(
                "take the `sha256-….sig` entries that you do not need out of the layout's `index.json`; \
                 {SIGNATURE_MANIFESTS_MAX} can stay"
            ),
            Self::Empty => "an image is an entry of `index.json` that is no signature".into(),
            Self::Ambiguous { .. } => {
                "give the image the tag that it has in the layout (--as NAME:TAG), or copy one image into a \
                 layout of its own"
                    .into()
            }
            Self::Platform { host, .. } => format!("get the image for {host}"),
            Self::Store(error) => return error.hint(),
        })
    }
}
