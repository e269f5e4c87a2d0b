//! Keeper and supervisor: the two processes between the gateway and a sandbox.
//!
//! The **keeper** is what the gateway starts. It stays outside every namespace, so it can do the
//! two things that cannot be done from inside: write the id map of the supervisor's user namespace,
//! and remove the cgroup when all is over. It parses nothing but the gateway's first message.
//!
//! The **supervisor** is its child. It gives up its privileges in two moves and then launches:
//!
//! ```text
//!              as an ordinary user                  as root
//! 1  enter     user + mount namespace               mount namespace
//! 2  stage     the same: a root of its own with nothing of the host but the policy's mounts
//! 3  give up   (done in 1)                          user namespace, ids that belong to nobody
//! 4  launch    the same: libcontainer, our executor
//! 5  watch     the same: waits for the lock-down, then Landlock and seccomp for itself, then
//!              the control socket and pid 1
//! ```
//!
//! Root stays root for move 2 because only the owner of a 0700 store or home directory can look
//! into it; it is given up before libcontainer touches the image.
//!
//! Death goes downwards: each process asks the kernel to be killed when its parent dies
//! (`PR_SET_PDEATHSIG`), pid 1's end takes the pid namespace with it, and mounts, tmpfs and sockets
//! live in namespaces that end with their last process. What the kernel does not end by itself, the keeper
//! does: a pid 1 whose supervisor died before it could ask ([`orphans`]), and the cgroup directories; if
//! the keeper is killed too, the next keeper removes those.

mod cgroup;
mod identity;
mod launch;
mod oci;
mod orphans;
mod seal;
pub mod stage;
mod watch;
mod watchdog;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use palisade_sys::process::{Fork, exit_now, fork_single_threaded};

use crate::lockdown::Namespaces;
use crate::protocol::{self, Failure, FailureKind, Launch, LaunchFds, MemoryLimitBy, Reply, Request};
use crate::spec::MountKind;
use cgroup::{Cgroup, Seats};
use identity::Keeper;
pub(crate) use identity::MAPPING_SUBORDINATE_IDS;
use seal::Walls;
use watchdog::{Verdict, Watchdog};

/// The hidden subcommand that the gateway starts.
pub const ROLE: &str = "__supervise";

/// The calls that the supervisor may make once its sandbox stands ([`seal`]).
pub(crate) const SYSTEM_CALLS: &str = include_str!("seccomp/supervisor.json");

/// A step that failed, before it is known what to say of it.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub(crate) struct StepError {
    step: &'static str,
    message: String,
}

impl StepError {
    pub(crate) fn new(step: &'static str, message: impl std::fmt::Display) -> Self {
        Self { step, message: format!("{message}") }
    }

    fn failure(&self) -> Failure {
        Failure { step: self.step.into(), message: self.message.clone(), kind: FailureKind::Host }
    }
}

/// Names the step that an I/O error belongs to.
pub(crate) trait During<T> {
    fn during(self, step: &'static str) -> Result<T, StepError>;
}

impl<T, E: std::fmt::Display> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, StepError> {
        self.map_err(|error| StepError::new(step, error))
    }
}

/// The whole life of keeper and supervisor; `control` is the socket to the gateway.
///
/// Returns the exit status of the process.
pub fn main(control: &OwnedFd) -> u8 {
    let (launch, fds) = match first_request(control) {
        Ok(request) => request,
        Err(error) => return refuse(control, &StepError::new("reading the launch request", error)),
    };
    match keep(control, *launch, fds) {
        Ok(()) => 0,
        Err(error) => refuse(control, &error),
    }
}

fn refuse(control: &OwnedFd, error: &StepError) -> u8 {
    // When the gateway is gone there is nobody left to tell; the status says it.
    match protocol::send(control, &Reply::Failed(error.failure()), &[]) {
        Ok(()) | Err(_) => 1,
    }
}

fn first_request(control: &OwnedFd) -> io::Result<(Box<Launch>, LaunchFds)> {
    let (request, fds) = protocol::receive::<Request>(control)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let Request::Launch(launch) = request else { return Err(io::ErrorKind::InvalidData.into()) };
    let mounts =
        launch.spec.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Host { .. })).count();
    let layers = fds.len().saturating_sub(mounts).saturating_sub(FIXED_FDS);
    let fds = LaunchFds::from_received(fds, layers, mounts).ok_or(io::ErrorKind::InvalidData)?;
    Ok((launch, fds))
}

/// stdin, stdout, stderr, secrets.
const FIXED_FDS: usize = 4;

/// The keeper: everything that must be done from outside.
fn keep(control: &OwnedFd, launch: Launch, fds: LaunchFds) -> Result<(), StepError> {
    nix::sys::prctl::set_name(c"palisade-keeper").during("naming the keeper")?;
    // Before the first fork: what our caller ignores, a server would ignore as well.
    palisade_sys::process::reset_signals().during("resetting signals")?;
    // The caller's umask must not decide who can read a mount point.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let outside = Namespaces::of_this_process().during("looking at the host's namespaces")?;
    let cgroup = Cgroup::create(&launch.spec.cgroup, fds.layers.iter().chain(&fds.mounts))?;
    let (keeper_end, supervisor_end) = palisade_sys::socket::packet_pair().during("making a socket")?;
    let pid = nix::unistd::getpid();
    orphans::adopt()?;
    match fork_single_threaded().during("starting the supervisor")? {
        Fork::Child => {
            drop(keeper_end);
            let keeper = Keeper { socket: supervisor_end.as_fd(), pid, outside };
            exit_now(supervise(control, keeper, launch, fds, cgroup.into_seats()))
        }
        Fork::Parent(supervisor) => {
            drop((supervisor_end, fds));
            let mapped = identity::serve_id_map(keeper_end.as_fd(), supervisor, &launch.spec.identity);
            if mapped.is_err() && nix::sys::signal::kill(supervisor, Signal::SIGKILL).is_err() {
                // Already gone.
            }
            let waited = watch_over(supervisor, control, launch.spec.memory_watch);
            let ended = orphans::end_all();
            if cgroup.ran_out_of_memory() {
                tell_over_memory(control, MemoryLimitBy::Kernel);
            }
            // The supervisor was killed or has crashed: its sandbox dies with it, and the kernel
            // needs a moment for that before the cgroup is empty.
            cgroup.remove().during("removing the cgroup")?;
            mapped.and(waited).and(ended)
        }
    }
}

/// How long the supervisor has to end by itself once the gateway is gone; it needs a few milliseconds,
/// unless somebody has stopped it. Below the second after which nothing may be left.
const ORPHAN_GRACE_MS: u16 = 500;

/// Waits for the supervisor with an eye on the sandbox's memory, where nothing else limits it.
fn watch_over(supervisor: Pid, control: &OwnedFd, memory: Option<u64>) -> Result<(), StepError> {
    let Some(limit) = memory else { return wait_for(supervisor, control, || Ok(None)) };
    let watchdog = match Watchdog::new(limit, supervisor) {
        Ok(watchdog) => watchdog,
        // Not watched, it must not run. (One that has ended by itself cannot be watched either.)
        Err(error) => {
            if nix::sys::signal::kill(supervisor, Signal::SIGKILL).is_err() {
                // Already gone.
            }
            return wait_for(supervisor, control, || Ok(None)).and(Err(error));
        }
    };
    let mut ended = false;
    wait_for(supervisor, control, || {
        if !ended && watchdog.look()? == Verdict::Over {
            // Said first: the supervisor's own report of the end comes right after.
            tell_over_memory(control, MemoryLimitBy::Watchdog);
            watchdog.end_sandbox()?;
            ended = true;
        }
        Ok((!ended).then(Watchdog::interval))
    })
}

fn tell_over_memory(control: &OwnedFd, by: MemoryLimitBy) {
    match protocol::send(control, &Reply::OverMemory(by), &[]) {
        // When the gateway is gone there is nobody left to tell.
        Ok(()) | Err(_) => {}
    }
}

/// Waits for the supervisor. When the gateway is gone and the supervisor does not follow, it is killed. `meanwhile`
/// is called before each wait, and says how long that may take at most.
fn wait_for(
    supervisor: Pid,
    control: &OwnedFd,
    mut meanwhile: impl FnMut() -> Result<Option<Duration>, StepError>,
) -> Result<(), StepError> {
    const STEP: &str = "waiting for the supervisor";
    let pidfd = palisade_sys::process::pidfd_open(supervisor).during(STEP)?;
    let mut fds =
        [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::empty())];
    loop {
        let (most, hidden) = match meanwhile() {
            Ok(most) => (most.and_then(|most| PollTimeout::try_from(most).ok()), None),
            // What has ended cannot be seen either, and that is no error.
            Err(error) => (Some(PollTimeout::ZERO), Some(error)),
        };
        if retry(|| poll(&mut fds, most.unwrap_or(PollTimeout::NONE))).during(STEP)? > 0 {
            break;
        }
        if let Some(error) = hidden {
            return Err(error);
        }
    }
    let [ended, _gateway] = fds;
    if !ended.any().unwrap_or(false) {
        let mut fds = [ended];
        if retry(|| poll(&mut fds, ORPHAN_GRACE_MS)).during(STEP)? == 0 {
            palisade_sys::process::pidfd_signal(&pidfd, Signal::SIGKILL).during(STEP)?;
        }
    }
    reap(supervisor)
}

fn retry(mut call: impl FnMut() -> nix::Result<i32>) -> nix::Result<i32> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            done => return done,
        }
    }
}

fn reap(supervisor: Pid) -> Result<(), StepError> {
    loop {
        match waitpid(supervisor, None) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Ok(()),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(StepError::new("waiting for the supervisor", error)),
        }
    }
}

/// The supervisor, from fork to exit.
fn supervise(control: &OwnedFd, keeper: Keeper<'_>, launch: Launch, fds: LaunchFds, cgroup: Seats) -> i32 {
    match launch_and_watch(control, keeper, launch, fds, cgroup) {
        Ok(()) => 0,
        Err(error) => i32::from(refuse(control, &error)),
    }
}

/// The five moves of the module's table.
fn launch_and_watch(
    control: &OwnedFd,
    keeper: Keeper<'_>,
    launch: Launch,
    fds: LaunchFds,
    cgroup: Seats,
) -> Result<(), StepError> {
    nix::sys::prctl::set_name(c"palisade-super").during("naming the supervisor")?;
    keeper.die_with_it()?;
    let Launch { spec, filters, supervisor_filter } = launch;
    let LaunchFds { stdin, stdout, stderr, secrets, layers, mounts } = fds;

    let entered = identity::enter_mount_namespace(&spec.identity, keeper)?;
    identity::give_to_server(&entered, &spec.identity, [&stdin, &stdout, &stderr])?;
    let staged = stage::build(&entered, &spec, &layers, &mounts)?;
    drop((layers, mounts));
    let confined = identity::give_up_host_ids(entered, &spec.identity, keeper)?;
    let stdio = launch::Stdio { stdin, stdout, stderr };
    let walls = Walls { landlock_abi: spec.landlock.abi, filter: supervisor_filter };
    let contents = launch::Contents { spec, outside: keeper.outside, filters, stdio, secrets };
    let created = launch::create(&confined, &staged, contents, cgroup)?;

    watch::seal_and_serve(control, created, &walls)
}
