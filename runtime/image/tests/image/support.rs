//! Stores, images and archives for the tests.
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use palisade_image::layout::{Builder, LayerFiles, PackedLayer, Runtime};
use palisade_image::unpack::LayerFault;
use palisade_image::{
    Digest, ImageName, Store, Trust, UnpackError, UnpackedRootfs, VerifiedImage, VerifyRequest, unpack,
    verify,
};
use sha2::Digest as _;
use tempfile::TempDir;

/// Lists test functions for the harness.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(libtest_mimic::Trial::test(
                concat!(module_path!(), "::", stringify!($name)),
                || { $name(); Ok(()) },
            )),*]
        }
    };
}
pub(crate) use trials;

/// A temporary directory with a store in it.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
    layouts: Cell<u32>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, layouts: Cell::new(0) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a layout and imports it.
    pub(crate) fn import(&self, builder: &Builder, name: &str) -> Digest {
        self.layouts.set(self.layouts.get() + 1);
        let layout = self.path(&format!("layout-{}", self.layouts.get()));
        builder.write(&layout).unwrap();
        self.store.import(&layout, &image_name(name)).unwrap().manifest
    }

    /// Imports an image of one layer and unpacks it.
    pub(crate) fn unpack_layer(&self, layer: PackedLayer) -> Result<UnpackedRootfs, UnpackError> {
        let name = format!("case:{}", self.entries("names").len());
        self.import(&Builder::new(Runtime::default()).packed_layer(layer), &name);
        unpack(&self.store, self.unsigned(&name))
    }

    pub(crate) fn unpack(&self, name: &str) -> Result<UnpackedRootfs, UnpackError> {
        unpack(&self.store, self.unsigned(name))
    }

    /// Accepts an image without a signature.
    pub(crate) fn unsigned(&self, name: &str) -> VerifiedImage {
        let trust = Trust::Unsigned { reason: "a test".into() };
        verify(&self.store, &VerifyRequest { name: &image_name(name), expected_digest: None, trust }).unwrap()
    }

    /// Names in a directory of the store.
    pub(crate) fn entries(&self, directory: &str) -> Vec<String> {
        entries(&self.path("store").join(directory))
    }

    /// Nothing is being made, and nothing but these layers was published.
    pub(crate) fn assert_published(&self, layers: usize) {
        assert_eq!(self.entries("tmp"), Vec::<String>::new(), "tmp/ is not empty");
        assert_eq!(self.entries("rootfs").len(), layers, "{:?}", self.entries("rootfs"));
    }

    /// The directory of the only unpacked layer.
    pub(crate) fn only_layer(&self) -> PathBuf {
        let layers = self.entries("rootfs");
        assert_eq!(layers.len(), 1, "{layers:?}");
        self.path("store").join("rootfs").join(&layers[0])
    }
}

pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn image_name(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in sha2::Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text.parse().unwrap()
}

/// A small image that says hello.
pub(crate) fn hello() -> Builder {
    let files =
        LayerFiles::new().directory("bin", 0o755).unwrap().file("bin/hello", 0o755, b"hello").unwrap();
    let runtime = Runtime {
        entrypoint: vec!["/bin/hello".into()],
        env: vec![("PATH".into(), "/bin".into())],
        ..Runtime::default()
    };
    Builder::new(runtime).layer(files).unwrap()
}

pub(crate) fn fault(result: Result<UnpackedRootfs, UnpackError>) -> LayerFault {
    match result {
        Err(UnpackError::Layer { fault, .. }) => fault,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(unpacked) => panic!("unpacked: {:?}", unpacked.reports()),
    }
}

/// An archive whose headers are written by hand: the `tar` crate's writer refuses what we need.
#[derive(Default, Clone)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

impl Archive {
    pub(crate) fn entry(self, kind: u8, path: &[u8], link: &[u8], contents: &[u8]) -> Self {
        self.sized(kind, path, link, contents, contents.len() as u64)
    }

    /// An entry whose header gives another size than its contents have.
    #[expect(clippy::too_many_arguments, reason = "the fields of a header, in their order")]
    pub(crate) fn sized(mut self, kind: u8, path: &[u8], link: &[u8], contents: &[u8], size: u64) -> Self {
        self.0.extend_from_slice(header(kind, path, link, size, |_| {}).as_bytes());
        self.contents(contents)
    }

    /// An entry with a header that is changed before its checksum is made.
    pub(crate) fn changed(mut self, kind: u8, path: &[u8], change: impl Fn(&mut tar::Header)) -> Self {
        self.0.extend_from_slice(header(kind, path, b"", 0, change).as_bytes());
        self
    }

    pub(crate) fn file(self, path: &str, contents: &[u8]) -> Self {
        self.entry(b'0', path.as_bytes(), b"", contents)
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), target.as_bytes(), b"")
    }

    /// A PAX extension header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.entry(b'x', b"pax", b"", &pax_records(records))
    }

    pub(crate) fn contents(mut self, contents: &[u8]) -> Self {
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive with its end.
    pub(crate) fn done(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    pub(crate) fn gzip(self) -> PackedLayer {
        PackedLayer::gzip(&self.done()).unwrap()
    }
}

pub(crate) fn header(
    kind: u8,
    path: &[u8],
    link: &[u8],
    size: u64,
    change: impl Fn(&mut tar::Header),
) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    header.set_mtime(1_000_000);
    header.set_size(size);
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    change(&mut header);
    header.set_cksum();
    header
}

pub(crate) fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..rest + 20).find(|length| rest + length.to_string().len() == *length).unwrap();
        bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}
