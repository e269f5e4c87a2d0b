//! pid 1 of the sandbox.
//!
//! It reaps whatever the server leaves behind, passes TERM on (a pid 1 without a handler never sees
//! it), and ends when the server does, which ends everything else in the pid namespace. It holds no
//! descriptor, is not dumpable (libcontainer saw to that before the clone), and lives under the same
//! lock-down as the server.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use palisade_sys::process::close_from;

/// The signals that pid 1 waits for; they are blocked, so that none is lost between two waits.
pub(super) fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Reaps until the server has ended; returns what to exit with.
pub(super) fn run(server: Pid) -> i32 {
    // With the server's pipes open here, nobody would ever see it close them.
    if close_from(0).is_err() {
        return 1;
    }
    loop {
        match signals().wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(server) {
                    return status;
                }
            }
            Ok(signal) => {
                if kill(server, signal).is_err() {
                    // It has just ended; SIGCHLD is on its way.
                }
            }
            Err(_interrupted) => {}
        }
    }
}

fn reap(server: Pid) -> Option<i32> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == server => return Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == server => return Some(shell_status(signal)),
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return None,
            Ok(_) | Err(_) => {}
        }
    }
}

/// 128 and the signal's number, as a shell reports it.
#[expect(clippy::as_conversions, reason = "nix gives the number of a signal no other way")]
fn shell_status(signal: Signal) -> i32 {
    128_i32.saturating_add(signal as i32)
}
