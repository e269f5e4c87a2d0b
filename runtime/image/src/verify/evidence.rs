//! What a verification proved, for the audit log and for `image verify`.

use palisade_policy::Digest;
use serde::Serialize;

/// Why an image is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The manifest that is run.
    pub manifest: Digest,
    /// The index that it was chosen from.
    pub index: Option<Digest>,
    /// What speaks for it.
    pub proof: Proof,
}

/// What speaks for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A trusted key signed it.
    SignedByKey {
        /// SHA-256 of the key's `SubjectPublicKeyInfo` in DER.
        key_fingerprint: Digest,
        /// What the key signed: the index or the manifest itself.
        signed: SignedObject,
        /// The signed payload.
        payload: Digest,
        /// The signature manifest that held it.
        signature_manifest: Digest,
    },
    /// Nobody: the policy accepts it unsigned.
    Unsigned {
        /// Why, in the policy author's words.
        reason: String,
    },
}

/// Which of an image's digests a signature names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignedObject {
    /// The manifest that is run.
    Manifest,
    /// The index that the manifest was chosen from.
    Index,
}
