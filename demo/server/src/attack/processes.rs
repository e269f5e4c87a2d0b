//! `list_host_processes`: sees, signals, traces and reads processes that are not its own.
//!
//! The target is process 1 (outside a sandbox: the host's init; inside: the process that reaps for the server),
//! or the `pid` argument, with which a test shows on a process of its own that the probes work.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::{Arguments, errno, in_child, list, own_pid, parent_pid, read, read_some};
use crate::raw::{self, Arg, Call};
use crate::report::{Attempt, ChildEnd, Control, Plan, Report};

/// How many process ids are signalled one by one. A host that has just booted has used the first few hundred; in a
/// process id namespace of its own, a server that starts a handful of helpers stays far below.
const SWEEP: i32 = 4096;

/// `linux/ptrace.h`; libc types it differently on each target.
const PTRACE_TRACEME: i32 = 0;
const PTRACE_SEIZE: i32 = 0x4206;

pub(crate) fn run(arguments: &Arguments<'_>) -> Report {
    let family = family();
    let controls = vec![
        Control::new("signal itself (kill with signal 0)", signal(own_pid())),
        Control::new("read /proc/self/status", read("/proc/self/status")),
    ];
    let mut attempts = vec![list_strangers(&family), sweep(&family)];
    let target = arguments.pid().unwrap_or(1);
    if target == own_pid() {
        let plan = Plan::new("target", format!("attack process {target}"));
        attempts.push(plan.not_tried(None, "that is this process itself"));
    } else {
        attempts.extend(attack(target));
    }
    attempts.push(trace_me());
    Report { controls, attempts }
}

/// This process and its ancestors, as far as /proc shows them.
fn family() -> BTreeSet<i32> {
    let mut family = BTreeSet::from([own_pid()]);
    let mut next = parent_pid();
    while next > 0 && family.insert(next) {
        next = parent_of(next).unwrap_or(0);
    }
    family
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = read(&format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn list_strangers(family: &BTreeSet<i32>) -> Attempt {
    let plan = Plan::new("list_proc", "list the processes in /proc")
        .proves("processes outside the sandbox are visible")
        .unconfined("succeeds on any machine that runs more than one program");
    match list("/proc") {
        Err(errno) => plan.refused(errno, errno.desc()),
        Ok(names) => {
            let pids: BTreeSet<i32> = names.iter().filter_map(|name| name.parse().ok()).collect();
            let strangers = pids.difference(family).count();
            if strangers == 0 {
                plan.refused(None, format!("sees {} processes, itself and its ancestors", pids.len()))
            } else {
                plan.succeeded(format!("sees {strangers} processes that are not its own"))
            }
        }
    }
}

fn signal(pid: i32) -> Result<usize, Errno> {
    raw::call(Call::KILL, &mut [Arg::Value(pid), Arg::Value(0)])
}

/// Signal 0 asks for permission and sends nothing.
fn sweep(family: &BTreeSet<i32>) -> Attempt {
    let plan = Plan::new("kill_sweep", format!("signal every process id from 1 to {SWEEP} (signal 0)"))
        .proves("processes outside the sandbox can be killed")
        .unconfined("succeeds as root, or where another process of the same user has such an id");
    let (mut allowed, mut forbidden, mut absent) = (0_u32, 0_u32, 0_u32);
    for pid in (1..=SWEEP).filter(|pid| !family.contains(pid)) {
        let count = match signal(pid) {
            Ok(_) => &mut allowed,
            Err(Errno::ESRCH) => &mut absent,
            Err(_) => &mut forbidden,
        };
        *count = count.saturating_add(1);
    }
    let detail = format!("{allowed} may be signalled, {forbidden} refused, {absent} do not exist");
    match (allowed, forbidden) {
        (0, 0) => plan.refused(Errno::ESRCH, detail),
        (0, _) => plan.refused(Errno::EPERM, detail),
        _ => plan.succeeded(detail),
    }
}

fn attack(pid: i32) -> Vec<Attempt> {
    vec![
        Plan::new("kill", format!("signal process {pid} (signal 0)"))
            .proves("a process outside the server's own can be killed")
            .unconfined("succeeds as root and for processes of the same user, EPERM otherwise")
            .judge(signal(pid).map(|_zero| "it may be signalled".to_owned())),
        Plan::new(
            "ptrace_seize",
            format!("trace process {pid} (PTRACE_SEIZE, from a child that exits at once)"),
        )
        .proves("the memory and registers of another process can be changed")
        .unconfined("succeeds as root and, where yama allows, for processes of the same user")
        .judge_child(seize(pid)),
        Plan::new("process_vm_readv", format!("read the memory of process {pid} at the null address"))
            .proves("the memory of another process can be read")
            .unconfined("EFAULT (allowed, nothing is mapped there) as for ptrace, EPERM otherwise")
            .reached(&[Errno::EFAULT])
            .judge(read_memory(pid)),
        open_proc(pid, "mem", libc::O_RDWR, "the memory of another process can be changed"),
        open_proc(pid, "root", libc::O_PATH, "the root directory of another process can be entered"),
        open_proc(pid, "cwd", libc::O_PATH, "the working directory of another process can be entered"),
        Plan::new("proc_environ", format!("read /proc/{pid}/environ"))
            .proves("the environment of another process can be read")
            .unconfined("succeeds as for ptrace, EACCES otherwise")
            .judge(read_some(&format!("/proc/{pid}/environ"))),
        Plan::new("pidfd_getfd", format!("take descriptor 0 of process {pid} (pidfd_open, pidfd_getfd)"))
            .proves("open files of another process can be taken over")
            .unconfined("succeeds as for ptrace (EBADF where it has no descriptor 0), EPERM otherwise")
            .reached(&[Errno::EBADF])
            .judge_child(in_child(|| take_descriptor(pid))),
    ]
}

fn seize(pid: i32) -> Result<ChildEnd, Errno> {
    in_child(|| raw::call(Call::PTRACE, &mut [Arg::Value(PTRACE_SEIZE), Arg::Value(pid)]).map(drop))
}

fn read_memory(pid: i32) -> Result<String, Errno> {
    // Two `struct iovec`: address 0, length 1. Nothing is mapped there, so nothing can be read or written, but
    // permission is checked first.
    let nowhere = [0_u64.to_ne_bytes(), 1_u64.to_ne_bytes()].concat();
    let (local, one) = (Arg::Bytes(&nowhere), Arg::Value(1));
    raw::call(
        Call::PROCESS_VM_READV,
        &mut [Arg::Value(pid), local, one, Arg::Bytes(&nowhere), Arg::Value(1), Arg::Value(0)],
    )
    .map(|_read| "the kernel read it".to_owned())
}

fn open_proc(pid: i32, name: &'static str, flags: i32, proves: &'static str) -> Attempt {
    let path = format!("/proc/{pid}/{name}");
    let write = flags & libc::O_ACCMODE == libc::O_RDWR;
    let opened =
        OpenOptions::new().read(true).write(write).custom_flags(flags & !libc::O_ACCMODE).open(&path);
    let id = match name {
        "mem" => "proc_mem",
        "root" => "proc_root",
        _ => "proc_cwd",
    };
    Plan::new(id, format!("open {path}"))
        .proves(proves)
        .unconfined("succeeds as for ptrace, EACCES otherwise")
        .judge(opened.map(|_file| "opened".to_owned()).map_err(|error| errno(&error)))
}

fn take_descriptor(pid: i32) -> Result<(), Errno> {
    let pidfd = raw::call(Call::PIDFD_OPEN, &mut [Arg::Value(pid), Arg::Value(0)])?;
    let pidfd = i32::try_from(pidfd).map_err(|_too_wide| Errno::EOVERFLOW)?;
    raw::call(Call::PIDFD_GETFD, &mut [Arg::Value(pidfd), Arg::Value(0), Arg::Value(0)]).map(drop)
}

fn trace_me() -> Attempt {
    Plan::new("ptrace_traceme", "ask to be traced by its parent (PTRACE_TRACEME, in a child)")
        .proves("ptrace is within reach at all")
        .unconfined("succeeds for everybody")
        .judge_child(in_child(|| raw::call(Call::PTRACE, &mut [Arg::Value(PTRACE_TRACEME)]).map(drop)))
}
