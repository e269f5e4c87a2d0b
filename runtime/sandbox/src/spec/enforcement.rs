//! What is enforced by which layer, and what is not: the value behind "and prove it".

use palisade_policy::{Degradation, Policy, SeccompMode};
use serde::{Deserialize, Serialize};

use super::{LabelLine, ResolveError};
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
    /// What was read back once the sandbox stood; in the audit log, where there is something to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// A limit as the kernel has it, read once the sandbox stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLimit {
    /// The promise that it belongs to, as [`Enforcement::what`] says it.
    pub what: String,
    /// Where it was read, and what was there.
    pub found: String,
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
    /// The keeper, which looks at the sandbox from outside.
    Watchdog,
    /// The gateway, which reads and writes the server's pipes.
    Gateway,
    /// AppArmor or SELinux.
    Label,
}

/// Whether a promise is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// By the kernel; read back before the server starts where the kernel lets us.
    Enforced,
    /// After the fact or in part; the policy accepts that.
    Soft {
        /// How, and why not better.
        reason: String,
    },
    /// Not on this host; the policy accepts that.
    Degraded {
        /// Why.
        reason: String,
    },
}

/// The newest ABI whose rights this version handles.
const LANDLOCK_NEWEST: u32 = 9;

/// The ABI that scopes signals and abstract sockets (Linux 6.12).
pub(super) const LANDLOCK_SCOPES: u32 = 6;

/// The ABI that will be required in full; 0 for none, where the policy accepts that.
pub(super) fn landlock_abi(policy: &Policy, host: &HostSupport) -> Result<u32, ResolveError> {
    let needed = policy.landlock.minimum_abi;
    if host.landlock_abi < needed && !policy.accept_degraded.contains(&Degradation::Landlock) {
        return Err(ResolveError::Landlock { found: host.landlock_abi, needed });
    }
    Ok(host.landlock_abi.min(LANDLOCK_NEWEST))
}

impl State {
    pub(super) fn degraded(reason: String) -> Self {
        Self::Degraded { reason }
    }
}

impl Enforcement {
    pub(super) fn of(what: &str, by: Layer, state: State) -> Self {
        Self { what: what.into(), by, state, found: None }
    }

    /// The lines with what was found of each.
    pub fn with_found(lines: &[Self], found: &[FoundLimit]) -> Vec<Self> {
        let found_of = |line: &Self| {
            let found: Vec<&str> = found
                .iter()
                .filter(|found| found.what == line.what)
                .map(|found| found.found.as_str())
                .collect();
            (!found.is_empty()).then(|| found.join("; "))
        };
        lines.iter().map(|line| Self { found: found_of(line), ..line.clone() }).collect()
    }
}

/// The promise that resource limits keep, beside those on processes.
pub(crate) const BY_RLIMITS: &str = "limits on open files, file size and core dumps";

/// The cgroup that a sandbox is in; nothing says so where there is none.
pub(crate) const IN_CGROUP: &str = "its processes, and no other, are in a cgroup of their own";

/// All promises of a sandbox but those of limits that a cgroup keeps.
pub(super) fn lines(policy: &Policy, landlock_abi: u32, labels: &LabelLine) -> Vec<Enforcement> {
    let enforced = |what: &str, by| Enforcement::of(what, by, State::Enforced);
    let mut lines = vec![
        enforced("sees only its own processes, mounts, hostname, IPC objects and cgroup", Layer::Namespace),
        enforced("has no network: its network namespace has no address and no route", Layer::Namespace),
        enforced(
            "root file system is read-only; devices and set-id bits are ignored on every mount",
            Layer::Mount,
        ),
        enforced("programs run only from the image, never from a place the server can write", Layer::Mount),
        enforced("limits on bytes and files in /tmp and /dev/shm", Layer::Mount),
        enforced("holds no capability and can gain none", Layer::Privileges),
        enforced(BY_RLIMITS, Layer::Rlimit),
        enforced("limits on its output and on the time of a call", Layer::Gateway),
        landlock_line(landlock_abi, policy.landlock.minimum_abi),
    ];
    lines.extend(
        labels.writes.iter().map(|label| enforced(&format!("runs under the {}", label.what), Layer::Label)),
    );
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
    Ok(Enforcement::of("connects to no socket file of the host", by, state))
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
    Enforcement::of("makes only the system calls of its list", Layer::Seccomp, state)
}

fn landlock_line(abi: u32, needed: u32) -> Enforcement {
    let what = "writes only where the policy mounts write access, and below /tmp and /dev/shm";
    let state = if abi >= needed {
        State::Enforced
    } else {
        State::degraded(format!(
            "the kernel offers Landlock ABI {abi}, the policy wants {needed}; read-only mounts still hold"
        ))
    };
    Enforcement::of(what, Layer::Landlock, state)
}
