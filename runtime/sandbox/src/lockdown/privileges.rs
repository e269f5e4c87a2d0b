//! Steps 2 to 4: securebits, the last capability, `no_new_privs`.
//!
//! This is where privileges are dropped for good. Not one line earlier: setting the securebits takes
//! `CAP_SETPCAP`, which is the capability that is dropped here.

use caps::{CapSet, Capability, CapsHashSet};
use palisade_sys::process::{SECUREBITS_LOCKED, securebits, set_securebits};

use super::LockdownError;
use super::rlimits::Limited;

/// Uid 0 means nothing to the kernel any more, and no later step can change that.
#[derive(Debug)]
pub struct SecurebitsLocked(());

/// All five capability sets are empty.
#[derive(Debug)]
pub struct NoCapability(());

/// `execve` can add no privilege.
#[derive(Debug)]
pub struct NoNewPrivileges(());

/// Step 2. Without it, `execve` as uid 0 would fill the permitted set again (capabilities(7)).
///
/// # Errors
/// Without `CAP_SETPCAP`, or when they read back as something else.
pub fn lock_securebits(_limited: Limited) -> Result<SecurebitsLocked, LockdownError> {
    const STEP: &str = "locking the securebits";
    set_securebits(SECUREBITS_LOCKED).map_err(|error| LockdownError::new(STEP, error))?;
    match securebits() {
        Ok(SECUREBITS_LOCKED) => Ok(SecurebitsLocked(())),
        Ok(found) => Err(LockdownError::new(STEP, format!("they are {found:#x}"))),
        Err(error) => Err(LockdownError::new(STEP, error)),
    }
}

/// Step 3. The bounding set first: shrinking it takes `CAP_SETPCAP`.
///
/// # Errors
/// When a set is not empty afterwards.
pub fn drop_last_capability(_locked: SecurebitsLocked) -> Result<NoCapability, LockdownError> {
    const STEP: &str = "dropping the last capability";
    let failed = |error: caps::errors::CapsError| LockdownError::new(STEP, error);
    caps::drop(None, CapSet::Bounding, Capability::CAP_SETPCAP).map_err(failed)?;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::set(None, set, &CapsHashSet::new()).map_err(failed)?;
    }
    for set in [CapSet::Bounding, CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable]
    {
        let left = caps::read(None, set).map_err(failed)?;
        if !left.is_empty() {
            return Err(LockdownError::new(STEP, format!("the {set:?} set still holds {left:?}")));
        }
    }
    Ok(NoCapability(()))
}

/// Step 4. libcontainer sets it as well and does not look at the result; this one is looked at.
///
/// # Errors
/// When it reads back as not set.
pub fn forbid_new_privileges(_bare: NoCapability) -> Result<NoNewPrivileges, LockdownError> {
    const STEP: &str = "setting no_new_privs";
    nix::sys::prctl::set_no_new_privs().map_err(|error| LockdownError::new(STEP, error))?;
    match nix::sys::prctl::get_no_new_privs() {
        Ok(true) => Ok(NoNewPrivileges(())),
        Ok(false) => Err(LockdownError::new(STEP, "it did not take effect")),
        Err(error) => Err(LockdownError::new(STEP, error)),
    }
}
