//! Mounts by the old calls and the new ones, and other roots.

use nix::errno::Errno;
use palisade_attack::raw::{Arg, Call};

use super::{Row, descriptor, made, numbers, row};

pub(super) const ROWS: [Row; 25] = [
    row("mount_tmpfs", "mount a tmpfs on /tmp", |_| mount(c"none", c"tmpfs", 0)),
    row("mount_bind", "bind / on /tmp", |_| mount(c"/", c"none", libc::MS_BIND)),
    row("mount_bind_recursive", "bind / with all below it on /tmp", |_| {
        mount(c"/", c"none", libc::MS_BIND | libc::MS_REC)
    }),
    row("mount_overlay", "mount an overlay on /tmp", |_| {
        mount_with(c"none", c"overlay", 0, Some(c"lowerdir=/:/"))
    })
    .reached(&[Errno::EINVAL, Errno::ELOOP, Errno::ENODEV]),
    row("mount_private", "make / private", |_| mount_on(c"/", libc::MS_PRIVATE)),
    row("mount_remount", "remount /tmp writable after binding it", |_| {
        mount(c"/tmp", c"none", libc::MS_BIND)?;
        mount(c"none", c"none", libc::MS_BIND | libc::MS_REMOUNT)
    }),
    row("mount_move", "move a mount", |_| {
        mount(c"none", c"tmpfs", 0)?;
        made(
            Call::MOUNT,
            &mut [Arg::Text(c"/tmp"), Arg::Text(c"/tmp"), Arg::Value(0), Arg::Value(flags(libc::MS_MOVE)?)],
        )
    })
    .reached(&[Errno::EINVAL, Errno::ELOOP]),
    row("umount", "unmount a directory that does not exist", |_| {
        made(Call::UMOUNT2, &mut [Arg::Text(NOWHERE), Arg::Value(0)])
    })
    .reached(&[Errno::ENOENT]),
    row("umount_lazily", "detach what is mounted on /tmp", |_| {
        mount(c"none", c"tmpfs", 0)?;
        made(Call::UMOUNT2, &mut [Arg::Text(c"/tmp"), Arg::Value(libc::MNT_DETACH)])
    }),
    row("pivot_root", "pivot to a directory that does not exist", |_| {
        made(Call::PIVOT_ROOT, &mut [Arg::Text(NOWHERE), Arg::Text(NOWHERE)])
    })
    .reached(&[Errno::ENOENT]),
    row("chroot", "chroot to /", |_| made(Call::CHROOT, &mut [Arg::Text(c"/")])),
    row("fsopen", "fsopen a tmpfs", |_| made(Call::FSOPEN, &mut [Arg::Text(c"tmpfs"), Arg::Value(0)])),
    row("fsopen_proc", "fsopen a procfs", |_| made(Call::FSOPEN, &mut [Arg::Text(c"proc"), Arg::Value(0)])),
    row("fsconfig", "fsconfig of standard input", |_| numbers(Call::FSCONFIG, [0, 6, 0, 0, 0]))
        .reached(&[Errno::EINVAL]),
    row("fsmount", "fsmount of no descriptor", |_| numbers(Call::FSMOUNT, [-1, 0, 0]))
        .reached(&[Errno::EBADF]),
    row("fspick", "fspick /", |_| {
        made(Call::FSPICK, &mut [Arg::Value(libc::AT_FDCWD), Arg::Text(c"/"), Arg::Value(0)])
    }),
    row("open_tree", "open_tree of /, without a clone", |_| open_tree(0).map(drop)),
    row("open_tree_clone", "clone the mounts of / (open_tree)", |_| open_tree(1).map(drop)),
    row("move_mount", "move_mount of no descriptor", |_| {
        let (none, empty) = (-1, c"");
        made(
            Call::MOVE_MOUNT,
            &mut [Arg::Value(none), Arg::Text(empty), Arg::Value(none), Arg::Text(empty), Arg::Value(0x44)],
        )
    })
    .reached(&[Errno::EBADF]),
    row("move_mount_attach", "attach a clone of / to /tmp (move_mount)", |_| {
        let tree = open_tree(1)?;
        made(
            Call::MOVE_MOUNT,
            &mut [
                Arg::Value(tree),
                Arg::Text(c""),
                Arg::Value(libc::AT_FDCWD),
                Arg::Text(c"/tmp"),
                Arg::Value(4),
            ],
        )
    }),
    row("mount_setattr", "make / nosuid (mount_setattr)", |_| set_attributes(2)),
    row("mount_setattr_clear", "make / writable (mount_setattr)", |_| {
        let attributes = [0_u64, 1, 0, 0].map(u64::to_ne_bytes).concat();
        mount_setattr(&attributes)
    })
    // Locked where the mount came from a more privileged namespace: the call itself was let in.
    .reached(&[Errno::EINVAL]),
    row("open_tree_attr", "clone / with other attributes (open_tree_attr)", |_| {
        let attributes = [2_u64, 0, 0, 0].map(u64::to_ne_bytes).concat();
        made(
            Call::OPEN_TREE_ATTR,
            &mut [
                Arg::Value(libc::AT_FDCWD),
                Arg::Text(c"/"),
                Arg::Value(1),
                Arg::Bytes(&attributes),
                Arg::Value(32),
            ],
        )
    }),
    row("statmount", "statmount, arguments at the null address", |_| numbers(Call::STATMOUNT, [0, 0, 0, 0]))
        .reached(&[Errno::EFAULT]),
    row("listmount", "listmount, arguments at the null address", |_| numbers(Call::LISTMOUNT, [0, 0, 0, 0]))
        .reached(&[Errno::EFAULT]),
];

const NOWHERE: &std::ffi::CStr = c"/palisade-probe-no-such-directory";

fn flags(flags: libc::c_ulong) -> Result<i32, Errno> {
    i32::try_from(flags).map_err(|_too_wide| Errno::EOVERFLOW)
}

fn mount(source: &std::ffi::CStr, kind: &std::ffi::CStr, with: libc::c_ulong) -> Result<(), Errno> {
    mount_with(source, kind, with, None)
}

fn mount_with(
    source: &std::ffi::CStr,
    kind: &std::ffi::CStr,
    with: libc::c_ulong,
    options: Option<&std::ffi::CStr>,
) -> Result<(), Errno> {
    made(
        Call::MOUNT,
        &mut [
            Arg::Text(source),
            Arg::Text(c"/tmp"),
            Arg::Text(kind),
            Arg::Value(flags(with)?),
            options.map_or(Arg::Value(0), Arg::Text),
        ],
    )
}

fn mount_on(target: &std::ffi::CStr, with: libc::c_ulong) -> Result<(), Errno> {
    made(Call::MOUNT, &mut [Arg::Value(0), Arg::Text(target), Arg::Value(0), Arg::Value(flags(with)?)])
}

/// `flags`: 1 is `OPEN_TREE_CLONE`.
fn open_tree(flags: i32) -> Result<i32, Errno> {
    descriptor(Call::OPEN_TREE, &mut [Arg::Value(libc::AT_FDCWD), Arg::Text(c"/"), Arg::Value(flags)])
}

fn set_attributes(set: u64) -> Result<(), Errno> {
    mount_setattr(&[set, 0, 0, 0].map(u64::to_ne_bytes).concat())
}

fn mount_setattr(attributes: &[u8]) -> Result<(), Errno> {
    made(
        Call::MOUNT_SETATTR,
        &mut [
            Arg::Value(libc::AT_FDCWD),
            Arg::Text(c"/"),
            Arg::Value(0),
            Arg::Bytes(attributes),
            Arg::Value(32),
        ],
    )
}
