//! Who the supervisor is: the namespaces it enters and the ids it keeps.
//!
//! Two proofs come out of here. [`Entered`]: there is a mount namespace of our own, so mounts made
//! from now on are seen by nobody else. [`Confined`]: the process has no id of the host's that
//! owns anything more than the user who started it does; libcontainer is only called with it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getgroups, getppid, setgroups, setresgid, setresuid};
use palisade_sys::dir::Dir;
use palisade_sys::process::{Fork, allow_inspection, exit_now, forbid_inspection, fork_single_threaded};

use super::{During, StepError};
use crate::lockdown::Namespaces;
use crate::spec::{Identity, Outside, StartedBy};

/// The process has a mount namespace of its own in which it may mount.
#[derive(Debug)]
pub(crate) struct Entered(());

/// The process lives in a user namespace in which it has exactly the one id of the sandbox.
#[derive(Debug)]
pub(crate) struct Confined(());

/// The supervisor's side of its connection to the keeper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeper<'a> {
    /// Where to ask for the id map.
    pub(super) socket: BorrowedFd<'a>,
    /// The keeper's process id.
    pub(super) pid: Pid,
    /// The keeper's namespaces, which are the host's.
    pub(super) outside: Namespaces,
}

impl Keeper<'_> {
    /// Asks the kernel to kill this process when the keeper dies, and makes sure that it still lives.
    ///
    /// Changing ids clears the request (prctl(2)), so it is made again after that.
    pub(super) fn die_with_it(self) -> Result<(), StepError> {
        const STEP: &str = "asking to die with the keeper";
        nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL)).during(STEP)?;
        if nix::sys::prctl::get_pdeathsig().during(STEP)? != Some(Signal::SIGKILL) {
            return Err(StepError::new(STEP, "it did not take effect"));
        }
        if getppid() == self.pid { Ok(()) } else { Err(StepError::new(STEP, "the keeper is gone")) }
    }
}

/// Move 1. An ordinary user needs a user namespace to be allowed to mount.
///
/// Where the server gets another id than the user's own, that namespace has both: the stage is built as the
/// user, who alone can look into a 0700 store, and the server's id waits for move 3.
pub(super) fn enter_mount_namespace(identity: &Identity, keeper: Keeper<'_>) -> Result<Entered, StepError> {
    match identity.started_by {
        StartedBy::Root => unshare(CloneFlags::CLONE_NEWNS).during("making a mount namespace")?,
        StartedBy::OrdinaryUser => {
            enter_user_namespace(keeper)?;
            if identity.is_apart() {
                verify_map(&stage_map(identity))?;
            } else {
                take_ids(identity.inside_uid, identity.inside_gid)?;
            }
            conceal(keeper)?;
        }
    }
    // Otherwise what we mount would appear on a host whose root is shared (systemd's default).
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).during("making mounts private")?;
    Ok(Entered(()))
}

/// Move 3. Root gives up its ids, an ordinary user the own one for a subordinate one; whoever has only the
/// own one gave up all else in move 1.
pub(super) fn give_up_host_ids(
    _entered: Entered,
    identity: &Identity,
    keeper: Keeper<'_>,
) -> Result<Confined, StepError> {
    match (identity.started_by, identity.is_apart()) {
        (StartedBy::Root, _) => {
            // Root's groups (disk, docker, …) would go along: they are not ids that a map can drop.
            drop_groups()?;
            // A second mount namespace, owned by the new user namespace: without it the process
            // could not mount any more. What was mounted before is locked in it.
            enter_user_namespace(keeper)?;
            take_ids(identity.inside_uid, identity.inside_gid)?;
        }
        (StartedBy::OrdinaryUser, true) => become_the_other_id(identity)?,
        (StartedBy::OrdinaryUser, false) => {}
    }
    verify_map(&final_map(identity))?;
    // libcontainer reads its own mount table and id map, and conceals itself before it clones.
    allow_inspection().during("making /proc/self readable")?;
    keeper.die_with_it()?;
    Ok(Confined(()))
}

/// Both namespaces at once: a mount namespace belongs to the user namespace that it is made in.
const NEW: CloneFlags = CloneFlags::CLONE_NEWUSER.union(CloneFlags::CLONE_NEWNS);

/// Makes the namespaces and lets the keeper write the map.
fn enter_user_namespace(keeper: Keeper<'_>) -> Result<(), StepError> {
    unshare(NEW).during("making a user namespace")?;
    // What is below /proc/PID of a process that is not dumpable belongs to root, and the keeper of an
    // ordinary user could not write the map. There is no secret in this process.
    allow_inspection().during("making /proc/self writable")?;
    tell_keeper(keeper)?;
    let (answer, _no_fds) =
        palisade_sys::socket::receive(keeper.socket, KEEPER_MESSAGE_MAX).during("waiting for the id map")?;
    if answer == MAPPED {
        Ok(())
    } else {
        Err(StepError::new("waiting for the id map", "the keeper could not write it"))
    }
}

fn take_ids(uid: u32, gid: u32) -> Result<(), StepError> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid).during("taking the sandbox's group id")?;
    setresuid(uid, uid, uid).during("taking the sandbox's user id")
}

/// Ends the moment in which `/proc/PID` was open, and asks again to die with the keeper: a change of ids
/// clears that.
fn conceal(keeper: Keeper<'_>) -> Result<(), StepError> {
    forbid_inspection().during("closing /proc/self")?;
    keeper.die_with_it()
}

/// From the namespace of two ids into one that has only the server's.
///
/// The keeper is too far away to write this map: the kernel wants a process of the namespace itself or of
/// the one around it, and lets the first write one line with its own id (`user_namespaces(7)`).
fn become_the_other_id(identity: &Identity) -> Result<(), StepError> {
    // The user's groups would go along, as root's would.
    drop_groups()?;
    take_ids(STAGE_OTHER, STAGE_OTHER)?;
    unshare(NEW).during("making a user namespace inside the first")?;
    // The change of ids made /proc/self root's.
    allow_inspection().during("making /proc/self writable")?;
    let proc_self = Dir::open_ambient(Path::new("/proc/self")).during("writing the id map")?;
    write_maps(&proc_self, &final_map(identity), SetGroups::Deny).during("writing the id map")?;
    take_ids(identity.inside_uid, identity.inside_gid)
}

/// In the namespace of two ids, the one who builds the stage: the user.
const STAGE_USER: u32 = 0;

/// In the same, the id that the server will have outside.
const STAGE_OTHER: u32 = 1;

/// Who the server will be, in the ids that this process has while it builds the stage; `None` where it is
/// that already.
pub(super) fn server_on_the_stage(identity: &Identity) -> Option<(Uid, Gid)> {
    let (uid, gid) = match (identity.started_by, identity.is_apart()) {
        (StartedBy::Root, _) => (identity.outside_uid, identity.outside_gid),
        (StartedBy::OrdinaryUser, true) => (STAGE_OTHER, STAGE_OTHER),
        (StartedBy::OrdinaryUser, false) => return None,
    };
    Some((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// Programs open their standard streams again by name (`/dev/stdout`), and a pipe can be opened by whom it
/// belongs to: until here, the gateway's user.
pub(super) fn give_to_server(
    _entered: &Entered,
    identity: &Identity,
    pipes: [&OwnedFd; 3],
) -> Result<(), StepError> {
    let Some((uid, gid)) = server_on_the_stage(identity) else { return Ok(()) };
    for pipe in pipes {
        nix::unistd::fchown(pipe, Some(uid), Some(gid)).during("giving the server its pipes")?;
    }
    Ok(())
}

/// One line of an id map, for users and for groups: inside and outside, each for one id.
type Line = ((u32, u32), (u32, u32));

/// The map of the namespace of two ids.
fn stage_map(identity: &Identity) -> [Line; 2] {
    [
        ((STAGE_USER, identity.user_uid), (STAGE_USER, identity.user_gid)),
        ((STAGE_OTHER, identity.outside_uid), (STAGE_OTHER, identity.outside_gid)),
    ]
}

/// The map of the namespace that the server lives in, as a process of that namespace writes and reads it:
/// the outer ids are those of the namespace around it.
fn final_map(identity: &Identity) -> [Line; 1] {
    let (uid, gid) = match (identity.started_by, identity.is_apart()) {
        (StartedBy::OrdinaryUser, true) => (STAGE_OTHER, STAGE_OTHER),
        (StartedBy::Root | StartedBy::OrdinaryUser, _) => (identity.outside_uid, identity.outside_gid),
    };
    [((identity.inside_uid, uid), (identity.inside_gid, gid))]
}

/// Not believed: a group that stays is an id of the host.
fn drop_groups() -> Result<(), StepError> {
    const STEP: &str = "dropping supplementary groups";
    setgroups(&[]).during(STEP)?;
    match getgroups().during(STEP)?.first() {
        None => Ok(()),
        Some(left) => Err(StepError::new(STEP, format!("group {left} is left"))),
    }
}

/// The map is read back: a process that kept an id of the host's must not launch anything.
fn verify_map(lines: &[Line]) -> Result<(), StepError> {
    const STEP: &str = "reading the ids back";
    let proc_self = Dir::open_ambient(Path::new("/proc/self")).during(STEP)?;
    for (file, expected) in [("uid_map", uid_lines(lines)), ("gid_map", gid_lines(lines))] {
        let bytes = proc_self.read_bounded(Path::new(file), ID_MAP_MAX).during(STEP)?;
        let found = plain(&String::from_utf8_lossy(&bytes));
        if found != expected {
            return Err(StepError::new(
                STEP,
                format!("{file} is `{}`, not `{}`", found.trim(), expected.trim()),
            ));
        }
    }
    Ok(())
}

fn uid_lines(lines: &[Line]) -> String {
    map_text(lines.iter().map(|(user, _)| *user))
}

fn gid_lines(lines: &[Line]) -> String {
    map_text(lines.iter().map(|(_, group)| *group))
}

fn map_text(lines: impl Iterator<Item = (u32, u32)>) -> String {
    lines.fold(String::new(), |text, (inside, outside)| text + &format!("{inside} {outside} 1\n"))
}

/// As we write it: the kernel pads its columns.
fn plain(map: &str) -> String {
    map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// Two lines of three numbers of ten digits.
const ID_MAP_MAX: u64 = 4096;

const KEEPER_MESSAGE_MAX: usize = 16;
const ENTERED: &[u8] = b"entered";
const MAPPED: &[u8] = b"mapped";

fn tell_keeper(keeper: Keeper<'_>) -> Result<(), StepError> {
    palisade_sys::socket::send(keeper.socket, ENTERED, &[]).during("talking to the keeper")
}

/// The keeper's part: writes the map when the supervisor says that it has a new user namespace.
///
/// A map of one line with the writer's own id takes no privilege, and only setgroups denied
/// (`user_namespaces(7)`). Subordinate ids take the two set-id programs, which look them up in
/// `/etc/subuid` and `/etc/subgid`; root of a container writes the two lines itself.
pub(super) fn serve_id_map(
    supervisor_socket: BorrowedFd<'_>,
    supervisor: Pid,
    identity: &Identity,
) -> Result<(), StepError> {
    const STEP: &str = "writing the id map";
    let (message, _no_fds) =
        palisade_sys::socket::receive(supervisor_socket, KEEPER_MESSAGE_MAX).during(STEP)?;
    if message != ENTERED {
        // It failed before that and has told the gateway why.
        return Ok(());
    }
    write_id_map(supervisor, identity)?;
    palisade_sys::socket::send(supervisor_socket, MAPPED, &[]).during(STEP)
}

fn write_id_map(process: Pid, identity: &Identity) -> Result<(), StepError> {
    const STEP: &str = "writing the id map";
    let open = || Dir::open_ambient(Path::new(&format!("/proc/{process}")));
    match (&identity.started_by, &identity.outside) {
        (StartedBy::OrdinaryUser, Outside::Subordinate) => {
            let lines = stage_map(identity);
            run_helper("newuidmap", process, &uid_lines(&lines))?;
            run_helper("newgidmap", process, &gid_lines(&lines))
        }
        // The server's groups are dropped in this namespace, so setgroups stays allowed.
        (StartedBy::OrdinaryUser, Outside::Unowned) => {
            open().and_then(|dir| write_maps(&dir, &stage_map(identity), SetGroups::Allow)).during(STEP)
        }
        (StartedBy::Root, _) | (StartedBy::OrdinaryUser, Outside::Own { .. }) => {
            open().and_then(|dir| write_maps(&dir, &final_map(identity), SetGroups::Deny)).during(STEP)
        }
    }
}

/// The step whose failure has a hint of its own.
pub(crate) const MAPPING_SUBORDINATE_IDS: &str = "mapping a subordinate id";

/// `newuidmap PID inside outside count …`; it checks that the process and the ids are the user's.
fn run_helper(name: &'static str, process: Pid, lines: &str) -> Result<(), StepError> {
    const STEP: &str = MAPPING_SUBORDINATE_IDS;
    let program = crate::host::ids::helper(name)
        .ok_or_else(|| StepError::new(STEP, format!("{name} is not installed any more")))?;
    let arguments: Vec<String> =
        std::iter::once(process.to_string()).chain(lines.split_whitespace().map(str::to_owned)).collect();
    let done = palisade_sys::child::run_host_program(&program, &arguments).during(STEP)?;
    if done.status.success() {
        return Ok(());
    }
    let said = done.said.lines().next().unwrap_or_default().escape_debug().to_string();
    Err(StepError::new(STEP, format!("{} ended with {}: {said}", program.display(), done.status)))
}

/// Whether the new namespace may call `setgroups`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetGroups {
    Allow,
    Deny,
}

/// `process` is its directory below `/proc`.
fn write_maps(process: &Dir, lines: &[Line], setgroups: SetGroups) -> io::Result<()> {
    let write =
        |name: &str, content: String| process.open_file_rw(Path::new(name))?.write_all(content.as_bytes());
    if setgroups == SetGroups::Deny {
        write("setgroups", "deny".into())?;
    }
    write("uid_map", uid_lines(lines))?;
    write("gid_map", gid_lines(lines))
}

/// A user namespace that maps the owner of a mounted directory to the sandbox's id: what an
/// idmapped mount (`mount_setattr(2)`) takes. The process that holds it open ends at once.
pub(super) fn id_map_namespace(owner: (u32, u32), identity: &Identity) -> io::Result<OwnedFd> {
    let (ours, theirs) = palisade_sys::socket::packet_pair()?;
    match fork_single_threaded()? {
        Fork::Child => {
            drop(ours);
            exit_now(hold_namespace(theirs.as_fd()))
        }
        Fork::Parent(holder) => {
            drop(theirs);
            let namespace = map_holder(ours.as_fd(), holder, owner, identity);
            drop(ours);
            nix::sys::wait::waitpid(holder, None)?;
            namespace
        }
    }
}

fn hold_namespace(socket: BorrowedFd<'_>) -> i32 {
    let entered = unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(io::Error::from)
        .and_then(|()| palisade_sys::socket::send(socket, ENTERED, &[]))
        .and_then(|()| palisade_sys::socket::receive(socket, KEEPER_MESSAGE_MAX));
    i32::from(entered.is_err())
}

fn map_holder(
    socket: BorrowedFd<'_>,
    holder: Pid,
    owner: (u32, u32),
    identity: &Identity,
) -> io::Result<OwnedFd> {
    let (message, _no_fds) = palisade_sys::socket::receive(socket, KEEPER_MESSAGE_MAX)?;
    if message != ENTERED {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (uid, gid) = owner;
    let process = Dir::open_ambient(Path::new(&format!("/proc/{holder}")))?;
    let line = ((uid, identity.outside_uid), (gid, identity.outside_gid));
    write_maps(&process, &[line], SetGroups::Deny)?;
    let path = format!("/proc/{holder}/ns/user");
    Ok(palisade_sys::dir::open_ambient_file(Path::new(&path))?.into())
}
