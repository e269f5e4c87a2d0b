//! Step 6: the Landlock domain, a second wall inside the mount namespace.
//!
//! It says again what the mounts say, with other code: should a mount flag be wrong or a path trick
//! reach a place that is writable, writing still stops here. Every right of the spec's ABI is
//! handled and must be fully enforced; TCP is handled with no port allowed, so that a server which
//! found its way into another network namespace could still not connect.
//!
//! The kernel shows nothing of a Landlock domain in `/proc`, so whether it is there is found out by an
//! attempt that mounts and modes allow and the domain forbids ([`prove`]).

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::LockdownError;
use super::label::Labelled;
use crate::spec::{LandlockAccess, LandlockLine, LandlockRule};

/// The domain is in force, or the policy gave it up on a kernel without Landlock.
#[derive(Debug)]
pub struct Walled(());

const STEP: &str = "restricting with Landlock";

/// The ABI that handles TCP (Linux 6.7).
const NETWORK: u32 = 4;

/// Step 6.
///
/// # Errors
/// When a right of the spec's ABI is not enforced, or the attempt is not refused.
pub fn restrict(_labelled: Labelled, line: &LandlockLine) -> Result<Walled, LockdownError> {
    if line.abi == 0 {
        return Ok(Walled(()));
    }
    let abi = abi(line.abi);
    let failed = |error: landlock::RulesetError| LockdownError::new(STEP, error);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(failed)?;
    if line.abi >= NETWORK {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi)).map_err(failed)?;
    }
    if line.scoped {
        ruleset = ruleset.scope(Scope::from_all(abi)).map_err(failed)?;
    }
    let mut created = ruleset.create().map_err(failed)?;
    for rule in &line.rules {
        let path = PathFd::new(&rule.path)
            .map_err(|error| LockdownError::new(STEP, format!("{}: {error}", rule.path.display())))?;
        created = created.add_rule(PathBeneath::new(path, rights(rule, abi))).map_err(failed)?;
    }
    let status = created.restrict_self().map_err(failed)?;
    match (status.ruleset, status.no_new_privs) {
        (RulesetStatus::FullyEnforced, true) => prove(),
        (found, _) => Err(LockdownError::new(STEP, format!("the ruleset is {found:?}"))),
    }
}

/// A file that no server has and that is made to be refused.
const ATTEMPT: &str = "/tmp/.landlock";

/// Tries to make a device node in `/tmp`, which is writable. No rule allows that and no capability either, and
/// the kernel asks Landlock first: EACCES shows that the domain is there, EPERM that it is not. (A whiteout,
/// which takes no capability, would not do: newer kernels count it as a plain file.)
fn prove() -> Result<Walled, LockdownError> {
    let null = makedev(1, 3);
    match mknod(ATTEMPT, SFlag::S_IFCHR, Mode::S_IRUSR, null) {
        Err(Errno::EACCES) => Ok(Walled(())),
        Err(other) => Err(LockdownError::new(
            STEP,
            format!("an attempt that it must refuse was refused by another layer: {other}"),
        )),
        Ok(()) => Err(LockdownError::new(STEP, "an attempt that it must refuse succeeded")),
    }
}

fn rights(rule: &LandlockRule, abi: ABI) -> BitFlags<AccessFs> {
    let device = AccessFs::ReadFile | AccessFs::WriteFile;
    let all_but_devices = AccessFs::from_all(abi)
        & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev | AccessFs::Execute);
    match rule.access {
        LandlockAccess::ReadExecute => AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir,
        LandlockAccess::Device => device,
        LandlockAccess::ReadWrite if is_file(rule) => (device | AccessFs::Truncate) & all_but_devices,
        LandlockAccess::ReadWrite => all_but_devices,
    }
}

/// The kernel refuses rights of directories on a file.
fn is_file(rule: &LandlockRule) -> bool {
    nix::sys::stat::stat(&rule.path)
        .is_ok_and(|stat| SFlag::S_IFMT.bits() & stat.st_mode != SFlag::S_IFDIR.bits())
}

/// The version as the crate names it; a newer one has no rights that it knows.
pub(crate) fn abi(version: u32) -> ABI {
    match version {
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        7 => ABI::V7,
        8 => ABI::V8,
        _ => ABI::V9,
    }
}
