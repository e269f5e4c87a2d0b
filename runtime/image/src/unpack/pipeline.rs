//! One layer as one stream: blob, size and digest, inflater, limits and diffID, archive, tree.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use palisade_sys::dir::Dir;

use super::LayerFault;
use super::archive::Unpacking;
use super::confine::Confined;
use super::protocol::{LayerReport, Request};
use super::tree::Tree;
use crate::digest::HashingReader;
use crate::document::Compression;
use crate::limits::{LAYER_BYTES_MAX, LAYER_RATIO_FLOOR, LAYER_RATIO_MAX, ZSTD_WINDOW_LOG_MAX};
use crate::shown::lossy;
use crate::tarball::{self, WalkError};

/// Large enough that the inflater rarely waits for the next read.
const BUFFER_BYTES: usize = 128 * 1024;

/// What begins a gzip stream (RFC 1952) and a zstd frame or skippable frame (RFC 8878).
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPABLE: std::ops::RangeInclusive<u8> = 0x50..=0x5f;
const ZSTD_SKIPPABLE_REST: &[u8] = &[0x2a, 0x4d, 0x18];

type Blob = BufReader<HashingReader<File>>;

/// Unpacks a layer into an empty tree. Takes the proof that this process is confined.
pub(super) fn unpack_layer(
    confined: &Confined,
    request: &Request,
    blob: File,
    tree: Dir,
) -> Result<LayerReport, LayerFault> {
    let mut blob = BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(blob));
    check_content(&mut blob, request.compression)?;
    let inflated = Bounded { inner: Inflater::new(blob, request.compression)?, left: bound(request.size) };
    let mut archive = tar::Archive::new(HashingReader::new(inflated));
    let mut unpacking = Unpacking::new(Tree::new(tree));
    let entries = archive.entries().map_err(|error| read_fault(&error))?;
    tarball::walk(entries, &mut |member, contents| unpacking.member(member, contents)).map_err(walk_fault)?;

    let mut rest = archive.into_inner();
    tarball::check_padding(&mut rest).map_err(|error| match error {
        WalkError::Tar(fault) => LayerFault::Tar(fault),
        WalkError::Read(error) => read_fault(&error),
        WalkError::Visit(never) => match never {},
    })?;
    let (diff_id, _, inflated) = rest.finish();
    let blob = finish_blob(inflated.inner, request.size)?;

    let whiteouts = unpacking.whiteouts.count();
    let form = unpacking.whiteouts.apply(&mut unpacking.tree, request.place)?;
    unpacking.tree.finish()?;
    Ok(LayerReport {
        blob,
        diff_id: diff_id.to_string(),
        form,
        entries: unpacking.entries,
        bytes: unpacking.bytes,
        skipped_devices: unpacking.skipped_devices,
        whiteouts,
        landlock_abi: confined.landlock_abi(),
    })
}

/// A layer that is announced as one thing and is another would be a different image to other readers.
fn check_content(blob: &mut Blob, compression: Compression) -> Result<(), LayerFault> {
    let start = blob.fill_buf().map_err(|error| LayerFault::io("read a layer", &error))?;
    let is_gzip = start.starts_with(GZIP_MAGIC);
    let is_skippable = start.first().is_some_and(|first| ZSTD_SKIPPABLE.contains(first))
        && start.get(1..).is_some_and(|rest| rest.starts_with(ZSTD_SKIPPABLE_REST));
    let is_zstd = start.starts_with(ZSTD_MAGIC) || is_skippable;
    let (is_right, expected) = match compression {
        Compression::Plain => (!is_gzip && !is_zstd, "an uncompressed archive"),
        Compression::Gzip => (is_gzip, "gzip"),
        Compression::Zstd => (is_zstd, "zstd"),
    };
    if is_right { Ok(()) } else { Err(LayerFault::Content { expected: expected.into() }) }
}

/// What a blob of this size may inflate to.
fn bound(size: u64) -> u64 {
    size.saturating_mul(LAYER_RATIO_MAX).clamp(LAYER_RATIO_FLOOR, LAYER_BYTES_MAX)
}

/// Checks that nothing of the blob is left and that it had the announced size; returns its digest.
fn finish_blob(inflater: Inflater, size: u64) -> Result<String, LayerFault> {
    let mut blob = inflater.into_blob();
    let left =
        io::copy(&mut blob, &mut io::sink()).map_err(|error| LayerFault::io("read a layer", &error))?;
    if left > 0 {
        return Err(LayerFault::Inflate { detail: "something follows the compressed stream".into() });
    }
    let (digest, count, _) = blob.into_inner().finish();
    if count == size {
        Ok(digest.to_string())
    } else {
        Err(LayerFault::Size { expected: size, found: count })
    }
}

/// The inflaters accept several members or frames one after the other, as gzip and zstd define it; the
/// diffID is over all of them, and anything else that follows is an error.
enum Inflater {
    Plain(Blob),
    Gzip(Box<MultiGzDecoder<Blob>>),
    Zstd(zstd::stream::read::Decoder<'static, Blob>),
}

impl Inflater {
    fn new(blob: Blob, compression: Compression) -> Result<Self, LayerFault> {
        Ok(match compression {
            Compression::Plain => Self::Plain(blob),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(blob))),
            Compression::Zstd => {
                let inflate = |error: io::Error| inflate_fault(&error);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(blob).map_err(inflate)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(inflate)?;
                Self::Zstd(decoder)
            }
        })
    }

    fn into_blob(self) -> Blob {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl Read for Inflater {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(blob) => return blob.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        };
        read.map_err(|error| io::Error::other(inflate_fault(&error)))
    }
}

/// A reader that ends a bomb.
struct Bounded {
    inner: Inflater,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let count = u64::try_from(read).map_err(io::Error::other)?;
        let too_much = || {
            io::Error::other(LayerFault::Limit {
                what: format!("bytes when inflated, or more than {LAYER_RATIO_MAX} for each compressed one"),
                max: LAYER_BYTES_MAX,
            })
        };
        self.left = self.left.checked_sub(count).ok_or_else(too_much)?;
        Ok(read)
    }
}

fn inflate_fault(error: &io::Error) -> LayerFault {
    LayerFault::Inflate { detail: lossy(error.to_string().as_bytes()) }
}

/// What went wrong below the archive: our own fault when one is inside.
pub(super) fn read_fault(error: &io::Error) -> LayerFault {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<LayerFault>()) {
        Some(fault) => fault.clone(),
        None => LayerFault::io("read a layer", error),
    }
}

fn walk_fault(error: WalkError<LayerFault>) -> LayerFault {
    match error {
        WalkError::Tar(fault) => LayerFault::Tar(fault),
        WalkError::Read(error) => read_fault(&error),
        WalkError::Visit(fault) => fault,
    }
}
