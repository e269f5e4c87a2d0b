//! Layouts, whole and damaged.
#![expect(clippy::disallowed_methods, reason = "tests make and damage files by their paths")]

use std::fs;
use std::path::Path;

use palisade_image::layout::Builder;
use palisade_image::{DocumentError, ImportError, Imported, Store};
use serde_json::{Value, json};

use crate::support::{Archive, Fixture, digest, entries, hello, image_name, trials};

trials![
    a_directory_and_an_archive_of_it_import_alike,
    damaged_blobs_are_refused,
    a_failed_import_takes_nothing_from_other_images,
    what_a_failed_import_left_goes_with_the_next_removal,
    what_is_no_layout_is_refused_with_a_hint,
    the_platform_is_chosen_from_an_index,
    an_image_for_another_platform_is_refused,
    several_images_need_a_name,
    confusing_documents_are_refused,
    a_second_import_replaces_the_name,
    links_in_a_layout_are_not_followed,
    what_skopeo_writes_is_understood,
];

fn import(fixture: &Fixture, layout: &Path) -> Result<Imported, ImportError> {
    fixture.store.import(layout, &image_name("example.org/hello:1"))
}

/// Nothing has a name, and nothing is left half made.
fn assert_nothing(fixture: &Fixture) {
    for directory in ["names", "tmp", "blobs/sha256", "signatures"] {
        assert_eq!(fixture.entries(directory), Vec::<String>::new(), "{directory}");
    }
}

fn tar_of(layout: &Path, prefix: &str) -> Vec<u8> {
    let mut archive = Archive::default().directory(&format!("{prefix}blobs/"));
    for blob in entries(&layout.join("blobs/sha256")) {
        let contents = fs::read(layout.join("blobs/sha256").join(&blob)).unwrap();
        archive = archive.file(&format!("{prefix}blobs/sha256/{blob}"), &contents);
    }
    for file in ["oci-layout", "index.json"] {
        archive = archive.file(&format!("{prefix}{file}"), &fs::read(layout.join(file)).unwrap());
    }
    archive.done()
}

fn a_directory_and_an_archive_of_it_import_alike() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    let manifest = hello().write(&layout).unwrap();
    let from_directory = import(&fixture, &layout).unwrap();
    assert_eq!((from_directory.manifest.clone(), from_directory.layers), (manifest, 1));
    for prefix in ["", "./"] {
        let file = fixture.path("layout.tar");
        fs::write(&file, tar_of(&layout, prefix)).unwrap();
        let other = Fixture::new();
        assert_eq!(import(&other, &file).unwrap(), from_directory);
        assert_eq!(other.entries("blobs/sha256"), fixture.entries("blobs/sha256"));
    }
    let listed = fixture.store.ls().unwrap();
    assert_eq!(listed[0].name, "example.org/hello:1");
    assert!(!listed[0].unpacked);
}

fn damaged_blobs_are_refused() {
    let whole = tempfile::tempdir().unwrap();
    hello().write(whole.path()).unwrap();
    let blobs = entries(&whole.path().join("blobs/sha256"));
    assert_eq!(blobs.len(), 3, "manifest, configuration and one layer");
    for blob in &blobs {
        let path = whole.path().join("blobs/sha256").join(blob);
        let contents = fs::read(&path).unwrap();
        let flipped = {
            let mut bytes = contents.clone();
            bytes[5] ^= 1;
            bytes
        };
        let longer = [contents.as_slice(), b"x"].concat();
        for (what, damaged) in [("flipped", flipped), ("short", contents[..10].to_vec()), ("long", longer)] {
            fs::write(&path, damaged).unwrap();
            let fixture = Fixture::new();
            let error = import(&fixture, whole.path()).unwrap_err();
            let is_right = match what {
                "flipped" => matches!(error, ImportError::Digest { .. }),
                _ => matches!(error, ImportError::Size { .. }),
            };
            assert!(is_right && error.hint().is_some(), "{what}: {error}");
            assert_nothing(&fixture);
        }
        fs::remove_file(&path).unwrap();
        let fixture = Fixture::new();
        let error = import(&fixture, whole.path()).unwrap_err();
        assert!(matches!(error, ImportError::MissingFile { .. }), "{error}");
        assert_nothing(&fixture);
        fs::write(&path, contents).unwrap();
    }
    import(&Fixture::new(), whole.path()).unwrap();
}

/// A layout of an image that shares all but its last layer with [`hello`], and lacks that one.
fn broken_layout(fixture: &Fixture) -> std::path::PathBuf {
    let layout = fixture.path("broken");
    let files = palisade_image::layout::LayerFiles::new().file("other", 0o644, b"other").unwrap();
    hello().layer(files).unwrap().write(&layout).unwrap();
    let top = read_json(&layout.join("index.json"));
    let manifest = read_json(&blob(&layout, &top["manifests"][0]));
    fs::remove_file(blob(&layout, &manifest["layers"][1])).unwrap();
    layout
}

fn a_failed_import_takes_nothing_from_other_images() {
    let fixture = Fixture::new();
    fixture.import(&hello(), "hello:1");
    let before = fixture.entries("blobs/sha256");
    let error = import(&fixture, &broken_layout(&fixture)).unwrap_err();
    assert!(matches!(error, ImportError::MissingFile { .. }), "{error}");
    assert_eq!(fixture.entries("blobs/sha256"), before);
    fixture.unpack("hello:1").unwrap();
}

fn what_a_failed_import_left_goes_with_the_next_removal() {
    let fixture = Fixture::new();
    let layout = broken_layout(&fixture);
    // Somebody else is adding something, which may need what this import stored.
    let store = palisade_sys::dir::Dir::open_ambient(&fixture.path("store")).unwrap();
    let busy = store.lock(palisade_sys::dir::LockMode::Shared).unwrap();
    import(&fixture, &layout).unwrap_err();
    assert_eq!(fixture.entries("blobs/sha256").len(), 3, "the control: there is something to sweep");
    drop(busy);
    assert!(fixture.store.rm(&image_name("example.org/hello:1")).is_err());
    fixture.import(&hello(), "a:1");
    assert_eq!(fixture.entries("blobs/sha256").len(), 3, "an import sweeps as well");
    fixture.store.rm(&image_name("a:1")).unwrap();
    assert_nothing(&fixture);
}

fn what_is_no_layout_is_refused_with_a_hint() {
    let fixture = Fixture::new();
    let file = fixture.path("file");
    let docker = Archive::default().file("manifest.json", b"[]").file("repositories", b"{}").done();
    for (contents, expected) in [
        (docker, "a Docker archive"),
        (Archive::default().file("etc/passwd", b"").done(), "something else"),
        (
            Archive::default().file("oci-layout", b"").symlink("index.json", "/etc/passwd").done(),
            "something else",
        ),
        (vec![0x1f, 0x8b, 8, 0], "a compressed archive"),
    ] {
        fs::write(&file, contents).unwrap();
        let error = import(&fixture, &file).unwrap_err();
        let ImportError::NotALayout { found, .. } = &error else { panic!("{error}") };
        assert_eq!(*found, expected);
        assert!(error.hint().unwrap().contains("skopeo copy"));
    }
    for (contents, why) in [
        (Archive::default().file("a", b"").file("./a", b"").done(), "the same file twice"),
        (Archive::default().file("a", b"").symlink("a", "b").done(), "the same file twice"),
        (b"nothing like tar".repeat(100), "checksum"),
    ] {
        fs::write(&file, contents).unwrap();
        let error = import(&fixture, &file).unwrap_err();
        let ImportError::Archive(fault) = error else { panic!("{error}") };
        assert!(fault.to_string().contains(why) || why == "checksum", "{fault}");
    }
    assert!(matches!(import(&fixture, &fixture.path("absent")).unwrap_err(), ImportError::Open { .. }));
    let directory = fixture.path("directory");
    fs::create_dir(&directory).unwrap();
    for missing in ["index.json", "oci-layout"] {
        let error = import(&fixture, &directory).unwrap_err();
        let expected = format!("is a directory without `{missing}`, not an OCI image layout");
        assert!(error.to_string().ends_with(&expected), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("the directory that holds") && !hint.contains("docker-archive"), "{hint}");
        fs::write(directory.join(missing), "{}").unwrap();
    }
    assert_nothing(&fixture);
}

/// Puts a document into a layout and returns its descriptor.
fn put(layout: &Path, media_type: &str, document: &Value) -> Value {
    let bytes = serde_json::to_vec(document).unwrap();
    let digest = digest(&bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Where the blob of a descriptor is.
fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

fn write_index(layout: &Path, entries: &[Value]) {
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layout of the hello image whose descriptor can be changed.
fn layout_of_hello(fixture: &Fixture) -> (std::path::PathBuf, Value) {
    let layout = fixture.path("layout");
    hello().write(&layout).unwrap();
    let mut entry = read_json(&layout.join("index.json"))["manifests"][0].clone();
    entry.as_object_mut().unwrap().remove("annotations");
    (layout, entry)
}

fn on(entry: &Value, architecture: &str, variant: Option<&str>) -> Value {
    let mut entry = entry.clone();
    entry["platform"] = json!({ "os": "linux", "architecture": architecture });
    if let Some(variant) = variant {
        entry["platform"]["variant"] = json!(variant);
    }
    entry
}

fn this_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn the_platform_is_chosen_from_an_index() {
    let fixture = Fixture::new();
    let (layout, entry) = layout_of_hello(&fixture);
    let here = this_architecture();
    let mut absent = entry.clone();
    absent["digest"] = json!(digest(b"not there").to_string());
    let mut attestation = on(&absent, "unknown", None);
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [on(&absent, "s390x", None), on(&absent, here, Some("v9")), attestation, on(&entry, here, None)],
    });
    let descriptor = put(&layout, INDEX, &index);
    write_index(&layout, std::slice::from_ref(&descriptor));
    let imported = import(&fixture, &layout).unwrap();
    assert_eq!(imported.manifest.to_string(), entry["digest"].as_str().unwrap());
    assert_eq!(imported.index.unwrap().to_string(), descriptor["digest"].as_str().unwrap());

    let elsewhere =
        json!({ "schemaVersion": 2, "manifests": [on(&entry, "s390x", None), on(&entry, here, Some("v9"))] });
    write_index(&layout, &[put(&layout, INDEX, &elsewhere)]);
    let error = import(&fixture, &layout).unwrap_err();
    let ImportError::Platform { found, .. } = &error else { panic!("{error}") };
    assert_eq!(found, &["linux/s390x".to_owned(), format!("linux/{here}/v9")]);

    let nested = json!({ "schemaVersion": 2, "manifests": [on(&descriptor, here, None)] });
    write_index(&layout, &[put(&layout, INDEX, &nested)]);
    assert!(matches!(import(&fixture, &layout).unwrap_err(), ImportError::Nesting));
}

fn an_image_for_another_platform_is_refused() {
    let fixture = Fixture::new();
    let (layout, entry) = layout_of_hello(&fixture);
    let manifest_path = blob(&layout, &entry);
    let mut manifest = read_json(&manifest_path);
    let mut config = read_json(&blob(&layout, &manifest["config"]));
    config["architecture"] = json!("s390x");
    manifest["config"] = put(&layout, "application/vnd.oci.image.config.v1+json", &config);
    // The index lies about it.
    write_index(&layout, &[on(&put(&layout, MANIFEST, &manifest), this_architecture(), None)]);
    let error = import(&fixture, &layout).unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert_nothing(&fixture);
}

fn several_images_need_a_name() {
    let fixture = Fixture::new();
    let (layout, entry) = layout_of_hello(&fixture);
    let tagged = |tag: &str| {
        let mut entry = entry.clone();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        entry
    };
    write_index(&layout, &[tagged("2"), tagged("3")]);
    let error = import(&fixture, &layout).unwrap_err();
    assert_eq!(error.to_string(), "the image layout holds several images: `2`, `3`");
    write_index(&layout, &[tagged("2"), tagged("1")]);
    import(&fixture, &layout).unwrap();
    write_index(&layout, &[tagged("1"), tagged("example.org/hello:1")]);
    import(&fixture, &layout).unwrap();
    write_index(&layout, &[]);
    assert!(matches!(import(&fixture, &layout).unwrap_err(), ImportError::Empty));
}

fn confusing_documents_are_refused() {
    let fixture = Fixture::new();
    let (layout, entry) = layout_of_hello(&fixture);
    let manifest_path = blob(&layout, &entry);
    let manifest = read_json(&manifest_path);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        write_index(&layout, &[put(&layout, MANIFEST, &manifest)]);
        match import(&fixture, &layout) {
            Err(ImportError::Document(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let layer = |key: &'static str, value: Value| {
        move |manifest: &mut Value| manifest["layers"][0][key] = value.clone()
    };
    assert!(matches!(changed(&|m| m["manifests"] = json!([])), DocumentError::Confused { .. }));
    assert!(matches!(changed(&|m| m["mediaType"] = json!(INDEX)), DocumentError::MediaType { .. }));
    assert!(matches!(changed(&|m| m["schemaVersion"] = json!(1)), DocumentError::Schema { .. }));
    assert!(matches!(
        changed(&|m| m["config"]["mediaType"] = json!("x/y")),
        DocumentError::Unsupported { .. }
    ));
    assert!(matches!(changed(&|m| m["layers"] = json!([])), DocumentError::LayerCount { .. }));
    assert!(matches!(changed(&layer("urls", json!(["https://example.org/x"]))), DocumentError::Foreign));
    let foreign = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    assert!(matches!(changed(&layer("mediaType", foreign)), DocumentError::Foreign));
    assert!(matches!(changed(&layer("mediaType", json!("text/plain"))), DocumentError::Unsupported { .. }));
    let sha512 = json!(format!("sha512:{}", "0".repeat(128)));
    assert!(matches!(changed(&layer("digest", sha512)), DocumentError::Digest { .. }));
    assert!(matches!(changed(&layer("size", json!(1_u64 << 40))), DocumentError::TooMany { .. }));
    let many = |m: &mut Value| m["layers"] = json!(vec![m["layers"][0].clone(); 129]);
    assert!(matches!(changed(&many), DocumentError::TooMany { .. }));
    // A document with the same key twice means one thing to one reader and another to the next.
    let twice = String::from_utf8(fs::read(&manifest_path).unwrap()).unwrap().replacen(
        '{',
        r#"{"schemaVersion":2,"#,
        1,
    );
    let digest = digest(twice.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &twice).unwrap();
    write_index(
        &layout,
        &[json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": twice.len() })],
    );
    assert!(matches!(import(&fixture, &layout), Err(ImportError::Document(DocumentError::Json { .. }))));
    assert_nothing(&fixture);
    // The control: the same document unchanged.
    write_index(&layout, &[put(&layout, MANIFEST, &manifest)]);
    import(&fixture, &layout).unwrap();
}

fn a_second_import_replaces_the_name() {
    let fixture = Fixture::new();
    let first = fixture.import(&hello(), "a:1");
    let files = palisade_image::layout::LayerFiles::new().file("other", 0o644, b"other").unwrap();
    let other: Builder = Builder::new(palisade_image::layout::Runtime::default()).layer(files).unwrap();
    let layout = fixture.path("second");
    let second = other.write(&layout).unwrap();
    assert_ne!(first, second);
    fixture.store.import(&layout, &image_name("a:1")).unwrap();
    let again = Store::open(&fixture.path("store")).unwrap();
    assert_eq!(again.ls().unwrap()[0].manifest, second);
}

fn links_in_a_layout_are_not_followed() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    hello().write(&layout).unwrap();
    let index = layout.join("index.json");
    fs::rename(&index, fixture.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(fixture.path("elsewhere"), &index).unwrap();
    assert!(matches!(import(&fixture, &layout).unwrap_err(), ImportError::ReadFile { .. }));
    fs::remove_file(&index).unwrap();
    nix::unistd::mkfifo(&index, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(import(&fixture, &layout).unwrap_err(), ImportError::ReadFile { .. }));
    fs::remove_file(&index).unwrap();
    fs::rename(fixture.path("elsewhere"), &index).unwrap();
    import(&fixture, &layout).unwrap();
}

/// The other way round as well: skopeo reads what we write. Needs skopeo.
fn what_skopeo_writes_is_understood() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    let manifest = hello().write(&layout).unwrap();
    let copy = |target: String| {
        let source = format!("oci:{}:latest", layout.display());
        std::process::Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", &source, &target])
            .output()
            .map(|output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)))
    };
    let archive = fixture.path("oci.tar");
    if copy(format!("oci-archive:{}:v1", archive.display())).is_err() {
        println!("skipped: skopeo is not installed");
        return;
    }
    assert_eq!(import(&fixture, &archive).unwrap().manifest, manifest);
    let docker = fixture.path("docker.tar");
    copy(format!("docker-archive:{}:hello:v1", docker.display())).unwrap();
    let error = import(&fixture, &docker).unwrap_err();
    assert!(matches!(error, ImportError::NotALayout { found: "a Docker archive", .. }), "{error}");
    assert_eq!(fixture.unpack("example.org/hello:1").unwrap().reports().len(), 1);
}
