//! The supervisor's own walls, up before anything of the image runs.
//!
//! By now it has launched and needs little more: two sockets, the descriptor of pid 1, `/proc` to read.
//! It gives up everything else, in the order of the lock-down and for the same reasons:
//!
//! ```text
//! no capability → no_new_privs → Landlock (reading /proc) → seccomp (some 30 calls) → read back
//! ```
//!
//! The attacker: a server that takes this process over, through what it says or does to it. It would find
//! no file to open, no socket to make, nobody to signal but the sandbox itself, and no way to execute
//! anything. A call outside the list ends the process, and the sandbox with it.
//!
//! Not scoped: signals. pid 1 has a Landlock domain of its own that does not lie in this one, so the
//! scope would forbid the one signal that the supervisor is there for.

use std::path::Path;

use caps::{CapSet, CapsHashSet};
use landlock::{
    Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use palisade_sys::dir::read_ambient_bounded;

use super::{During, StepError};
use crate::lockdown::landlock::abi;
use crate::seccomp::CompiledFilter;

/// The supervisor is confined; only then is the server started.
#[derive(Debug)]
pub(super) struct Sealed(());

/// What the supervisor is confined by.
#[derive(Debug)]
pub(super) struct Walls {
    /// The sandbox's Landlock ABI: 0 where the policy does without Landlock.
    pub(super) landlock_abi: u32,
    /// What [`crate::seccomp::own_process_filter`] makes of the supervisor's list.
    pub(super) filter: CompiledFilter,
}

const STEP: &str = "confining the supervisor";

/// The first ABI that knows TCP, and the first that knows abstract sockets.
const NETWORK: u32 = 4;
const SCOPES: u32 = 6;

/// The line itself.
pub(super) fn seal(walls: &Walls) -> Result<Sealed, StepError> {
    let inherited = filters()?;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::set(None, set, &CapsHashSet::new()).during(STEP)?;
    }
    nix::sys::prctl::set_no_new_privs().during(STEP)?;
    palisade_sys::process::forbid_inspection().during(STEP)?;
    if walls.landlock_abi > 0 {
        restrict(walls.landlock_abi)?;
    }
    walls.filter.install().during(STEP)?;
    verify(inherited)
}

fn restrict(version: u32) -> Result<(), StepError> {
    let abi = abi(version);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .during(STEP)?;
    if version >= NETWORK {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi)).during(STEP)?;
    }
    if version >= SCOPES {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket).during(STEP)?;
    }
    let proc = PathFd::new("/proc").during(STEP)?;
    let status = ruleset
        .create()
        .during(STEP)?
        .add_rule(PathBeneath::new(proc, AccessFs::ReadFile | AccessFs::ReadDir))
        .during(STEP)?
        .restrict_self()
        .during(STEP)?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err(StepError::new(STEP, format!("the ruleset is {:?}", status.ruleset)));
    }
    // As in the sandbox: the kernel shows no domain, so an attempt has to. The root is a tmpfs of our own.
    match palisade_sys::dir::open_ambient_file(Path::new(super::stage::BUNDLE)) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EACCES) => Ok(()),
        Err(error) => Err(StepError::new(STEP, format!("an attempt that must be refused got {error}"))),
        Ok(_) => Err(StepError::new(STEP, "an attempt that must be refused succeeded")),
    }
}

/// `/proc/self/status` is some 60 lines.
const STATUS_MAX: u64 = 64 * 1024;

fn status() -> Result<String, StepError> {
    let bytes = read_ambient_bounded(Path::new("/proc/self/status"), STATUS_MAX).during(STEP)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_default()
}

fn filters() -> Result<u32, StepError> {
    field(&status()?, "Seccomp_filters").parse().during(STEP)
}

fn verify(inherited: u32) -> Result<Sealed, StepError> {
    const NONE: &str = "0000000000000000";
    let status = status()?;
    let filters = inherited.saturating_add(1).to_string();
    for (name, wanted) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Seccomp_filters", filters.as_str()),
        ("CapEff", NONE),
        ("CapPrm", NONE),
        ("CapInh", NONE),
        ("CapAmb", NONE),
    ] {
        let found = field(&status, name);
        if found != wanted {
            return Err(StepError::new(STEP, format!("{name} is `{found}` and not `{wanted}`")));
        }
    }
    Ok(Sealed(()))
}
