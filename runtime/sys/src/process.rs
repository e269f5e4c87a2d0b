//! Processes: fork, securebits, pidfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::unistd::{ForkResult, Pid};

use crate::check;

/// Which side of a [`fork_single_threaded`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old process, with the new one's id.
    Parent(Pid),
}

/// Forks a process that has exactly one thread.
///
/// # Errors
/// `EBUSY` when the process has more than one thread: the child would inherit locks that nobody
/// releases. Otherwise as `fork(2)`.
pub fn fork_single_threaded() -> io::Result<Fork> {
    let status = crate::dir::read_ambient_bounded("/proc/self/status".as_ref(), STATUS_MAX)?;
    if !String::from_utf8_lossy(&status).lines().any(|line| line == "Threads:\t1") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: there is one thread, so the child's copy of every lock and of the allocator is
    // consistent and it may run any code.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Fork::Child),
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
    }
}

/// `/proc/self/status` is some 60 lines of at most a few hundred bytes.
const STATUS_MAX: u64 = 64 * 1024;

/// All securebits of `capabilities(7)` set and locked, so that uid 0 and set-id programs never
/// give a capability back: `NOROOT`, `NO_SETUID_FIXUP`, `NO_CAP_AMBIENT_RAISE` with their locks, and
/// `KEEP_CAPS` locked off.
pub const SECUREBITS_LOCKED: u32 = 0b1110_1111;

/// Sets the securebits of this thread. Needs `CAP_SETPCAP`.
///
/// # Errors
/// `EPERM` without the capability.
pub fn set_securebits(bits: u32) -> io::Result<()> {
    // SAFETY: PR_SET_SECUREBITS takes one integer and touches no memory of ours.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits)) }))?;
    Ok(())
}

/// Reads the securebits of this thread back.
///
/// # Errors
/// None in practice.
pub fn securebits() -> io::Result<u32> {
    // SAFETY: PR_GET_SECUREBITS takes no argument and touches no memory of ours.
    let bits = check(libc::c_long::from(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }))?;
    u32::try_from(bits).map_err(io::Error::other)
}

/// Opens a descriptor for a process; it becomes readable when the process ends.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_open(2)` takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let raw = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sends a signal to the process behind a pidfd, which cannot have been reused by another.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn pidfd_signal(pidfd: impl AsFd, signal: nix::sys::signal::Signal) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    #[expect(clippy::as_conversions, reason = "nix gives the number of a signal no other way")]
    let number = signal as i32;
    // SAFETY: a null siginfo is allowed and means the same as kill(2).
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), number, no_info, 0)
    })?;
    Ok(())
}

/// Marks every descriptor from `first` up close-on-exec.
///
/// For a process with one thread; another could open one meanwhile. Works without `close_range(2)`, so that a kernel
/// on which nothing else does can still be told about.
///
/// # Errors
/// Where `/proc` is not mounted on a kernel before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: `close_range(2)` takes three integers; with CLOEXEC it closes nothing now.
    let marked =
        check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) });
    match marked {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            mark_one_by_one(first)
        }
        marked => marked.map(|_done| ()),
    }
}

fn mark_one_by_one(first: u32) -> io::Result<()> {
    let open = crate::dir::Dir::open_ambient("/proc/self/fd".as_ref())?;
    for name in open.entries()? {
        let Some(number) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if number >= first {
            mark_close_on_exec(number)?;
        }
    }
    Ok(())
}

fn mark_close_on_exec(number: u32) -> io::Result<()> {
    let fd = libc::c_int::try_from(number).map_err(io::Error::other)?;
    // SAFETY: F_SETFD changes a flag in this process's table of descriptors and closes none.
    match check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })) {
        // The descriptor that the list was read with.
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
        marked => marked.map(|_done| ()),
    }
}

/// Closes every descriptor from `first` up, whoever owns it.
///
/// For a process that will never use one of them again: a reaper, or the last lines before exit.
///
/// # Errors
/// As `close_range(2)`; where that is absent, descriptors are closed one by one up to `RLIMIT_NOFILE`.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the callers never return to code that owns a descriptor, so no double close follows.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => close_one_by_one(first),
        closed => closed.map(|_done| ()),
    }
}

fn close_one_by_one(first: u32) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit};
    let (limit, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    for number in libc::c_int::try_from(first).map_err(io::Error::other)?.. {
        if u64::try_from(number).is_ok_and(|number| number >= limit) {
            break;
        }
        // SAFETY: as above; a number that is not open is refused with EBADF.
        match check(libc::c_long::from(unsafe { libc::close(number) })) {
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Ends this process at once: no destructor, no exit function, no flush.
///
/// In the child of a fork, where the parent's exit functions must not run a second time.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit(2)` does not return and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// The value of `RLIMIT_CORE` at which the kernel writes no core dump, neither to a file, for which it
/// is too small, nor to a program that `core_pattern` names: 0 does not stop the latter, 1 does
/// (`fs/coredump.c`).
pub const NO_CORE_DUMP: u64 = 1;

/// Forbids core dumps of this process and its children: one would put secrets on the disk.
///
/// # Errors
/// None in practice.
pub fn forbid_core_dumps() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    let limit = NO_CORE_DUMP.min(hard);
    Ok(setrlimit(Resource::RLIMIT_CORE, limit, limit)?)
}

/// Makes this process one that nobody of the same user can look into: no core dump, no ptrace, no
/// reading of its memory, environment and descriptors (`PR_SET_DUMPABLE` 0: what is below `/proc/PID`
/// belongs to root then). Children inherit it; `execve` and a change of ids set it anew.
///
/// # Errors
/// When the kernel says afterwards that it did not take effect.
pub fn forbid_inspection() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    if nix::sys::prctl::get_dumpable()? {
        return Err(io::Error::other("the process is still dumpable"));
    }
    Ok(())
}

/// The opposite of [`forbid_inspection`], for the moments in which another process has to write to, or
/// this one to read, what is below its own `/proc/PID`.
///
/// # Errors
/// None in practice.
pub fn allow_inspection() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(true)?)
}

/// Sets every signal's disposition back to the default: an ignored signal survives fork and exec, and
/// somebody who ignores SIGCHLD would make us miss the end of a child.
///
/// # Errors
/// None in practice; KILL, STOP and the two that libc keeps for itself are left out.
pub fn reset_signals() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        if [libc::SIGKILL, libc::SIGSTOP].contains(&number) || (32..libc::SIGRTMIN()).contains(&number) {
            continue;
        }
        reset_signal(number)?;
    }
    Ok(())
}

/// As [`reset_signals`] for SIGCHLD alone, for a program whose runtime has handlers of its own.
///
/// # Errors
/// None in practice.
pub fn reset_sigchld() -> io::Result<()> {
    reset_signal(libc::SIGCHLD)
}

fn reset_signal(number: libc::c_int) -> io::Result<()> {
    // SAFETY: SIG_DFL is a valid disposition for any signal and no code of ours becomes a handler.
    let previous = unsafe { libc::signal(number, libc::SIG_DFL) };
    if previous == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The Landlock ABI version of this kernel; 0 when Landlock is absent or switched off.
pub fn landlock_abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    let no_attr = std::ptr::null::<u8>();
    // SAFETY: with the VERSION flag the kernel wants a null attribute of size 0.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, no_attr, 0_usize, CREATE_RULESET_VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether this kernel knows a seccomp return action (`SECCOMP_RET_*`).
pub fn seccomp_action_available(action: u32) -> bool {
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one u32 behind the pointer.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    /// What `close_range` does where it is there, without it.
    #[test]
    fn descriptors_are_marked_one_by_one() {
        let file = std::fs::OpenOptions::new().read(true).open("/proc/self/status").unwrap();
        let [low, high] = [(); 2].map(|()| nix::unistd::dup(&file).unwrap());
        let first = u32::try_from(low.as_raw_fd().max(high.as_raw_fd())).unwrap();
        let marked = |fd: &OwnedFd| FdFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(marked(&low).is_empty() && marked(&high).is_empty());
        mark_one_by_one(first).unwrap();
        let both = [marked(&low), marked(&high)];
        assert!(both.contains(&FdFlag::FD_CLOEXEC) && both.contains(&FdFlag::empty()), "{both:?}");
    }
}
