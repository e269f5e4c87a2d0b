//! The last step: what the setters claim is read back from the kernel.
//!
//! A setter that returns success has said something; only what the kernel shows of the process counts.
//! Everything here is read after the last layer is in place, by the process that becomes the server:
//!
//! - `/proc/self/status`: `no_new_privs`, the number of filters, five empty capability sets, ids;
//! - securebits, and the maps of the user namespace;
//! - [`namespaces`]: none of them is the host's;
//! - [`mounts`]: each has the flags that the spec promises, and there is no other;
//! - [`descriptors`]: none but 0, 1 and 2 survives `execve`.
//!
//! Landlock shows nothing of itself in `/proc`; [`super::landlock`] proves it by an attempt. The cgroup can
//! only be seen from outside, where the keeper reads it.

mod descriptors;
mod mounts;
pub(crate) mod namespaces;

use std::path::Path;

use palisade_sys::dir::read_ambient_bounded;
use palisade_sys::process::{SECUREBITS_LOCKED, securebits};
use serde::{Deserialize, Serialize};

use super::filters::Filtered;
use super::{LockdownError, Plan};
use crate::spec::{Identity, Outside, Rlimit};
use namespaces::Namespaces;

/// The process may become the server: everything was set and everything was read back.
#[derive(Debug)]
pub struct Locked(LockdownReport);

impl Locked {
    pub(super) fn report(&self) -> &LockdownReport {
        &self.0
    }
}

/// What the kernel said of the process inside the sandbox, at the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockdownReport {
    /// `NoNewPrivs`, must be 1.
    pub no_new_privs: String,
    /// `Seccomp`, must be 2 (filter).
    pub seccomp: String,
    /// `Seccomp_filters`, must be those that were there before and ours.
    pub seccomp_filters: u32,
    /// Filters that palisade was itself started under, by a container for example.
    pub inherited_filters: u32,
    /// `CapInh`, `CapPrm`, `CapEff`, `CapBnd` and `CapAmb`, all must be 0.
    pub capabilities: Vec<String>,
    /// The securebits; all set and locked.
    pub securebits: u32,
    /// Real, effective, saved and file system user id, as seen inside.
    pub uid: String,
    /// The same of the group.
    pub gid: String,
    /// Supplementary groups as seen inside; must be none unless the server has its user's own id.
    pub groups: String,
    /// The map of user ids: inside, outside as the parent namespace counts, how many (must be 1).
    pub uid_map: String,
    /// The same of group ids.
    pub gid_map: String,
    /// The Landlock ABI that is fully enforced and was seen to refuse; 0 when the policy gave it up.
    pub landlock_abi: u32,
    /// The inode of each namespace; none is the host's.
    pub namespaces: Namespaces,
    /// Mounts that can be seen; each has its promised flags.
    pub mounts: usize,
    /// Descriptors that the server starts with.
    pub descriptors: usize,
    /// The resource limits as they are, soft and hard the same.
    pub rlimits: Vec<Rlimit>,
}

const STEP: &str = "reading the lock-down back";

/// `/proc/self/status` is some 60 lines.
const STATUS_MAX: u64 = 64 * 1024;

const NO_CAPABILITY: &str = "0000000000000000";

fn failed(message: impl std::fmt::Display) -> LockdownError {
    LockdownError::new(STEP, message)
}

/// What was there before the lock-down and does not go away.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// seccomp filters of whoever started us.
    filters: u32,
}

impl Before {
    /// Reads it; the first thing that the lock-down does.
    ///
    /// # Errors
    /// When the kernel does not show it (before Linux 5.9).
    pub fn read() -> Result<Self, LockdownError> {
        let status = read_proc("status")?;
        Ok(Self { filters: number(&field(&status, "Seccomp_filters")?)? })
    }
}

/// Step 8.
///
/// # Errors
/// When anything is not as it was set.
pub fn verify(_filtered: Filtered, plan: &Plan, before: Before) -> Result<Locked, LockdownError> {
    let report = read(plan, before)?;
    let installed = u32::try_from(plan.filters.len()).map_err(failed)?;
    if installed == 0 {
        return Err(failed("there is no filter of ours"));
    }
    let ids = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    let identity = &plan.spec.identity;
    let expected = [
        ("NoNewPrivs", report.no_new_privs.clone(), "1".to_owned()),
        ("Seccomp", report.seccomp.clone(), "2".to_owned()),
        (
            "Seccomp_filters",
            report.seccomp_filters.to_string(),
            before.filters.saturating_add(installed).to_string(),
        ),
        ("Uid", report.uid.clone(), ids(identity.inside_uid)),
        ("Gid", report.gid.clone(), ids(identity.inside_gid)),
        ("the securebits", format!("{:#x}", report.securebits), format!("{SECUREBITS_LOCKED:#x}")),
    ];
    for (name, found, wanted) in expected {
        if found != wanted {
            return Err(failed(format!("{name} is `{found}` and not `{wanted}`")));
        }
    }
    if let Some(set) = report.capabilities.iter().find(|set| *set != NO_CAPABILITY) {
        return Err(failed(format!("a capability set is {set}")));
    }
    // The kernel lets nobody without privilege drop groups, so those of an ordinary user's own id stay.
    if !matches!(identity.outside, Outside::Own { .. }) && !report.groups.is_empty() {
        return Err(failed(format!("the groups {} are left", report.groups)));
    }
    one_id(&report, identity)?;
    if let Some(name) = report.namespaces.shared_with(&plan.outside) {
        return Err(failed(format!("the {name} namespace is the host's")));
    }
    Ok(Locked(report))
}

fn read(plan: &Plan, before: Before) -> Result<LockdownReport, LockdownError> {
    let status = read_proc("status")?;
    let mountinfo = read_proc("mountinfo")?;
    Ok(LockdownReport {
        no_new_privs: field(&status, "NoNewPrivs")?,
        seccomp: field(&status, "Seccomp")?,
        seccomp_filters: number(&field(&status, "Seccomp_filters")?)?,
        inherited_filters: before.filters,
        capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .into_iter()
            .map(|name| field(&status, name))
            .collect::<Result<_, _>>()?,
        securebits: securebits().map_err(|error| failed(format!("the securebits: {error}")))?,
        uid: field(&status, "Uid")?,
        gid: field(&status, "Gid")?,
        groups: words(&field(&status, "Groups")?),
        uid_map: words(&read_proc("uid_map")?),
        gid_map: words(&read_proc("gid_map")?),
        landlock_abi: plan.spec.landlock.abi,
        namespaces: Namespaces::of_this_process()
            .map_err(|error| failed(format!("the namespaces: {error}")))?,
        mounts: mounts::verify(&mountinfo, &plan.spec.mounts).map_err(failed)?,
        rlimits: super::rlimits::read_back(&plan.spec.rlimits)?,
        descriptors: descriptors::verify().map_err(|error| failed(format!("the descriptors: {error}")))?,
    })
}

/// What is the outside id was checked by the supervisor, which is in the same user namespace.
fn one_id(report: &LockdownReport, identity: &Identity) -> Result<(), LockdownError> {
    for (name, map, id) in
        [("uid_map", &report.uid_map, identity.inside_uid), ("gid_map", &report.gid_map, identity.inside_gid)]
    {
        let mut numbers = map.split(' ');
        let only = (numbers.next(), numbers.nth(1), numbers.next());
        if only != (Some(id.to_string().as_str()), Some("1"), None) {
            return Err(failed(format!("{name} is `{map}` and does not map {id} alone")));
        }
    }
    Ok(())
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn number(text: &str) -> Result<u32, LockdownError> {
    text.parse().map_err(|error| failed(format!("`{text}` is not a number: {error}")))
}

/// A file of this process in the sandbox's procfs.
fn read_proc(name: &str) -> Result<String, LockdownError> {
    let max = if name == "mountinfo" { mounts::MOUNTINFO_MAX } else { STATUS_MAX };
    let bytes = read_ambient_bounded(&Path::new("/proc/self").join(name), max)
        .map_err(|error| failed(format!("/proc/self/{name}: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn field(status: &str, name: &str) -> Result<String, LockdownError> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
        .map(str::to_owned)
        .ok_or_else(|| failed(format!("/proc/self/status has no {name}")))
}
