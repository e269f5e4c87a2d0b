use super::*;

#[test]
fn a_private_key_round_trips_through_pem() {
    let document = generate_pkcs8().unwrap();
    let pem = private_pem(document.as_ref());
    assert!(pem.lines().all(|line| line.len() <= PEM_LINE));
    let key = PrivateKey::from_pem(&pem).unwrap();
    let signature = key.sign(b"message").unwrap();
    assert!(key.public().has_signed(b"message", &signature));
    assert!(!key.public().has_signed(b"massage", &signature));
    let public = PublicKey::from_pem(&key.public().to_pem()).unwrap();
    assert!(public.has_signed(b"message", &signature));
}

#[test]
fn other_keys_are_refused() {
    // P-384, and Ed25519: sound keys that nobody promised to check.
    for pem in [
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
        "",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(matches!(PublicKey::from_pem(pem), Err(KeyError::Public { .. })), "{pem}");
    }
}

#[test]
fn a_public_key_shows_its_fingerprint_only() {
    let key = PrivateKey::generate().unwrap();
    assert!(format!("{:?}", key.public()).starts_with("PublicKey(Digest("));
}
