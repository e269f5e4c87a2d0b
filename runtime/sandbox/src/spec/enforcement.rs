//! What is enforced by which layer, and what is not: the value behind "and prove it".

use palisade_policy::{Degradation, Policy, SeccompMode};
use serde::{Deserialize, Serialize};

use super::ResolveError;
use super::limits::{CgroupKind, CgroupLimits};
use crate::host::HostSupport;
use crate::seccomp::Allowlist;

/// One promise and what keeps it.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// The promise, in the policy's words.
    pub what: String,
    /// The layer that keeps it.
    pub by: Layer,
    /// Whether it is kept.
    pub state: State,
}

/// A layer of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// A namespace.
    Namespace,
    /// A mount and its flags.
    Mount,
    /// Landlock.
    Landlock,
    /// seccomp.
    Seccomp,
    /// Capabilities, securebits and `no_new_privs`.
    Privileges,
    /// A cgroup.
    Cgroup,
    /// A resource limit.
    Rlimit,
}

/// Whether a promise is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// By the kernel; read back before the server starts where the kernel lets us.
    Enforced,
    /// Not on this host; the policy accepts that.
    Degraded {
        /// Why.
        reason: String,
    },
}

/// The least Landlock ABI (Linux 6.2): without the right to truncate, a file on a read-only
/// rule can still be emptied.
const LANDLOCK_MINIMUM: u32 = 3;

/// The newest ABI whose rights this version handles.
const LANDLOCK_NEWEST: u32 = 9;

/// The ABI that scopes signals and abstract sockets (Linux 6.12).
pub(super) const LANDLOCK_SCOPES: u32 = 6;

/// The ABI that will be required in full; 0 for none, where the policy accepts that.
pub(super) fn landlock_abi(policy: &Policy, host: &HostSupport) -> Result<u32, ResolveError> {
    if host.landlock_abi < LANDLOCK_MINIMUM && !policy.accept_degraded.contains(&Degradation::Landlock) {
        return Err(ResolveError::Landlock { found: host.landlock_abi, needed: LANDLOCK_MINIMUM });
    }
    Ok(host.landlock_abi.min(LANDLOCK_NEWEST))
}

/// All promises of a sandbox.
pub(super) fn lines(cgroup: &CgroupLimits, landlock_abi: u32) -> Vec<Enforcement> {
    let enforced = |what: &str, by| Enforcement { what: what.into(), by, state: State::Enforced };
    let mut lines = vec![
        enforced("sees only its own processes, mounts, hostname, IPC objects and cgroup", Layer::Namespace),
        enforced("has no network: its network namespace has no address and no route", Layer::Namespace),
        enforced(
            "root file system is read-only; devices and set-id bits are ignored on every mount",
            Layer::Mount,
        ),
        enforced("programs run only from the image, never from a place the server can write", Layer::Mount),
        enforced("holds no capability and can gain none", Layer::Privileges),
        enforced("limits on open files, file size and core dumps", Layer::Rlimit),
    ];
    lines.push(landlock_line(landlock_abi));
    lines.extend([
        cgroup_line("memory", cgroup, cgroup.memory_bytes),
        cgroup_line("cpus", cgroup, cgroup.cpu_millis),
        pids_line(cgroup),
    ]);
    lines
}

/// What the list of system calls promises.
pub(super) fn filter_lines(policy: &Policy, list: &Allowlist) -> Result<Vec<Enforcement>, ResolveError> {
    Ok(vec![seccomp_line(policy.syscalls.seccomp), unix_sockets(policy, list)?])
}

/// A socket file leads to whoever listens on it, also from a read-only mount.
fn unix_sockets(policy: &Policy, list: &Allowlist) -> Result<Enforcement, ResolveError> {
    let (by, state) = match policy.filesystem.mounts.first() {
        _ if !list.allows_unix_sockets() => (Layer::Seccomp, State::Enforced),
        None => (Layer::Mount, State::Enforced),
        Some(_) if policy.accept_degraded.contains(&Degradation::UnixSockets) => {
            let reason =
                "the list has Unix sockets, which a browser needs, and the policy mounts files of the host";
            (Layer::Seccomp, State::Degraded { reason: reason.into() })
        }
        Some(mount) => {
            let (server, target) = (policy.server.to_string(), mount.target.clone());
            return Err(ResolveError::UnixSockets { server, target });
        }
    };
    Ok(Enforcement { what: "connects to no socket file of the host".into(), by, state })
}

/// With `log` the list only says what is written down; a policy that asks for it accepts that by name.
fn seccomp_line(mode: SeccompMode) -> Enforcement {
    let state = match mode {
        SeccompMode::Enforce | SeccompMode::Kill => State::Enforced,
        SeccompMode::Log => State::Degraded {
            reason: "the policy asks that other calls be carried out and logged; those that no policy can add are still refused"
                .into(),
        },
    };
    Enforcement { what: "makes only the system calls of its list".into(), by: Layer::Seccomp, state }
}

fn landlock_line(abi: u32) -> Enforcement {
    let what = "writes only where the policy mounts write access, and below /tmp and /dev/shm".into();
    let state = if abi >= LANDLOCK_MINIMUM {
        State::Enforced
    } else {
        State::Degraded {
            reason: format!("the kernel offers Landlock ABI {abi}; read-only mounts still hold"),
        }
    };
    Enforcement { what, by: Layer::Landlock, state }
}

fn cgroup_line(name: &str, cgroup: &CgroupLimits, limit: Option<u64>) -> Enforcement {
    let state = match (limit, &cgroup.kind) {
        (Some(_), _) => State::Enforced,
        (None, CgroupKind::None { reason }) => State::Degraded { reason: reason.clone() },
        (None, CgroupKind::V1 | CgroupKind::V2) => {
            State::Degraded { reason: format!("this host has no {name} controller") }
        }
    };
    Enforcement { what: format!("limit on {name}"), by: Layer::Cgroup, state }
}

/// Without a cgroup the count of processes is still limited: `RLIMIT_NPROC` is counted for each
/// user namespace since Linux 5.14, and each sandbox has one.
fn pids_line(cgroup: &CgroupLimits) -> Enforcement {
    let by = if cgroup.pids.is_some() { Layer::Cgroup } else { Layer::Rlimit };
    Enforcement { what: "limit on pids".into(), by, state: State::Enforced }
}
