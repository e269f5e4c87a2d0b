//! From a layout's index to the one manifest for this host.

use super::ImportError;
use super::source::Source;
use crate::document::{Configuration, Entry, EntryKind, EntryPlatform, parse_index};
use crate::name::ImageName;
use crate::shown::Escaped;
use crate::store::Expected;

/// What was chosen.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) manifest: Expected,
    /// The manifest's media type, as announced.
    pub(super) media_type: String,
    /// The image's own index; the layout's does not count, since nobody signs that.
    pub(super) index: Option<Expected>,
}

/// Chooses the image that `name` asks for, then the manifest for this host.
pub(super) fn select(source: &Source, entries: &[Entry], name: &ImageName) -> Result<Selected, ImportError> {
    let images: Vec<&Entry> = entries.iter().filter(|entry| is_image(entry)).collect();
    let chosen = choose_image(&images, name)?;
    if chosen.kind == EntryKind::Manifest {
        return Ok(Selected {
            manifest: chosen.blob.clone(),
            media_type: chosen.media_type.clone(),
            index: None,
        });
    }
    let entries = parse_index(&source.document(&chosen.blob)?, Some(&chosen.media_type))?;
    let manifest = choose_platform(&entries)?;
    if manifest.kind == EntryKind::Index {
        return Err(ImportError::Nesting);
    }
    let (index, media_type) = (Some(chosen.blob.clone()), manifest.media_type.clone());
    Ok(Selected { manifest: manifest.blob.clone(), media_type, index })
}

fn is_image(entry: &Entry) -> bool {
    let tag = entry.tag.as_deref().unwrap_or_default();
    let is_cosign_tag = tag.rsplit(':').next().is_some_and(|tag| {
        tag.starts_with("sha256-") && [".sig", ".att", ".sbom"].iter().any(|suffix| tag.ends_with(suffix))
    });
    let is_cosign_kind = entry.cosign_kind.as_deref().is_some_and(|kind| {
        !matches!(kind, "dev.cosignproject.cosign/image" | "dev.cosignproject.cosign/imageIndex")
    });
    entry.kind != EntryKind::Other && !entry.is_attestation && !is_cosign_tag && !is_cosign_kind
}

fn choose_image<'e>(images: &[&'e Entry], name: &ImageName) -> Result<&'e Entry, ImportError> {
    if let [only] = images {
        return Ok(only);
    }
    if images.is_empty() {
        return Err(ImportError::Empty);
    }
    let by_tag = |wanted: &str| images.iter().find(|entry| entry.tag.as_deref() == Some(wanted)).copied();
    if let Some(entry) = by_tag(&name.to_string()).or_else(|| by_tag(name.tag())) {
        return Ok(entry);
    }
    let tags: Vec<String> = images.iter().filter_map(|entry| entry.tag.clone()).collect();
    if tags.is_empty() && images.iter().all(|entry| entry.platform.is_some()) {
        // A layout whose own index is the image's, one entry for each platform.
        let host = HostPlatform::current();
        let matching =
            images.iter().find(|entry| entry.platform.as_ref().is_some_and(|p| host.rank(p).is_some()));
        return matching.copied().ok_or_else(|| host.missing(images.iter().copied()));
    }
    let shown = tags.iter().map(|tag| crate::shown::Shown(tag).to_string()).collect();
    Err(ImportError::Ambiguous { tags: shown })
}

fn choose_platform(entries: &[Entry]) -> Result<&Entry, ImportError> {
    let host = HostPlatform::current();
    let images = || entries.iter().filter(|entry| is_image(entry));
    let rank = |entry: &&Entry| match &entry.platform {
        Some(platform) => host.rank(platform),
        // An index of one entry need not name a platform; the configuration is checked all the same.
        None => (images().count() == 1).then_some(usize::MAX),
    };
    images().filter(|entry| rank(entry).is_some()).min_by_key(rank).ok_or_else(|| host.missing(images()))
}

/// Refuses an image whose configuration is for another platform, whatever its index said.
pub(super) fn check_platform(config: &Configuration) -> Result<(), ImportError> {
    let host = HostPlatform::current();
    if config.os == host.os && config.architecture == host.architecture {
        return Ok(());
    }
    let found = vec![Escaped(&format!("{}/{}", config.os, config.architecture)).to_string()];
    Err(ImportError::Platform { host: host.to_string(), found })
}

/// This host, in the words of the OCI image specification.
struct HostPlatform {
    os: &'static str,
    architecture: &'static str,
    /// Best first. Variants of x86-64 above v1 need instructions that the processor may lack.
    variants: &'static [&'static str],
}

impl HostPlatform {
    fn current() -> Self {
        let (architecture, variants): (_, &[&str]) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", &["", "v1"]),
            "aarch64" => ("arm64", &["v8", ""]),
            other => (other, &[""]),
        };
        Self { os: "linux", architecture, variants }
    }

    /// Lower is better; `None` cannot run here.
    fn rank(&self, platform: &EntryPlatform) -> Option<usize> {
        if platform.os != self.os || platform.architecture != self.architecture {
            return None;
        }
        let variant = platform.variant.as_deref().unwrap_or_default();
        self.variants.iter().position(|known| *known == variant)
    }

    fn missing<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> ImportError {
        let shown = |platform: &EntryPlatform| {
            let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
            let text = format!("{}/{}{variant}", platform.os, platform.architecture);
            text.escape_debug().to_string()
        };
        let mut found: Vec<String> = entries.filter_map(|entry| entry.platform.as_ref()).map(shown).collect();
        if found.is_empty() {
            found.push("no named platform".into());
        }
        ImportError::Platform { host: self.to_string(), found }
    }
}

impl std::fmt::Display for HostPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}
