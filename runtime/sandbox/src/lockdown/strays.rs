//! The first thing that our code does in pid 1: descriptors that a clone brought along are closed.
//!
//! Close-on-exec is no help yet, since nothing has been executed. What is open here and of no use to pid 1 are
//! libcontainer's sockets, the ways in and out of the cgroup, and the other end of the gate, which as long as it is
//! open anywhere hides that the supervisor is gone.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use palisade_sys::dir::{Dir, take_inherited};

use super::LockdownError;

const STEP: &str = "closing what is not the sandbox's";

/// Closes every descriptor from 3 up but those of `kept`.
///
/// For a process that never returns to the code that owned them.
pub(super) fn close_all_but(kept: &[&OwnedFd]) -> Result<(), LockdownError> {
    let failed = |error: std::io::Error| LockdownError::new(STEP, error);
    let kept: Vec<i32> = kept.iter().map(|fd| fd.as_raw_fd()).collect();
    let names =
        Dir::open_ambient(Path::new("/proc/self/fd")).and_then(|dir| dir.entries()).map_err(failed)?;
    for number in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()) {
        if number < 3 || kept.contains(&number) {
            continue;
        }
        match take_inherited(number) {
            Ok(stray) => drop(stray),
            // The one that listed them is closed by now.
            Err(error) if error.raw_os_error() == Some(nix::libc::EBADF) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
