//! Limits: what a cgroup holds to, and what a resource limit does.

use palisade_policy::{Degradation, Policy};
use serde::{Deserialize, Serialize};

use super::ResolveError;
use crate::host::{Cgroups, HostSupport};

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
}

/// The cgroup of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Which kind.
    pub kind: CgroupKind,
    /// Bytes of memory, swap included where it is accounted.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Tasks: processes and threads.
    pub pids: Option<u64>,
}

/// The kind of cgroup that a sandbox is put into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "version", rename_all = "kebab-case")]
pub enum CgroupKind {
    /// The unified hierarchy.
    V2,
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

/// The supervisor lives in the same user namespace and is counted there.
const SUPERVISOR_TASKS: u64 = 1;

pub(super) fn rlimits(policy: &Policy) -> Vec<Rlimit> {
    let limits = &policy.limits;
    [
        (RlimitKind::Core, palisade_sys::process::NO_CORE_DUMP),
        (RlimitKind::FileSize, limits.file_size.bytes()),
        (RlimitKind::OpenFiles, u64::from(limits.open_files)),
        (RlimitKind::Processes, u64::from(limits.pids).saturating_add(SUPERVISOR_TASKS)),
        (RlimitKind::LockedMemory, LOCKED_MEMORY_BYTES),
        (RlimitKind::MessageQueues, 0),
        (RlimitKind::PendingSignals, PENDING_SIGNALS),
    ]
    .into_iter()
    .map(|(kind, value)| Rlimit { kind, value })
    .collect()
}

/// Decides what a cgroup will hold to; a limit that none can is an error unless the policy
/// gives it up.
pub(super) fn cgroup(policy: &Policy, host: &HostSupport) -> Result<CgroupLimits, ResolveError> {
    let (kind, has): (CgroupKind, Vec<&str>) = match &host.cgroups {
        Cgroups::V2 => (CgroupKind::V2, vec!["memory", "cpu", "pids"]),
        Cgroups::V1 { controllers } => (CgroupKind::V1, controllers.iter().map(String::as_str).collect()),
        Cgroups::Unusable { reason, .. } => (CgroupKind::None { reason: reason.clone() }, Vec::new()),
    };
    let reason = match &kind {
        CgroupKind::None { reason } => reason.clone(),
        CgroupKind::V1 | CgroupKind::V2 => "the controller is not mounted".into(),
    };
    let decide = |controller: &str, name: &'static str, degradation, value: u64| {
        if has.contains(&controller) {
            Ok(Some(value))
        } else if policy.accept_degraded.contains(&degradation) {
            Ok(None)
        } else {
            Err(ResolveError::NotEnforced { limit: name, reason: reason.clone() })
        }
    };
    let limits = &policy.limits;
    Ok(CgroupLimits {
        memory_bytes: decide("memory", "memory", Degradation::Memory, limits.memory.bytes())?,
        cpu_millis: decide("cpu", "cpus", Degradation::Cpus, u64::from(limits.cpus.milli()))?,
        // RLIMIT_NPROC takes over where there is no controller, so nothing is given up.
        pids: has.contains(&"pids").then(|| u64::from(limits.pids)),
        kind,
    })
}
