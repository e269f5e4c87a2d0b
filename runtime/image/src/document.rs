//! The JSON documents of an image, parsed strictly.
//!
//! `oci-spec` does the parsing; this module adds what a hostile document is refused for: a size or
//! number above its limit, a digest that is not SHA-256, layers that live somewhere else, and a
//! document that could be read as two kinds (a manifest to one reader, an index to another, under one
//! signed digest).

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use palisade_policy::Digest;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::limits::{
    BLOB_BYTES_MAX, IMAGE_BYTES_MAX, INDEX_ENTRIES_MAX, LAYERS_MAX, SIGNATURE_TEXT_MAX, SIGNATURES_MAX,
};
use crate::shown::{Escaped, Shown};
use crate::{ImageConfig, store};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What cosign calls the layer that holds a signed payload.
pub(crate) const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where cosign puts the signature of that payload.
pub(crate) const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// The only version of manifest and index that exists.
const SCHEMA_VERSION: u32 = 2;

/// Why a document of an image is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It is not JSON of the right shape.
    #[error("the image's {what} is not valid")]
    Json {
        /// Which document.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// It is a manifest and an index at once.
    #[error("the image's {what} could also be read as another kind of document")]
    Confused {
        /// Which document.
        what: &'static str,
    },
    /// What it says it is and what was announced differ.
    #[error("the image's {what} says that it is {}, but was announced as {}", Shown(.found), Shown(.announced))]
    MediaType {
        /// Which document.
        what: &'static str,
        /// Its own `mediaType`.
        found: String,
        /// Its descriptor's.
        announced: String,
    },
    /// A media type that is not supported in its place.
    #[error("the image has a {what} of the unsupported type {}", Shown(.found))]
    Unsupported {
        /// Configuration, layer, …
        what: &'static str,
        /// The media type.
        found: String,
    },
    /// Another schema version.
    #[error("the image's {what} has the unsupported schema version {found}")]
    Schema {
        /// Which document.
        what: &'static str,
        /// The version.
        found: u32,
    },
    /// Part of the image is to be fetched from somewhere else.
    #[error("the image has a layer whose bytes live at another address")]
    Foreign,
    /// A digest that is not SHA-256.
    #[error("the image names a blob by {}, which is not a sha256 digest", Shown(.found))]
    Digest {
        /// The digest as written.
        found: String,
    },
    /// More of something than is allowed.
    #[error("the image has {found} {what}; the limit is {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// Configuration and manifest disagree about the layers.
    #[error("the image has {layers} layers, but its configuration names {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// What the image would run is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl DocumentError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unsupported { .. } => {
                "OCI and Docker v2 images are supported, with layers as tar, tar+gzip or tar+zstd; \
                 `skopeo copy --format oci` converts others"
                    .into()
            }
            Self::Foreign => "rebuild the image so that it holds all of its own layers".into(),
            Self::Config(error) => return error.hint(),
            Self::Json { .. }
            | Self::Confused { .. }
            | Self::MediaType { .. }
            | Self::Schema { .. }
            | Self::Digest { .. }
            | Self::TooMany { .. }
            | Self::LayerCount { .. } => {
                "the image was not made by a usual tool; ask whoever published it".into()
            }
        })
    }
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// One layer of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: store::Expected,
    pub(crate) compression: Compression,
}

/// An image manifest.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: store::Expected,
    pub(crate) layers: Vec<Layer>,
}

impl Manifest {
    /// Parses a manifest that was announced as `announced`, if by anything.
    pub(crate) fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, DocumentError> {
        const WHAT: &str = "manifest";
        let manifest: ImageManifest = parse(WHAT, bytes, announced, &["manifests", "fsLayers"])?;
        check_schema(WHAT, manifest.schema_version())?;
        check_supported(
            WHAT,
            manifest.media_type().as_ref().map(AsRef::as_ref),
            &[OCI_MANIFEST, DOCKER_MANIFEST],
        )?;
        check_supported(
            "configuration",
            Some(manifest.config().media_type().as_ref()),
            &[OCI_CONFIG, DOCKER_CONFIG],
        )?;
        check_count("layers", manifest.layers().len(), LAYERS_MAX)?;
        let layers = manifest.layers().iter().map(layer).collect::<Result<Vec<_>, _>>()?;
        let parsed = Self { config: expected(manifest.config())?, layers };
        let total = parsed.blobs().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        check_bytes("bytes in all its layers", total, IMAGE_BYTES_MAX)?;
        Ok(parsed)
    }

    /// Configuration and layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &store::Expected> {
        std::iter::once(&self.config).chain(self.layers.iter().map(|layer| &layer.blob))
    }
}

fn layer(descriptor: &Descriptor) -> Result<Layer, DocumentError> {
    let media_type = descriptor.media_type().as_ref();
    let compression = match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Compression::Plain
        }
        OCI_LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        foreign if foreign.contains("nondistributable") || foreign.contains(".foreign.") => {
            return Err(DocumentError::Foreign);
        }
        other => return Err(DocumentError::Unsupported { what: "layer", found: other.into() }),
    };
    if descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty()) {
        return Err(DocumentError::Foreign);
    }
    Ok(Layer { blob: expected(descriptor)?, compression })
}

/// What a configuration says, apart from how the image was built.
#[derive(Debug, Clone)]
pub(crate) struct Configuration {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) image: ImageConfig,
}

impl Configuration {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        const WHAT: &str = "configuration";
        let parsed: ImageConfiguration = parse(WHAT, bytes, None, &["manifests", "layers"])?;
        let typ = parsed.rootfs().typ();
        check_supported("root file system", Some(typ), &["layers"])?;
        let diff_ids = parsed.rootfs().diff_ids();
        check_count("layers in its configuration", diff_ids.len(), LAYERS_MAX)?;
        Ok(Self {
            os: parsed.os().to_string(),
            architecture: parsed.architecture().to_string(),
            diff_ids: diff_ids.iter().map(|text| digest(text)).collect::<Result<_, _>>()?,
            image: ImageConfig::of(parsed.config().as_ref())?,
        })
    }

    /// Both are signed together, but whoever made them may still have made them disagree.
    pub(crate) fn check_against(&self, manifest: &Manifest) -> Result<(), DocumentError> {
        let (layers, diff_ids) = (manifest.layers.len(), self.diff_ids.len());
        if layers == diff_ids { Ok(()) } else { Err(DocumentError::LayerCount { layers, diff_ids }) }
    }
}

/// One entry of an index.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) blob: store::Expected,
    pub(crate) kind: EntryKind,
    pub(crate) media_type: String,
    pub(crate) platform: Option<EntryPlatform>,
    /// `org.opencontainers.image.ref.name`: the tag in a layout.
    pub(crate) tag: Option<String>,
    /// What `cosign save` calls it.
    pub(crate) cosign_kind: Option<String>,
    /// An artifact that is not an image (an attestation that was made at build time, for example).
    pub(crate) is_attestation: bool,
}

/// What an entry of an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Manifest,
    Index,
    Other,
}

/// The platform of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryPlatform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

/// Parses an index, the layout's own or one inside an image.
pub(crate) fn parse_index(bytes: &[u8], announced: Option<&str>) -> Result<Vec<Entry>, DocumentError> {
    const WHAT: &str = "index";
    let index: ImageIndex = parse(WHAT, bytes, announced, &["layers", "config", "fsLayers"])?;
    check_schema(WHAT, index.schema_version())?;
    check_supported(WHAT, index.media_type().as_ref().map(AsRef::as_ref), &[OCI_INDEX, DOCKER_INDEX])?;
    check_count("entries in its index", index.manifests().len(), INDEX_ENTRIES_MAX)?;
    index.manifests().iter().map(entry).collect()
}

fn entry(descriptor: &Descriptor) -> Result<Entry, DocumentError> {
    let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|all| all.get(key)).cloned();
    let kind = match descriptor.media_type().as_ref() {
        OCI_MANIFEST | DOCKER_MANIFEST => EntryKind::Manifest,
        OCI_INDEX | DOCKER_INDEX => EntryKind::Index,
        _ => EntryKind::Other,
    };
    let platform = descriptor.platform().as_ref().map(|platform| EntryPlatform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        variant: platform.variant().clone(),
    });
    Ok(Entry {
        blob: expected(descriptor)?,
        kind,
        media_type: descriptor.media_type().to_string(),
        platform,
        tag: annotation("org.opencontainers.image.ref.name"),
        cosign_kind: annotation("kind"),
        is_attestation: annotation("vnd.docker.reference.type").is_some(),
    })
}

/// The manifest behind a `sha256-<hex>.sig` tag.
#[derive(Debug, Clone)]
pub(crate) struct SignatureManifest {
    pub(crate) config: store::Expected,
    pub(crate) layers: Vec<SignatureLayer>,
}

/// One layer of it: a payload, and its signature when it is a simple-signing one.
#[derive(Debug, Clone)]
pub(crate) struct SignatureLayer {
    pub(crate) blob: store::Expected,
    pub(crate) media_type: String,
    pub(crate) signature: Option<String>,
}

impl SignatureManifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        const WHAT: &str = "signature manifest";
        let manifest: ImageManifest = parse(WHAT, bytes, None, &["manifests", "fsLayers"])?;
        check_schema(WHAT, manifest.schema_version())?;
        check_supported(
            WHAT,
            manifest.media_type().as_ref().map(AsRef::as_ref),
            &[OCI_MANIFEST, DOCKER_MANIFEST],
        )?;
        check_count("signatures in one manifest", manifest.layers().len(), SIGNATURES_MAX)?;
        let layers = manifest.layers().iter().map(signature_layer).collect::<Result<_, _>>()?;
        Ok(Self { config: expected(manifest.config())?, layers })
    }

    /// Configuration and payloads.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &store::Expected> {
        std::iter::once(&self.config).chain(self.layers.iter().map(|layer| &layer.blob))
    }
}

fn signature_layer(descriptor: &Descriptor) -> Result<SignatureLayer, DocumentError> {
    let signature = descriptor.annotations().as_ref().and_then(|all| all.get(SIGNATURE_ANNOTATION)).cloned();
    let length = signature.as_ref().map_or(0, String::len);
    check_count("characters in a signature", length, SIGNATURE_TEXT_MAX)?;
    Ok(SignatureLayer {
        blob: expected(descriptor)?,
        media_type: descriptor.media_type().to_string(),
        signature,
    })
}

/// Reads a document twice: as its own kind, and for the fields that only another kind has.
fn parse<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
    announced: Option<&str>,
    of_another_kind: &[&str],
) -> Result<T, DocumentError> {
    let json = |source: serde_json::Error| DocumentError::Json { what, source: escaped(&source) };
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes).map_err(json)?;
    if of_another_kind.iter().any(|field| fields.contains_key(*field)) {
        return Err(DocumentError::Confused { what });
    }
    if let (Some(found), Some(announced)) = (fields.get("mediaType"), announced)
        && found != announced
    {
        let found = found.as_str().unwrap_or_default().to_owned();
        return Err(DocumentError::MediaType { what, found, announced: announced.into() });
    }
    serde_json::from_slice(bytes).map_err(json)
}

/// The parser's messages quote the document as it is, and they are shown as a cause.
fn escaped(error: &serde_json::Error) -> serde_json::Error {
    serde::de::Error::custom(Escaped(&error.to_string()))
}

fn check_schema(what: &'static str, found: u32) -> Result<(), DocumentError> {
    if found == SCHEMA_VERSION { Ok(()) } else { Err(DocumentError::Schema { what, found }) }
}

/// A document need not say what it is, but must not say that it is something else.
fn check_supported(what: &'static str, found: Option<&str>, supported: &[&str]) -> Result<(), DocumentError> {
    match found {
        Some(found) if !supported.contains(&found) => {
            Err(DocumentError::Unsupported { what, found: found.into() })
        }
        Some(_) | None => Ok(()),
    }
}

fn check_count(what: &'static str, found: usize, max: usize) -> Result<(), DocumentError> {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    check_bytes(what, number(found), number(max))
}

fn check_bytes(what: &'static str, found: u64, max: u64) -> Result<(), DocumentError> {
    if found > max { Err(DocumentError::TooMany { what, found, max }) } else { Ok(()) }
}

fn expected(descriptor: &Descriptor) -> Result<store::Expected, DocumentError> {
    check_bytes("bytes in one blob", descriptor.size(), BLOB_BYTES_MAX)?;
    Ok(store::Expected { digest: digest(descriptor.digest().as_ref())?, size: descriptor.size() })
}

fn digest(text: &str) -> Result<Digest, DocumentError> {
    #[expect(clippy::map_err_ignore, reason = "the error says no more than this one")]
    text.parse().map_err(|_| DocumentError::Digest { found: text.into() })
}

#[cfg(test)]
mod tests;
