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
    for name in ["names", "blobs/sha256", "signatures", "rootfs", "locks", "tmp"] {
        let path = dir.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(&error, StoreError::Writable { path: found } if *found == path), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
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
fn a_sweeper_takes_only_what_it_knows_to_be_dead() {
    use super::staging::{is_alive, remove_entry};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    fs::write(dir.path().join("tmp/file"), "x").unwrap();
    assert!(!is_alive(&store.tmp, Path::new("file")));
    assert!(!is_alive(&store.tmp, Path::new("gone")));
    assert!(is_alive(&store.tmp, Path::new(&"n".repeat(300))), "a failure to look is not death");
    remove_entry(&store.tmp, Path::new("file")).unwrap();
    // Its maker was faster.
    remove_entry(&store.tmp, Path::new("file")).unwrap();
    assert_eq!(store.tmp.entries().unwrap().len(), 0);
}

#[test]
fn an_import_displaces_imported_signatures_and_no_own_ones() {
    const MAX: usize = crate::limits::SIGNATURE_MANIFESTS_MAX;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = |text: &str| crate::digest::sha256(text.as_bytes());
    let (subject, own) = (digest("subject"), digest("own"));
    store.add_own_signature(&subject, &own).unwrap();
    for round in 0..3 {
        let brought: Vec<_> = (0..MAX).map(|number| digest(&format!("{round} {number}"))).collect();
        store.add_imported_signatures(&subject, &brought).unwrap();
        // The same ones again displace nothing.
        store.add_imported_signatures(&subject, &brought[..1]).unwrap();
        let known = store.signatures(&subject).unwrap();
        assert_eq!(known.len(), MAX + 1);
        assert!(known.contains(&own) && brought.iter().all(|one| known.contains(one)), "round {round}");
        assert_eq!(store.own_signatures(&subject).unwrap(), 1);
    }
    // An own one that comes back with an import stays an own one.
    store.add_imported_signatures(&subject, std::slice::from_ref(&own)).unwrap();
    assert_eq!(store.own_signatures(&subject).unwrap(), 1);
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
    assert!(matches!(store.read_blob(&expected.digest, 7), Err(StoreError::Damaged { .. })));
    // What is there has the right size and other contents: it is replaced.
    assert!(matches!(put(b"anything"), Err(BlobError::Digest { .. })));
    put(good).unwrap();
    assert_eq!(store.read_blob(&expected.digest, 8).unwrap(), good);
}
