//! New namespaces, and entering those that there are.

use nix::errno::Errno;
use palisade_attack::raw::{self, Arg, Call};
use palisade_attack::report::ChildEnd;
use palisade_attack::steps::{own_pid, reap};

use super::{Row, descriptor, numbers, opened, row};

pub(super) const ROWS: [Row; 29] = [
    row("unshare_user", "unshare a user namespace", |_| numbers(Call::UNSHARE, [libc::CLONE_NEWUSER])),
    row("unshare_mount", "unshare the mount namespace", |_| numbers(Call::UNSHARE, [libc::CLONE_NEWNS])),
    row("unshare_pid", "unshare the pid namespace", |_| numbers(Call::UNSHARE, [libc::CLONE_NEWPID])),
    row("unshare_net", "unshare the network namespace", |_| numbers(Call::UNSHARE, [libc::CLONE_NEWNET])),
    row("unshare_ipc", "unshare the IPC namespace", |_| numbers(Call::UNSHARE, [libc::CLONE_NEWIPC])),
    row("unshare_uts", "unshare the UTS namespace", |_| numbers(Call::UNSHARE, [libc::CLONE_NEWUTS])),
    row("unshare_cgroup", "unshare the cgroup namespace", |_| {
        numbers(Call::UNSHARE, [libc::CLONE_NEWCGROUP])
    }),
    row("unshare_time", "unshare the time namespace", |_| numbers(Call::UNSHARE, [NEW_TIME])),
    row("unshare_fs", "unshare nothing but file system state (CLONE_FS)", |_| {
        numbers(Call::UNSHARE, [libc::CLONE_FS])
    }),
    row("clone_user", "clone with a new user namespace", |_| clone(libc::CLONE_NEWUSER)),
    row("clone_mount", "clone with a new mount namespace", |_| clone(libc::CLONE_NEWNS)),
    row("clone_pid", "clone with a new pid namespace", |_| clone(libc::CLONE_NEWPID)),
    row("clone_net", "clone with a new network namespace", |_| clone(libc::CLONE_NEWNET)),
    row("clone_ipc", "clone with a new IPC namespace", |_| clone(libc::CLONE_NEWIPC)),
    row("clone_uts", "clone with a new UTS namespace", |_| clone(libc::CLONE_NEWUTS)),
    row("clone_cgroup", "clone with a new cgroup namespace", |_| clone(libc::CLONE_NEWCGROUP)),
    row("clone_all", "clone with every new namespace", |_| {
        clone(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET)
    }),
    row("clone3_user", "clone3 with a new user namespace", |_| {
        ended(raw::fork_by_clone3(libc::CLONE_NEWUSER, || 0)?)
    }),
    row("clone3_plain", "clone3 with no flag at all", |_| ended(raw::fork_by_clone3(0, || 0)?)),
    row("setns_mount", "enter its own mount namespace", |_| enter("mnt")),
    row("setns_net", "enter its own network namespace", |_| enter("net")),
    row("setns_ipc", "enter its own IPC namespace", |_| enter("ipc")),
    row("setns_uts", "enter its own UTS namespace", |_| enter("uts")),
    row("setns_cgroup", "enter its own cgroup namespace", |_| enter("cgroup")),
    row("setns_pid", "enter its own pid namespace", |_| enter("pid")),
    row("setns_user", "enter its own user namespace", |_| enter("user")).reached(&[Errno::EINVAL]),
    row("setns_none", "setns of no descriptor", |_| numbers(Call::SETNS, [-1, 0])).reached(&[Errno::EBADF]),
    row("setns_pidfd", "enter its own UTS namespace by a pidfd", |_| {
        let pidfd = descriptor(Call::PIDFD_OPEN, &mut [Arg::Value(own_pid()), Arg::Value(0)])?;
        numbers(Call::SETNS, [pidfd, libc::CLONE_NEWUTS])
    }),
    row("namespace_owner", "open the user namespace that owns its UTS namespace (NS_GET_USERNS)", |_| {
        let (_file, number) = opened("/proc/self/ns/uts")?;
        numbers(Call::IOCTL, [number, NS_GET_USERNS])
    }),
];

/// `CLONE_NEWTIME`, which libc does not have for every C library.
const NEW_TIME: i32 = 0x80;
/// `linux/nsfs.h`.
const NS_GET_USERNS: i32 = 0xb701;

fn clone(flags: i32) -> Result<(), Errno> {
    ended(raw::fork(flags, || 0)?)
}

fn ended(child: i32) -> Result<(), Errno> {
    match reap(child)? {
        ChildEnd::Done | ChildEnd::Failed(_) => Ok(()),
        ChildEnd::Killed(_) => Err(Errno::EINTR),
    }
}

fn enter(kind: &str) -> Result<(), Errno> {
    let (_file, number) = opened(&format!("/proc/self/ns/{kind}"))?;
    numbers(Call::SETNS, [number, 0])
}
