//! Files: from one allowed directory to another, devices, and ways out of a mount.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use palisade_attack::raw::{Arg, Call};
use palisade_attack::steps::{c_string, errno, list, open, open_at, own_pid};

use super::{NOT_GIVEN, Row, made, path_of, row};
use crate::given::Given;

pub(super) const ROWS: [Row; 26] = [
    row("link_across", "hard-link a file of one read-write mount into another", |given| {
        link(given, "first", "second")
    }),
    row("link_to_tmp", "hard-link a file of a read-write mount into /tmp", |given| {
        link_to(given, "first", "/tmp")
    }),
    row("link_from_read_only", "hard-link a file of a read-only mount into a read-write one", |given| {
        link(given, "third", "first")
    }),
    row("rename_across", "rename a file of one read-write mount into another", |given| {
        rename(given, "first", "second", 0)
    }),
    row("rename_from_read_only", "rename a file of a read-only mount into a read-write one", |given| {
        rename(given, "third", "first", 0)
    }),
    row("exchange_across", "exchange files of two read-write mounts", |given| {
        rename(given, "first", "second", 2)
    }),
    row("write_read_only", "make a file in a read-only mount", |given| make(given.text("third"))),
    row("overwrite_read_only", "open a file of a read-only mount for writing", |given| {
        let path = path_of(given, "third", "file")?;
        let opened = OpenOptions::new().write(true).open(path.to_string_lossy().as_ref());
        opened.map(drop).map_err(|error| errno(&error))
    }),
    row("write_root", "make a file in /", |_| make(Some("/"))),
    row("write_etc", "make a file in /etc", |_| make(Some("/etc"))),
    row("write_usr", "make a file in /usr", |_| make(Some("/usr"))),
    row("write_bin", "make a file in /bin", |_| make(Some("/bin"))),
    row("write_dev", "make a file in /dev", |_| make(Some("/dev"))),
    row("link_leads_out", "follow a link, made in a read-write mount, to a file of the host", |given| {
        let link = path_of(given, "first", &format!("link-{}", own_pid()))?;
        let link = link.to_string_lossy().into_owned();
        let target = given.text("host_file").ok_or(NOT_GIVEN)?;
        std::os::unix::fs::symlink(target, &link).map_err(|error| errno(&error))?;
        let followed = open(&link).map(drop);
        std::fs::remove_file(&link).map_err(|error| errno(&error))?;
        followed
    }),
    row("climb_out_of_mount", "climb out of a read-write mount to a file of the host", |given| {
        let up = format!("{UP}{}", given.text("host_file").ok_or(NOT_GIVEN)?);
        open_at(libc::AT_FDCWD, given.text("first").ok_or(NOT_GIVEN)?, |fd| open_at(fd, &up, |_file| ()))?
    }),
    row("climb_from_directory", "climb from its working directory to a file of the host", |given| {
        let up = format!("{UP}{}", given.text("host_file").ok_or(NOT_GIVEN)?);
        open_at(libc::AT_FDCWD, &up, |_file| ())
    }),
    row(
        "directory_by_descriptor",
        "leave through a directory that somebody left open (/proc/self/fd/N)",
        |given| {
            let target = given.text("host_file").ok_or(NOT_GIVEN)?;
            let numbers = list("/proc/self/fd")?;
            let through = |number: &String| open(&format!("/proc/self/fd/{number}/{UP}{target}")).is_ok();
            if numbers.iter().any(through) { Ok(()) } else { Err(Errno::ENOENT) }
        },
    ),
    row("self_root", "reach a file of the host by /proc/self/root", |given| {
        let target = given.text("host_file").ok_or(NOT_GIVEN)?;
        open(&format!("/proc/self/root/{UP}{target}")).map(drop)
    }),
    row("thread_root", "reach a file of the host by /proc/thread-self/cwd", |given| {
        let target = given.text("host_file").ok_or(NOT_GIVEN)?;
        open(&format!("/proc/thread-self/cwd/{UP}{target}")).map(drop)
    }),
    row("host_file", "open a file of the host by its path", |given| {
        open(given.text("host_file").ok_or(NOT_GIVEN)?).map(drop)
    }),
    row("make_null", "make a character device (null) in /tmp", |_| device(libc::S_IFCHR, 0x103)),
    row("make_disk", "make a block device (8:0) in /tmp", |_| device(libc::S_IFBLK, 0x800)),
    row("make_memory", "make the memory device (1:1) in /tmp", |_| device(libc::S_IFCHR, 0x101)),
    row("make_whiteout", "make a whiteout (0:0) in a read-write mount", |given| {
        let path = path_of(given, "first", &format!("whiteout-{}", own_pid()))?;
        node(&path, libc::S_IFCHR, 0)
    }),
    row("make_set_id", "make a set-id file in a read-write mount", |given| {
        let path = path_of(given, "first", &format!("set-id-{}", own_pid()))?;
        let path = path.to_string_lossy().into_owned();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o4755).open(&path).map_err(|error| errno(&error))?;
        std::fs::remove_file(&path).map_err(|error| errno(&error))
    }),
    row("immutable", "set the flags of a file of its own (FS_IOC_SETFLAGS)", |given| {
        let path = path_of(given, "first", "file")?;
        let file = open(path.to_string_lossy().as_ref())?;
        let flags = 0_u64.to_ne_bytes();
        made(Call::IOCTL, &mut [Arg::Value(file.as_raw_fd()), Arg::Value(0x4008_6602), Arg::Bytes(&flags)])
    }),
];

const UP: &str = "../../../../../../../../../../../../../../../..";

fn target(given: &Given, to: &str) -> Result<std::ffi::CString, Errno> {
    path_of(given, to, &format!("arrived-{}", own_pid()))
}

fn link(given: &Given, from: &str, to: &str) -> Result<(), Errno> {
    link_at(&path_of(given, from, "file")?, &target(given, to)?)
}

fn link_to(given: &Given, from: &str, directory: &str) -> Result<(), Errno> {
    link_at(&path_of(given, from, "file")?, &c_string(format!("{directory}/arrived-{}", own_pid()))?)
}

fn link_at(from: &std::ffi::CStr, to: &std::ffi::CStr) -> Result<(), Errno> {
    let here = libc::AT_FDCWD;
    made(
        Call::LINKAT,
        &mut [Arg::Value(here), Arg::Text(from), Arg::Value(here), Arg::Text(to), Arg::Value(0)],
    )?;
    std::fs::remove_file(to.to_string_lossy().as_ref()).map_err(|error| errno(&error))
}

/// `flags`: 2 is `RENAME_EXCHANGE`. What was renamed is renamed back.
fn rename(given: &Given, from: &str, to: &str, flags: i32) -> Result<(), Errno> {
    let from = path_of(given, from, "file")?;
    let to = if flags == 0 { target(given, to)? } else { path_of(given, to, "file")? };
    let renamed = |from: &std::ffi::CStr, to: &std::ffi::CStr| {
        let here = libc::AT_FDCWD;
        made(
            Call::RENAMEAT2,
            &mut [Arg::Value(here), Arg::Text(from), Arg::Value(here), Arg::Text(to), Arg::Value(flags)],
        )
    };
    renamed(&from, &to)?;
    renamed(&to, &from)
}

fn make(directory: Option<&str>) -> Result<(), Errno> {
    let path = format!("{}/palisade-probe-{}", directory.ok_or(NOT_GIVEN)?.trim_end_matches('/'), own_pid());
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    made.map_err(|error| errno(&error))?;
    std::fs::remove_file(&path).map_err(|error| errno(&error))
}

/// A device in /tmp, removed again.
pub(super) fn device(kind: libc::mode_t, number: i32) -> Result<(), Errno> {
    node(&c_string(format!("/tmp/palisade-probe-device-{}", own_pid()))?, kind, number)
}

fn node(path: &std::ffi::CStr, kind: libc::mode_t, number: i32) -> Result<(), Errno> {
    let mode = i32::try_from(kind | 0o600).map_err(|_too_wide| Errno::EOVERFLOW)?;
    made(
        Call::MKNODAT,
        &mut [Arg::Value(libc::AT_FDCWD), Arg::Text(path), Arg::Value(mode), Arg::Value(number)],
    )?;
    std::fs::remove_file(path.to_string_lossy().as_ref()).map_err(|error| errno(&error))
}
