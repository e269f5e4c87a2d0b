//! Installing a seccomp filter.

use std::io;

use crate::check;

/// One instruction of classic BPF, as `struct sock_filter` of `linux/filter.h` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operation's number.
    pub k: u32,
}

/// Whether the kernel writes down what the filter does not allow (`SECCOMP_FILTER_FLAG_LOG`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// It does not, but for killed processes.
    Off,
    /// Each refused call is a line of the kernel's log or of the audit daemon's.
    On,
}

/// Installs a filter on this thread, for good.
///
/// # Errors
/// `EACCES` without `no_new_privs`; `EINVAL` when the kernel refuses the program.
pub fn install_filter(program: &[Instruction], logging: Logging) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|&Instruction { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k })
        .collect();
    let len =
        u16::try_from(filter.len()).map_err(|_too_long| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    let flags = match logging {
        Logging::Off => 0,
        Logging::On => libc::SECCOMP_FILTER_FLAG_LOG,
    };
    // SAFETY: `program` points to `len` instructions that live until the call returns; the kernel
    // copies them and checks them itself.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    Ok(())
}
