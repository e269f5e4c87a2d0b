//! What a supervisor leaves behind that ends before its sandbox has asked to die with it.
//!
//! pid 1 makes that request in our executor, some milliseconds after libcontainer has cloned it. Until then it
//! waits for libcontainer's messages on sockets of which it holds both ends, and so would wait for ever. The
//! keeper is the subreaper of everything below it: what loses its parent becomes the keeper's child, and the
//! keeper ends it.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use palisade_sys::dir::read_ambient_bounded;

use super::{During, StepError};

/// To be called before the supervisor is forked.
pub(super) fn adopt() -> Result<(), StepError> {
    nix::sys::prctl::set_child_subreaper(true).during("becoming the reaper of orphans")
}

/// What the kernel may take to end a process after SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Kills and reaps until there is no child. To be called when the supervisor has been reaped.
pub(super) fn end_all() -> Result<(), StepError> {
    const STEP: &str = "ending what the supervisor left";
    let started = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(nix::Error::ECHILD) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(StepError::new(STEP, error)),
            Ok(WaitStatus::StillAlive) if started.elapsed() > END_TIMEOUT => {
                return Err(StepError::new(STEP, "a process does not end"));
            }
            Ok(WaitStatus::StillAlive) => {
                kill_children().during(STEP)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(_reaped) => {}
        }
    }
}

/// A handful of numbers.
const CHILDREN_MAX: u64 = 64 * 1024;

fn kill_children() -> io::Result<()> {
    let text = read_ambient_bounded(Path::new("/proc/thread-self/children"), CHILDREN_MAX)?;
    for pid in String::from_utf8_lossy(&text).split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // A child that is not reaped keeps its number, so this can be no other process.
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
