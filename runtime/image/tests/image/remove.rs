//! Names go, and then what no name needs.

use palisade_image::StoreError;
use palisade_image::layout::LayerFiles;

use crate::support::{Fixture, hello, image_name, trials};

trials![shared_layers_stay, layers_in_use_stay, unknown_names_are_errors_with_help];

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
