//! `become_root`: asks the kernel for privileges, one system call after the other.
//!
//! Every row runs in a child process of its own, so that a namespace or an identity that is granted goes with it.
//! Rows that would change the machine pass arguments that are invalid on purpose: the kernel then answers with the
//! error in `reached`, but only after it has granted permission, while a refusal is EPERM (or ENOSYS).
//! "everybody" in `unconfined` marks the rows that show the system call filter at work to an ordinary user too.

use nix::errno::Errno;

use super::{Arguments, c_string, exit_code, in_child, open, own_pid, reap};
use crate::raw::{self, Arg, Call};
use crate::report::{Attempt, ChildEnd, Control, Plan, Report};

struct Row {
    id: &'static str,
    what: &'static str,
    proves: &'static str,
    unconfined: &'static str,
    reached: &'static [Errno],
    attempt: fn() -> Result<(), Errno>,
}

pub(crate) fn run(_arguments: &Arguments<'_>) -> Report {
    let controls = vec![Control::new("start a child process and reap it", in_child(|| Ok(())))];
    let rows = IDENTITY.iter().chain(&NAMESPACES).chain(&FILE_SYSTEM).chain(&KERNEL);
    let mut attempts: Vec<Attempt> = rows.map(Row::run).collect();
    attempts.extend([clone_with_user_namespace(), clone3_with_user_namespace()]);
    Report { controls, attempts }
}

impl Row {
    fn run(&self) -> Attempt {
        Plan::new(self.id, self.what)
            .proves(self.proves)
            .unconfined(self.unconfined)
            .reached(self.reached)
            .judge_child(in_child(self.attempt))
    }
}

/// A system call that takes numbers only.
fn numbers<const N: usize>(call: Call, arguments: [i32; N]) -> Result<(), Errno> {
    raw::call(call, &mut arguments.map(Arg::Value)).map(drop)
}

const IDENTITY: [Row; 4] = [
    Row {
        id: "setuid",
        what: "become user 0 (setuid)",
        proves: "the server can become root",
        unconfined: "succeeds as root, EPERM otherwise",
        reached: &[],
        attempt: || numbers(Call::SETUID, [0]),
    },
    Row {
        id: "capset",
        what: "take CAP_SYS_ADMIN (capset)",
        proves: "the server can have the capability that is nearly root",
        unconfined: "succeeds as root with all capabilities, EPERM otherwise",
        reached: &[],
        attempt: take_sys_admin,
    },
    Row {
        id: "ptrace",
        what: "be traced by its parent (ptrace, PTRACE_TRACEME)",
        proves: "ptrace is within reach",
        unconfined: "succeeds for everybody",
        reached: &[],
        attempt: || numbers(Call::PTRACE, [0]),
    },
    Row {
        id: "tiocsti",
        what: "type into the terminal on descriptor 0 (ioctl TIOCSTI, from the null address)",
        proves: "commands can be typed into the terminal that started the gateway",
        unconfined: "for everybody ENOTTY on a pipe; EFAULT, EIO or EPERM on a terminal",
        reached: &[Errno::ENOTTY, Errno::EFAULT, Errno::EIO],
        attempt: || numbers(Call::IOCTL, [0, TIOCSTI, 0]),
    },
];

const NAMESPACES: [Row; 4] = [
    Row {
        id: "unshare_user",
        what: "make a user namespace (unshare)",
        proves: "the server can become root of a namespace, from where most kernel exploits start",
        unconfined: "succeeds for everybody unless the host forbids it",
        reached: &[],
        attempt: || numbers(Call::UNSHARE, [libc::CLONE_NEWUSER]),
    },
    Row {
        id: "unshare_mount",
        what: "make a user and a mount namespace and mount a tmpfs over /tmp there",
        proves: "read-only mounts and /proc can be replaced",
        unconfined: "succeeds for everybody unless the host forbids it",
        reached: &[],
        attempt: mount_in_new_namespace,
    },
    Row {
        id: "setns_filter",
        what: "enter a namespace (setns on descriptor -1)",
        proves: "setns is within reach",
        unconfined: "EBADF for everybody",
        reached: &[Errno::EBADF],
        attempt: || numbers(Call::SETNS, [-1, 0]),
    },
    Row {
        id: "setns",
        what: "enter a namespace (setns on its own /proc/self/ns/uts)",
        proves: "the server can enter namespaces whose descriptor it gets hold of",
        unconfined: "succeeds as root, EPERM otherwise",
        reached: &[],
        attempt: enter_own_namespace,
    },
];

const FILE_SYSTEM: [Row; 6] = [
    Row {
        id: "mount",
        what: "mount a file system (mount of no type on /)",
        proves: "the server can mount",
        unconfined: "EINVAL as root, EPERM otherwise",
        reached: &[Errno::EINVAL],
        attempt: || raw::call(Call::MOUNT, &mut [Arg::Value(0), Arg::Text(c"/")]).map(drop),
    },
    Row {
        id: "fsopen",
        what: "mount a file system (fsopen)",
        proves: "the server can mount by the newer system calls",
        unconfined: "succeeds as root, EPERM otherwise",
        reached: &[],
        attempt: || raw::call(Call::FSOPEN, &mut [Arg::Text(c"tmpfs")]).map(drop),
    },
    Row {
        id: "pivot_root",
        what: "exchange the root (pivot_root to a directory that does not exist)",
        proves: "the server can leave its root",
        unconfined: "ENOENT as root, EPERM otherwise",
        reached: &[Errno::ENOENT],
        attempt: || raw::call(Call::PIVOT_ROOT, &mut [Arg::Text(NOWHERE), Arg::Text(NOWHERE)]).map(drop),
    },
    Row {
        id: "chroot",
        what: "exchange the root (chroot to /)",
        proves: "the server can leave its root by the well-known double chroot",
        unconfined: "succeeds as root, EPERM otherwise",
        reached: &[],
        attempt: || raw::call(Call::CHROOT, &mut [Arg::Text(c"/")]).map(drop),
    },
    Row {
        id: "mknod",
        what: "make a block device (mknod 8:0 in /tmp, removed again)",
        proves: "the host's disk can be read past its file system",
        unconfined: "succeeds as root, EPERM otherwise",
        reached: &[],
        attempt: make_device,
    },
    Row {
        id: "open_by_handle_at",
        what: "open a file by its number (open_by_handle_at, handle at the null address)",
        proves: "any file on a mounted file system can be opened past its path",
        unconfined: "EFAULT for everybody (older kernels: EPERM for an ordinary user)",
        reached: &[Errno::EFAULT],
        attempt: || numbers(Call::OPEN_BY_HANDLE_AT, [libc::AT_FDCWD, 0, 0]),
    },
];

const KERNEL: [Row; 11] = [
    Row {
        id: "bpf",
        what: "load a BPF object (bpf, attributes larger than any)",
        proves: "programs can be loaded into the kernel, or its verifier attacked",
        unconfined: "E2BIG for everybody",
        reached: &[Errno::E2BIG, Errno::EINVAL, Errno::EFAULT],
        attempt: || numbers(Call::BPF, [0, 0, 1 << 20]),
    },
    Row {
        id: "perf_event_open",
        what: "watch other programs' performance counters (perf_event_open, attributes at the null address)",
        proves: "a frequent source of exploits is within reach",
        unconfined: "EFAULT for everybody (EACCES where perf_event_paranoid is above 2)",
        reached: &[Errno::EFAULT],
        attempt: || numbers(Call::PERF_EVENT_OPEN, [0, 0, -1, -1, 0]),
    },
    Row {
        id: "io_uring_setup",
        what: "set up an io_uring (parameters at the null address)",
        proves: "system calls can be made past the system call filter",
        unconfined: "EFAULT for everybody (EPERM where kernel.io_uring_disabled, ENOSYS where not built in)",
        reached: &[Errno::EFAULT],
        attempt: || numbers(Call::IO_URING_SETUP, [1, 0]),
    },
    Row {
        id: "keyctl",
        what: "find the kernel keyring of the session (keyctl)",
        proves: "keys of the host's sessions are within reach: keyrings are in no namespace",
        unconfined: "succeeds for everybody, or ENOKEY where the session has none",
        reached: &[Errno::ENOKEY],
        attempt: || numbers(Call::KEYCTL, [0, -3, 0]),
    },
    Row {
        id: "userfaultfd",
        what: "handle its own page faults (userfaultfd)",
        proves: "races in the kernel can be won at leisure, as many exploits need",
        unconfined: "succeeds for everybody (flag UFFD_USER_MODE_ONLY)",
        reached: &[],
        attempt: || numbers(Call::USERFAULTFD, [1]),
    },
    Row {
        id: "kexec_load",
        what: "replace the kernel (kexec_load, 17 segments where 16 are allowed)",
        proves: "the host's kernel can be replaced",
        unconfined: "EINVAL as root, EPERM otherwise",
        reached: &[Errno::EINVAL],
        attempt: || numbers(Call::KEXEC_LOAD, [0, 17, 0, 0x8000]),
    },
    Row {
        id: "init_module",
        what: "load a kernel module (init_module of no bytes)",
        proves: "code can be put into the host's kernel",
        unconfined: "ENOEXEC as root, EPERM otherwise; ENOSYS where the kernel has no modules",
        reached: &[Errno::ENOEXEC, Errno::EFAULT, Errno::EINVAL],
        attempt: || numbers(Call::INIT_MODULE, [0, 0, 0]),
    },
    Row {
        id: "clock_settime",
        what: "set the clock (clock_settime, time at the null address)",
        proves: "the host's clock can be set, and with it every certificate's validity",
        unconfined: "EFAULT for everybody: the time is read before permission is checked",
        reached: &[Errno::EFAULT],
        attempt: || numbers(Call::CLOCK_SETTIME, [0, 0]),
    },
    Row {
        id: "reboot",
        what: "restart the machine (reboot with the magic numbers left out)",
        proves: "the host can be restarted",
        unconfined: "EINVAL as root, EPERM otherwise",
        reached: &[Errno::EINVAL],
        attempt: || numbers(Call::REBOOT, [0, 0, 0, 0]),
    },
    Row {
        id: "syslog",
        what: "ask for the size of the kernel's log (syslog)",
        proves: "the kernel's log, with addresses that exploits need, is within reach",
        unconfined: "succeeds as root, and for everybody unless kernel.dmesg_restrict",
        reached: &[],
        attempt: || numbers(Call::SYSLOG, [10, 0, 0]),
    },
    Row {
        id: "personality",
        what: "switch off address randomisation (personality, ADDR_NO_RANDOMIZE)",
        proves: "memory errors in what the server starts become easy to exploit",
        unconfined: "succeeds for everybody",
        reached: &[],
        attempt: || numbers(Call::PERSONALITY, [libc::ADDR_NO_RANDOMIZE]),
    },
];

/// `asm-generic/ioctls.h`; libc types it differently on each target.
const TIOCSTI: i32 = 0x5412;
const NOWHERE: &std::ffi::CStr = c"/palisade-demo-no-such-directory";

fn take_sys_admin() -> Result<(), Errno> {
    // struct __user_cap_header_struct: version 3, this process. Then twice effective, permitted, inheritable.
    let header = [0x2008_0522_u32, 0].map(u32::to_ne_bytes).concat();
    let sys_admin = 1_u32 << 21;
    let data = [sys_admin, sys_admin, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    raw::call(Call::CAPSET, &mut [Arg::Bytes(&header), Arg::Bytes(&data)]).map(drop)
}

fn mount_in_new_namespace() -> Result<(), Errno> {
    numbers(Call::UNSHARE, [libc::CLONE_NEWUSER | libc::CLONE_NEWNS])?;
    raw::call(Call::MOUNT, &mut [Arg::Text(c"none"), Arg::Text(c"/tmp"), Arg::Text(c"tmpfs")]).map(drop)
}

fn enter_own_namespace() -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let namespace = open("/proc/self/ns/uts")?;
    numbers(Call::SETNS, [namespace.as_raw_fd(), 0])
}

fn make_device() -> Result<(), Errno> {
    let path = c_string(format!("/tmp/palisade-demo-device-{}", own_pid()))?;
    let block = i32::try_from(libc::S_IFBLK | 0o600).map_err(|_too_wide| Errno::EOVERFLOW)?;
    let (major, minor) = (8 << 8, 0);
    let mut arguments =
        [Arg::Value(libc::AT_FDCWD), Arg::Text(&path), Arg::Value(block), Arg::Value(major | minor)];
    raw::call(Call::MKNODAT, &mut arguments)?;
    std::fs::remove_file(path.to_string_lossy().as_ref()).map_err(|error| super::errno(&error))
}

fn clone_with_user_namespace() -> Attempt {
    let child = raw::fork(libc::CLONE_NEWUSER, || exit_code(Ok(())));
    judge_clone("clone_user", "start a process in a new user namespace (clone)", child)
}

fn clone3_with_user_namespace() -> Attempt {
    let child = raw::fork_by_clone3(libc::CLONE_NEWUSER, || exit_code(Ok(())));
    judge_clone("clone3_user", "start a process in a new user namespace (clone3)", child)
}

fn judge_clone(id: &'static str, what: &'static str, child: Result<i32, Errno>) -> Attempt {
    let plan = Plan::new(id, what)
        .proves("the server can become root of a namespace, from where most kernel exploits start")
        .unconfined("succeeds for everybody unless the host forbids it");
    match child {
        Err(errno) => plan.judge(Err(errno)),
        Ok(child) => match reap(child) {
            Ok(ChildEnd::Killed(signal)) => {
                plan.refused(None, format!("the new process was killed by signal {signal}"))
            }
            Ok(ChildEnd::Done | ChildEnd::Failed(_)) => plan.succeeded("the process started"),
            Err(errno) => plan.not_tried(errno, "could not wait for the process"),
        },
    }
}
