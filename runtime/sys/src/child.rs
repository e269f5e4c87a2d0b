//! The one place that starts a process: this same binary, in another role.
//!
//! The new process is started from `/proc/self/exe`, so an upgrade that replaces the file while
//! we run cannot mix two versions. It gets no argument but its role, an empty environment (no
//! `LD_*`, no token of the caller), and one control socket as standard input, over which
//! everything else travels as messages and descriptors ([`crate::socket`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::socket::packet_pair;

/// A process of our own in another role, and the socket to talk to it.
#[derive(Debug)]
pub struct RoleProcess {
    /// The process; it must be waited for.
    pub child: Child,
    /// Our end of the control socket; the child has the other one as descriptor 0.
    pub control: OwnedFd,
}

/// Starts this binary in `role` (the first argument, for example `__supervise`).
///
/// Its standard output is closed off; its standard error is ours, since log lines are for people.
///
/// # Errors
/// As `fork(2)` and `execve(2)`.
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub fn spawn_self(role: &str) -> io::Result<RoleProcess> {
    let (ours, theirs) = packet_pair()?;
    let child = Command::new("/proc/self/exe")
        .arg(role)
        .env_clear()
        // Ctrl-C is for the gateway, which then ends its servers in order.
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok(RoleProcess { child, control: ours })
}
