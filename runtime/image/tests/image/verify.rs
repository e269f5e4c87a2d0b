//! Who made it: signatures that hold, and every way in which they do not.
#![expect(clippy::disallowed_methods, reason = "tests make and damage files by their paths")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use palisade_image::verify::{SignatureArtifact, signature_artifact};
use palisade_image::{
    Digest, ImportError, KeyError, PrivateKey, Proof, PublicKey, SignError, SignedObject, Trust,
    VerifiedImage, VerifyError, VerifyRequest, keygen, sign, verify,
};
use serde_json::{Value, json};

use crate::support::{Fixture, digest, hello, image_name, trials};

trials![
    a_signed_image_verifies_with_its_key_and_no_other,
    any_of_several_keys_is_enough,
    an_unsigned_image_needs_a_reason,
    a_signature_of_another_image_is_refused,
    a_signature_that_comes_with_the_layout_counts,
    a_signature_of_the_index_speaks_for_its_manifest,
    the_pinned_digest_must_be_the_one_that_runs,
    junk_signatures_do_not_block_the_right_one,
    a_signature_that_cannot_be_read_is_skipped,
    a_payload_is_small_even_when_it_is_the_configuration,
    altered_payloads_and_signatures_are_refused,
    a_payload_of_another_type_is_refused,
    key_files_are_private_and_never_overwritten,
    the_config_is_given_as_written,
    a_policy_names_its_keys,
];

fn signed_by(fixture: &Fixture, name: &str, keys: &[&str]) -> Result<VerifiedImage, VerifyError> {
    let keys = keys.iter().map(|pem| PublicKey::from_pem(pem).unwrap()).collect();
    let request =
        VerifyRequest { name: &image_name(name), expected_digest: None, trust: Trust::SignedBy(keys) };
    verify(&fixture.store, &request)
}

fn key() -> (PrivateKey, String) {
    let key = PrivateKey::generate().unwrap();
    let pem = key.public().to_pem();
    (key, pem)
}

fn other() -> Builder {
    let files = LayerFiles::new().file("evil", 0o755, b"evil").unwrap();
    Builder::new(Runtime::default()).layer(files).unwrap()
}

fn a_signed_image_verifies_with_its_key_and_no_other() {
    let fixture = Fixture::new();
    let manifest = fixture.import(&hello(), "hello:1");
    let ((key, right), (_, wrong)) = (key(), key());
    assert!(matches!(signed_by(&fixture, "hello:1", &[&right]), Err(VerifyError::NoSignature { .. })));
    let signed = sign(&fixture.store, &image_name("hello:1"), &key).unwrap();
    assert_eq!(signed.manifest, manifest);
    let image = signed_by(&fixture, "hello:1", &[&right]).unwrap();
    let Proof::SignedByKey { key_fingerprint, signed: object, signature_manifest, .. } =
        &image.evidence().proof
    else {
        panic!("{:?}", image.evidence())
    };
    assert_eq!((key_fingerprint, *object), (key.public().fingerprint(), SignedObject::Manifest));
    assert_eq!(*signature_manifest, signed.signature_manifest);
    let error = signed_by(&fixture, "hello:1", &[&wrong]).unwrap_err();
    assert!(matches!(error, VerifyError::UntrustedKey { found: 1, .. }), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(fixture.store.ls().unwrap()[0].signatures, 1);
}

fn any_of_several_keys_is_enough() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "hello:1");
    let ((first, _), (second, second_pem), (_, third_pem)) = (key(), key(), key());
    for key in [&first, &second] {
        sign(&fixture.store, &image_name("hello:1"), key).unwrap();
    }
    signed_by(&fixture, "hello:1", &[&third_pem, &second_pem]).unwrap();
    assert!(signed_by(&fixture, "hello:1", &[&third_pem]).is_err());
    // Nobody is trusted: nothing is accepted.
    assert!(signed_by(&fixture, "hello:1", &[]).is_err());
}

fn an_unsigned_image_needs_a_reason() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "hello:1");
    let image = fixture.unsigned("hello:1");
    assert_eq!(image.evidence().proof, Proof::Unsigned { reason: "a test".into() });
    let evidence = serde_json::to_value(image.evidence()).unwrap();
    assert_eq!(evidence["proof"]["unsigned"]["reason"], "a test");
}

fn a_signature_of_another_image_is_refused() {
    let fixture = Fixture::new();
    let (key, pem) = key();
    let signed_digest = hello().manifest_digest().unwrap();
    let mut artifact = signature_artifact("example.org/hello", &signed_digest, &key).unwrap();
    // The control: at its own image it counts.
    fixture.import(&hello().signature(artifact.clone()), "hello:1");
    signed_by(&fixture, "hello:1", &[&pem]).unwrap();
    // Copied to the tag of another one.
    artifact.tag = format!("sha256-{}.sig", other().manifest_digest().unwrap().hex());
    fixture.import(&other().signature(artifact), "evil:1");
    let error = signed_by(&fixture, "evil:1", &[&pem]).unwrap_err();
    let VerifyError::OtherImage { signed, .. } = &error else { panic!("{error}") };
    assert_eq!(*signed, signed_digest);
}

fn a_signature_that_comes_with_the_layout_counts() {
    let fixture = Fixture::new();
    let (key, pem) = key();
    let artifact = signature_artifact("hello", &hello().manifest_digest().unwrap(), &key).unwrap();
    fixture.import(&hello().signature(artifact.clone()), "hello:1");
    signed_by(&fixture, "hello:1", &[&pem]).unwrap();
    // A signature for something else in the same layout is not taken along.
    let elsewhere =
        SignatureArtifact { tag: format!("sha256-{}.sig", digest(b"elsewhere").hex()), ..artifact };
    let second = Fixture::new();
    second.import(&hello().signature(elsewhere), "hello:1");
    assert!(matches!(signed_by(&second, "hello:1", &[&pem]), Err(VerifyError::NoSignature { .. })));
}

/// Wraps the image of a layout into an index; returns the index's digest.
fn wrap_into_index(layout: &std::path::Path) -> Digest {
    let top: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let mut entry = top["manifests"][0].clone();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    entry["platform"] = json!({ "os": "linux", "architecture": architecture });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] })).unwrap();
    let digest = digest(&index);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    let descriptor = json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest.to_string(), "size": index.len(),
    });
    let top = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(layout.join("index.json"), serde_json::to_vec(&top).unwrap()).unwrap();
    digest
}

fn a_signature_of_the_index_speaks_for_its_manifest() {
    let fixture = Fixture::new();
    let (key, pem) = key();
    let layout = fixture.path("layout");
    let manifest = hello().write(&layout).unwrap();
    let index = wrap_into_index(&layout);
    let artifact = signature_artifact("hello", &index, &key).unwrap();
    let mut top: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    for blob in [&artifact.manifest, &artifact.config, &artifact.payload] {
        fs::write(layout.join("blobs/sha256").join(digest(blob).hex()), blob).unwrap();
    }
    top["manifests"].as_array_mut().unwrap().push(json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&artifact.manifest).to_string(), "size": artifact.manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": artifact.tag },
    }));
    fs::write(layout.join("index.json"), serde_json::to_vec(&top).unwrap()).unwrap();
    fixture.store.import(&layout, &image_name("hello:1")).unwrap();
    let image = signed_by(&fixture, "hello:1", &[&pem]).unwrap();
    assert_eq!((image.manifest_digest(), image.evidence().index.as_ref()), (&manifest, Some(&index)));
    assert!(matches!(image.evidence().proof, Proof::SignedByKey { signed: SignedObject::Index, .. }));
    // Removing it removes the index and the signature as well.
    fixture.store.rm(&image_name("hello:1")).unwrap();
    assert_eq!(fixture.entries("blobs/sha256"), Vec::<String>::new());
    assert_eq!(fixture.entries("signatures"), Vec::<String>::new());
}

fn the_pinned_digest_must_be_the_one_that_runs() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    let manifest = hello().write(&layout).unwrap();
    let index = wrap_into_index(&layout);
    fixture.store.import(&layout, &image_name("hello:1")).unwrap();
    let pinned = |expected: Digest| {
        let trust = Trust::Unsigned { reason: "a test".into() };
        let name = image_name("hello:1");
        verify(&fixture.store, &VerifyRequest { name: &name, expected_digest: Some(expected), trust })
    };
    pinned(manifest).unwrap();
    pinned(index).unwrap();
    let error = pinned(digest(b"another")).unwrap_err();
    assert!(matches!(error, VerifyError::OtherDigest { .. }), "{error}");
}

/// The hello image with signatures by keys that nobody trusts.
fn with_junk(count: usize) -> Builder {
    let manifest = hello().manifest_digest().unwrap();
    (0..count)
        .fold(hello(), |image, _| image.signature(signature_artifact("hello", &manifest, &key().0).unwrap()))
}

fn junk_signatures_do_not_block_the_right_one() {
    let (key, pem) = key();
    let artifact = signature_artifact("hello", &hello().manifest_digest().unwrap(), &key).unwrap();
    // Signed here.
    let fixture = Fixture::new();
    fixture.import(&with_junk(16), "hello:1");
    assert!(matches!(
        signed_by(&fixture, "hello:1", &[&pem]),
        Err(VerifyError::UntrustedKey { found: 16, .. })
    ));
    sign(&fixture.store, &image_name("hello:1"), &key).unwrap();
    signed_by(&fixture, "hello:1", &[&pem]).unwrap();
    fixture.import(&with_junk(16), "hello:1");
    signed_by(&fixture, "hello:1", &[&pem]).unwrap();
    // Imported afterwards, alone and among more junk.
    for others in [0, 15] {
        let fixture = Fixture::new();
        fixture.import(&with_junk(16), "hello:1");
        fixture.import(&with_junk(others).signature(artifact.clone()), "hello:1");
        signed_by(&fixture, "hello:1", &[&pem]).unwrap();
        assert_eq!(fixture.store.ls().unwrap()[0].signatures, 16);
    }
    let layout = fixture.path("layout");
    with_junk(17).write(&layout).unwrap();
    let error = fixture.store.import(&layout, &image_name("hello:1")).unwrap_err();
    assert!(matches!(error, ImportError::TooManySignatures), "{error}");
    assert!(error.hint().unwrap().contains("16 can stay"));
    signed_by(&fixture, "hello:1", &[&pem]).unwrap();
    // There is a limit to what is made here, too, and its hint can be followed.
    while sign(&fixture.store, &image_name("hello:1"), &key).is_ok() {}
    assert!(matches!(sign(&fixture.store, &image_name("hello:1"), &key), Err(SignError::TooMany { .. })));
    fixture.store.rm(&image_name("hello:1")).unwrap();
    fixture.import(&with_junk(16), "hello:1");
    sign(&fixture.store, &image_name("hello:1"), &key).unwrap();
}

fn a_signature_that_cannot_be_read_is_skipped() {
    let manifest = hello().manifest_digest().unwrap();
    let ((good_key, pem), (bad_key, bad_pem)) = (key(), key());
    let good = signature_artifact("hello", &manifest, &good_key).unwrap();
    let bad = signature_artifact("elsewhere", &manifest, &bad_key).unwrap();
    for (damaged, contents) in [
        (&bad.payload, None),
        (&bad.payload, Some(vec![b' '; 100 * 1024])),
        (&bad.manifest, None),
        (&bad.manifest, Some(b"{}".to_vec())),
    ] {
        let fixture = Fixture::new();
        fixture.import(&hello().signature(bad.clone()).signature(good.clone()), "hello:1");
        signed_by(&fixture, "hello:1", &[&bad_pem]).unwrap();
        let path = fixture.path("store/blobs/sha256").join(digest(damaged).hex());
        match contents {
            Some(contents) => fs::write(path, contents).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        signed_by(&fixture, "hello:1", &[&pem]).unwrap();
        let error = signed_by(&fixture, "hello:1", &[&bad_pem]).unwrap_err();
        assert!(matches!(error, VerifyError::Unreadable { .. }), "{error}");
        assert!(error.hint().unwrap().contains("image sign hello:1"));
    }
    // In one manifest, before the one that counts.
    let layers = |artifact: &SignatureArtifact| {
        serde_json::from_slice::<Value>(&artifact.manifest).unwrap()["layers"][0].clone()
    };
    let mut both = good.clone();
    let mut document: Value = serde_json::from_slice(&good.manifest).unwrap();
    document["layers"] = json!([layers(&bad), layers(&good)]);
    both.manifest = serde_json::to_vec(&document).unwrap();
    let fixture = Fixture::new();
    fixture.import(&hello().signature(bad.clone()).signature(both), "hello:1");
    fs::remove_file(fixture.path("store/blobs/sha256").join(digest(&bad.payload).hex())).unwrap();
    signed_by(&fixture, "hello:1", &[&pem]).unwrap();
}

fn a_payload_is_small_even_when_it_is_the_configuration() {
    let manifest = hello().manifest_digest().unwrap();
    let import = |size: usize| {
        let fixture = Fixture::new();
        let mut artifact = signature_artifact("hello", &manifest, &key().0).unwrap();
        artifact.payload = vec![b' '; size];
        artifact.config.clone_from(&artifact.payload);
        let mut document: Value = serde_json::from_slice(&artifact.manifest).unwrap();
        for descriptor in ["/config", "/layers/0"] {
            let descriptor = document.pointer_mut(descriptor).unwrap();
            descriptor["digest"] = json!(digest(&artifact.payload).to_string());
            descriptor["size"] = json!(size);
        }
        artifact.manifest = serde_json::to_vec(&document).unwrap();
        let layout = fixture.path("layout");
        hello().signature(artifact).write(&layout).unwrap();
        fixture.store.import(&layout, &image_name("hello:1"))
    };
    import(64 * 1024).unwrap();
    let error = import(64 * 1024 + 1).unwrap_err();
    assert!(matches!(error, ImportError::BlobTooLarge { .. }), "{error}");
}

/// Where the signature is.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A change to a signature manifest and its payload.
type Change = dyn Fn(&mut Value, &mut Vec<u8>);

fn altered_payloads_and_signatures_are_refused() {
    let (key, pem) = key();
    let manifest = hello().manifest_digest().unwrap();
    let whole = signature_artifact("hello", &manifest, &key).unwrap();
    let check = |change: &Change| {
        let fixture = Fixture::new();
        let mut artifact = whole.clone();
        let mut document: Value = serde_json::from_slice(&artifact.manifest).unwrap();
        change(&mut document, &mut artifact.payload);
        document["layers"][0]["digest"] = json!(digest(&artifact.payload).to_string());
        document["layers"][0]["size"] = json!(artifact.payload.len());
        artifact.manifest = serde_json::to_vec(&document).unwrap();
        fixture.import(&hello().signature(artifact), "hello:1");
        signed_by(&fixture, "hello:1", &[&pem])
    };
    check(&|_, _| {}).unwrap();
    let untrusted: [&Change; 5] = [
        &|_, payload| payload.push(b' '),
        &|_, payload| payload[30] ^= 1,
        &|document, _| document["layers"][0]["annotations"][ANNOTATION] = json!(""),
        &|document, _| document["layers"][0]["annotations"][ANNOTATION] = json!("not base64!"),
        &|document, _| {
            let text = document["layers"][0]["annotations"][ANNOTATION].as_str().unwrap();
            // A bit in the middle of the DER, so that it stays base64.
            let mut text = text.as_bytes().to_vec();
            text[40] = if text[40] == b'A' { b'B' } else { b'A' };
            document["layers"][0]["annotations"][ANNOTATION] = json!(String::from_utf8(text).unwrap());
        },
    ];
    for change in untrusted {
        let error = check(change).unwrap_err();
        assert!(matches!(error, VerifyError::UntrustedKey { .. }), "{error}");
    }
    let unsigned: [&Change; 2] = [
        &|document, _| drop(document["layers"][0].as_object_mut().unwrap().remove("annotations")),
        &|document, _| document["layers"][0]["mediaType"] = json!("text/plain"),
    ];
    for change in unsigned {
        let error = check(change).unwrap_err();
        assert!(matches!(error, VerifyError::NoSignature { .. }), "{error}");
    }
}

/// Signs any payload with the libraries below, as somebody with the key and other plans could.
fn artifact_over(payload: &[u8], pkcs8: &[u8], manifest: &Digest) -> SignatureArtifact {
    use base64::Engine as _;
    let pair = sigstore_crypto::KeyPair::from_pkcs8_der(pkcs8).unwrap();
    let signature = base64::engine::general_purpose::STANDARD.encode(pair.sign(payload).unwrap().as_bytes());
    let config = b"{}".to_vec();
    let document = json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config).to_string(), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest(payload).to_string(), "size": payload.len(),
            "annotations": { "dev.cosignproject.cosign/signature": signature },
        }],
    });
    SignatureArtifact {
        tag: format!("sha256-{}.sig", manifest.hex()),
        manifest: serde_json::to_vec(&document).unwrap(),
        config,
        payload: payload.to_vec(),
    }
}

fn a_payload_of_another_type_is_refused() {
    let rng = aws_lc_rs::rand::SystemRandom::new();
    let scheme = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = aws_lc_rs::signature::EcdsaKeyPair::generate_pkcs8(scheme, &rng).unwrap();
    let pair = sigstore_crypto::KeyPair::from_pkcs8_der(pkcs8.as_ref()).unwrap();
    let pem = pair.public_key_der().unwrap().to_pem();
    let manifest = hello().manifest_digest().unwrap();
    let with_type = |kind: &str| {
        json!({
            "critical": {
                "identity": { "docker-reference": "hello" },
                "image": { "docker-manifest-digest": manifest.to_string() },
                "type": kind,
            },
            "optional": { "note": "annotations of the signer are fine" },
        })
        .to_string()
    };
    let check = |payload: &str| {
        let fixture = Fixture::new();
        let artifact = artifact_over(payload.as_bytes(), pkcs8.as_ref(), &manifest);
        fixture.import(&hello().signature(artifact), "hello:1");
        signed_by(&fixture, "hello:1", &[&pem])
    };
    check(&with_type("cosign container image signature")).unwrap();
    let error = check(&with_type("atomic container signature")).unwrap_err();
    assert!(matches!(error, VerifyError::PayloadType { .. }), "{error}");
    for malformed in [
        "not json",
        "{}",
        &with_type("cosign container image signature").replace("sha256:", "sha257:"),
        &with_type("cosign container image signature").replace("\"type\"", "\"type\":\"x\",\"type\""),
        &with_type("cosign container image signature").replace("\"identity\"", "\"unknown\":1,\"identity\""),
    ] {
        let error = check(malformed).unwrap_err();
        assert!(matches!(error, VerifyError::Payload { .. }), "{malformed}: {error}");
    }
}

fn key_files_are_private_and_never_overwritten() {
    let fixture = Fixture::new();
    let (private, public) = (fixture.path("k.key"), fixture.path("k.pub"));
    let made = keygen(&private, &public).unwrap();
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(PublicKey::read(&public).unwrap().fingerprint(), made.fingerprint());
    assert_eq!(PrivateKey::read(&private).unwrap().public().fingerprint(), made.fingerprint());
    let before = fs::read(&private).unwrap();
    for (private, public) in [(&private, &fixture.path("new.pub")), (&fixture.path("new.key"), &public)] {
        let error = keygen(private, public).unwrap_err();
        assert!(
            matches!(&error, KeyError::Write { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
        );
        assert!(error.hint().unwrap().contains("never overwritten"));
    }
    assert!(!fixture.path("new.key").is_file() && !fixture.path("new.pub").is_file());
    assert_eq!(fs::read(&private).unwrap(), before);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(PrivateKey::read(&private), Err(KeyError::Exposed { mode: 0o640, .. })));
    let pem = fs::read_to_string(&public).unwrap();
    assert!(matches!(PrivateKey::from_pem(&pem), Err(KeyError::Private)));
    let encrypted =
        "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----";
    assert!(matches!(PrivateKey::from_pem(encrypted), Err(KeyError::Encrypted)));
    assert!(matches!(PublicKey::from_pem(&String::from_utf8(before).unwrap()), Err(KeyError::Public { .. })));
}

fn the_config_is_given_as_written() {
    let fixture = Fixture::new();
    let runtime = Runtime {
        entrypoint: vec!["/bin/node".into(), "server.js".into()],
        cmd: vec!["--stdio".into()],
        env: vec![("PATH".into(), "/bin".into()), ("A".into(), "b=c".into())],
        working_dir: "/app".into(),
        user: "node:node".into(),
    };
    let files = LayerFiles::new().file("bin/node", 0o755, b"x").unwrap();
    fixture.import(&Builder::new(runtime.clone()).layer(files).unwrap(), "app:1");
    assert_eq!(*fixture.unsigned("app:1").config(), runtime);
}

fn a_policy_names_its_keys() {
    use palisade_policy::{ImageTrust, KeySource, Signer, Tlog};
    let fixture = Fixture::new();
    let (key, pem) = key();
    let other = PrivateKey::generate().unwrap();
    fs::write(fixture.path("release.pub"), &pem).unwrap();
    let signer = |key| Signer::Key { key, tlog: Tlog::Optional };
    let trust = |signers: Vec<Signer>| Trust::of_policy(&ImageTrust::SignedBy(signers), fixture.dir.path());
    let both =
        vec![signer(KeySource::Pem(other.public().to_pem())), signer(KeySource::File("release.pub".into()))];
    let Trust::SignedBy(keys) = trust(both).unwrap() else { panic!() };
    let found: Vec<_> = keys.iter().map(PublicKey::fingerprint).collect();
    assert_eq!(found, [other.public().fingerprint(), key.public().fingerprint()]);
    let missing = trust(vec![signer(KeySource::File("absent.pub".into()))]);
    let Err(error @ KeyError::Read { .. }) = missing else { panic!() };
    assert!(error.hint().unwrap().contains("image.signed_by"));
    let Err(error) = PrivateKey::read(&fixture.path("absent.key")) else { panic!() };
    assert!(error.hint().unwrap().contains("keygen"));
}
