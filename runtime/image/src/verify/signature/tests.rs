//! Signatures that the real cosign made (`tests/vectors`: version 2, by key, with a log entry, which a
//! policy with `tlog: optional` does not need).

use super::*;
use crate::document::SignatureManifest;

const K2: &str = include_str!("../../../tests/vectors/k2.pub");
const K3: &str = include_str!("../../../tests/vectors/k3.pub");
const MANIFEST: &[u8] = include_bytes!("../../../tests/vectors/v-k2key.sigmanifest.json");
const PAYLOAD: &[u8] = include_bytes!("../../../tests/vectors/v-k2key.payload.json");
const SUBJECT: &str = "sha256:f8a91f6529830b0fc6e63b4d14cb7d151e100cbd5b06dcab98b4439e21dec0e3";

fn candidate(payload: &[u8]) -> Candidate {
    let manifest = SignatureManifest::parse(MANIFEST).unwrap();
    let layer = &manifest.layers[0];
    assert_eq!(layer.media_type, crate::document::SIMPLE_SIGNING);
    Candidate {
        manifest: crate::digest::sha256(MANIFEST),
        payload_digest: layer.blob.digest.clone(),
        payload: payload.to_vec(),
        signature: layer.signature.clone().unwrap(),
    }
}

fn accepted(subject: &str, payload: &[u8], keys: &[&str]) -> Result<Proof, VerifyError> {
    let record = Record { manifest: subject.parse().unwrap(), index: None };
    let keys: Vec<PublicKey> = keys.iter().map(|pem| PublicKey::from_pem(pem).unwrap()).collect();
    accept(&record, &"k2key:1".parse().unwrap(), &[candidate(payload)], &keys)
}

#[test]
fn cosign_by_key_verifies() {
    let proof = accepted(SUBJECT, PAYLOAD, &[K3, K2]).unwrap();
    let Proof::SignedByKey { key_fingerprint, signed, payload, .. } = proof else { panic!("{proof:?}") };
    assert_eq!(&key_fingerprint, PublicKey::from_pem(K2).unwrap().fingerprint());
    assert_eq!((signed, payload), (SignedObject::Manifest, crate::digest::sha256(PAYLOAD)));
}

#[test]
fn and_fails_after_each_single_change() {
    assert!(matches!(accepted(SUBJECT, PAYLOAD, &[K3]), Err(VerifyError::UntrustedKey { .. })));
    for position in 0..PAYLOAD.len() {
        let mut altered = PAYLOAD.to_vec();
        altered[position] ^= 1;
        let refused = accepted(SUBJECT, &altered, &[K2]);
        assert!(matches!(refused, Err(VerifyError::UntrustedKey { .. })), "byte {position}");
    }
    let other = SUBJECT.replace('f', "e");
    let Err(VerifyError::OtherImage { signed, .. }) = accepted(&other, PAYLOAD, &[K2]) else { panic!() };
    assert_eq!(signed.to_string(), SUBJECT);
}

#[test]
fn our_payload_is_cosigns_byte_for_byte() {
    let ours = super::super::payload::payload_for("127.0.0.1:5056/k2key", &SUBJECT.parse().unwrap()).unwrap();
    assert_eq!(ours, PAYLOAD);
}
