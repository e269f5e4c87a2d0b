//! The descriptor-based mount calls: `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`.
//!
//! A detached mount has no path, so nothing can swap what is below a name between the check and
//! the mount. Kernel 5.12 is the minimum (`mount_setattr`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::check;

/// Mount attributes that are set on a mount, and on all mounts below it.
///
/// Values are the `MOUNT_ATTR_*` bits of `mount_setattr(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// No set-id execution, no device nodes: what every mount of a sandbox has.
    pub const BASE: Self = Self(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);

    /// For the mount of one device node, which `nodev` would make useless.
    pub const DEVICE: Self = Self(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC);

    /// Adds "no writes".
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self(self.0 | libc::MOUNT_ATTR_RDONLY)
    }

    /// Adds "no execution".
    #[must_use]
    pub const fn no_exec(self) -> Self {
        Self(self.0 | libc::MOUNT_ATTR_NOEXEC)
    }
}

/// Clones the mount tree at `at` (an `O_PATH` descriptor in *this* mount namespace) into a
/// detached tree, with everything mounted below it.
///
/// # Errors
/// `EINVAL` when `at` lies in another mount namespace; `EPERM` without `CAP_SYS_ADMIN` in the
/// user namespace that owns this one.
pub fn clone_tree(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::c_uint::try_from(libc::AT_EMPTY_PATH | libc::AT_RECURSIVE).map_err(io::Error::other)?;
    // SAFETY: the path is a NUL-terminated constant and the descriptor is borrowed for the call.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_open_tree, at.as_fd().as_raw_fd(), c"".as_ptr(), flags) })?;
    owned(fd)
}

/// Attaches a detached tree at `target` (an `O_PATH` descriptor of the mount point).
///
/// # Errors
/// As `move_mount(2)`.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (tree.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: both paths are NUL-terminated constants and both descriptors are borrowed.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })?;
    Ok(())
}

/// Sets attributes on a mount tree, recursively.
///
/// # Errors
/// As `mount_setattr(2)`; `EPERM` when a locked attribute would be cleared.
pub fn set_attributes(tree: impl AsFd, attributes: Attributes) -> io::Result<()> {
    set_attr(tree, libc::mount_attr { attr_set: attributes.0, attr_clr: 0, propagation: 0, userns_fd: 0 })
}

/// Whether the kernel has `mount_setattr(2)` (Linux 5.12); changes nothing.
pub fn attributes_available() -> bool {
    const NO_DESCRIPTOR: libc::c_int = -1;
    // SAFETY: the path is a constant, there is no attribute to read, and the descriptor does not exist.
    let answer = check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            NO_DESCRIPTOR,
            c"".as_ptr(),
            0,
            std::ptr::null::<libc::mount_attr>(),
            0,
        )
    });
    answer.map_or_else(|error| error.raw_os_error() != Some(libc::ENOSYS), |_done| true)
}

/// Makes a detached tree show the ids that `user_namespace` maps (an idmapped mount, Linux 5.12).
///
/// # Errors
/// `EINVAL` when a file system of the tree cannot be idmapped.
pub fn set_id_map(tree: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let userns_fd = u64::try_from(user_namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    set_attr(
        tree,
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd },
    )
}

fn set_attr(tree: impl AsFd, attr: libc::mount_attr) -> io::Result<()> {
    let fd = tree.as_fd().as_raw_fd();
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let empty: &CStr = c"";
    // SAFETY: `attr` lives for the call and its size is passed; the path is a constant.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            empty.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let raw = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
