//! Trying what reading cannot tell: whether the kernel lets this process make a sandbox.
//!
//! A seccomp filter or a security module of a container refuses without saying so anywhere. So a child does
//! what a launch does, up to the point where something of an image would be needed, and ends: nothing that
//! it makes outlives it. Only `palisade doctor` does this; a launch finds out by itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use palisade_sys::dir::Dir;
use palisade_sys::process::{Fork, allow_inspection, exit_now, fork_single_threaded};
use serde::Serialize;

use crate::supervisor::stage::MOUNT_POINTS;

/// What is tried, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A user namespace with a mount namespace.
    UserNamespace,
    /// One id in it.
    IdMap,
    /// A tmpfs.
    Mount,
    /// The pid, network, IPC, UTS and cgroup namespaces.
    OtherNamespaces,
    /// A process in the new pid namespace.
    Fork,
    /// A procfs for that.
    Procfs,
}

const STEPS: [Step; 6] =
    [Step::UserNamespace, Step::IdMap, Step::Mount, Step::OtherNamespaces, Step::Fork, Step::Procfs];

impl Step {
    /// In words that follow "the kernel refused".
    pub fn words(self) -> &'static str {
        match self {
            Self::UserNamespace => "a user namespace",
            Self::IdMap => "an id map",
            Self::Mount => "a mount",
            Self::OtherNamespaces => "pid, network and other namespaces",
            Self::Fork => "a process in a new pid namespace",
            Self::Procfs => "a procfs",
        }
    }
}

/// The first thing that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What.
    pub step: Step,
    /// With which error number.
    pub errno: i32,
}

impl Refusal {
    /// Whether a limit was reached, and nothing forbidden.
    pub fn is_a_limit(&self) -> bool {
        [nix::libc::ENOSPC, nix::libc::EUSERS].contains(&self.errno)
    }

    /// The name of the error number.
    pub fn errno_name(&self) -> String {
        format!("{:?}", nix::Error::from_raw(self.errno))
    }
}

/// Tries all steps; takes some milliseconds.
///
/// # Errors
/// When this process may not fork, or has more than one thread.
pub fn run() -> io::Result<Option<Refusal>> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match fork_single_threaded()? {
        Fork::Child => {
            drop(reader);
            exit_now(report(&writer, try_steps()))
        }
        Fork::Parent(child) => {
            drop(writer);
            let answer = answer(reader);
            nix::sys::wait::waitpid(child, None)?;
            answer
        }
    }
}

type Failed = (Step, nix::Error);

fn report(pipe: &OwnedFd, outcome: Result<(), Failed>) -> i32 {
    let line = match outcome {
        Ok(()) => [u8::MAX, 0],
        Err((step, errno)) => {
            let index = STEPS.iter().position(|known| *known == step).unwrap_or_default();
            #[expect(clippy::as_conversions, reason = "nix gives the number of an error no other way")]
            let number = errno as i32;
            [u8::try_from(index).unwrap_or(u8::MAX), u8::try_from(number).unwrap_or(u8::MAX)]
        }
    };
    let written = pipe.try_clone().and_then(|pipe| File::from(pipe).write_all(&line));
    i32::from(written.is_err())
}

/// Two bytes: the step that failed and its error number. The child may die without a word, by a filter that
/// kills.
fn answer(pipe: OwnedFd) -> io::Result<Option<Refusal>> {
    let mut line = [0_u8; 2];
    match File::from(pipe).read_exact(&mut line) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(io::Error::other("the process that tried was killed"));
        }
        read => read?,
    }
    let [step, errno] = line;
    Ok(STEPS.get(usize::from(step)).map(|step| Refusal { step: *step, errno: i32::from(errno) }))
}

const PROC: &str = "/proc";

fn try_steps() -> Result<(), Failed> {
    let at = |step: Step| move |error: nix::Error| (step, error);
    let (uid, gid) = (Uid::current().as_raw(), Gid::current().as_raw());
    let new = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    unshare(new).map_err(at(Step::UserNamespace))?;
    write_own_map(uid, gid).map_err(|error| (Step::IdMap, number(&error)))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(at(Step::Mount))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Not over /proc, which the next step needs.
    let free = MOUNT_POINTS.into_iter().filter(|path| *path != PROC);
    if let Some(place) = free.into_iter().find(|path| Dir::open_ambient(Path::new(path)).is_ok()) {
        mount(Some("trial"), place, Some("tmpfs"), flags, Some("size=4k")).map_err(at(Step::Mount))?;
    }
    let others = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(others).map_err(at(Step::OtherNamespaces))?;
    // The first child is pid 1 of the new namespace, and the one that may mount its procfs.
    match fork_single_threaded() {
        Ok(Fork::Child) => exit_now(match mount_procfs() {
            Ok(()) => 0,
            Err(errno) => errno,
        }),
        Ok(Fork::Parent(child)) => match nix::sys::wait::waitpid(child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(nix::sys::wait::WaitStatus::Exited(_, errno)) => {
                Err((Step::Procfs, nix::Error::from_raw(errno)))
            }
            Ok(_) | Err(_) => Err((Step::Fork, nix::Error::EIO)),
        },
        Err(error) => Err((Step::Fork, number(&error))),
    }
}

/// The error number, for the exit status.
fn mount_procfs() -> Result<(), i32> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    #[expect(clippy::as_conversions, reason = "nix gives the number of an error no other way")]
    mount(Some("proc"), PROC, Some("proc"), flags, None::<&str>).map_err(|error| error as i32)
}

fn write_own_map(uid: u32, gid: u32) -> io::Result<()> {
    // /proc/self of a process that is not dumpable belongs to root.
    allow_inspection()?;
    let own = Dir::open_ambient(Path::new("/proc/self"))?;
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        own.open_file_rw(Path::new(file))?.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn number(error: &io::Error) -> nix::Error {
    nix::Error::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_travels_through_the_pipe() {
        for (outcome, expected) in [
            (Ok(()), None),
            (Err((Step::Procfs, nix::Error::EPERM)), Some((Step::Procfs, nix::libc::EPERM))),
            (Err((Step::UserNamespace, nix::Error::ENOSPC)), Some((Step::UserNamespace, nix::libc::ENOSPC))),
        ] {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            assert_eq!(report(&writer, outcome), 0);
            drop(writer);
            assert_eq!(answer(reader).unwrap().map(|found| (found.step, found.errno)), expected);
        }
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(writer);
        assert!(answer(reader).unwrap_err().to_string().contains("killed"));
    }
}
