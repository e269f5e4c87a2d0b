//! The calls and errors that a rule may name.

macro_rules! table {
    ($($name:literal = $number:expr),* $(,)?) => {
        &[$(($name, $number)),*]
    };
}

const CALLS: &[(&str, libc::c_long)] = table![
    "capset" = libc::SYS_capset,
    "chdir" = libc::SYS_chdir,
    "clone" = libc::SYS_clone,
    "clone3" = libc::SYS_clone3,
    "close_range" = libc::SYS_close_range,
    "dup3" = libc::SYS_dup3,
    "execve" = libc::SYS_execve,
    "fchdir" = libc::SYS_fchdir,
    "fchmodat" = libc::SYS_fchmodat,
    "fchown" = libc::SYS_fchown,
    "fchownat" = libc::SYS_fchownat,
    "fcntl" = libc::SYS_fcntl,
    "fsconfig" = libc::SYS_fsconfig,
    "fsmount" = libc::SYS_fsmount,
    "fsopen" = libc::SYS_fsopen,
    "fspick" = libc::SYS_fspick,
    "fstatfs" = libc::SYS_fstatfs,
    "getrandom" = libc::SYS_getrandom,
    "kill" = libc::SYS_kill,
    "landlock_add_rule" = libc::SYS_landlock_add_rule,
    "landlock_create_ruleset" = libc::SYS_landlock_create_ruleset,
    "landlock_restrict_self" = libc::SYS_landlock_restrict_self,
    "memfd_create" = libc::SYS_memfd_create,
    "mkdirat" = libc::SYS_mkdirat,
    "mount" = libc::SYS_mount,
    "mount_setattr" = libc::SYS_mount_setattr,
    "move_mount" = libc::SYS_move_mount,
    "openat" = libc::SYS_openat,
    "openat2" = libc::SYS_openat2,
    "open_tree" = libc::SYS_open_tree,
    "pidfd_open" = libc::SYS_pidfd_open,
    "pidfd_send_signal" = libc::SYS_pidfd_send_signal,
    "pipe2" = libc::SYS_pipe2,
    "pivot_root" = libc::SYS_pivot_root,
    "prctl" = libc::SYS_prctl,
    "prlimit64" = libc::SYS_prlimit64,
    "recvmsg" = libc::SYS_recvmsg,
    "rt_sigaction" = libc::SYS_rt_sigaction,
    "rt_sigprocmask" = libc::SYS_rt_sigprocmask,
    "seccomp" = libc::SYS_seccomp,
    "sendmsg" = libc::SYS_sendmsg,
    "setgid" = libc::SYS_setgid,
    "setgroups" = libc::SYS_setgroups,
    "sethostname" = libc::SYS_sethostname,
    "setns" = libc::SYS_setns,
    "setresgid" = libc::SYS_setresgid,
    "setresuid" = libc::SYS_setresuid,
    "setrlimit" = libc::SYS_setrlimit,
    "setsid" = libc::SYS_setsid,
    "setuid" = libc::SYS_setuid,
    "socket" = libc::SYS_socket,
    "socketpair" = libc::SYS_socketpair,
    "statfs" = libc::SYS_statfs,
    "symlinkat" = libc::SYS_symlinkat,
    "umount2" = libc::SYS_umount2,
    "unlinkat" = libc::SYS_unlinkat,
    "unshare" = libc::SYS_unshare,
];

const ERRORS: &[(&str, i32)] = table![
    "EACCES" = libc::EACCES,
    "EAGAIN" = libc::EAGAIN,
    "EINVAL" = libc::EINVAL,
    "EIO" = libc::EIO,
    "EMFILE" = libc::EMFILE,
    "ENODEV" = libc::ENODEV,
    "ENOMEM" = libc::ENOMEM,
    "ENOSPC" = libc::ENOSPC,
    "ENOSYS" = libc::ENOSYS,
    "EPERM" = libc::EPERM,
];

pub(super) fn number(name: &str) -> Option<u32> {
    find(CALLS, name).and_then(|number| u32::try_from(number).ok())
}

pub(super) fn errno(name: &str) -> Option<u16> {
    find(ERRORS, name).and_then(|number| u16::try_from(number).ok())
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _number)| *known == name).map(|(_known, number)| *number)
}
