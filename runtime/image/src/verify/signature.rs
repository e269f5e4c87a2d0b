//! Which of the signatures found, if any, speaks for the image.

use palisade_policy::Digest;

use super::payload::{PayloadFault, signed_digest};
use super::{Proof, PublicKey, SignedObject, VerifyError};
use crate::ImageName;
use crate::store::Record;

/// One signature and the payload that it is said to be over.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The signature manifest that holds it.
    pub(super) manifest: Digest,
    pub(super) payload_digest: Digest,
    pub(super) payload: Vec<u8>,
    /// Base64, as annotated.
    pub(super) signature: String,
}

/// Why one candidate does not count. Ordered: the last is the most telling one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// No trusted key made it.
    Untrusted,
    /// A trusted key made it, and it says nothing that we understand.
    Malformed,
    /// A trusted key made it for another purpose.
    OtherType(String),
    /// A trusted key made it for another image.
    OtherImage(Digest),
}

/// Takes the first candidate that holds; otherwise says what was wrong with the best of them.
pub(super) fn accept(
    record: &Record,
    name: &ImageName,
    candidates: &[Candidate],
    keys: &[PublicKey],
) -> Result<Proof, VerifyError> {
    let mut worst_first = Vec::new();
    for candidate in candidates {
        match judge(record, candidate, keys) {
            Ok(proof) => return Ok(proof),
            Err(fault) => worst_first.push(fault),
        }
    }
    let name = name.to_string();
    let manifest = record.manifest.clone();
    Err(match worst_first.into_iter().max() {
        None => VerifyError::NoSignature { name, manifest },
        Some(Fault::Untrusted) => {
            let fingerprints = keys.iter().map(PublicKey::fingerprint).cloned().collect();
            VerifyError::UntrustedKey { name, found: candidates.len(), keys: fingerprints }
        }
        Some(Fault::Malformed) => VerifyError::Payload { name },
        Some(Fault::OtherType(found)) => VerifyError::PayloadType { name, found },
        Some(Fault::OtherImage(signed)) => VerifyError::OtherImage { name, manifest, signed },
    })
}

fn judge(record: &Record, candidate: &Candidate, keys: &[PublicKey]) -> Result<Proof, Fault> {
    // The signature first: what an unknown key says is not parsed.
    let signed_by = keys.iter().find(|key| key.has_signed(&candidate.payload, &candidate.signature));
    let key = signed_by.ok_or(Fault::Untrusted)?;
    let digest = signed_digest(&candidate.payload).map_err(|fault| match fault {
        PayloadFault::Malformed => Fault::Malformed,
        PayloadFault::Type(found) => Fault::OtherType(found),
    })?;
    let signed = if digest == record.manifest {
        SignedObject::Manifest
    } else if Some(&digest) == record.index.as_ref() {
        SignedObject::Index
    } else {
        return Err(Fault::OtherImage(digest));
    };
    Ok(Proof::SignedByKey {
        key_fingerprint: key.fingerprint().clone(),
        signed,
        payload: candidate.payload_digest.clone(),
        signature_manifest: candidate.manifest.clone(),
    })
}

#[cfg(test)]
mod tests;
