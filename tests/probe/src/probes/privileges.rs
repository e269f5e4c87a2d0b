//! Identities, capabilities, and the settings that guard them.

use std::fs::OpenOptions;

use nix::errno::Errno;
use palisade_attack::raw::{Arg, Call};
use palisade_attack::steps::{c_string, errno};

use super::{Row, made, numbers, row};

/// An id that is nobody's.
const SOMEBODY: i32 = 54_321;

pub(super) const ROWS: [Row; 24] = [
    row("setuid", "take another user id", |_| numbers(Call::SETUID, [SOMEBODY])),
    row("setgid", "take another group id", |_| numbers(Call::SETGID, [SOMEBODY])),
    row("setreuid", "take another user id (setreuid)", |_| numbers(Call::SETREUID, [SOMEBODY, SOMEBODY])),
    row("setregid", "take another group id (setregid)", |_| numbers(Call::SETREGID, [SOMEBODY, SOMEBODY])),
    row("setresuid", "take another user id (setresuid)", |_| {
        numbers(Call::SETRESUID, [SOMEBODY, SOMEBODY, SOMEBODY])
    }),
    row("setresgid", "take another group id (setresgid)", |_| {
        numbers(Call::SETRESGID, [SOMEBODY, SOMEBODY, SOMEBODY])
    }),
    row("setfsuid", "ask for another file system user id", |_| numbers(Call::SETFSUID, [SOMEBODY])),
    row("setgroups", "give up all supplementary groups", |_| numbers(Call::SETGROUPS, [0, 0])),
    row("setgroups_join", "join a group", |_| {
        let group = SOMEBODY.to_ne_bytes();
        made(Call::SETGROUPS, &mut [Arg::Value(1), Arg::Bytes(&group)])
    }),
    row("capset_sys_admin", "take CAP_SYS_ADMIN", |_| take_capability(21)),
    row("capset_setuid", "take CAP_SETUID", |_| take_capability(7)),
    row("capset_net_admin", "take CAP_NET_ADMIN", |_| take_capability(12)),
    row("ambient_raise", "raise an ambient capability", |_| {
        // Inheritable first; the ambient set is limited by it.
        capset(21, 1 << 21)?;
        numbers(Call::PRCTL, [libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0])
    }),
    row("securebits", "set the securebits", |_| numbers(Call::PRCTL, [libc::PR_SET_SECUREBITS, 0])),
    row("keep_capabilities", "keep capabilities over a change of ids", |_| {
        numbers(Call::PRCTL, [libc::PR_SET_KEEPCAPS, 1])
    }),
    row("bounding_drop", "change its bounding set", |_| numbers(Call::PRCTL, [libc::PR_CAPBSET_DROP, 39])),
    row("seccomp_prctl", "install a system call filter (prctl, program at the null address)", |_| {
        numbers(Call::PRCTL, [libc::PR_SET_SECCOMP, 2, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("seccomp", "install a system call filter (seccomp, program at the null address)", |_| {
        numbers(Call::SECCOMP, [1, 0, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("seccomp_listener", "answer system calls of its own (seccomp, new listener)", |_| {
        numbers(Call::SECCOMP, [1, 8, 0])
    })
    .reached(&[Errno::EFAULT]),
    row("landlock_create", "make a Landlock ruleset", |_| {
        let attributes = 1_u64.to_ne_bytes();
        made(Call::LANDLOCK_CREATE_RULESET, &mut [Arg::Bytes(&attributes), Arg::Value(8), Arg::Value(0)])
    }),
    row("landlock_version", "ask for the Landlock ABI", |_| {
        numbers(Call::LANDLOCK_CREATE_RULESET, [0, 0, 1])
    }),
    row("landlock_add", "add a rule to no Landlock ruleset", |_| {
        let rule = [0; 16];
        made(Call::LANDLOCK_ADD_RULE, &mut [Arg::Value(-1), Arg::Value(1), Arg::Bytes(&rule), Arg::Value(0)])
    })
    .reached(&[Errno::EBADF]),
    row("landlock_restrict", "restrict itself by no Landlock ruleset", |_| {
        numbers(Call::PRCTL, [libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0])?;
        numbers(Call::LANDLOCK_RESTRICT_SELF, [-1, 0])
    })
    .reached(&[Errno::EBADF]),
    row("file_capability", "give a file of its own a capability", |_| {
        let path = format!("/tmp/palisade-probe-capability-{}", std::process::id());
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        made.map_err(|error| errno(&error))?;
        let given = set_file_capability(&path);
        std::fs::remove_file(&path).map_err(|error| errno(&error))?;
        given
    }),
];

fn take_capability(number: u32) -> Result<(), Errno> {
    capset(number, 0)
}

/// Effective and permitted as they would be for `number` alone, and `inheritable`.
fn capset(number: u32, inheritable: u32) -> Result<(), Errno> {
    // struct __user_cap_header_struct: version 3, this process. Then twice effective, permitted, inheritable.
    let header = [0x2008_0522_u32, 0].map(u32::to_ne_bytes).concat();
    let bit = 1_u32.checked_shl(number).unwrap_or(0);
    let data = [bit, bit, inheritable, 0, 0, 0].map(u32::to_ne_bytes).concat();
    made(Call::CAPSET, &mut [Arg::Bytes(&header), Arg::Bytes(&data)])
}

/// `security.capability`, revision 2: `CAP_SYS_ADMIN`, permitted and effective.
pub(crate) fn set_file_capability(path: &str) -> Result<(), Errno> {
    let path = c_string(path)?;
    let value = [0x0200_0001_u32, 1 << 21, 0, 0, 0].map(u32::to_le_bytes).concat();
    let length = i32::try_from(value.len()).map_err(|_too_wide| Errno::EOVERFLOW)?;
    made(
        Call::SETXATTR,
        &mut [
            Arg::Text(&path),
            Arg::Text(c"security.capability"),
            Arg::Bytes(&value),
            Arg::Value(length),
            Arg::Value(0),
        ],
    )
}
