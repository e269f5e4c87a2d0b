//! The simple-signing payload: what a signature is over.
//!
//! Format: the containers/image project's "atomic container signature", in the form that cosign uses
//! (cosign `specs/SIGNATURE_SPEC.md`, "Payloads").

use palisade_policy::Digest;
use serde::{Deserialize, Serialize};

/// The only type of payload that speaks for an image.
pub(super) const PAYLOAD_TYPE: &str = "cosign container image signature";

#[derive(Serialize, Deserialize)]
struct Payload {
    critical: Critical,
    optional: Option<serde_json::Value>,
}

/// "Critical" means that a reader must understand all of it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    payload_type: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: String,
}

/// Why a payload says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PayloadFault {
    /// Not of the right shape.
    Malformed,
    /// Of another type.
    Type(String),
}

/// The digest that a payload speaks about.
pub(super) fn signed_digest(bytes: &[u8]) -> Result<Digest, PayloadFault> {
    let malformed = |_reason| PayloadFault::Malformed;
    let payload: Payload = serde_json::from_slice(bytes).map_err(malformed)?;
    if payload.critical.payload_type != PAYLOAD_TYPE {
        return Err(PayloadFault::Type(payload.critical.payload_type));
    }
    #[expect(clippy::map_err_ignore, reason = "whatever is wrong with it, it is no digest")]
    payload.critical.image.docker_manifest_digest.parse().map_err(|_| PayloadFault::Malformed)
}

/// The payload for an image, byte for byte as cosign writes it.
pub(super) fn payload_for(repository: &str, digest: &Digest) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Payload {
        critical: Critical {
            identity: Identity { docker_reference: repository.into() },
            image: Image { docker_manifest_digest: digest.to_string() },
            payload_type: PAYLOAD_TYPE.into(),
        },
        optional: None,
    })
}
