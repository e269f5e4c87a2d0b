//! From a [`VerifiedImage`] to directories that a sandbox can mount.
//!
//! For each layer that is not there yet: a staging directory is made, this binary is started again in
//! the role `__unpack` with three descriptors (the blob, the staged tree, the staging directory), and
//! that child confines itself before it reads the first byte (`confine`). It streams the blob through
//! both hashes and the inflater into the tree (`pipeline`, `tree`), and reports. Only when both digests
//! are the expected ones is the tree published by rename.
//!
//! ```text
//! blob ─► size, sha256 ─► gunzip/unzstd ─► limits, diffID ─► tar members ─► names checked ─► files
//! ```
//!
//! The attacker considered made the layer. He may use any entry of the archive format, in any order,
//! and may know a way to take over the inflater. The first gets him errors; the second a process that
//! can write below one staging directory and do nothing else: what it wrote there is published only
//! under the diffID that it claims to be. (Such a child could lie about both digests, and so plant files
//! for another image that has a layer of that diffID. Hashing in a second process would end that.)
//!
//! Ownership is flattened on purpose: everything belongs to the user who runs this, since a sandbox maps
//! exactly one id.

mod archive;
mod child;
mod confine;
mod error;
mod path;
mod pipeline;
mod protocol;
mod tree;
mod whiteout;

use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use palisade_policy::Digest;
use palisade_sys::child::{RoleProcess, spawn_self};
use palisade_sys::dir::{Dir, DirLock};
use palisade_sys::socket;

pub use child::unpack_child_main;
#[doc(hidden)]
pub use confine::confine_this_process;
pub use error::{DigestOf, EntryRule, LayerFault, UnpackError};
pub use protocol::LayerReport;
use protocol::{Reply, Request};

use crate::digest::HashingReader;
use crate::limits::{BLOB_BYTES_MAX, LAYER_TIME_MAX, REPORT_BYTES_MAX};
use crate::store::{LayerForm, LayerPlace, Published};
use crate::verify::VerifiedLayer;
use crate::{Evidence, ImageConfig, Store, VerifiedImage};

/// The first argument of the child.
pub const UNPACK_ROLE: &str = "__unpack";

/// The first kernel that reads the marker of deleted names which an ordinary user can write
/// (`overlay.opaque=x`: Linux commit 420332b94119, "ovl: mark xwhiteouts directory with
/// overlay.opaque='x'").
const DELETING_LAYERS_SINCE: (u32, u32) = (6, 8);

/// What may be missing while a layer is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Whether unpacking may go on where the kernel has no Landlock.
    pub landlock: LandlockNeed,
}

/// Whether Landlock is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandlockNeed {
    /// Without it, nothing is unpacked.
    Required,
    /// The policy accepts that it is missing; the report says whether it was.
    AcceptedAbsent,
}

/// The layers of a verified image, unpacked and held: they are not removed while this value lives.
#[derive(Debug)]
pub struct UnpackedRootfs {
    evidence: Evidence,
    config: ImageConfig,
    layers: Vec<Dir>,
    reports: Vec<LayerReport>,
    in_use: Vec<DirLock>,
}

impl UnpackedRootfs {
    /// The manifest that was verified.
    pub fn manifest_digest(&self) -> &Digest {
        &self.evidence.manifest
    }

    /// What the image says about how it is run.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The layers to mount, the lowest first; at least one.
    ///
    /// More than one goes into an overlay mounted with `userxattr`, which is what makes the kernel honour
    /// the markers of deleted names. A single one can be bind-mounted: it has no such markers.
    pub fn layers(&self) -> &[Dir] {
        &self.layers
    }

    /// Why the image is accepted.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// One report for each layer that this call unpacked; layers that were there have none.
    pub fn reports(&self) -> &[LayerReport] {
        &self.reports
    }
}

/// Unpacks a verified image; Landlock is required. See [`unpack_with`].
pub fn unpack(store: &Store, image: VerifiedImage) -> Result<UnpackedRootfs, UnpackError> {
    unpack_with(store, image, UnpackOptions { landlock: LandlockNeed::Required })
}

/// Unpacks what is missing of a verified image, and holds all of it.
pub fn unpack_with(
    store: &Store,
    image: VerifiedImage,
    options: UnpackOptions,
) -> Result<UnpackedRootfs, UnpackError> {
    let _lock = store.lock_shared()?;
    let (evidence, layers, config) = image.into_parts();
    if layers.is_empty() {
        return Err(UnpackError::NoLayers);
    }
    let mut unpacked =
        UnpackedRootfs { evidence, config, layers: Vec::new(), reports: Vec::new(), in_use: Vec::new() };
    for layer in layers {
        let place = if unpacked.layers.is_empty() { LayerPlace::Bottom } else { LayerPlace::Above };
        let found = ensure_layer(store, &layer, place, options, &mut unpacked.reports)?;
        if found.form == LayerForm::Opaque {
            unpacked.layers.clear();
            unpacked.in_use.clear();
        }
        unpacked.layers.push(found.dir);
        unpacked.in_use.push(found.lock);
    }
    Ok(unpacked)
}

fn ensure_layer(
    store: &Store,
    layer: &VerifiedLayer,
    place: LayerPlace,
    options: UnpackOptions,
    reports: &mut Vec<LayerReport>,
) -> Result<Published, UnpackError> {
    let find = || store.find_layer(&layer.diff_id, place);
    let found = if let Some(found) = find()? {
        found
    } else {
        let _one_at_a_time = store.lock_layer(&layer.diff_id)?;
        // Another run may have published it while this one waited.
        if let Some(found) = find()? {
            found
        } else {
            reports.push(unpack_layer(store, layer, place, options)?);
            find()?.ok_or_else(|| UnpackError::fault(layer, LayerFault::Unpublished))?
        }
    };
    if found.form == LayerForm::Deleting {
        check_kernel_hides(layer)?;
    }
    Ok(found)
}

fn unpack_layer(
    store: &Store,
    layer: &VerifiedLayer,
    place: LayerPlace,
    options: UnpackOptions,
) -> Result<LayerReport, UnpackError> {
    const TREE: &str = "tree";
    let staging = store.stage()?;
    let io = crate::StoreError::io("make a directory for a layer");
    let tree = staging.dir().create_dir(Path::new(TREE), 0o700).map_err(io)?;
    let blob = store.open_blob(&layer.packed.blob.digest)?;
    let request = Request {
        compression: layer.packed.compression,
        size: layer.packed.blob.size,
        place: place.into(),
        landlock_required: options.landlock == LandlockNeed::Required,
        parent: std::process::id(),
    };
    let fds = [blob.as_fd(), tree.as_fd(), staging.dir().as_fd()];
    let report = run_child(&request, &fds).map_err(|fault| blame(store, layer, fault))?;
    check_digests(layer, &report)?;
    store.publish_layer(&staging, Path::new(TREE), &layer.diff_id, report.form.into())?;
    Ok(report)
}

/// A blob that was damaged in the store mostly fails in the archive that it no longer holds, before its digest is
/// known. Whoever reads the error must not blame the publisher for that, so the digest is looked at before.
fn blame(store: &Store, layer: &VerifiedLayer, fault: LayerFault) -> UnpackError {
    if !fault.is_of_the_contents() {
        return UnpackError::fault(layer, fault);
    }
    let expected = &layer.packed.blob.digest;
    match store.open_blob(expected).map(stored_digest) {
        Ok(Ok(found)) if found != *expected => {
            let (expected, found) = (expected.to_string(), found.to_string());
            UnpackError::fault(layer, LayerFault::Digest { what: DigestOf::Blob, expected, found })
        }
        // What was found first stays the best that can be said.
        Ok(Ok(_) | Err(_)) | Err(_) => UnpackError::fault(layer, fault),
    }
}

fn stored_digest(blob: std::fs::File) -> std::io::Result<Digest> {
    // No blob gets into the store above this size.
    let mut blob = HashingReader::new(blob.take(BLOB_BYTES_MAX));
    std::io::copy(&mut blob, &mut std::io::sink())?;
    Ok(blob.finish().0)
}

fn check_digests(layer: &VerifiedLayer, report: &LayerReport) -> Result<(), UnpackError> {
    let compare = |what, expected: &Digest, found: &str| {
        if expected.to_string() == found {
            return Ok(());
        }
        let fault = LayerFault::Digest { what, expected: expected.to_string(), found: found.into() };
        Err(UnpackError::fault(layer, fault))
    };
    compare(DigestOf::Blob, &layer.packed.blob.digest, &report.blob)?;
    compare(DigestOf::Archive, &layer.diff_id, &report.diff_id)
}

/// Starts the child, waits for its reply, and never leaves it behind.
fn run_child(request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<LayerReport, LayerFault> {
    let started = Instant::now();
    let mut process =
        spawn_self(UNPACK_ROLE).map_err(|error| LayerFault::io("start the unpacking process", &error))?;
    let reply = converse(&process.control, request, fds, started);
    // Killed in every case: after its reply the child has nothing left to do.
    let status = reap(&mut process)?;
    match reply? {
        Some(Reply::Done(report)) => Ok(report),
        Some(Reply::Failed(fault)) => Err(fault),
        None => Err(LayerFault::ChildDied { status: status.to_string() }),
    }
}

fn reap(process: &mut RoleProcess) -> Result<std::process::ExitStatus, LayerFault> {
    // A child that died by itself keeps its own status: a signal to a zombie does nothing.
    process.child.kill().map_err(|error| LayerFault::io("end the unpacking process", &error))?;
    process.child.wait().map_err(|error| LayerFault::io("wait for the unpacking process", &error))
}

/// `None` when the child ended without a word.
fn converse(
    control: &OwnedFd,
    request: &Request,
    fds: &[std::os::fd::BorrowedFd<'_>],
    started: Instant,
) -> Result<Option<Reply>, LayerFault> {
    let message = serde_json::to_vec(request).map_err(|error| LayerFault::protocol(&error))?;
    if let Err(error) = socket::send(control, &message, fds) {
        // It died before it listened; its status says more than the broken pipe.
        return if error.kind() == std::io::ErrorKind::BrokenPipe {
            Ok(None)
        } else {
            Err(LayerFault::io("talk to the unpacking process", &error))
        };
    }
    wait_readable(control, started)?;
    let received = match socket::receive(control, REPORT_BYTES_MAX) {
        Ok((message, _)) => message,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Vec::new(),
        Err(error) => return Err(LayerFault::io("hear from the unpacking process", &error)),
    };
    if received.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&received).map(Some).map_err(|error| LayerFault::protocol(&error))
}

fn wait_readable(control: &OwnedFd, started: Instant) -> Result<(), LayerFault> {
    loop {
        let left = LAYER_TIME_MAX.checked_sub(started.elapsed()).ok_or(LayerFault::Time)?;
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(control.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(LayerFault::io("wait for the unpacking process", &error.into())),
        }
    }
}

fn check_kernel_hides(layer: &VerifiedLayer) -> Result<(), UnpackError> {
    let name = nix::sys::utsname::uname().map_err(|error| {
        UnpackError::fault(layer, LayerFault::io("ask the kernel for its version", &error.into()))
    })?;
    let release = name.release().to_string_lossy().into_owned();
    if kernel_version(&release).is_some_and(|version| version >= DELETING_LAYERS_SINCE) {
        return Ok(());
    }
    Err(UnpackError::fault(layer, LayerFault::KernelCannotHide { release }))
}

/// Major and minor of a release such as `6.8.0-31-generic`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert_eq!(kernel_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(kernel_version("6.8-rc1"), Some((6, 8)));
        assert!(kernel_version("6.10.0").unwrap() > DELETING_LAYERS_SINCE);
        assert!(kernel_version("6.7.12+").unwrap() < DELETING_LAYERS_SINCE);
        assert_eq!(kernel_version("next"), None);
    }
}
