//! The attempts, by group. Each runs in a child process of its own, so that what it is granted goes with it, and so
//! that one that is answered with a signal ends nothing else.

mod execution;
mod files;
mod kernel;
mod mounts;
mod namespaces;
mod paths;
mod privileges;
mod processes;
mod sockets;
mod terminals;

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use palisade_attack::raw::{self, Arg, Call};
use palisade_attack::report::Plan;
use palisade_attack::steps::{c_string, in_child, open};
use serde_json::{Value, json};

use crate::given::Given;
use crate::{facts, limits};

pub(crate) use privileges::set_file_capability;

/// One attempt.
#[derive(Clone, Copy)]
struct Row {
    id: &'static str,
    what: &'static str,
    reached: &'static [Errno],
    attempt: fn(&Given) -> Result<(), Errno>,
}

const fn row(id: &'static str, what: &'static str, attempt: fn(&Given) -> Result<(), Errno>) -> Row {
    Row { id, what, reached: &[], attempt }
}

impl Row {
    /// Names the errors that the kernel gives only to those whom it has let in.
    const fn reached(self, reached: &'static [Errno]) -> Self {
        Self { reached, ..self }
    }

    fn run(&self, given: &Given) -> Value {
        Plan::new(self.id, self.what)
            .reached(self.reached)
            .judge_child(in_child(|| {
                leave_the_machine_alone()?;
                (self.attempt)(given)
            }))
            .to_json()
    }
}

const GROUPS: [(&str, &[&[Row]]); 10] = [
    ("namespaces", &[&namespaces::ROWS]),
    ("mounts", &[&mounts::ROWS]),
    ("processes", &[&processes::ROWS, &processes::PROC_ROWS]),
    ("privileges", &[&privileges::ROWS]),
    ("kernel", &[&kernel::OBJECTS, &kernel::MACHINE, &kernel::TIME, kernel::ARCHITECTURE]),
    ("execution", &[&execution::ROWS]),
    ("files", &[&files::ROWS]),
    ("paths", &[&paths::ROWS]),
    ("sockets", &[&sockets::FAMILIES, &sockets::REACHES]),
    ("terminals", &[&terminals::ROWS]),
];

/// Runs the group that the arguments name, all of them without a name, or the facts.
pub(crate) fn run(given: &Given) -> Vec<Value> {
    let wanted = given.text("group");
    match wanted {
        Some("facts") => return vec![facts::all()],
        Some("limits") => return limits::run(given),
        Some(_) | None => {}
    }
    let groups = GROUPS.iter().filter(|(name, _rows)| wanted.is_none_or(|wanted| wanted == *name));
    let rows = groups
        .flat_map(|(name, tables)| tables.iter().flat_map(|rows| rows.iter()).map(move |row| (*name, row)));
    rows.map(|(name, row)| in_group(name, row.run(given))).collect()
}

/// Root, run without a sandbox, could mount over the machine's directories, name it, and leave shared memory behind. So
/// whoever may take mount, UTS and IPC namespaces of his own gets them before anything is tried, anew for each attempt.
/// Whoever may not may not do those things either: the attempts then show just that.
pub(crate) fn leave_the_machine_alone() -> Result<(), Errno> {
    let kinds = ["mnt", "uts", "ipc"];
    let links = || kinds.map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).ok());
    let before = links();
    match numbers(Call::UNSHARE, [libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC]) {
        Ok(()) => {}
        Err(_refused) => return Ok(()),
    }
    // A filter may have lied.
    if links().iter().zip(&before).any(|(now, before)| now == before || now.is_none()) {
        return Err(Errno::ENOTRECOVERABLE);
    }
    make_mounts_private()
}

fn make_mounts_private() -> Result<(), Errno> {
    let private = i32::try_from(libc::MS_REC | libc::MS_PRIVATE).map_err(|_too_wide| Errno::EOVERFLOW)?;
    let mut arguments = [Arg::Value(0), Arg::Text(c"/"), Arg::Value(0), Arg::Value(private), Arg::Value(0)];
    raw::call(Call::MOUNT, &mut arguments)?;
    Ok(())
}

/// Adds what a reader looks for first.
fn in_group(group: &str, mut attempt: Value) -> Value {
    if let Some(object) = attempt.as_object_mut() {
        object.insert("group".to_owned(), json!(group));
    }
    attempt
}

/// A user namespace in which this process is root, and one of each other kind but process ids (only a child could
/// enter that one).
pub(crate) fn enter_private_namespaces() -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let kinds = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    numbers(Call::UNSHARE, [kinds])?;
    let write = |name: &str, text: String| {
        OpenOptions::new().write(true).open(format!("/proc/self/{name}"))?.write_all(text.as_bytes())
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))?;
    Ok(make_mounts_private()?)
}

/// A system call that takes numbers only.
fn numbers<const N: usize>(call: Call, arguments: [i32; N]) -> Result<(), Errno> {
    made(call, &mut arguments.map(Arg::Value))
}

fn made(call: Call, arguments: &mut [Arg<'_>]) -> Result<(), Errno> {
    raw::call(call, arguments).map(drop)
}

/// A system call that makes a descriptor; the child that makes it ends soon.
fn descriptor(call: Call, arguments: &mut [Arg<'_>]) -> Result<i32, Errno> {
    i32::try_from(raw::call(call, arguments)?).map_err(|_too_wide| Errno::EOVERFLOW)
}

/// `EBADMSG`, which nothing here gets from the kernel, where the test has not said what there is to attack.
const NOT_GIVEN: Errno = Errno::EBADMSG;

fn victim(given: &Given) -> Result<i32, Errno> {
    given.pid().ok_or(NOT_GIVEN)
}

fn path_of(given: &Given, name: &str, file: &str) -> Result<CString, Errno> {
    c_string(format!("{}/{file}", given.text(name).ok_or(NOT_GIVEN)?))
}

/// An open file and the number that system calls know it by.
fn opened(path: &str) -> Result<(std::fs::File, i32), Errno> {
    let file = open(path)?;
    let number = file.as_raw_fd();
    Ok((file, number))
}
