//! Unpacking: what comes out, once, for all who ask.
#![expect(clippy::disallowed_methods, reason = "tests inspect what was unpacked by its paths")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use palisade_image::layout::{Builder, LayerFiles, PackedLayer, Runtime};
use palisade_image::unpack::LayerFault;
use palisade_image::{
    LandlockNeed, Store, Trust, UnpackError, UnpackOptions, VerifyRequest, unpack, unpack_with, verify,
};

use crate::support::{Archive, Fixture, digest, entries, fault, hello, image_name, trials};

trials![
    files_come_out_with_widened_modes_and_their_times,
    a_layer_is_unpacked_once_and_shared,
    parallel_runs_unpack_a_layer_once,
    a_layer_damaged_in_the_store_is_not_published,
    a_missing_blob_is_named,
    an_image_without_layers_is_refused,
    directories_without_permission_can_be_removed,
    the_report_says_what_confined_the_child,
];

fn files_come_out_with_widened_modes_and_their_times() {
    let fixture = Fixture::new();
    let mode = |mode: u32| move |header: &mut tar::Header| header.set_mode(mode);
    let archive = Archive::default()
        .changed(b'5', b"private/", mode(0o700))
        .changed(b'0', b"private/setuid", mode(0o6750))
        .changed(b'0', b"private/secret", mode(0o600))
        .changed(b'5', b"tmp/", mode(0o1777))
        .changed(b'5', b"./", mode(0o000))
        .file("implied/file", b"x")
        .symlink("link", "/absolute/target");
    fixture.unpack_layer(archive.gzip()).unwrap();
    let root = fixture.only_layer();
    let mode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("private"), mode("private/setuid"), mode("private/secret")), (0o755, 0o755, 0o644));
    assert_eq!((mode("tmp"), mode("."), mode("implied"), mode("implied/file")), (0o777, 0o755, 0o755, 0o644));
    let time = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().mtime();
    assert_eq!((time("private"), time("private/secret")), (1_000_000, 1_000_000));
    assert_eq!(fs::read_link(root.join("link")).unwrap().to_str().unwrap(), "/absolute/target");
    assert_eq!(fs::metadata(root.join("private/secret")).unwrap().uid(), nix::unistd::geteuid().as_raw());
    let store = fs::metadata(fixture.path("store")).unwrap().permissions().mode() & 0o777;
    assert_eq!(store, 0o700, "the widened modes are harmless because nobody else comes this far");
}

fn a_layer_is_unpacked_once_and_shared() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "a:1");
    let more = LayerFiles::new().file("more", 0o644, b"more").unwrap();
    fixture.import(&hello().layer(more).unwrap(), "b:1");
    let first = fixture.unpack("a:1").unwrap();
    assert_eq!((first.reports().len(), first.layers().len()), (1, 1));
    let inode = fs::metadata(fixture.only_layer()).unwrap().ino();
    let second = fixture.unpack("b:1").unwrap();
    assert_eq!((second.reports().len(), second.layers().len()), (1, 2));
    let again = fixture.unpack("a:1").unwrap();
    assert_eq!(again.reports().len(), 0);
    fixture.assert_published(2);
    assert_eq!(second.layers()[0].stat_self().unwrap().st_ino, inode, "the lowest layer comes first");
    assert_eq!(again.layers()[0].stat_self().unwrap().st_ino, inode);
    assert!(fixture.store.ls().unwrap().iter().all(|listed| listed.unpacked));
}

fn parallel_runs_unpack_a_layer_once() {
    let fixture = Fixture::new();
    fixture.import(&many_files(3000), "a:1");
    let path = fixture.path("store");
    let unpacked: usize = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| unpack_in(&path))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    assert_eq!(unpacked, 1);
    fixture.assert_published(1);
    assert_eq!(entries(&fixture.only_layer()).len(), 3000);
}

/// A run of its own, with its own store and locks; how many layers it unpacked.
fn unpack_in(store: &Path) -> usize {
    let store = Store::open(store).unwrap();
    let trust = Trust::Unsigned { reason: "a test".into() };
    let image =
        verify(&store, &VerifyRequest { name: &image_name("a:1"), expected_digest: None, trust }).unwrap();
    unpack(&store, image).unwrap().reports().len()
}

/// An image with that many small files.
pub(crate) fn many_files(count: usize) -> Builder {
    let mut files = LayerFiles::new();
    for number in 0..count {
        files = files.file(&format!("file-{number}"), 0o644, number.to_string().as_bytes()).unwrap();
    }
    Builder::new(Runtime::default()).layer(files).unwrap()
}

fn a_layer_damaged_in_the_store_is_not_published() {
    let archive = Archive::default().file("f", &[b'a'; 4096]).done();
    let plain = PackedLayer {
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        diff_id: digest(&archive),
        blob: archive,
    };
    let fixture = Fixture::new();
    fixture.import(&Builder::new(Runtime::default()).packed_layer(plain.clone()), "a:1");
    let blob = fixture.path("store/blobs/sha256").join(digest(&plain.blob).hex());
    let mut bytes = plain.blob.clone();
    bytes[1000] = b'b';
    fs::write(&blob, &bytes).unwrap();
    assert!(matches!(fault(fixture.unpack("a:1")), LayerFault::Digest { .. }));
    fixture.assert_published(0);
    fs::write(&blob, [plain.blob.as_slice(), &[0; 512]].concat()).unwrap();
    assert!(matches!(fault(fixture.unpack("a:1")), LayerFault::Size { .. }));
    fixture.assert_published(0);
    fs::write(&blob, &plain.blob).unwrap();
    fixture.unpack("a:1").unwrap();
    fixture.assert_published(1);
}

fn a_missing_blob_is_named() {
    let fixture = Fixture::new();
    let layer = PackedLayer::gzip(&Archive::default().file("f", b"x").done()).unwrap();
    fixture.import(&Builder::new(Runtime::default()).packed_layer(layer.clone()), "a:1");
    fs::remove_file(fixture.path("store/blobs/sha256").join(digest(&layer.blob).hex())).unwrap();
    let error = fixture.unpack("a:1").unwrap_err();
    assert!(error.to_string().contains(digest(&layer.blob).hex()), "{error}");
    fixture.assert_published(0);
}

fn an_image_without_layers_is_refused() {
    let fixture = Fixture::new();
    fixture.import(&Builder::new(Runtime::default()), "empty:1");
    assert!(matches!(fixture.unpack("empty:1"), Err(UnpackError::NoLayers)));
}

fn directories_without_permission_can_be_removed() {
    let fixture = Fixture::new();
    let none = |header: &mut tar::Header| header.set_mode(0o000);
    let archive = Archive::default()
        .changed(b'5', b"locked/", none)
        .changed(b'5', b"locked/inner/", none)
        .file("locked/inner/f", b"x");
    let unpacked = fixture.unpack_layer(archive.clone().gzip()).unwrap();
    drop(unpacked);
    fixture.store.rm(&image_name("case:0")).unwrap();
    fixture.assert_published(0);
    // And when the layer is refused after they were made.
    let refused = archive.file("../x", b"");
    drop(fault(fixture.unpack_layer(refused.gzip())));
    fixture.assert_published(0);
}

fn the_report_says_what_confined_the_child() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "a:1");
    let options = UnpackOptions { landlock: LandlockNeed::AcceptedAbsent };
    let unpacked = unpack_with(&fixture.store, fixture.unsigned("a:1"), options).unwrap();
    let abi = palisade_sys::process::landlock_abi();
    assert_eq!(unpacked.reports()[0].landlock_abi, (abi > 0).then_some(abi));
    assert_eq!((unpacked.reports()[0].entries, unpacked.reports()[0].bytes), (2, 5));
}
