//! System calls that the standard library has no word for, mostly because no honest program makes them.
//!
//! One unsafe function, `syscall6`, and above it a safe [`call`]. What makes `call` safe:
//! - only the calls listed as [`Call`] constants can be made;
//! - a pointer is made only from a borrowed [`Arg::Text`], [`Arg::Bytes`], [`Arg::Fill`], [`Arg::Strings`] or
//!   [`Arg::Program`], which outlives the call and has the length that the kernel is told;
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
pub struct Call(libc::c_long);

macro_rules! calls {
    ($($name:ident = $number:ident),* $(,)?) => {
        #[expect(missing_docs, reason = "each is the system call of its name")]
        impl Call { $(pub const $name: Self = Self(libc::$number);)* }
    };
}

/// Calls that are newer than the libc crate's list; their numbers are the same on every architecture.
#[expect(missing_docs, reason = "each is the system call of its name")]
impl Call {
    pub const LISTMOUNT: Self = Self(458);
    pub const LSM_LIST_MODULES: Self = Self(461);
    pub const OPEN_TREE_ATTR: Self = Self(467);
    pub const STATMOUNT: Self = Self(457);
}

calls! {
    ACCT = SYS_acct,
    ADD_KEY = SYS_add_key,
    ADJTIMEX = SYS_adjtimex,
    BIND = SYS_bind,
    BPF = SYS_bpf,
    CAPSET = SYS_capset,
    CHDIR = SYS_chdir,
    CHROOT = SYS_chroot,
    CLOCK_ADJTIME = SYS_clock_adjtime,
    CLOCK_SETTIME = SYS_clock_settime,
    CLOSE = SYS_close,
    CONNECT = SYS_connect,
    DELETE_MODULE = SYS_delete_module,
    DUP = SYS_dup,
    EXECVE = SYS_execve,
    EXECVEAT = SYS_execveat,
    FANOTIFY_INIT = SYS_fanotify_init,
    FCNTL = SYS_fcntl,
    FINIT_MODULE = SYS_finit_module,
    FSCONFIG = SYS_fsconfig,
    FSMOUNT = SYS_fsmount,
    FSOPEN = SYS_fsopen,
    FSPICK = SYS_fspick,
    FTRUNCATE = SYS_ftruncate,
    GETPID = SYS_getpid,
    GET_MEMPOLICY = SYS_get_mempolicy,
    GET_ROBUST_LIST = SYS_get_robust_list,
    INIT_MODULE = SYS_init_module,
    IOCTL = SYS_ioctl,
    IOPRIO_SET = SYS_ioprio_set,
    IO_URING_ENTER = SYS_io_uring_enter,
    IO_URING_REGISTER = SYS_io_uring_register,
    IO_URING_SETUP = SYS_io_uring_setup,
    KCMP = SYS_kcmp,
    KEXEC_FILE_LOAD = SYS_kexec_file_load,
    KEXEC_LOAD = SYS_kexec_load,
    KEYCTL = SYS_keyctl,
    KILL = SYS_kill,
    LANDLOCK_ADD_RULE = SYS_landlock_add_rule,
    LANDLOCK_CREATE_RULESET = SYS_landlock_create_ruleset,
    LANDLOCK_RESTRICT_SELF = SYS_landlock_restrict_self,
    LINKAT = SYS_linkat,
    MBIND = SYS_mbind,
    MEMFD_CREATE = SYS_memfd_create,
    MEMFD_SECRET = SYS_memfd_secret,
    MIGRATE_PAGES = SYS_migrate_pages,
    MKNODAT = SYS_mknodat,
    MMAP = SYS_mmap,
    MOUNT = SYS_mount,
    MOUNT_SETATTR = SYS_mount_setattr,
    MOVE_MOUNT = SYS_move_mount,
    MOVE_PAGES = SYS_move_pages,
    MQ_OPEN = SYS_mq_open,
    MSGCTL = SYS_msgctl,
    MSGGET = SYS_msgget,
    NAME_TO_HANDLE_AT = SYS_name_to_handle_at,
    NANOSLEEP = SYS_nanosleep,
    OPENAT = SYS_openat,
    OPENAT2 = SYS_openat2,
    OPEN_BY_HANDLE_AT = SYS_open_by_handle_at,
    OPEN_TREE = SYS_open_tree,
    PERF_EVENT_OPEN = SYS_perf_event_open,
    PERSONALITY = SYS_personality,
    PIDFD_GETFD = SYS_pidfd_getfd,
    PIDFD_OPEN = SYS_pidfd_open,
    PIPE2 = SYS_pipe2,
    PIVOT_ROOT = SYS_pivot_root,
    PPOLL = SYS_ppoll,
    PRCTL = SYS_prctl,
    PRLIMIT64 = SYS_prlimit64,
    PROCESS_MADVISE = SYS_process_madvise,
    PROCESS_MRELEASE = SYS_process_mrelease,
    PROCESS_VM_READV = SYS_process_vm_readv,
    PROCESS_VM_WRITEV = SYS_process_vm_writev,
    PTRACE = SYS_ptrace,
    QUOTACTL = SYS_quotactl,
    QUOTACTL_FD = SYS_quotactl_fd,
    READ = SYS_read,
    REBOOT = SYS_reboot,
    RENAMEAT2 = SYS_renameat2,
    REQUEST_KEY = SYS_request_key,
    SCHED_SETATTR = SYS_sched_setattr,
    SCHED_SETPARAM = SYS_sched_setparam,
    SCHED_SETSCHEDULER = SYS_sched_setscheduler,
    SECCOMP = SYS_seccomp,
    SEMCTL = SYS_semctl,
    SEMGET = SYS_semget,
    SETDOMAINNAME = SYS_setdomainname,
    SETFSUID = SYS_setfsuid,
    SETGID = SYS_setgid,
    SETGROUPS = SYS_setgroups,
    SETHOSTNAME = SYS_sethostname,
    SETNS = SYS_setns,
    SETPRIORITY = SYS_setpriority,
    SETREGID = SYS_setregid,
    SETRESGID = SYS_setresgid,
    SETRESUID = SYS_setresuid,
    SETREUID = SYS_setreuid,
    SETSID = SYS_setsid,
    SETTIMEOFDAY = SYS_settimeofday,
    SETUID = SYS_setuid,
    SETXATTR = SYS_setxattr,
    SET_MEMPOLICY = SYS_set_mempolicy,
    SHMCTL = SYS_shmctl,
    SHMGET = SYS_shmget,
    SOCKET = SYS_socket,
    SWAPOFF = SYS_swapoff,
    SWAPON = SYS_swapon,
    SYSLOG = SYS_syslog,
    TGKILL = SYS_tgkill,
    UMOUNT2 = SYS_umount2,
    UNSHARE = SYS_unshare,
    USERFAULTFD = SYS_userfaultfd,
    VHANGUP = SYS_vhangup,
    WAIT4 = SYS_wait4,
    WRITE = SYS_write,
}

/// What only this architecture has.
#[cfg(target_arch = "x86_64")]
#[expect(missing_docs, reason = "each is the system call of its name")]
impl Call {
    pub const IOPERM: Self = Self(libc::SYS_ioperm);
    pub const IOPL: Self = Self(libc::SYS_iopl);
    pub const LOOKUP_DCOOKIE: Self = Self(libc::SYS_lookup_dcookie);
    pub const MODIFY_LDT: Self = Self(libc::SYS_modify_ldt);
    pub const SYSFS: Self = Self(libc::SYS_sysfs);
    pub const USTAT: Self = Self(libc::SYS_ustat);

    /// The same call by the x32 convention: another entry of the table, where the kernel has one.
    #[must_use]
    pub const fn x32(self) -> Self {
        Self(self.0 | 0x4000_0000)
    }
}

/// One argument of a system call.
#[derive(Debug)]
pub enum Arg<'a> {
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
    /// A BPF program of eight bytes an instruction, behind a `struct sock_fprog`.
    Program(&'a [u8]),
}

/// Makes `call` and returns what the kernel returned. Arguments not given are zero.
pub fn call(call: Call, args: &mut [Arg<'_>]) -> Result<usize, Errno> {
    let arrays: Vec<Vec<usize>> = args
        .iter()
        .filter_map(|arg| match arg {
            Arg::Strings(strings) => Some(null_terminated(strings)),
            // The length is a u16 at the start of the first word: little-endian targets only.
            Arg::Program(program) => {
                Some(vec![program.len().div_euclid(8), program.as_ptr().expose_provenance()])
            }
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
            Arg::Strings(_) | Arg::Program(_) => {
                next_array.next().map_or(0, |array| array.as_ptr().expose_provenance().cast_signed())
            }
        };
    }
    // SAFETY: every word is a 32-bit number or points into a borrow held by `args` or into `arrays`, all of which
    // outlive the call (module documentation).
    unsafe { syscall6(call.0, words) }
}

/// Makes a new process that runs `body` and exits with what it returns. `namespaces` are `CLONE_NEW*` flags.
pub fn fork(namespaces: i32, body: impl FnOnce() -> u8) -> Result<i32, Errno> {
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
pub fn fork_by_clone3(namespaces: i32, body: impl FnOnce() -> u8) -> Result<i32, Errno> {
    // struct clone_args, first version: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let fields = [i64::from(namespaces & !libc::CLONE_VM), 0, 0, 0, i64::from(libc::SIGCHLD), 0, 0, 0];
    let bytes = fields.map(i64::to_ne_bytes).concat();
    let clone3 = Call(libc::SYS_clone3);
    match call(clone3, &mut [Arg::Bytes(&bytes), Arg::Value(64)])? {
        0 => exit(body()),
        pid => i32::try_from(pid).map_err(|_too_wide| Errno::EOVERFLOW),
    }
}

/// `getpid` by the 32-bit entry, `int 0x80`: number 20 of a table of its own, which a filter that looks at numbers and
/// not at the architecture takes for something else (writev).
#[cfg(target_arch = "x86_64")]
pub fn getpid_by_interrupt() -> i32 {
    const COMPAT_GETPID: i32 = 20;
    let answer: i32;
    // SAFETY: this call takes no argument, touches no memory, and changes no register but those named.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") COMPAT_GETPID => answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            options(nostack, nomem),
        );
    }
    answer
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
