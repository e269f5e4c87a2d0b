//! Which requests of the client are pending, and what to do with their answers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::envelope::Id;

/// How many requests one client may have pending: far above what clients do, and small enough that the book
/// itself (an id of at most 1 KiB each) stays below 1 MiB.
pub(super) const MAX_PENDING: usize = 512;

/// What a pending request was.
#[derive(Debug)]
pub(super) enum Kind {
    /// `initialize`.
    Initialize,
    /// `tools/list`: the answer is filtered.
    ToolsList,
    /// A permitted tool call: the answer goes into the audit log.
    Call { tool: String, rule: String, since: Instant },
    /// Anything else.
    Other,
}

/// A request cannot be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the client sent a request whose id is still pending")]
    DuplicateId,
    #[error("the client has {MAX_PENDING} requests pending, which is the most that the gateway allows")]
    Full,
}

/// The pending requests of one client.
#[derive(Debug, Default)]
pub(super) struct Books(Mutex<HashMap<Id, Kind>>);

impl Books {
    pub(super) fn enter(&self, id: Id, kind: Kind) -> Result<(), Refused> {
        let mut pending = self.pending();
        if pending.contains_key(&id) {
            return Err(Refused::DuplicateId);
        }
        if pending.len() >= MAX_PENDING {
            return Err(Refused::Full);
        }
        pending.insert(id, kind);
        Ok(())
    }

    pub(super) fn take(&self, id: &Id) -> Option<Kind> {
        self.pending().remove(id)
    }

    pub(super) fn take_all(&self) -> Vec<(Id, Kind)> {
        self.pending().drain().collect()
    }

    pub(super) fn awaits_initialize(&self) -> bool {
        self.pending().values().any(|kind| matches!(kind, Kind::Initialize))
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Id, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
