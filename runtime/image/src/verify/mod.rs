//! Who made an image: from a name and what the policy trusts to a [`VerifiedImage`].
//!
//! The format is cosign's "simple signing" with keys: beside an image with the manifest
//! `sha256:<hex>` lies a manifest under the tag `sha256-<hex>.sig`, each layer of which is a JSON
//! payload that names the signed digest, with an ECDSA P-256 signature of that payload as an
//! annotation.
//!
//! The attacker considered can replace any blob, copy the signatures of one image to another, and
//! offer an image that was signed for another purpose. So, in this order: the signature must hold under
//! a trusted key over exactly the stored bytes of the payload; the payload must be of cosign's type; and
//! the digest in it must be the one that is run (or of the index that it was chosen from, and then the
//! index must name it).
//!
//! Deliberately absent: the transparency log (a policy must say `tlog: optional`, and entries that are
//! there are not looked at), certificates, and other signature formats. They come as further modules
//! here, with the same result type.
//!
//! Signature arithmetic is `sigstore-crypto`'s; only `key` talks to it.

mod error;
mod evidence;
mod key;
mod payload;
mod sign;
mod signature;

use std::path::Path;

use palisade_policy::{Digest, ImageTrust, KeySource, Signer, Tlog};

pub use error::{KeyError, SignError, VerifyError};
pub use evidence::{Evidence, Proof, SignedObject};
pub use key::{PrivateKey, PublicKey, keygen};
pub use sign::{SignatureArtifact, Signed, sign, signature_artifact};
use signature::Candidate;

use crate::document::{Configuration, Layer, Manifest, SignatureManifest, parse_index};
use crate::limits::{DOCUMENT_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::store::Record;
use crate::{ImageConfig, ImageName, Store};

/// What a policy asks of an image.
#[derive(Debug)]
pub struct VerifyRequest<'a> {
    /// Which image.
    pub name: &'a ImageName,
    /// The digest that the policy pins: of the manifest, or of the index that it was chosen from.
    pub expected_digest: Option<Digest>,
    /// Who may have made it.
    pub trust: Trust,
}

/// Who may have made an image.
#[derive(Debug)]
pub enum Trust {
    /// The holder of any one of these keys.
    SignedBy(Vec<PublicKey>),
    /// Anybody, for the reason that the policy gives.
    Unsigned {
        /// In the policy author's words; it goes to the audit log.
        reason: String,
    },
}

impl Trust {
    /// What a policy says, with the keys that it names read. Relative key files are relative to
    /// `policy_dir`, the folder of the policy file.
    pub fn of_policy(trust: &ImageTrust, policy_dir: &Path) -> Result<Self, KeyError> {
        let key = |signer: &Signer| match signer {
            Signer::Key { key: KeySource::File(path), tlog: Tlog::Optional } => {
                PublicKey::read(&policy_dir.join(path))
            }
            Signer::Key { key: KeySource::Pem(pem), tlog: Tlog::Optional } => PublicKey::from_pem(pem),
        };
        Ok(match trust {
            ImageTrust::SignedBy(signers) => {
                Self::SignedBy(signers.iter().map(key).collect::<Result<_, _>>()?)
            }
            ImageTrust::Unsigned { reason } => Self::Unsigned { reason: reason.clone() },
        })
    }
}

/// An image that its policy accepts, and why.
///
/// Only [`verify()`] makes one:
///
/// ```compile_fail
/// let image = palisade_image::VerifiedImage { evidence: todo!(), layers: todo!(), config: todo!() };
/// ```
#[derive(Debug)]
pub struct VerifiedImage {
    evidence: Evidence,
    layers: Vec<VerifiedLayer>,
    config: ImageConfig,
}

/// A layer that belongs to a verified image.
#[derive(Debug)]
pub(crate) struct VerifiedLayer {
    pub(crate) packed: Layer,
    /// The digest of the unpacked archive.
    pub(crate) diff_id: Digest,
}

impl VerifiedImage {
    /// What was proved.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The manifest that is run.
    pub fn manifest_digest(&self) -> &Digest {
        &self.evidence.manifest
    }

    /// What the image says about how it is run.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    pub(crate) fn into_parts(self) -> (Evidence, Vec<VerifiedLayer>, ImageConfig) {
        (self.evidence, self.layers, self.config)
    }
}

/// Verifies an image in the store as a policy asks.
pub fn verify(store: &Store, request: &VerifyRequest<'_>) -> Result<VerifiedImage, VerifyError> {
    let _lock = store.lock_shared()?;
    let record = store.record(request.name)?;
    check_pinned(&record, request)?;
    check_index_names_manifest(store, &record)?;
    let proof = match &request.trust {
        Trust::SignedBy(keys) => check_signed(store, &record, request.name, keys)?,
        Trust::Unsigned { reason } => Proof::Unsigned { reason: reason.clone() },
    };
    // Nothing of the image itself is parsed before this point but, for its entries, the index.
    let manifest = Manifest::parse(&store.read_blob(&record.manifest, DOCUMENT_BYTES_MAX)?, None)?;
    let config = Configuration::parse(&store.read_blob(&manifest.config.digest, DOCUMENT_BYTES_MAX)?)?;
    config.check_against(&manifest)?;
    let layers = manifest.layers.into_iter().zip(config.diff_ids);
    Ok(VerifiedImage {
        evidence: Evidence { manifest: record.manifest, index: record.index, proof },
        layers: layers.map(|(packed, diff_id)| VerifiedLayer { packed, diff_id }).collect(),
        config: config.image,
    })
}

fn check_pinned(record: &Record, request: &VerifyRequest<'_>) -> Result<(), VerifyError> {
    match &request.expected_digest {
        Some(expected) if !record.digests().any(|digest| digest == expected) => {
            Err(VerifyError::OtherDigest {
                name: request.name.to_string(),
                expected: expected.clone(),
                found: record.manifest.clone(),
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// A signature of an index speaks for a manifest only if the index names it.
fn check_index_names_manifest(store: &Store, record: &Record) -> Result<(), VerifyError> {
    let Some(index) = &record.index else { return Ok(()) };
    let entries = parse_index(&store.read_blob(index, DOCUMENT_BYTES_MAX)?, None)?;
    if entries.iter().any(|entry| entry.blob.digest == record.manifest) {
        return Ok(());
    }
    Err(VerifyError::NotInIndex { manifest: record.manifest.clone(), index: index.clone() })
}

fn check_signed(
    store: &Store,
    record: &Record,
    name: &ImageName,
    keys: &[PublicKey],
) -> Result<Proof, VerifyError> {
    let mut found = Found::default();
    for subject in record.digests() {
        for manifest in store.signatures(subject)? {
            if let Err(error) = found.read(store, &manifest) {
                found.not_readable(&manifest, error);
            }
        }
    }
    match (signature::accept(record, name, &found.candidates, keys), found.unreadable) {
        (Err(VerifyError::NoSignature { .. } | VerifyError::UntrustedKey { .. }), Some(error)) => {
            Err(VerifyError::Unreadable { name: name.to_string(), source: Box::new(error) })
        }
        (accepted, _) => accepted,
    }
}

/// The signatures of an image. One that cannot be read must not stand in the way of one that counts:
/// anybody who can write to a registry can add one.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    /// The first one that could not be read.
    unreadable: Option<VerifyError>,
}

impl Found {
    /// The signatures in one signature manifest, with the payloads that they are over.
    fn read(&mut self, store: &Store, manifest: &Digest) -> Result<(), VerifyError> {
        let parsed = SignatureManifest::parse(&store.read_blob(manifest, DOCUMENT_BYTES_MAX)?)?;
        for layer in parsed.layers {
            let Some(signature) = layer.signature else { continue };
            if layer.media_type != crate::document::SIMPLE_SIGNING {
                continue;
            }
            match store.read_blob(&layer.blob.digest, PAYLOAD_BYTES_MAX) {
                Ok(payload) => self.candidates.push(Candidate {
                    manifest: manifest.clone(),
                    payload_digest: layer.blob.digest,
                    payload,
                    signature,
                }),
                Err(error) => self.not_readable(manifest, error.into()),
            }
        }
        Ok(())
    }

    fn not_readable(&mut self, manifest: &Digest, error: VerifyError) {
        tracing::debug!(%manifest, %error, "a signature is skipped");
        self.unreadable.get_or_insert(error);
    }
}
