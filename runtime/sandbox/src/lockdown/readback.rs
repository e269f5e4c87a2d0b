//! The last step: what the setters claim is read back from the kernel.

use std::path::Path;

use palisade_sys::dir::read_ambient_bounded;
use serde::{Deserialize, Serialize};

use super::{Filtered, LockdownError, Plan};

/// The process may become the server: everything was set and everything was read back.
#[derive(Debug)]
pub(crate) struct Locked(LockdownReport);

impl Locked {
    pub(super) fn report(&self) -> &LockdownReport {
        &self.0
    }
}

/// What `/proc/self/status` said inside the sandbox, just before `execve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockdownReport {
    /// `NoNewPrivs`, must be 1.
    pub no_new_privs: String,
    /// `Seccomp`, must be 2 (filter).
    pub seccomp: String,
    /// `Seccomp_filters`, must be the number that was installed.
    pub seccomp_filters: String,
    /// `CapInh`, `CapPrm`, `CapEff`, `CapBnd` and `CapAmb`, all must be 0.
    pub capabilities: Vec<String>,
    /// Real, effective, saved and file system user id, as seen inside.
    pub uid: String,
    /// The same of the group.
    pub gid: String,
    /// The Landlock ABI that is fully enforced; 0 when the policy gave it up.
    pub landlock_abi: u32,
}

const STEP: &str = "reading the lock-down back";

/// `/proc/self/status` is some 60 lines.
const STATUS_MAX: u64 = 64 * 1024;

const NO_CAPABILITY: &str = "0000000000000000";

pub(super) fn verify(_filtered: Filtered, plan: &Plan) -> Result<Locked, LockdownError> {
    let bytes = read_ambient_bounded(Path::new("/proc/self/status"), STATUS_MAX)
        .map_err(|error| LockdownError::new(STEP, error))?;
    let report = read(&String::from_utf8_lossy(&bytes), plan.spec.landlock.abi)?;
    let identity = &plan.spec.identity;
    let ids = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    let expected = [
        ("NoNewPrivs", report.no_new_privs.as_str(), "1".to_owned()),
        ("Seccomp", &report.seccomp, "2".to_owned()),
        ("Seccomp_filters", &report.seccomp_filters, plan.filters.len().to_string()),
        ("Uid", &report.uid, ids(identity.inside_uid)),
        ("Gid", &report.gid, ids(identity.inside_gid)),
    ];
    for (name, found, wanted) in expected {
        if found != wanted {
            return Err(LockdownError::new(STEP, format!("{name} is `{found}` and not `{wanted}`")));
        }
    }
    if let Some(set) = report.capabilities.iter().find(|set| *set != NO_CAPABILITY) {
        return Err(LockdownError::new(STEP, format!("a capability set is {set}")));
    }
    Ok(Locked(report))
}

fn read(status: &str, landlock_abi: u32) -> Result<LockdownReport, LockdownError> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
            .map(str::to_owned)
            .ok_or_else(|| LockdownError::new(STEP, format!("/proc/self/status has no {name}")))
    };
    Ok(LockdownReport {
        no_new_privs: field("NoNewPrivs")?,
        seccomp: field("Seccomp")?,
        seccomp_filters: field("Seccomp_filters")?,
        capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .into_iter()
            .map(field)
            .collect::<Result<_, _>>()?,
        uid: field("Uid")?,
        gid: field("Gid")?,
        landlock_abi,
    })
}
