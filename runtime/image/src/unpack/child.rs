//! The process that unpacks: take the request, confine, work, reply, end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use palisade_sys::dir::{Dir, LockMode, take_inherited};
use palisade_sys::socket;

use super::LayerFault;
use super::confine::confine;
use super::pipeline::unpack_layer;
use super::protocol::{LayerReport, Reply, Request};

/// A request is a few numbers.
const REQUEST_BYTES_MAX: usize = 4096;

/// What the binary calls when it is started in the role [`super::UNPACK_ROLE`].
///
/// Descriptor 0 is the control socket. The exit status says nothing that the reply does not.
pub fn unpack_child_main() -> ExitCode {
    let Ok(control) = take_inherited(0) else { return ExitCode::FAILURE };
    let reply = match serve(&control) {
        Ok(report) => Reply::Done(report),
        Err(fault) => Reply::Failed(fault),
    };
    let Ok(message) = serde_json::to_vec(&reply) else { return ExitCode::FAILURE };
    match socket::send(&control, &message, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(control: &OwnedFd) -> Result<LayerReport, LayerFault> {
    let io = |doing| move |error: std::io::Error| LayerFault::io(doing, &error);
    // First of all: whatever happens to the parent, this process goes with it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| LayerFault::io("follow the parent", &error.into()))?;
    let (message, fds) = socket::receive(control, REQUEST_BYTES_MAX).map_err(io("receive the request"))?;
    let request: Request = serde_json::from_slice(&message).map_err(|error| LayerFault::protocol(&error))?;
    let parent = u32::try_from(nix::unistd::getppid().as_raw()).unwrap_or_default();
    if parent != request.parent {
        return Err(LayerFault::Protocol { detail: "the parent is gone".into() });
    }
    let Ok([blob, tree, staging]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(LayerFault::Protocol { detail: "three descriptors are expected".into() });
    };
    let (tree, staging) = (Dir::from_fd(tree), Dir::from_fd(staging));
    // Held until this process ends: the staging directory is not swept while something still writes.
    let _alive = staging.lock(LockMode::Shared).map_err(io("lock the staging directory"))?;
    drop(staging);
    let confined = confine(&tree, request.landlock_required)?;
    unpack_layer(&confined, &request, File::from(blob), tree)
}
