//! Other processes: by their ids outside, by pid 1, and the calls as such, made on this process itself.

use nix::errno::Errno;
use palisade_attack::raw::{self, Arg, Call};
use palisade_attack::steps::{open, own_pid, parent_pid};

use super::{Row, descriptor, made, numbers, row, victim};
use crate::given::Given;

const PTRACE_SEIZE: i32 = 0x4206;

pub(super) const ROWS: [Row; 26] = [
    row("ptrace_traceme", "be traced by its parent", |_| numbers(Call::PTRACE, [0])),
    row("ptrace_seize", "trace a process outside (PTRACE_SEIZE)", |given| {
        numbers(Call::PTRACE, [PTRACE_SEIZE, victim(given)?, 0, 0])
    }),
    row("ptrace_parent", "trace its parent (PTRACE_SEIZE)", |_| {
        // This process ends at once and sets it free. Not PTRACE_ATTACH, after which the parent might stay stopped.
        numbers(Call::PTRACE, [PTRACE_SEIZE, parent_pid(), 0, 0])
    }),
    row("process_vm_readv", "read its own memory by process id", |_| vm(Call::PROCESS_VM_READV, own_pid())),
    row("process_vm_writev", "write its own memory by process id", |_| {
        vm(Call::PROCESS_VM_WRITEV, own_pid())
    }),
    row("process_vm_readv_outside", "read the memory of a process outside", |given| {
        vm(Call::PROCESS_VM_READV, victim(given)?)
    }),
    row("pidfd_getfd", "take a descriptor by its own pidfd", |_| {
        let pidfd = pidfd_open(own_pid())?;
        numbers(Call::PIDFD_GETFD, [pidfd, 0, 0])
    }),
    row("pidfd_getfd_outside", "take a descriptor of a process outside", |given| {
        let pidfd = pidfd_open(victim(given)?)?;
        numbers(Call::PIDFD_GETFD, [pidfd, 0, 0])
    }),
    row("pidfd_open_outside", "open a pidfd of a process outside", |given| {
        pidfd_open(victim(given)?).map(drop)
    }),
    row("kcmp", "compare kernel objects of its own (kcmp)", |_| {
        numbers(Call::KCMP, [own_pid(), own_pid(), 2, 0, 0])
    }),
    row("process_madvise", "process_madvise of no descriptor", |_| {
        numbers(Call::PROCESS_MADVISE, [-1, 0, 0, 4, 0])
    })
    .reached(&[Errno::EBADF]),
    row("process_mrelease", "process_mrelease of no descriptor", |_| {
        numbers(Call::PROCESS_MRELEASE, [-1, 0])
    })
    .reached(&[Errno::EBADF]),
    row("kill_outside", "signal a process outside", |given| numbers(Call::KILL, [victim(given)?, 0])),
    row("tgkill_outside", "signal a thread outside", |given| {
        let victim = victim(given)?;
        numbers(Call::TGKILL, [victim, victim, 0])
    }),
    row("prlimit_outside", "read the limits of a process outside", |given| {
        let mut limits = [0; 16];
        made(
            Call::PRLIMIT64,
            &mut [Arg::Value(victim(given)?), Arg::Value(7), Arg::Value(0), Arg::Fill(&mut limits)],
        )
    }),
    row("setpriority_outside", "make a process outside slower", |given| {
        numbers(Call::SETPRIORITY, [0, victim(given)?, 19])
    }),
    row("robust_list_outside", "read the lock list of a process outside", |given| {
        robust_list(victim(given)?)
    }),
    row("robust_list_of_1", "read the lock list of pid 1", |_| robust_list(1)),
    row("sched_setscheduler_outside", "make a process outside idle", |given| {
        let priority = 0_i32.to_ne_bytes();
        made(
            Call::SCHED_SETSCHEDULER,
            &mut [Arg::Value(victim(given)?), Arg::Value(libc::SCHED_IDLE), Arg::Bytes(&priority)],
        )
    }),
    row("ioprio_outside", "make a process outside wait for its disk", |given| {
        numbers(Call::IOPRIO_SET, [1, victim(given)?, 3 << 13])
    }),
    row("migrate_pages_outside", "move the memory of a process outside", |given| {
        let nodes = 1_u64.to_ne_bytes();
        made(
            Call::MIGRATE_PAGES,
            &mut [Arg::Value(victim(given)?), Arg::Value(2), Arg::Bytes(&nodes), Arg::Bytes(&nodes)],
        )
    }),
    row("move_pages", "ask where its own memory is (move_pages of none)", |_| {
        numbers(Call::MOVE_PAGES, [0, 0, 0, 0, 0, 0])
    }),
    row("mbind", "bind its own memory (mbind of none)", |_| numbers(Call::MBIND, [0, 0, 0, 0, 0, 0])),
    row("get_mempolicy", "ask for its memory policy", |_| numbers(Call::GET_MEMPOLICY, [0, 0, 0, 0, 0])),
    row("set_mempolicy", "set its memory policy to the default", |_| numbers(Call::SET_MEMPOLICY, [0, 0, 0])),
    row("ptrace_seize_1", "trace pid 1", |_| numbers(Call::PTRACE, [PTRACE_SEIZE, 1, 0, 0])),
];

pub(super) const PROC_ROWS: [Row; 14] = [
    row("proc_environ_outside", "read the environment of a process outside", |given| {
        outside(given, "environ")
    }),
    row("proc_mem_outside", "open the memory of a process outside", |given| outside(given, "mem")),
    row("proc_maps_outside", "read the memory map of a process outside", |given| outside(given, "maps")),
    row("proc_status_outside", "read the status of a process outside", |given| outside(given, "status")),
    row("proc_cmdline_outside", "read the arguments of a process outside", |given| outside(given, "cmdline")),
    row("proc_root_outside", "open the root of a process outside", |given| outside(given, "root")),
    row("proc_cwd_outside", "open the directory of a process outside", |given| outside(given, "cwd")),
    row("proc_exe_outside", "open the program of a process outside", |given| outside(given, "exe")),
    row("proc_fd_outside", "list the descriptors of a process outside", |given| outside(given, "fd")),
    row("proc_ns_outside", "open a namespace of a process outside", |given| outside(given, "ns/uts")),
    row("proc_1_environ", "read the environment of pid 1", |_| open("/proc/1/environ").map(drop)),
    row("proc_1_root", "open the root of pid 1", |_| open("/proc/1/root").map(drop)),
    row("proc_1_exe", "open the program of pid 1 (it is ours)", |_| open("/proc/1/exe").map(drop)),
    row("proc_1_mem", "open the memory of pid 1", |_| open("/proc/1/mem").map(drop)),
];

fn pidfd_open(pid: i32) -> Result<i32, Errno> {
    descriptor(Call::PIDFD_OPEN, &mut [Arg::Value(pid), Arg::Value(0)])
}

/// One `struct iovec` of address 0 and no length: nothing is moved, but permission is checked first.
fn vm(call: Call, pid: i32) -> Result<(), Errno> {
    let nowhere = [0_u8; 16];
    made(
        call,
        &mut [
            Arg::Value(pid),
            Arg::Bytes(&nowhere),
            Arg::Value(1),
            Arg::Bytes(&nowhere),
            Arg::Value(1),
            Arg::Value(0),
        ],
    )
}

fn robust_list(pid: i32) -> Result<(), Errno> {
    let (mut head, mut length) = ([0; 8], [0; 8]);
    raw::call(Call::GET_ROBUST_LIST, &mut [Arg::Value(pid), Arg::Fill(&mut head), Arg::Fill(&mut length)])
        .map(drop)
}

fn outside(given: &Given, name: &str) -> Result<(), Errno> {
    open(&format!("/proc/{}/{name}", victim(given)?)).map(drop)
}
