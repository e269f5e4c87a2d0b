//! What can go wrong with verifying, signing and keys.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use palisade_policy::Digest;

use crate::document::DocumentError;
use crate::shown::Shown;
use crate::store::StoreError;

/// Why an image is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The policy pins another digest.
    #[error("the image {} is {found}, but the policy allows only {expected}", Shown(.name))]
    OtherDigest {
        /// The image's name.
        name: String,
        /// As pinned.
        expected: Digest,
        /// As stored under the name.
        found: Digest,
    },
    /// There is nothing to verify.
    #[error("the image {} ({manifest}) is not signed", Shown(.name))]
    NoSignature {
        /// The image's name.
        name: String,
        /// Its manifest.
        manifest: Digest,
    },
    /// Signatures, but by nobody that the policy trusts, or over other bytes.
    #[error("none of the {found} signatures of the image {} was made by a key that the policy trusts", Shown(.name))]
    UntrustedKey {
        /// The image's name.
        name: String,
        /// Signatures found.
        found: usize,
        /// Fingerprints of the trusted keys.
        keys: Vec<Digest>,
    },
    /// A trusted key signed something else, and somebody put that signature here.
    #[error("the signature of the image {} ({manifest}) was made for another image, {signed}", Shown(.name))]
    OtherImage {
        /// The image's name.
        name: String,
        /// What would be run.
        manifest: Digest,
        /// What was signed.
        signed: Digest,
    },
    /// A trusted key signed a payload of another type.
    #[error("the signature of the image {} is over a {}, not over a container image", Shown(.name), Shown(.found))]
    PayloadType {
        /// The image's name.
        name: String,
        /// The payload's type.
        found: String,
    },
    /// A trusted key signed something that is no payload.
    #[error("the signed payload of the image {} is not readable", Shown(.name))]
    Payload {
        /// The image's name.
        name: String,
    },
    /// A signature that could have counted cannot be read, and no other one counts.
    #[error("a signature of the image {} cannot be read, and no other was made by a trusted key", Shown(.name))]
    Unreadable {
        /// The image's name.
        name: String,
        /// What is wrong with the first such signature.
        #[source]
        source: Box<VerifyError>,
    },
    /// The index that the manifest is said to come from does not name it.
    #[error("the index {index} does not name the manifest {manifest}")]
    NotInIndex {
        /// What would be run.
        manifest: Digest,
        /// The index.
        index: Digest,
    },
    /// A document of the image or of its signature is refused.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl VerifyError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::OtherDigest { .. } => {
                "import the image that the policy pins, or review this one and change `image.digest`".into()
            }
            Self::NoSignature { name, .. } => format!(
                "import it together with its signature, sign it with `palisade image sign {name} --key KEY`, or \
                 say in its policy why it may run unsigned: `unsigned: \"<reason>\"`"
            ),
            Self::UntrustedKey { keys, .. } => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                format!("the policy trusts the keys {}; compare with the publisher's", keys.join(", "))
            }
            Self::OtherImage { .. } => {
                "somebody copied a signature from one image to another: do not run it; get the image again from \
                 its publisher"
                    .into()
            }
            Self::PayloadType { .. } | Self::Payload { .. } => {
                "only signatures of container images count (`cosign sign`, `palisade image sign`)".into()
            }
            Self::Unreadable { name, .. } => format!(
                "import the image again with its signature, or sign it with `palisade image sign {name} --key KEY`"
            ),
            Self::NotInIndex { .. } => "import the image again".into(),
            Self::Document(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
        })
    }
}

/// Why an image could not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signature's own documents could not be written down.
    #[error("the signature could not be encoded")]
    Encode(#[source] serde_json::Error),
    /// The image already has as many signatures as are kept.
    #[error("the image {} has as many signatures as are kept for one image", Shown(.name))]
    TooMany {
        /// The image's name.
        name: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SignError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::TooMany { .. } => {
                Some(
                    "remove the image (every name of it) with `palisade image rm`, which forgets its signatures, and \
                     import it again"
                        .into(),
                )
            }
            // Our own data always encodes.
            Self::Encode(_) => None,
        }
    }
}

/// Why a key cannot be used or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key file {} cannot be read", Shown(&.path.to_string_lossy()))]
    Read {
        /// As the person wrote it.
        path: PathBuf,
        /// Whether a public key was expected in it.
        is_public: bool,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file cannot be made.
    #[error("the key file {} cannot be written", Shown(&.path.to_string_lossy()))]
    Write {
        /// As the person wrote it.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Others can read the private key.
    #[error("the private key {} can be read by others (mode {mode:04o})", Shown(&.path.to_string_lossy()))]
    Exposed {
        /// As the person wrote it.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a usable public key.
    #[error("the public key is not an ECDSA P-256 key in PEM")]
    Public {
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Not a usable private key. What is wrong with it is not said: it is a secret.
    #[error("the private key is not an ECDSA P-256 key in PEM (PKCS #8)")]
    Private,
    /// A private key under a password.
    #[error("the private key is encrypted")]
    Encrypted,
    /// No key could be made.
    #[error("the cryptographic library could not make a key")]
    Generate,
    /// The library refused to sign.
    #[error("the cryptographic library could not sign")]
    Sign {
        /// Its reason.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl KeyError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { is_public: true, .. } => {
                "the policy names it in `image.signed_by`, relative to the policy file's directory: correct the \
                 path, or put the publisher's public key there"
                    .into()
            }
            Self::Read { .. } => "`palisade image keygen` makes a pair of keys".into(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                "a key is never overwritten: choose another name, or move the old one away".into()
            }
            Self::Write { .. } => "choose a directory that you can write to".into(),
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Public { .. } => {
                "give the file that `palisade image keygen` or `cosign generate-key-pair` wrote as .pub".into()
            }
            Self::Private | Self::Encrypted => {
                "`palisade image keygen` makes a suitable key; keys that cosign encrypted with a password are not \
                 supported"
                    .into()
            }
            Self::Generate | Self::Sign { .. } => "the random number source of the system may be missing".into(),
        })
    }
}
