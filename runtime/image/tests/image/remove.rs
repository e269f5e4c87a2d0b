//! Names go, and then what no name needs.

#![expect(clippy::disallowed_methods, reason = "tests damage files by their paths")]

use std::fs;
use std::path::PathBuf;

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use palisade_image::{Digest, StoreError};

use crate::support::{Fixture, hello, image_name, trials};

trials![
    shared_layers_stay,
    layers_in_use_stay,
    unknown_names_are_errors_with_help,
    what_is_no_name_is_skipped,
    a_damaged_image_does_not_keep_others_from_being_removed,
    a_removal_that_fails_changes_nothing,
];

fn other() -> Builder {
    let files = LayerFiles::new().file("other", 0o644, b"other").unwrap();
    Builder::new(Runtime::default()).layer(files).unwrap()
}

fn what_is_no_name_is_skipped() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "a:1");
    for stray in [".a%3A1.swp", "a:1", "%", "a"] {
        fs::write(fixture.path("store/names").join(stray), "x").unwrap();
    }
    let listed: Vec<String> = fixture.store.ls().unwrap().into_iter().map(|image| image.name).collect();
    assert_eq!(listed, ["a:1"]);
    fixture.store.rm(&image_name("a:1")).unwrap();
    assert_eq!(fixture.entries("blobs/sha256"), Vec::<String>::new());
}

fn blob(fixture: &Fixture, digest: &Digest) -> PathBuf {
    fixture.path("store/blobs/sha256").join(digest.hex())
}

/// Damages the image with this manifest.
type Damage = dyn Fn(&Fixture, &Digest);

fn a_damaged_image_does_not_keep_others_from_being_removed() {
    let damages: [&Damage; 3] = [
        &|fixture, manifest| fs::remove_file(blob(fixture, manifest)).unwrap(),
        &|fixture, manifest| fs::write(blob(fixture, manifest), "{}").unwrap(),
        &|fixture, _| fs::write(fixture.path("store/names/bad%3A1"), "{}").unwrap(),
    ];
    for damage in damages {
        let fixture = Fixture::new();
        let manifest = fixture.import(&hello(), "bad:1");
        fixture.import(&other(), "good:1");
        damage(&fixture, &manifest);
        let error = fixture.store.ls().unwrap_err();
        assert_eq!(error.to_string(), "the image `bad:1` cannot be read from the store");
        assert!(error.hint().unwrap().contains("palisade image rm bad:1"));
        fixture.store.rm(&image_name("good:1")).unwrap();
        assert_eq!(fixture.entries("names"), ["bad%3A1"]);
        // The hint can be followed.
        fixture.store.rm(&image_name("bad:1")).unwrap();
        assert_eq!(fixture.entries("blobs/sha256"), Vec::<String>::new());
        fixture.import(&hello(), "bad:1");
        fixture.unpack("bad:1").unwrap();
    }
}

fn a_removal_that_fails_changes_nothing() {
    let fixture = Fixture::new();
    let manifest = fixture.import(&hello(), "bad:1");
    fixture.import(&other(), "good:1");
    // No damage that is known: it cannot be said what the image needs.
    let blob = blob(&fixture, &manifest);
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    let before = fixture.entries("blobs/sha256");
    let error = fixture.store.rm(&image_name("good:1")).unwrap_err();
    assert!(error.to_string().contains("`bad:1`"), "{error}");
    assert_eq!(fixture.entries("names").len(), 2);
    assert_eq!(fixture.entries("blobs/sha256"), before);
}

fn shared_layers_stay() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "a:1");
    let more = LayerFiles::new().file("more", 0o644, b"more").unwrap();
    fixture.import(&hello().layer(more).unwrap(), "b:1");
    drop((fixture.unpack("a:1").unwrap(), fixture.unpack("b:1").unwrap()));
    fixture.assert_published(2);
    let removed = fixture.store.rm(&image_name("b:1")).unwrap();
    assert_eq!((removed.blobs, removed.layers, removed.layers_in_use), (3, 1, 0));
    fixture.assert_published(1);
    assert_eq!(fixture.unpack("a:1").unwrap().reports().len(), 0, "what the other name needs is untouched");
    fixture.store.rm(&image_name("a:1")).unwrap();
    for directory in ["names", "blobs/sha256", "rootfs", "locks", "tmp", "signatures"] {
        assert_eq!(fixture.entries(directory), Vec::<String>::new(), "{directory}");
    }
}

fn layers_in_use_stay() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "a:1");
    let running = fixture.unpack("a:1").unwrap();
    let removed = fixture.store.rm(&image_name("a:1")).unwrap();
    assert_eq!((removed.layers, removed.layers_in_use), (0, 1));
    assert_eq!(running.layers()[0].read_bounded("bin/hello".as_ref(), 10).unwrap(), b"hello");
    drop(running);
    fixture.import(&hello().tag("again"), "b:1");
    fixture.store.rm(&image_name("b:1")).unwrap();
    fixture.assert_published(0);
}

fn unknown_names_are_errors_with_help() {
    let fixture = Fixture::new();
    let error = fixture.store.rm(&image_name("absent:1")).unwrap_err();
    assert!(matches!(&error, StoreError::UnknownName { .. }));
    assert!(error.hint().unwrap().contains("image import"));
    fixture.import(&hello(), "a:1");
    let error = fixture.store.rm(&image_name("absent:1")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "it holds a:1");
}
