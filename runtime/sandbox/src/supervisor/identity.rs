//! Who the supervisor is: the namespaces it enters and the ids it keeps.
//!
//! Two proofs come out of here. [`Entered`]: there is a mount namespace of our own, so mounts made
//! from now on are seen by nobody else. [`Confined`]: the process has no id of the host's that
//! owns anything more than the user who started it does; libcontainer is only called with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};
use palisade_sys::dir::Dir;
use palisade_sys::process::{Fork, exit_now, fork_single_threaded};

use super::{During, StepError};
use crate::lockdown::Namespaces;
use crate::spec::{Identity, StartedBy};

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
        if getppid() == self.pid { Ok(()) } else { Err(StepError::new(STEP, "the keeper is gone")) }
    }
}

/// Move 1. An ordinary user needs a user namespace to be allowed to mount.
pub(super) fn enter_mount_namespace(identity: &Identity, keeper: Keeper<'_>) -> Result<Entered, StepError> {
    match identity.started_by {
        StartedBy::Root => unshare(CloneFlags::CLONE_NEWNS).during("making a mount namespace")?,
        StartedBy::OrdinaryUser => enter_user_namespace(identity, keeper, CloneFlags::CLONE_NEWNS)?,
    }
    // Otherwise what we mount would appear on a host whose root is shared (systemd's default).
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).during("making mounts private")?;
    Ok(Entered(()))
}

/// Move 3. Root gives up its ids; an ordinary user's were given up by move 1.
pub(super) fn give_up_host_ids(
    _entered: Entered,
    identity: &Identity,
    keeper: Keeper<'_>,
) -> Result<Confined, StepError> {
    match identity.started_by {
        StartedBy::Root => {
            // Root's groups (disk, docker, …) would go along: they are not ids that a map can drop.
            setgroups(&[]).during("dropping supplementary groups")?;
            // A second mount namespace, owned by the new user namespace: without it the process
            // could not mount any more. What was mounted before is locked in it.
            enter_user_namespace(identity, keeper, CloneFlags::CLONE_NEWNS)?;
        }
        StartedBy::OrdinaryUser => {}
    }
    verify_ids(identity)?;
    Ok(Confined(()))
}

fn enter_user_namespace(identity: &Identity, keeper: Keeper<'_>, more: CloneFlags) -> Result<(), StepError> {
    unshare(CloneFlags::CLONE_NEWUSER | more).during("making a user namespace")?;
    tell_keeper(keeper)?;
    let (answer, _no_fds) =
        palisade_sys::socket::receive(keeper.socket, KEEPER_MESSAGE_MAX).during("waiting for the id map")?;
    if answer != MAPPED {
        return Err(StepError::new("waiting for the id map", "the keeper could not write it"));
    }
    let (uid, gid) = (Uid::from_raw(identity.inside_uid), Gid::from_raw(identity.inside_gid));
    setresgid(gid, gid, gid).during("taking the sandbox's group id")?;
    setresuid(uid, uid, uid).during("taking the sandbox's user id")?;
    // The change of ids made us non-dumpable, and then /proc/self belongs to the host's root, which
    // is unmapped here; libcontainer reads its own mount table and makes itself non-dumpable again.
    nix::sys::prctl::set_dumpable(true).during("making /proc/self readable")?;
    keeper.die_with_it()
}

/// The map is read back: a process that kept an id of the host's must not launch anything.
fn verify_ids(identity: &Identity) -> Result<(), StepError> {
    const STEP: &str = "reading the ids back";
    let proc_self = Dir::open_ambient(Path::new("/proc/self")).during(STEP)?;
    for (file, inside, outside) in [
        ("uid_map", identity.inside_uid, identity.outside_uid),
        ("gid_map", identity.inside_gid, identity.outside_gid),
    ] {
        let bytes = proc_self.read_bounded(Path::new(file), ID_MAP_MAX).during(STEP)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let found: Vec<Option<u32>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
        if found != [Some(inside), Some(outside), Some(1)] {
            return Err(StepError::new(
                STEP,
                format!("{file} is `{}`, not `{inside} {outside} 1`", text.trim()),
            ));
        }
    }
    Ok(())
}

/// One line of three numbers of ten digits.
const ID_MAP_MAX: u64 = 4096;

const KEEPER_MESSAGE_MAX: usize = 16;
const ENTERED: &[u8] = b"entered";
const MAPPED: &[u8] = b"mapped";

fn tell_keeper(keeper: Keeper<'_>) -> Result<(), StepError> {
    palisade_sys::socket::send(keeper.socket, ENTERED, &[]).during("talking to the keeper")
}

/// The keeper's part: writes the map when the supervisor says that it has a new user namespace.
///
/// The map has one line of one id. For an ordinary user the kernel allows exactly that without
/// privilege, and only with setgroups denied (`user_namespaces(7)`).
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
    write_id_map(supervisor, identity).during(STEP)?;
    palisade_sys::socket::send(supervisor_socket, MAPPED, &[]).during(STEP)
}

fn write_id_map(process: Pid, identity: &Identity) -> io::Result<()> {
    use std::io::Write;
    let dir = Dir::open_ambient(Path::new(&format!("/proc/{process}")))?;
    let write =
        |name: &str, content: String| dir.open_file_rw(Path::new(name))?.write_all(content.as_bytes());
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {} 1", identity.inside_uid, identity.outside_uid))?;
    write("gid_map", format!("{} {} 1", identity.inside_gid, identity.outside_gid))
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
    let map = Identity {
        inside_uid: uid,
        inside_gid: gid,
        outside_uid: identity.outside_uid,
        outside_gid: identity.outside_gid,
        started_by: StartedBy::Root,
    };
    write_id_map(holder, &map)?;
    let path = format!("/proc/{holder}/ns/user");
    Ok(palisade_sys::dir::open_ambient_file(Path::new(&path))?.into())
}
