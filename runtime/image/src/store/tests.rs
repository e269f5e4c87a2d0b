#![expect(clippy::disallowed_methods, reason = "tests make files by their paths")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn directories_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/store");
    drop(Store::open(&path).unwrap());
    for name in ["", "blobs", "blobs/sha256", "names", "signatures", "rootfs", "locks", "tmp"] {
        assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o700, "{name}");
    }
    assert_eq!(fs::read(path.join("format")).unwrap(), FORMAT);
}

#[test]
fn a_store_that_others_can_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Writable { .. }), "{error}");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(dir.path()).unwrap());
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("format"), "palisade-store 2\n").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Format { .. })));
}

#[test]
fn what_the_dead_left_is_swept_and_what_the_living_make_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let living = store.stage().unwrap();
    fs::create_dir_all(dir.path().join("tmp/dead/deep")).unwrap();
    fs::write(dir.path().join("tmp/dead/deep/file"), "x").unwrap();
    fs::write(dir.path().join("tmp/file"), "x").unwrap();
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(store.tmp.entries().unwrap().len(), 1);
    drop(living.dir().create_file(Path::new("still-there"), 0o600).unwrap());
    drop(living);
    assert_eq!(store.tmp.entries().unwrap().len(), 0);
}

#[test]
fn a_blob_is_published_only_when_size_and_digest_match() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let staging = store.stage().unwrap();
    let good = b"contents".as_slice();
    let expected = Expected { digest: crate::digest::sha256(good), size: 8 };
    let put = |mut bytes: &[u8]| store.put_blob(&staging, &expected, &mut bytes);
    assert!(matches!(put(b"content"), Err(BlobError::Size { found: 7 })));
    assert!(matches!(put(b"contents and more"), Err(BlobError::Size { found: 9 })));
    assert!(matches!(put(b"CONTENTS"), Err(BlobError::Digest { .. })));
    assert_eq!(store.blobs.entries().unwrap().len(), 0);
    put(good).unwrap();
    assert_eq!(store.read_blob(&expected.digest, 8).unwrap(), good);
    // There already: the source is not read again.
    put(b"anything").unwrap();
    fs::write(dir.path().join("blobs/sha256").join(expected.digest.hex()), "CONTENTS").unwrap();
    assert!(matches!(store.read_blob(&expected.digest, 8), Err(StoreError::Damaged { .. })));
}
