//! Calls that reach deep into the kernel or change the machine. None changes it: what would is called with an
//! argument that is invalid on purpose.

use nix::errno::Errno;
use palisade_attack::raw::{Arg, Call};

use super::{Row, descriptor, made, numbers, row};

pub(super) const OBJECTS: [Row; 32] = [
    row("bpf", "load a BPF object (attributes larger than any)", |_| numbers(Call::BPF, [0, 0, 1 << 20]))
        .reached(&[Errno::E2BIG, Errno::EINVAL, Errno::EFAULT]),
    row("perf_event_open", "count events (attributes at the null address)", |_| {
        numbers(Call::PERF_EVENT_OPEN, [0, 0, -1, -1, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("userfaultfd", "handle its own page faults", |_| numbers(Call::USERFAULTFD, [1])),
    row("io_uring_setup", "set up an io_uring (parameters at the null address)", |_| {
        numbers(Call::IO_URING_SETUP, [1, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("io_uring_enter", "enter no io_uring", |_| numbers(Call::IO_URING_ENTER, [-1, 0, 0, 0, 0, 0]))
        .reached(&[Errno::EBADF]),
    row("io_uring_register", "register with no io_uring", |_| {
        numbers(Call::IO_URING_REGISTER, [-2, 0, 0, 0])
    })
    .reached(&[Errno::EBADF, Errno::EINVAL]),
    row("keyctl", "find the session keyring", |_| numbers(Call::KEYCTL, [0, -3, 0]))
        .reached(&[Errno::ENOKEY]),
    row("keyctl_join", "join a session keyring", |_| numbers(Call::KEYCTL, [1, 0])),
    row("add_key", "add a key (type at the null address)", |_| numbers(Call::ADD_KEY, [0, 0, 0, 0, 0]))
        .reached(&[Errno::EFAULT]),
    row("request_key", "ask for a key (type at the null address)", |_| {
        numbers(Call::REQUEST_KEY, [0, 0, 0, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("fanotify", "watch file systems (fanotify_init)", |_| numbers(Call::FANOTIFY_INIT, [0x200, 0])),
    row("name_to_handle", "ask for the handle of /", |_| {
        let (mut handle, mut mount) = ([0; 136], [0; 8]);
        if let Some(length) = handle.first_mut() {
            *length = 128;
        }
        made(
            Call::NAME_TO_HANDLE_AT,
            &mut [
                Arg::Value(libc::AT_FDCWD),
                Arg::Text(c"/"),
                Arg::Fill(&mut handle),
                Arg::Fill(&mut mount),
                Arg::Value(0),
            ],
        )
    })
    .reached(&[Errno::EOVERFLOW]),
    row("open_by_handle", "open a file by its handle (at the null address)", |_| {
        numbers(Call::OPEN_BY_HANDLE_AT, [libc::AT_FDCWD, 0, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("memfd_secret", "make memory that the kernel does not see", |_| numbers(Call::MEMFD_SECRET, [0])),
    row("memfd_executable", "make a nameless file that can be executed", |_| {
        made(Call::MEMFD_CREATE, &mut [Arg::Text(c"palisade-probe"), Arg::Value(0x10)])
    }),
    row("mq_open", "make a POSIX message queue (name at the null address)", |_| {
        numbers(Call::MQ_OPEN, [0, 0, 0, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("shmget", "make System V shared memory", |_| {
        let made = descriptor(Call::SHMGET, &mut [Arg::Value(0), Arg::Value(4096), Arg::Value(0o1600)])?;
        numbers(Call::SHMCTL, [made, libc::IPC_RMID, 0])
    }),
    row("semget", "make System V semaphores", |_| {
        let made = descriptor(Call::SEMGET, &mut [Arg::Value(0), Arg::Value(1), Arg::Value(0o1600)])?;
        numbers(Call::SEMCTL, [made, 0, libc::IPC_RMID, 0])
    }),
    row("msgget", "make a System V message queue", |_| {
        let made = descriptor(Call::MSGGET, &mut [Arg::Value(0), Arg::Value(0o1600)])?;
        numbers(Call::MSGCTL, [made, libc::IPC_RMID, 0])
    }),
    row("personality_randomize", "switch address randomisation off", |_| {
        numbers(Call::PERSONALITY, [libc::ADDR_NO_RANDOMIZE])
    }),
    row("personality_exec", "make all that is readable executable", |_| {
        numbers(Call::PERSONALITY, [0x40_0000])
    }),
    row("lsm_modules", "list the security modules (at the null address)", |_| {
        numbers(Call::LSM_LIST_MODULES, [0, 0, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("syscall_dispatch", "switch system call dispatch off (prctl)", |_| {
        numbers(Call::PRCTL, [59, 0, 0, 0, 0])
    }),
    row("set_mm", "move its own memory map (prctl PR_SET_MM)", |_| numbers(Call::PRCTL, [35, 0, 0, 0, 0]))
        .reached(&[Errno::EINVAL]),
    row("perf_disable", "disable its performance counters (prctl)", |_| {
        numbers(Call::PRCTL, [31, 0, 0, 0, 0])
    }),
    row("setsched_fifo", "take realtime priority (SCHED_FIFO)", |_| {
        let priority = 1_i32.to_ne_bytes();
        made(
            Call::SCHED_SETSCHEDULER,
            &mut [Arg::Value(0), Arg::Value(libc::SCHED_FIFO), Arg::Bytes(&priority)],
        )
    }),
    row("setsched_invalid", "take a scheduling policy that does not exist", |_| {
        let priority = 0_i32.to_ne_bytes();
        made(Call::SCHED_SETSCHEDULER, &mut [Arg::Value(0), Arg::Value(77), Arg::Bytes(&priority)])
    })
    .reached(&[Errno::EINVAL]),
    row("sched_setparam", "set a scheduling parameter (at the null address)", |_| {
        numbers(Call::SCHED_SETPARAM, [0, 0])
    })
    .reached(&[Errno::EINVAL, Errno::EFAULT]),
    row("sched_setattr", "set scheduling attributes (at the null address)", |_| {
        numbers(Call::SCHED_SETATTR, [0, 0, 0])
    })
    .reached(&[Errno::EINVAL, Errno::EFAULT]),
    row("ioprio_realtime", "take realtime priority at the disk", |_| {
        numbers(Call::IOPRIO_SET, [1, 0, 1 << 13])
    }),
    row("ioprio_self", "set its own priority at the disk", |_| numbers(Call::IOPRIO_SET, [1, 0, 2 << 13])),
    row("quotactl_fd", "quotactl of no descriptor", |_| numbers(Call::QUOTACTL_FD, [-1, 0, 0, 0]))
        .reached(&[Errno::EBADF]),
];

pub(super) const MACHINE: [Row; 16] =
    [
        row("kexec_load", "replace the kernel (17 segments where 16 are allowed)", |_| {
            numbers(Call::KEXEC_LOAD, [0, 17, 0, 0x8000])
        })
        .reached(&[Errno::EINVAL]),
        row("kexec_file_load", "replace the kernel from no file", |_| {
            numbers(Call::KEXEC_FILE_LOAD, [-1, -1, 0, 0, 0x100])
        })
        .reached(&[Errno::EINVAL, Errno::EBADF]),
        row("init_module", "load a module of no bytes", |_| numbers(Call::INIT_MODULE, [0, 0, 0]))
            .reached(&[Errno::ENOEXEC, Errno::EFAULT, Errno::EINVAL]),
        row("finit_module", "load a module from no file", |_| numbers(Call::FINIT_MODULE, [-1, 0, 0]))
            .reached(&[Errno::EBADF, Errno::EFAULT]),
        row("delete_module", "remove a module that does not exist", |_| {
            made(Call::DELETE_MODULE, &mut [Arg::Text(c"palisade-no-such-module"), Arg::Value(0)])
        })
        .reached(&[Errno::ENOENT]),
        row("swapon", "swap to the null address", |_| numbers(Call::SWAPON, [0, 0]))
            .reached(&[Errno::EFAULT]),
        row("swapoff", "stop swapping to the null address", |_| numbers(Call::SWAPOFF, [0]))
            .reached(&[Errno::EFAULT]),
        row("reboot", "restart with the magic numbers left out", |_| numbers(Call::REBOOT, [0, 0, 0, 0]))
            .reached(&[Errno::EINVAL]),
        row("acct", "keep accounts in a file that does not exist", |_| {
            made(Call::ACCT, &mut [Arg::Text(c"/palisade-probe/no/such/file")])
        })
        .reached(&[Errno::ENOENT]),
        row("quotactl", "ask for the quota of a disk that does not exist", |_| {
            made(
                Call::QUOTACTL,
                &mut [
                    Arg::Value(0x0080_0007_u32.cast_signed().wrapping_shl(8)),
                    Arg::Text(c"/palisade-probe/no/such/disk"),
                ],
            )
        })
        .reached(&[Errno::ENOENT, Errno::EINVAL]),
        row("syslog", "ask for the size of the kernel's log", |_| numbers(Call::SYSLOG, [10, 0, 0])),
        row("syslog_read", "read the kernel's log into no room", |_| numbers(Call::SYSLOG, [3, 0, 0]))
            .reached(&[Errno::EINVAL]),
        row("vhangup", "hang up its terminal, of which it has none", |_| {
            numbers(Call::SETSID, [])?;
            numbers(Call::VHANGUP, [])
        }),
        row("sethostname", "name the host", |_| {
            made(Call::SETHOSTNAME, &mut [Arg::Text(c"probe"), Arg::Value(5)])
        }),
        row("setdomainname", "name the host's domain", |_| {
            made(Call::SETDOMAINNAME, &mut [Arg::Text(c"probe"), Arg::Value(5)])
        }),
        row("mknod_kernel_log", "make a device of the kernel's log", |_| {
            // Major 1, minor 11.
            device(libc::S_IFCHR, 0x10b)
        }),
    ];

pub(super) const TIME: [Row; 5] = [
    row("clock_settime", "set the clock (time at the null address)", |_| {
        numbers(Call::CLOCK_SETTIME, [0, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("clock_adjtime", "adjust the clock (at the null address)", |_| numbers(Call::CLOCK_ADJTIME, [0, 0]))
        .reached(&[Errno::EFAULT]),
    row("adjtimex", "adjust the clock, older form", |_| numbers(Call::ADJTIMEX, [0]))
        .reached(&[Errno::EFAULT]),
    row("settimeofday", "set the clock, older form (time at address 1)", |_| {
        numbers(Call::SETTIMEOFDAY, [1, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("settimeofday_nothing", "set nothing of the clock", |_| numbers(Call::SETTIMEOFDAY, [0, 0])),
];

#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: &[Row] = &[
    row("interrupt_80", "make a call by the 32-bit entry (int 0x80)", |_| {
        match palisade_attack::raw::getpid_by_interrupt() {
            pid if pid > 0 => Ok(()),
            error => Err(Errno::from_raw(error.saturating_neg())),
        }
    }),
    row("x32_getpid", "make a call by the x32 convention", |_| numbers(Call::GETPID.x32(), [])),
    row("x32_unshare", "unshare by the x32 convention", |_| {
        numbers(Call::UNSHARE.x32(), [libc::CLONE_NEWUSER])
    }),
    row("x32_ptrace", "trace by the x32 convention", |_| numbers(Call::PTRACE.x32(), [0])),
    row("iopl", "reach the hardware's ports (iopl)", |_| numbers(Call::IOPL, [3])),
    row("ioperm", "reach one of the hardware's ports (ioperm)", |_| numbers(Call::IOPERM, [0x80, 1, 1])),
    row("modify_ldt", "read its own descriptor table", |_| numbers(Call::MODIFY_LDT, [0, 0, 0])),
    row("lookup_dcookie", "look a profiler's cookie up", |_| numbers(Call::LOOKUP_DCOOKIE, [0, 0, 0]))
        .reached(&[Errno::EINVAL, Errno::EFAULT]),
    row("sysfs", "count the kernel's file systems", |_| numbers(Call::SYSFS, [3])),
    row("ustat", "ask for a disk that does not exist", |_| numbers(Call::USTAT, [-1, 0]))
        .reached(&[Errno::EINVAL]),
];

#[cfg(not(target_arch = "x86_64"))]
pub(super) const ARCHITECTURE: &[Row] = &[];

fn device(kind: libc::mode_t, number: i32) -> Result<(), Errno> {
    super::files::device(kind, number)
}
