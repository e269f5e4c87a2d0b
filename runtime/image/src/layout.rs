//! Writes OCI image layouts: for the demonstration, for tests, and for whoever has files and wants an
//! image.
//!
//! The same input gives the same bytes: times are 0, owners are 0, and entries come in the order in
//! which they were added.
//!
//! ```no_run
//! use palisade_image::layout::{Builder, LayerFiles, Runtime};
//! # fn main() -> Result<(), palisade_image::layout::LayoutError> {
//! let layer = LayerFiles::new().file("bin/server", 0o755, b"...")?;
//! let runtime = Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() };
//! let manifest = Builder::new(runtime).layer(layer)?.write("layout".as_ref())?;
//! # Ok(())
//! # }
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use palisade_policy::Digest;
use palisade_sys::dir::Dir;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::ImageConfig;
use crate::digest::sha256;
use crate::document::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::shown::Shown;
use crate::verify::SignatureArtifact;

/// How an image is run: the same fields that come out again as [`ImageConfig`].
pub type Runtime = ImageConfig;

/// Why a layout could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// An entry that cannot be put into an archive.
    #[error("the entry {} cannot be put into a layer", Shown(.entry))]
    Entry {
        /// Its path.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory or a file in it cannot be written.
    #[error("the image layout {} cannot be written", Shown(&.path.to_string_lossy()))]
    Write {
        /// As the person wrote it.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A document could not be encoded.
    #[error("a document of the image could not be encoded")]
    Encode(#[source] serde_json::Error),
}

impl LayoutError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Entry { .. } => Some("paths are relative, without `..`; files must be readable".into()),
            Self::Write { .. } => Some("choose an empty directory that you can write to".into()),
            // Our own data always encodes.
            Self::Encode(_) => None,
        }
    }
}

/// The files of one layer, gathered into an archive.
#[expect(missing_debug_implementations, reason = "the archive writer has none, and bytes say nothing")]
pub struct LayerFiles {
    archive: tar::Builder<Vec<u8>>,
}

impl Default for LayerFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerFiles {
    /// An empty layer.
    pub fn new() -> Self {
        Self { archive: tar::Builder::new(Vec::new()) }
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, mode: u32, contents: &[u8]) -> Result<Self, LayoutError> {
        let size = u64::try_from(contents.len()).map_err(|error| entry(path)(io::Error::other(error)))?;
        self.append(path, header(EntryType::Regular, mode, size), contents)?;
        Ok(self)
    }

    /// Adds a file with the contents of an open one.
    pub fn file_from(mut self, path: &str, mode: u32, contents: &File) -> Result<Self, LayoutError> {
        let size = contents.metadata().map_err(entry(path))?.len();
        self.append(path, header(EntryType::Regular, mode, size), contents)?;
        Ok(self)
    }

    /// Adds a directory.
    pub fn directory(mut self, path: &str, mode: u32) -> Result<Self, LayoutError> {
        self.append(path, header(EntryType::Directory, mode, 0), io::empty())?;
        Ok(self)
    }

    /// Adds a symbolic link to `target`, which is written as it is.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self, LayoutError> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.archive.append_link(&mut header, path, target).map_err(entry(path))?;
        Ok(self)
    }

    /// The archive.
    pub fn into_archive(self) -> Result<Vec<u8>, LayoutError> {
        self.archive.into_inner().map_err(entry("end of the archive"))
    }

    fn append(&mut self, path: &str, mut header: Header, contents: impl io::Read) -> Result<(), LayoutError> {
        self.archive.append_data(&mut header, path, contents).map_err(entry(path))
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

fn entry(path: &str) -> impl Fn(io::Error) -> LayoutError {
    let entry = path.to_owned();
    move |source| LayoutError::Entry { entry: entry.clone(), source }
}

/// An image that is being put together.
#[derive(Debug)]
pub struct Builder {
    runtime: Runtime,
    tag: String,
    layers: Vec<PackedLayer>,
    artifacts: Vec<SignatureArtifact>,
}

/// A layer as it goes into a layout.
#[derive(Debug, Clone)]
pub struct PackedLayer {
    /// The blob's media type.
    pub media_type: String,
    /// The blob.
    pub blob: Vec<u8>,
    /// The digest of the archive in it.
    pub diff_id: Digest,
}

impl PackedLayer {
    /// An archive, compressed with gzip.
    pub fn gzip(archive: &[u8]) -> Result<Self, LayoutError> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(archive).map_err(entry("compressed layer"))?;
        let blob = encoder.finish().map_err(entry("compressed layer"))?;
        Ok(Self { media_type: OCI_LAYER_GZIP.into(), blob, diff_id: sha256(archive) })
    }
}

impl Builder {
    /// An image that is run like this, with the tag `latest` in its layout.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, tag: "latest".into(), layers: Vec::new(), artifacts: Vec::new() }
    }

    /// Another tag.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tag = tag.into();
        self
    }

    /// Adds a layer above those added so far.
    pub fn layer(self, files: LayerFiles) -> Result<Self, LayoutError> {
        let packed = PackedLayer::gzip(&files.into_archive()?)?;
        Ok(self.packed_layer(packed))
    }

    /// Adds a layer as it is, whatever it is.
    #[must_use]
    pub fn packed_layer(mut self, layer: PackedLayer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Adds a signature; [`crate::verify::signature_artifact`] makes one.
    #[must_use]
    pub fn signature(mut self, artifact: SignatureArtifact) -> Self {
        self.artifacts.push(artifact);
        self
    }

    /// The digest that the manifest has: what a signature is made for.
    pub fn manifest_digest(&self) -> Result<Digest, LayoutError> {
        Ok(sha256(&self.documents()?.manifest))
    }

    /// Writes the layout into the directory `path`, which is made when it is not there.
    pub fn write(&self, path: &Path) -> Result<Digest, LayoutError> {
        let documents = self.documents()?;
        let mut entries = vec![tagged(&documents.manifest, &self.tag)];
        let mut blobs = vec![documents.manifest.as_slice(), documents.config.as_slice()];
        blobs.extend(self.layers.iter().map(|layer| layer.blob.as_slice()));
        for artifact in &self.artifacts {
            entries.push(tagged(&artifact.manifest, &artifact.tag));
            blobs.extend([&artifact.manifest[..], &artifact.config[..], &artifact.payload[..]]);
        }
        let index = encode(&json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }))?;
        write_layout(path, &blobs, &index)
            .map_err(|source| LayoutError::Write { path: path.to_path_buf(), source })?;
        Ok(sha256(&documents.manifest))
    }

    fn documents(&self) -> Result<Documents, LayoutError> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let env: Vec<String> =
            self.runtime.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let config = encode(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.runtime.entrypoint,
                "Cmd": self.runtime.cmd,
                "Env": env,
                "WorkingDir": self.runtime.working_dir,
                "User": self.runtime.user,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?;
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| descriptor(&layer.media_type, &layer.blob)).collect();
        let manifest = encode(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config),
            "layers": layers,
        }))?;
        Ok(Documents { manifest, config })
    }
}

struct Documents {
    manifest: Vec<u8>,
    config: Vec<u8>,
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn encode(document: &Value) -> Result<Vec<u8>, LayoutError> {
    serde_json::to_vec(document).map_err(LayoutError::Encode)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(blob).to_string(), "size": blob.len() })
}

fn tagged(manifest: &[u8], tag: &str) -> Value {
    json!({
        "mediaType": OCI_MANIFEST,
        "digest": sha256(manifest).to_string(),
        "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": tag },
    })
}

fn write_layout(path: &Path, blobs: &[&[u8]], index: &[u8]) -> io::Result<()> {
    let root = Dir::create_ambient(path, 0o755)?;
    drop(root.ensure_dir(Path::new("blobs"), 0o755)?);
    let dir = root.ensure_dir(Path::new("blobs/sha256"), 0o755)?;
    for blob in blobs {
        match dir.create_file(Path::new(sha256(blob).hex()), 0o644) {
            Ok(mut file) => file.write_all(blob)?,
            // The same layer twice, or two signatures with the same configuration.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    root.create_file(Path::new("oci-layout"), 0o644)?.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    root.create_file(Path::new("index.json"), 0o644)?.write_all(index)
}
