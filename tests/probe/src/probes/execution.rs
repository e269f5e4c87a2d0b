//! Code that is not the image's: written first, then executed or mapped.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use palisade_attack::raw::{Arg, Call};
use palisade_attack::steps::{c_string, errno, open};

use super::{NOT_GIVEN, Row, descriptor, made, opened, row};
use crate::EXEC_CANARY;

pub(super) const ROWS: [Row; 12] = [
    row("exec_tmp", "execute a copy of itself in /tmp", |_| execute_copy("/tmp")),
    row("exec_shm", "execute a copy of itself in /dev/shm", |_| execute_copy("/dev/shm")),
    row("exec_mount", "execute a copy of itself in a read-write mount", |given| {
        execute_copy(given.text("first").ok_or(NOT_GIVEN)?)
    }),
    row("map_tmp", "map a file in /tmp as code", |_| map_copy("/tmp")),
    row("map_shm", "map a file in /dev/shm as code", |_| map_copy("/dev/shm")),
    row("map_mount", "map a file in a read-write mount as code", |given| {
        map_copy(given.text("first").ok_or(NOT_GIVEN)?)
    }),
    row("script_tmp", "execute a script in /tmp whose interpreter is its own program", |given| {
        let script = format!("#!{} {EXEC_CANARY}\n", given.text("program").ok_or(NOT_GIVEN)?);
        with_file("/tmp", script.as_bytes(), execute)
    }),
    row("exec_memfd", "execute a nameless file (memfd_create, execveat)", |_| execute_descriptor(memfd()?)),
    row("exec_memfd_path", "execute a nameless file by /proc/self/fd", |_| {
        execute(&format!("/proc/self/fd/{}", memfd()?))
    }),
    row("execveat_empty_path", "execute its own program by a descriptor (AT_EMPTY_PATH)", |_| {
        let (_file, number) = opened("/proc/self/exe")?;
        execute_descriptor(number)
    }),
    row("exec_by_descriptor_path", "execute its own program by /proc/self/fd, which any server may", |_| {
        let (_file, number) = opened("/proc/self/exe")?;
        execute(&format!("/proc/self/fd/{number}"))
    }),
    row("overwrite_self", "open its own program for writing", |_| {
        OpenOptions::new().write(true).open("/proc/self/exe").map(drop).map_err(|error| errno(&error))
    })
    .reached(&[Errno::ETXTBSY]),
];

fn execute(path: &str) -> Result<(), Errno> {
    let (path, canary) = (c_string(path)?, c_string(EXEC_CANARY)?);
    made(Call::EXECVE, &mut [Arg::Text(&path), Arg::Strings(&[&path, &canary]), Arg::Strings(&[])])
}

fn execute_descriptor(number: i32) -> Result<(), Errno> {
    let (empty, canary) = (c_string("")?, c_string(EXEC_CANARY)?);
    made(
        Call::EXECVEAT,
        &mut [
            Arg::Value(number),
            Arg::Text(&empty),
            Arg::Strings(&[&canary, &canary]),
            Arg::Strings(&[]),
            Arg::Value(libc::AT_EMPTY_PATH),
        ],
    )
}

fn execute_copy(directory: &str) -> Result<(), Errno> {
    with_file(directory, &own_program()?, execute)
}

fn own_program() -> Result<Vec<u8>, Errno> {
    let mut program = Vec::new();
    std::io::copy(&mut open("/proc/self/exe")?, &mut program).map_err(|error| errno(&error))?;
    Ok(program)
}

/// The file is removed in a process that the execution does not replace.
fn with_file(
    directory: &str,
    content: &[u8],
    attempt: impl FnOnce(&str) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let path = format!("{directory}/palisade-probe-code-{}", std::process::id());
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o700).open(&path);
    made.and_then(|mut file| file.write_all(content)).map_err(|error| errno(&error))?;
    let done = palisade_attack::steps::in_child(|| attempt(&path));
    std::fs::remove_file(&path).map_err(|error| errno(&error))?;
    match done? {
        palisade_attack::report::ChildEnd::Done => Ok(()),
        palisade_attack::report::ChildEnd::Failed(errno) => Err(errno),
        palisade_attack::report::ChildEnd::Killed(_) => Err(Errno::EINTR),
    }
}

fn map_copy(directory: &str) -> Result<(), Errno> {
    with_file(directory, &[0; 4096], |path| {
        let file = open(path)?;
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        made(
            Call::MMAP,
            &mut [
                Arg::Value(0),
                Arg::Value(4096),
                Arg::Value(protection),
                Arg::Value(libc::MAP_PRIVATE),
                Arg::Value(file.as_raw_fd()),
                Arg::Value(0),
            ],
        )
    })
}

/// A nameless file that holds this program; the descriptor ends with the child.
fn memfd() -> Result<i32, Errno> {
    let memory = descriptor(Call::MEMFD_CREATE, &mut [Arg::Text(c"palisade-probe"), Arg::Value(0)])?;
    for chunk in own_program()?.chunks(1 << 20) {
        let length = i32::try_from(chunk.len()).map_err(|_too_wide| Errno::EOVERFLOW)?;
        made(Call::WRITE, &mut [Arg::Value(memory), Arg::Bytes(chunk), Arg::Value(length)])?;
    }
    // Executed while it is open for writing, it would be busy; a second, reading descriptor does not help, since the
    // first ends only with this process. So it is opened again and the first is closed.
    let again = open(&format!("/proc/self/fd/{memory}"))?;
    made(Call::CLOSE, &mut [Arg::Value(memory)])?;
    descriptor(Call::DUP, &mut [Arg::Value(again.as_raw_fd())])
}
