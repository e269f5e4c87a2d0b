use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn docker_documents_are_read_like_oci_ones() {
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}",
            "config":{{"mediaType":"{DOCKER_CONFIG}","size":7,"digest":"{DIGEST}"}},
            "layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":9,"digest":"{DIGEST}"}}]}}"#
    );
    let parsed = Manifest::parse(manifest.as_bytes(), Some(DOCKER_MANIFEST)).unwrap();
    assert_eq!(parsed.layers[0].compression, Compression::Gzip);
    assert_eq!(parsed.blobs().map(|blob| blob.size).sum::<u64>(), 16);
    assert!(matches!(
        Manifest::parse(manifest.as_bytes(), Some(OCI_MANIFEST)),
        Err(DocumentError::MediaType { .. })
    ));
}

#[test]
fn an_index_is_no_manifest_and_a_manifest_no_index() {
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    assert!(parse_index(index.as_bytes(), None).unwrap().is_empty());
    assert!(Manifest::parse(index.as_bytes(), None).is_err());
    let both = r#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#;
    assert!(matches!(parse_index(both.as_bytes(), None), Err(DocumentError::Confused { .. })));
    assert!(matches!(Manifest::parse(both.as_bytes(), None), Err(DocumentError::Confused { .. })));
}

#[test]
fn deep_and_long_documents_are_refused_not_followed() {
    let deep = format!("{}{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
    assert!(matches!(parse_index(deep.as_bytes(), None), Err(DocumentError::Json { .. })));
    let entry = format!(r#"{{"mediaType":"{OCI_MANIFEST}","size":1,"digest":"{DIGEST}"}}"#);
    let long = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![entry; 1025].join(","));
    assert!(matches!(parse_index(long.as_bytes(), None), Err(DocumentError::TooMany { .. })));
}

#[test]
fn every_refusal_has_a_hint() {
    assert!(Manifest::parse(b"{", None).unwrap_err().hint().is_some());
    assert!(DocumentError::Foreign.hint().is_some());
}

#[test]
fn the_parsers_messages_are_escaped() {
    let raw: serde_json::Error = serde::de::Error::custom("unknown variant `\u{1b}[2J`");
    assert_eq!(escaped(&raw).to_string(), "unknown variant `\\u{1b}[2J`");
    let cause = |document: &[u8]| match parse_index(document, None) {
        Err(DocumentError::Json { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    };
    let descriptor =
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"a","size":1,"digest":"sha256:\u001b[2J"}]}"#;
    for document in [descriptor.as_bytes(), b"{\"\x1b\":1}", b"{\"schemaVersion\":\"\\u001b[2J\"}"] {
        let cause = cause(document);
        assert!(!cause.is_empty() && !cause.contains(char::is_control), "{cause:?}");
    }
}
