//! The system calls that neither std nor nix offers in a safe form, one function each.
//!
//! Every other crate of the workspace forbids `unsafe`; to review all of it, read this crate.
//! Nothing here decides anything: a function takes descriptors and numbers, makes one call and
//! returns what the kernel said. Policy, ordering and error texts belong to the callers.
//!
//! Reading order: [`dir`] (descriptor-based file access, no unsafe paths), [`mount`] (the mount
//! API of Linux 5.2 and later), [`process`] (fork, securebits, pidfd), [`procfs`] (files of the process
//! itself, on a procfs that is one), [`seccomp`] (filters), [`socket`] (descriptors over a socket), [`child`]
//! (the one place that starts a process).

#![expect(unsafe_code, reason = "this crate exists to hold it; each block says why it is sound")]

pub mod child;
pub mod dir;
pub mod mount;
pub mod process;
pub mod procfs;
pub mod seccomp;
pub mod socket;

use std::io;

/// Turns the `-1` and `errno` convention of `libc::syscall` into a result.
fn check(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
