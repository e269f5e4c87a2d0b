//! Every bound on what an image may contain, and where its number comes from.

use std::time::Duration;

/// An index, a manifest, a configuration or a signature manifest: registries refuse manifests above
/// 4 MiB (OCI distribution specification, "Pushing Manifests").
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Layers of one image: Docker builds at most 127 (the overlay driver's own limit), plus one.
pub(crate) const LAYERS_MAX: usize = 128;

/// Entries of one index: the largest official images have some 20 platforms, each with an attestation.
pub(crate) const INDEX_ENTRIES_MAX: usize = 1024;

/// One blob: the largest layers in public registries (GPU frameworks) have some 5 GiB.
pub(crate) const BLOB_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// All blobs of one image together: four layers of the largest size.
pub(crate) const IMAGE_BYTES_MAX: u64 = 4 * BLOB_BYTES_MAX;

/// Signature manifests kept for one image, of those that were imported and as many again of those made
/// here: one for each of a handful of signers and re-signings.
pub(crate) const SIGNATURE_MANIFESTS_MAX: usize = 16;

/// Signatures in one signature manifest: cosign appends one for each `cosign sign`.
pub(crate) const SIGNATURES_MAX: usize = 64;

/// A simple-signing payload is 230 bytes and the annotations that its signer added.
pub(crate) const PAYLOAD_BYTES_MAX: u64 = 64 * 1024;

/// A base64 ECDSA P-256 signature has 96 characters.
pub(crate) const SIGNATURE_TEXT_MAX: usize = 1024;

/// A key in PEM: a P-256 key has 180 (public) or 240 (private) bytes.
pub(crate) const KEY_BYTES_MAX: u64 = 16 * 1024;

/// A file below `names/`: two digests in JSON.
pub(crate) const RECORD_BYTES_MAX: u64 = 4096;

/// Members of a layout archive: each blob of the largest image, its signatures and three files, with
/// room for a layout that holds other images as well.
pub(crate) const LAYOUT_MEMBERS_MAX: usize = 65_536;

/// Strings of one list of the configuration (environment, arguments). `execve(2)` gives all of them
/// together a quarter of the stack, 2 MiB; the largest image seen has some 60.
pub(crate) const CONFIG_STRINGS_MAX: usize = 1024;

/// One string of the configuration: `MAX_ARG_STRLEN`, 32 pages, is what `execve(2)` takes.
pub(crate) const CONFIG_STRING_BYTES_MAX: usize = 128 * 1024;

/// Entries of one layer: a full desktop distribution has some 300,000 files.
pub(crate) const LAYER_ENTRIES_MAX: u64 = 500_000;

/// What one layer may inflate to, file contents and headers together.
pub(crate) const LAYER_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// Inflated bytes per compressed byte. Real layers stay below 10, sparse databases reach 100; deflate
/// itself ends at 1032.
pub(crate) const LAYER_RATIO_MAX: u64 = 250;

/// Below this size a bomb does no harm, and small layers of empty files do reach high ratios.
pub(crate) const LAYER_RATIO_FLOOR: u64 = 64 * 1024 * 1024;

/// One file: model weights and databases in public images stay below this.
pub(crate) const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Components of a path: `node_modules` nested by npm 2, the deepest in practice, reached some 40.
pub(crate) const PATH_DEPTH_MAX: usize = 64;

/// `PATH_MAX` of Linux, with its NUL.
pub(crate) const PATH_BYTES_MAX: usize = 4095;

/// `NAME_MAX` of Linux.
pub(crate) const COMPONENT_BYTES_MAX: usize = 255;

/// A PAX header of one entry: two paths and some numbers; file capabilities and labels add a few
/// hundred bytes.
pub(crate) const PAX_BYTES_MAX: u64 = 64 * 1024;

/// Extension headers (PAX, GNU long name) before one entry: path, link, local and global.
pub(crate) const EXTENSIONS_MAX: usize = 4;

/// A reply of the unpacking child: counts and at most one message.
pub(crate) const REPORT_BYTES_MAX: usize = 64 * 1024;

/// The memory of the unpacking child: a zstd window (see [`ZSTD_WINDOW_LOG_MAX`]), the table of a
/// layer's directories (500,000 paths of 100 bytes, twice), and the binary itself.
pub(crate) const CHILD_MEMORY_MAX: u64 = 1024 * 1024 * 1024;

/// 128 MiB, the largest window that `zstd` itself accepts without `--long`.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Descriptors of the unpacking child: one for each level of the deepest tree while it is removed, as
/// many again for its iteration, and a few.
pub(crate) const CHILD_FILES_MAX: u64 = 256;

/// One layer at its largest, inflated at 50 MB/s onto a slow disk, with a margin of four.
pub(crate) const LAYER_TIME_MAX: Duration = Duration::from_mins(10);
