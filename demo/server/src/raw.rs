//! System calls that the standard library has no word for, mostly because no honest program makes them.
//!
//! One unsafe function, [`syscall6`], and above it a safe [`call`]. What makes `call` safe:
//! - only the calls listed as [`Call`] constants can be made;
//! - a pointer is made only from a borrowed [`Arg::Text`], [`Arg::Bytes`], [`Arg::Fill`] or [`Arg::Strings`], which
//!   outlives the call and has the length that the kernel is told;
//! - [`Arg::Value`] is 32 bits wide, and a position-independent executable has nothing mapped below 4 GiB, so that
//!   no plain number can name our own memory;
//! - a new process never shares our memory ([`fork`] takes namespace flags only), and this program has one thread.

#![expect(
    unsafe_code,
    reason = "an attacker makes raw system calls, and must not link palisade-sys to do so"
)]

use std::ffi::CStr;

use nix::errno::Errno;

/// A system call that an attack may make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call(libc::c_long);

macro_rules! calls {
    ($($name:ident = $number:ident),* $(,)?) => {
        impl Call { $(pub(crate) const $name: Self = Self(libc::$number);)* }
    };
}

calls! {
    BPF = SYS_bpf,
    CAPSET = SYS_capset,
    CHROOT = SYS_chroot,
    CLOCK_SETTIME = SYS_clock_settime,
    CLOSE = SYS_close,
    EXECVE = SYS_execve,
    EXECVEAT = SYS_execveat,
    FCNTL = SYS_fcntl,
    FSOPEN = SYS_fsopen,
    INIT_MODULE = SYS_init_module,
    IOCTL = SYS_ioctl,
    IO_URING_SETUP = SYS_io_uring_setup,
    KEXEC_LOAD = SYS_kexec_load,
    KEYCTL = SYS_keyctl,
    KILL = SYS_kill,
    MEMFD_CREATE = SYS_memfd_create,
    MKNODAT = SYS_mknodat,
    MMAP = SYS_mmap,
    MOUNT = SYS_mount,
    NANOSLEEP = SYS_nanosleep,
    OPENAT = SYS_openat,
    OPEN_BY_HANDLE_AT = SYS_open_by_handle_at,
    PERF_EVENT_OPEN = SYS_perf_event_open,
    PERSONALITY = SYS_personality,
    PIDFD_GETFD = SYS_pidfd_getfd,
    PIDFD_OPEN = SYS_pidfd_open,
    PIVOT_ROOT = SYS_pivot_root,
    PRCTL = SYS_prctl,
    PROCESS_VM_READV = SYS_process_vm_readv,
    PTRACE = SYS_ptrace,
    READ = SYS_read,
    REBOOT = SYS_reboot,
    SETNS = SYS_setns,
    SETUID = SYS_setuid,
    SOCKET = SYS_socket,
    SYSLOG = SYS_syslog,
    UNSHARE = SYS_unshare,
    USERFAULTFD = SYS_userfaultfd,
    WAIT4 = SYS_wait4,
    WRITE = SYS_write,
}

/// One argument of a system call.
#[derive(Debug)]
pub(crate) enum Arg<'a> {
    /// A number, a descriptor, flags, or a null pointer.
    Value(i32),
    /// A path or another string.
    Text(&'a CStr),
    /// Memory that the kernel reads.
    Bytes(&'a [u8]),
    /// Memory that the kernel writes; the caller passes its length as the call wants it.
    Fill(&'a mut [u8]),
    /// A null-terminated array of strings (argv, envp).
    Strings(&'a [&'a CStr]),
}

/// Makes `call` and returns what the kernel returned. Arguments not given are zero.
pub(crate) fn call(call: Call, args: &mut [Arg<'_>]) -> Result<usize, Errno> {
    let arrays: Vec<Vec<usize>> = args
        .iter()
        .filter_map(|arg| match arg {
            Arg::Strings(strings) => Some(null_terminated(strings)),
            Arg::Value(_) | Arg::Text(_) | Arg::Bytes(_) | Arg::Fill(_) => None,
        })
        .collect();
    let mut next_array = arrays.iter();
    let mut words = [0_isize; 6];
    for (word, arg) in words.iter_mut().zip(args) {
        *word = match arg {
            Arg::Value(value) => isize::try_from(*value).map_err(|_too_wide| Errno::EOVERFLOW)?,
            Arg::Text(text) => text.as_ptr().expose_provenance().cast_signed(),
            Arg::Bytes(bytes) => bytes.as_ptr().expose_provenance().cast_signed(),
            Arg::Fill(bytes) => bytes.as_mut_ptr().expose_provenance().cast_signed(),
            Arg::Strings(_) => {
                next_array.next().map_or(0, |array| array.as_ptr().expose_provenance().cast_signed())
            }
        };
    }
    // SAFETY: every word is a 32-bit number or points into a borrow held by `args` or into `arrays`, all of which
    // outlive the call (module documentation).
    unsafe { syscall6(call.0, words) }
}

/// Makes a new process that runs `body` and exits with what it returns. `namespaces` are `CLONE_NEW*` flags.
pub(crate) fn fork(namespaces: i32, body: impl FnOnce() -> u8) -> Result<i32, Errno> {
    if namespaces & libc::CLONE_VM != 0 {
        return Err(Errno::EINVAL);
    }
    let clone = Call(libc::SYS_clone);
    match call(clone, &mut [Arg::Value(namespaces | libc::SIGCHLD)])? {
        0 => exit(body()),
        pid => i32::try_from(pid).map_err(|_too_wide| Errno::EOVERFLOW),
    }
}

/// As [`fork`] by `clone3`, which a seccomp filter cannot look into.
pub(crate) fn fork_by_clone3(namespaces: i32, body: impl FnOnce() -> u8) -> Result<i32, Errno> {
    // struct clone_args, first version: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let fields = [i64::from(namespaces & !libc::CLONE_VM), 0, 0, 0, i64::from(libc::SIGCHLD), 0, 0, 0];
    let bytes = fields.map(i64::to_ne_bytes).concat();
    let clone3 = Call(libc::SYS_clone3);
    match call(clone3, &mut [Arg::Bytes(&bytes), Arg::Value(64)])? {
        0 => exit(body()),
        pid => i32::try_from(pid).map_err(|_too_wide| Errno::EOVERFLOW),
    }
}

/// Leaves without running anything that the parent has registered or buffered.
fn exit(code: u8) -> ! {
    loop {
        // It does not return; where a filter were to make it, there is nothing to do but to try again.
        if call(Call(libc::SYS_exit_group), &mut [Arg::Value(i32::from(code))]).is_err() {
            std::thread::yield_now();
        }
    }
}

fn null_terminated(strings: &[&CStr]) -> Vec<usize> {
    strings.iter().map(|text| text.as_ptr().expose_provenance()).chain([0]).collect()
}

/// # Safety
///
/// Each word must be what the call expects at its place: pointers valid for as many bytes as the kernel reads or
/// writes, until this returns. The call must not unmap or share memory that Rust owns.
unsafe fn syscall6(number: libc::c_long, words: [isize; 6]) -> Result<usize, Errno> {
    let [first, second, third, fourth, fifth, sixth] = words;
    // SAFETY: the caller's promise.
    let answer = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    // Errors are -1 and nothing else: an address that mmap returns is positive.
    usize::try_from(answer).map_err(|_negative| Errno::last())
}
