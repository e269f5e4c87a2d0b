//! Step 1: resource limits, soft and hard the same.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::LockdownError;
use crate::spec::{Rlimit, RlimitKind};

/// The limits hold.
#[derive(Debug)]
pub struct Limited(());

/// Sets each limit and reads it back. A limit that is already lower stays: it cannot be raised.
///
/// # Errors
/// When one reads back as something else.
pub fn set(limits: &[Rlimit]) -> Result<Limited, LockdownError> {
    for limit in limits {
        let resource = resource(limit.kind);
        let failed = |error: nix::Error| {
            LockdownError::new("setting a resource limit", format!("{resource:?}: {error}"))
        };
        let (_soft, hard) = getrlimit(resource).map_err(failed)?;
        let value = limit.value.min(hard);
        setrlimit(resource, value, value).map_err(failed)?;
        if getrlimit(resource).map_err(failed)? != (value, value) {
            return Err(LockdownError::new(
                "setting a resource limit",
                format!("{resource:?} did not take effect"),
            ));
        }
    }
    Ok(Limited(()))
}

/// The limits as the kernel has them now, which the server inherits.
pub(super) fn read_back(limits: &[Rlimit]) -> Result<Vec<Rlimit>, LockdownError> {
    limits
        .iter()
        .map(|limit| match getrlimit(resource(limit.kind)) {
            Ok((soft, hard)) if soft == hard && hard <= limit.value => {
                Ok(Rlimit { kind: limit.kind, value: hard })
            }
            Ok((soft, hard)) => Err(LockdownError::new(
                "reading a resource limit back",
                format!("{:?} is {soft} to {hard}, not {}", limit.kind, limit.value),
            )),
            Err(error) => Err(LockdownError::new("reading a resource limit back", error)),
        })
        .collect()
}

fn resource(kind: RlimitKind) -> Resource {
    match kind {
        RlimitKind::Core => Resource::RLIMIT_CORE,
        RlimitKind::FileSize => Resource::RLIMIT_FSIZE,
        RlimitKind::OpenFiles => Resource::RLIMIT_NOFILE,
        RlimitKind::Processes => Resource::RLIMIT_NPROC,
        RlimitKind::LockedMemory => Resource::RLIMIT_MEMLOCK,
        RlimitKind::MessageQueues => Resource::RLIMIT_MSGQUEUE,
        RlimitKind::PendingSignals => Resource::RLIMIT_SIGPENDING,
        RlimitKind::Data => Resource::RLIMIT_DATA,
    }
}
