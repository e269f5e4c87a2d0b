//! Limits: what a cgroup holds to, what a resource limit does, and what is only watched.

use palisade_policy::{Degradation, Policy};
use serde::{Deserialize, Serialize};

use super::ResolveError;
use super::enforcement::{Enforcement, IN_CGROUP, Layer, State};
use crate::host::{CgroupPlace, Cgroups, HostSupport, Swap};

/// A resource limit of the server's processes; soft and hard are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which.
    pub kind: RlimitKind,
    /// Its value, in the unit of `setrlimit(2)`.
    pub value: u64,
}

/// The resource limits that are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RlimitKind {
    /// Size of a core file in bytes, too small for any: a dump would put secrets on the disk.
    Core,
    /// Size of a file in bytes.
    FileSize,
    /// Open descriptors.
    OpenFiles,
    /// Processes of this user in this user namespace.
    Processes,
    /// Locked memory in bytes.
    LockedMemory,
    /// Bytes in POSIX message queues.
    MessageQueues,
    /// Queued signals.
    PendingSignals,
    /// Private memory of one process that it may write, in bytes, touched or not.
    Data,
}

/// The cgroup of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Which kind.
    pub kind: CgroupKind,
    /// Bytes of memory, without swap.
    pub memory_bytes: Option<u64>,
    /// Bytes of swap beside that.
    pub swap_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Tasks: processes and threads.
    pub pids: Option<u64>,
    /// Traffic of the disks behind layers and mounts.
    pub io: Option<IoLimit>,
}

/// A limit on the traffic of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimit {
    /// Bytes a second that are read from, and as many that are written to, each disk.
    pub bytes_per_second: u64,
    /// What happens when a layer or a mount is on no disk that the kernel could slow down.
    pub without_disk: WithoutDisk,
}

/// What to do about a file system that is on no disk of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutDisk {
    /// The launch fails.
    Refuse,
    /// The policy accepts `io`.
    Accept,
}

/// The kind of cgroup that a sandbox is put into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "version", rename_all = "kebab-case")]
pub enum CgroupKind {
    /// The unified hierarchy.
    V2 {
        /// Where in it.
        place: CgroupPlace,
    },
    /// A hierarchy for each controller.
    V1,
    /// None.
    None {
        /// Why.
        reason: String,
    },
}

/// Glibc and V8 lock no memory worth naming; libsodium and gpg lock pages for keys.
const LOCKED_MEMORY_BYTES: u64 = 64 * 1024;

/// Node queues none; a runtime with timers uses a few dozen.
const PENDING_SIGNALS: u64 = 256;

/// What pid 1 has open at its gate besides secret files, with room for one more that it reads.
const OPEN_AT_THE_GATE: u32 = 10;

/// pid 1 opens a file for each secret before its limits are set, and writes the values after that.
pub(super) fn check_secret_files(policy: &Policy) -> Result<(), ResolveError> {
    let is_file = |secret: &&palisade_policy::SecretGrant| {
        matches!(secret.delivery, palisade_policy::SecretDelivery::File { .. })
    };
    let count = policy.secrets.iter().filter(is_file).count();
    if count == 0 {
        return Ok(());
    }
    let refused =
        |limit, needed| Err(ResolveError::SecretFiles { server: policy.server.to_string(), limit, needed });
    let open_files = OPEN_AT_THE_GATE.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    if policy.limits.open_files < open_files {
        return refused("open_files", open_files.to_string());
    }
    let largest = u64::try_from(crate::secret::SECRET_MAX_BYTES).unwrap_or(u64::MAX);
    if policy.limits.file_size.bytes() < largest {
        return refused("file_size", format!("{}KiB", largest.div_euclid(1024)));
    }
    Ok(())
}

/// The supervisor lives in the same user namespace and is counted there.
const SUPERVISOR_TASKS: u64 = 1;

/// Where there is a cgroup, its count is to be the one that ends a fork bomb, since the kernel reports that one.
/// The kernel compares both, and the resource limit first.
const PROCESSES_ABOVE_CGROUP: u64 = 8;

/// What runtimes map for writing long before they touch it: Go takes 64 MiB at a time, and two of them.
const DATA_AHEAD_BYTES: u64 = 128 * 1024 * 1024;

/// The stack that glibc maps for each thread (the usual soft limit on stacks).
const DATA_PER_THREAD_BYTES: u64 = 8 * 1024 * 1024;

/// What was decided about limits.
pub(super) struct Limits {
    pub(super) cgroup: CgroupLimits,
    /// Bytes of memory and swap at which the keeper ends the server, where no cgroup limits them.
    pub(super) memory_watch: Option<u64>,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) lines: Vec<Enforcement>,
}

/// Decides what holds to which limit; one that nothing can hold to is an error unless the policy gives it up.
pub(super) fn resolve(policy: &Policy, host: &HostSupport) -> Result<Limits, ResolveError> {
    let offer = Offer::of(policy, &host.cgroups);
    let limits = &policy.limits;
    let (memory_bytes, swap_bytes, memory_watch, mut lines) = memory(policy, &offer)?;
    let cpu_millis = offer.has("cpu").then(|| u64::from(limits.cpus.milli()));
    lines.push(match cpu_millis {
        Some(_) => Enforcement::of("limit on cpus", Layer::Cgroup, State::Enforced),
        None => offer.given_up("cpus", Degradation::Cpus, Layer::Cgroup, State::degraded)?,
    });
    // RLIMIT_NPROC takes over where there is no controller, so nothing is given up: it is counted for each
    // user namespace since Linux 5.14, and each sandbox has one.
    let pids = offer.has("pids").then(|| u64::from(limits.pids));
    let by = if pids.is_some() { Layer::Cgroup } else { Layer::Rlimit };
    lines.push(Enforcement::of("limit on pids", by, State::Enforced));
    let (io, line) = io(policy, &offer)?;
    lines.extend(line);
    if !matches!(offer.kind, CgroupKind::None { .. }) {
        lines.push(Enforcement::of(IN_CGROUP, Layer::Cgroup, State::Enforced));
    }
    let cgroup = CgroupLimits { kind: offer.kind, memory_bytes, swap_bytes, cpu_millis, pids, io };
    Ok(Limits { rlimits: rlimits(policy, &cgroup, memory_watch), cgroup, memory_watch, lines })
}

/// What the host's cgroups offer, and what the policy does not insist on.
struct Offer<'a> {
    policy: &'a Policy,
    kind: CgroupKind,
    controllers: &'a [String],
    swap: Swap,
    /// Why a controller is not there, and what would change that.
    reason: String,
    remedy: Option<String>,
}

impl<'a> Offer<'a> {
    fn of(policy: &'a Policy, cgroups: &'a Cgroups) -> Self {
        let absent = "this host offers no such controller to this user".to_owned();
        let (kind, controllers, swap, reason, remedy) = match cgroups {
            Cgroups::V2 { place, controllers, swap } => {
                (CgroupKind::V2 { place: *place }, controllers.as_slice(), *swap, absent, None)
            }
            Cgroups::V1 { controllers, swap } => {
                (CgroupKind::V1, controllers.as_slice(), *swap, absent, None)
            }
            Cgroups::Unusable { reason, remedy } => {
                let kind = CgroupKind::None { reason: reason.clone() };
                (kind, [].as_slice(), Swap::Unlimited, reason.clone(), Some(remedy.clone()))
            }
        };
        Self { policy, kind, controllers, swap, reason, remedy }
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|offered| offered == controller)
    }

    fn accepts(&self, degradation: Degradation) -> bool {
        self.policy.accept_degraded.contains(&degradation)
    }

    fn refusal(&self, limit: &'static str, reason: String) -> ResolveError {
        ResolveError::NotEnforced { limit, reason, remedy: self.remedy.clone() }
    }

    /// The line of a limit that is not enforced, where the policy accepts that.
    fn given_up(
        &self,
        limit: &'static str,
        degradation: Degradation,
        by: Layer,
        state: impl FnOnce(String) -> State,
    ) -> Result<Enforcement, ResolveError> {
        if self.accepts(degradation) {
            Ok(Enforcement::of(&format!("limit on {limit}"), by, state(self.reason.clone())))
        } else {
            Err(self.refusal(limit, self.reason.clone()))
        }
    }
}

type Memory = (Option<u64>, Option<u64>, Option<u64>, Vec<Enforcement>);

/// Memory and swap: by a cgroup, or watched from outside, which is soft and must be accepted.
fn memory(policy: &Policy, offer: &Offer<'_>) -> Result<Memory, ResolveError> {
    const UNCOUNTED: &str = "this kernel does not count swap for cgroups (boot with `swapaccount=1`)";
    let limits = &policy.limits;
    let (memory, swap) = (limits.memory.bytes(), limits.swap.bytes());
    if !offer.has("memory") {
        let line = offer.given_up("memory", Degradation::Memory, Layer::Watchdog, |reason| State::Soft {
            reason: format!("{reason}; the server's memory is looked at ten times a second, and it is ended when that is too much"),
        })?;
        return Ok((None, None, Some(memory.saturating_add(swap)), vec![line]));
    }
    let line = |what, state| Enforcement::of(what, Layer::Cgroup, state);
    let (swap_bytes, state) = match offer.swap {
        Swap::Limited => (Some(swap), State::Enforced),
        Swap::None => (None, State::Enforced),
        Swap::Unlimited if offer.accepts(Degradation::Memory) => (None, State::degraded(UNCOUNTED.into())),
        Swap::Unlimited => return Err(offer.refusal("memory", UNCOUNTED.into())),
    };
    let lines = vec![line("limit on memory", State::Enforced), line("limit on swap", state)];
    Ok((Some(memory), swap_bytes, None, lines))
}

/// Disks, when the policy limits them.
///
/// v2 counts the pages that a cgroup makes dirty and slows down their writing (with the memory controller beside
/// it); v1 leaves that to a kernel thread that belongs to no sandbox.
fn io(policy: &Policy, offer: &Offer<'_>) -> Result<(Option<IoLimit>, Option<Enforcement>), ResolveError> {
    const V1: &str = "cgroup v1 slows down reads, and writes that wait for the disk, but not those that go through the page cache";
    let Some(rate) = policy.limits.io else { return Ok((None, None)) };
    let accepted = offer.accepts(Degradation::Io);
    let without_disk = if accepted { WithoutDisk::Accept } else { WithoutDisk::Refuse };
    let limit = IoLimit { bytes_per_second: rate.bytes(), without_disk };
    let state = match offer.kind {
        CgroupKind::V2 { .. } if offer.has("io") && offer.has("memory") => State::Enforced,
        CgroupKind::V1 if offer.has("blkio") && accepted => State::Soft { reason: V1.into() },
        CgroupKind::V1 if offer.has("blkio") => return Err(offer.refusal("io", V1.into())),
        CgroupKind::V1 | CgroupKind::V2 { .. } | CgroupKind::None { .. } => {
            let line = offer.given_up("io", Degradation::Io, Layer::Cgroup, State::degraded)?;
            return Ok((None, Some(line)));
        }
    };
    Ok((Some(limit), Some(Enforcement::of("limit on io", Layer::Cgroup, state))))
}

fn rlimits(policy: &Policy, cgroup: &CgroupLimits, memory_watch: Option<u64>) -> Vec<Rlimit> {
    let limits = &policy.limits;
    let pids = u64::from(limits.pids);
    let above = if cgroup.pids.is_some() { PROCESSES_ABOVE_CGROUP } else { 0 };
    // Between two looks of the watchdog, one process can take no more than this.
    let data = memory_watch.map(|bytes| {
        bytes.saturating_add(DATA_AHEAD_BYTES).saturating_add(pids.saturating_mul(DATA_PER_THREAD_BYTES))
    });
    let always = [
        (RlimitKind::Core, palisade_sys::process::NO_CORE_DUMP),
        (RlimitKind::FileSize, limits.file_size.bytes()),
        (RlimitKind::OpenFiles, u64::from(limits.open_files)),
        (RlimitKind::LockedMemory, LOCKED_MEMORY_BYTES),
        (RlimitKind::MessageQueues, 0),
        (RlimitKind::PendingSignals, PENDING_SIGNALS),
        (RlimitKind::Processes, pids.saturating_add(SUPERVISOR_TASKS).saturating_add(above)),
    ];
    let data = data.map(|bytes| (RlimitKind::Data, bytes));
    always.into_iter().chain(data).map(|(kind, value)| Rlimit { kind, value }).collect()
}

#[cfg(test)]
mod tests;
