//! Signing an image in the store, as `cosign sign --key` would.

use palisade_policy::Digest;
use serde::Serialize;
use serde_json::json;

use super::payload::payload_for;
use super::{PrivateKey, SignError};
use crate::digest::sha256;
use crate::document::{OCI_CONFIG, OCI_MANIFEST, SIGNATURE_ANNOTATION, SIMPLE_SIGNING};
use crate::limits::SIGNATURE_MANIFESTS_MAX;
use crate::{ImageName, Store};

/// What signing stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// The manifest that was signed.
    pub manifest: Digest,
    /// The signature manifest.
    pub signature_manifest: Digest,
    /// The key's fingerprint.
    pub key_fingerprint: Digest,
}

/// A signature as cosign stores it in a registry: a manifest under the tag `sha256-<hex>.sig`, and the
/// two blobs that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureArtifact {
    /// `sha256-<hex>.sig`.
    pub tag: String,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its configuration.
    pub config: Vec<u8>,
    /// The signed payload.
    pub payload: Vec<u8>,
}

/// Signs the manifest that `name` means, and stores the signature where [`super::verify()`] finds it.
pub fn sign(store: &Store, name: &ImageName, key: &PrivateKey) -> Result<Signed, SignError> {
    let _lock = store.lock_shared()?;
    let record = store.record(name)?;
    if store.own_signatures(&record.manifest)? >= SIGNATURE_MANIFESTS_MAX {
        return Err(SignError::TooMany { name: name.to_string() });
    }
    let artifact = signature_artifact(name.repository(), &record.manifest, key)?;
    let staging = store.stage()?;
    for blob in [&artifact.config, &artifact.payload] {
        store.put_bytes(&staging, blob)?;
    }
    let manifest = store.put_bytes(&staging, &artifact.manifest)?;
    store.add_own_signature(&record.manifest, &manifest.digest)?;
    Ok(Signed {
        manifest: record.manifest,
        signature_manifest: manifest.digest,
        key_fingerprint: key.public().fingerprint().clone(),
    })
}

/// Makes the signature of a manifest, without storing it.
pub fn signature_artifact(
    repository: &str,
    manifest: &Digest,
    key: &PrivateKey,
) -> Result<SignatureArtifact, SignError> {
    let payload = payload_for(repository, manifest).map_err(SignError::Encode)?;
    let signature = key.sign(&payload)?;
    // What cosign writes: an image configuration with the payload in the place of a layer.
    let config = serde_json::to_vec(&json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z",
        "history": [{ "created": "0001-01-01T00:00:00Z" }], "os": "",
        "rootfs": { "type": "layers", "diff_ids": [sha256(&payload).to_string()] }, "config": {},
    }))
    .map_err(SignError::Encode)?;
    let layer = json!({
        "mediaType": SIMPLE_SIGNING, "size": payload.len(), "digest": sha256(&payload).to_string(),
        "annotations": { SIGNATURE_ANNOTATION: signature },
    });
    let document = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "size": config.len(), "digest": sha256(&config).to_string() },
        "layers": [layer],
    }))
    .map_err(SignError::Encode)?;
    Ok(SignatureArtifact {
        tag: format!("sha256-{}.sig", manifest.hex()),
        manifest: document,
        config,
        payload,
    })
}
