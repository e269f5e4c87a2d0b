//! Which requests of the client are pending, and what to do with their answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::envelope::Id;

/// How many requests one client may have pending: far above what clients do, and small enough that the book
/// itself (an id of at most 1 KiB each) stays below 1 MiB.
pub(super) const MAX_PENDING: usize = 512;

/// How many cancelled requests are remembered until their late answers come: mostly none does, so the oldest
/// give way. As many as may be pending, so that a client that cancels all it has asked is covered.
pub(super) const MAX_CANCELLED: usize = MAX_PENDING;

/// What a pending request was.
#[derive(Debug)]
pub(super) enum Kind {
    /// `initialize`.
    Initialize,
    /// `tools/list`: the answer is filtered.
    ToolsList,
    /// A permitted tool call: the answer goes into the audit log.
    Call { tool: String, since: Instant },
    /// Anything else.
    Other,
}

impl Kind {
    fn since(&self) -> Option<Instant> {
        match self {
            Kind::Call { since, .. } => Some(*since),
            Kind::Initialize | Kind::ToolsList | Kind::Other => None,
        }
    }
}

/// A request cannot be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the client sent a request whose id is still pending")]
    DuplicateId,
    #[error("the client sent a request under the id of one that it cancelled")]
    CancelledId,
    #[error("the client has {MAX_PENDING} requests pending, which is the most that the gateway allows")]
    Full,
}

/// The pending requests of one client.
#[derive(Debug, Default)]
pub(super) struct Books(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    pending: HashMap<Id, Kind>,
    /// Oldest first. Their late answers must not pass for answers to later requests under the same id: one
    /// might be a list that nobody filters.
    cancelled: VecDeque<Cancelled>,
}

#[derive(Debug)]
struct Cancelled {
    id: Id,
    is_list: bool,
}

impl Books {
    pub(super) fn enter(&self, id: Id, kind: Kind) -> Result<(), Refused> {
        let mut book = self.book();
        if book.pending.contains_key(&id) {
            return Err(Refused::DuplicateId);
        }
        if book.cancelled.iter().any(|cancelled| cancelled.id == id) {
            return Err(Refused::CancelledId);
        }
        if book.pending.len() >= MAX_PENDING {
            return Err(Refused::Full);
        }
        book.pending.insert(id, kind);
        Ok(())
    }

    /// The request that this answers; `None` when there is none, or it was cancelled.
    pub(super) fn take(&self, id: &Id) -> Option<Kind> {
        let mut book = self.book();
        let kind = book.pending.remove(id);
        if kind.is_none() {
            book.cancelled.retain(|cancelled| cancelled.id != *id);
        }
        kind
    }

    /// Takes a request whose answer is not to be passed on any more.
    pub(super) fn cancel(&self, id: &Id) -> Option<Kind> {
        let mut book = self.book();
        if !book.pending.contains_key(id) || !book.make_room() {
            // Without room it stays pending, and its answer is treated as ever.
            return None;
        }
        let kind = book.pending.remove(id)?;
        let is_list = matches!(kind, Kind::ToolsList);
        book.cancelled.push_back(Cancelled { id: id.clone(), is_list });
        Some(kind)
    }

    /// When the oldest of the pending calls will have taken `limit`.
    pub(super) fn next_due(&self, limit: Duration) -> Option<Instant> {
        let book = self.book();
        let oldest = book.pending.values().filter_map(Kind::since).min();
        oldest.and_then(|since| since.checked_add(limit))
    }

    /// Takes the calls that have taken `limit`; their late answers are not to be passed on.
    pub(super) fn expire(&self, limit: Duration) -> Vec<(Id, Kind)> {
        let mut book = self.book();
        let due = |kind: &Kind| kind.since().is_some_and(|since| since.elapsed() >= limit);
        let ids: Vec<Id> =
            book.pending.iter().filter(|(_, kind)| due(kind)).map(|(id, _)| id.clone()).collect();
        ids.into_iter().filter_map(|id| book.expire(id)).collect()
    }

    pub(super) fn take_all(&self) -> Vec<(Id, Kind)> {
        self.book().pending.drain().collect()
    }

    pub(super) fn awaits_initialize(&self) -> bool {
        self.book().pending.values().any(|kind| matches!(kind, Kind::Initialize))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Takes a call whose late answer is not to be passed on.
    fn expire(&mut self, id: Id) -> Option<(Id, Kind)> {
        if !self.make_room() {
            // Its answer could then pass for another's, so it stays and gets as much time again.
            if let Some(Kind::Call { since, .. }) = self.pending.get_mut(&id) {
                *since = Instant::now();
            }
            return None;
        }
        let kind = self.pending.remove(&id)?;
        self.cancelled.push_back(Cancelled { id: id.clone(), is_list: false });
        Some((id, kind))
    }

    /// Room for one more cancelled request. Lists never give way: theirs are the answers that must not pass.
    fn make_room(&mut self) -> bool {
        if self.cancelled.len() < MAX_CANCELLED {
            return true;
        }
        let oldest = self.cancelled.iter().position(|cancelled| !cancelled.is_list);
        oldest.and_then(|at| self.cancelled.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_lists_are_remembered_until_answered_and_the_rest_gives_way() {
        let books = Books::default();
        books.enter(Id::Number(-1), Kind::ToolsList).unwrap();
        assert!(books.cancel(&Id::Number(-1)).is_some());
        for id in 0..600 {
            books.enter(Id::Number(id), Kind::Other).unwrap();
            assert!(books.cancel(&Id::Number(id)).is_some());
        }
        assert_eq!(books.book().cancelled.len(), MAX_CANCELLED);
        assert_eq!(books.enter(Id::Number(-1), Kind::Other), Err(Refused::CancelledId));
        assert_eq!(books.enter(Id::Number(599), Kind::Other), Err(Refused::CancelledId));
        assert!(books.take(&Id::Number(-1)).is_none());
        assert_eq!(books.enter(Id::Number(-1), Kind::Other), Ok(()));
    }

    #[test]
    fn calls_expire_and_their_late_answers_are_nobodys() {
        let books = Books::default();
        assert_eq!(books.next_due(Duration::ZERO), None);
        let call = || Kind::Call { tool: "t".into(), since: Instant::now() };
        books.enter(Id::Number(1), call()).unwrap();
        books.enter(Id::Number(2), Kind::ToolsList).unwrap();
        assert!(books.next_due(Duration::from_mins(1)).unwrap() > Instant::now());
        assert!(books.expire(Duration::from_mins(1)).is_empty());
        let expired = books.expire(Duration::ZERO);
        assert!(matches!(&expired[..], [(Id::Number(1), Kind::Call { .. })]), "{expired:?}");
        assert_eq!(books.next_due(Duration::ZERO), None);
        assert_eq!(books.enter(Id::Number(1), call()), Err(Refused::CancelledId));
        assert!(books.take(&Id::Number(1)).is_none(), "the late answer");
        books.enter(Id::Number(1), call()).unwrap();
    }

    #[test]
    fn a_book_full_of_cancelled_lists_leaves_the_next_one_pending() {
        let books = Books::default();
        let most = i64::try_from(MAX_CANCELLED).unwrap();
        for id in 0..=most {
            books.enter(Id::Number(id), Kind::ToolsList).unwrap();
            assert_eq!(books.cancel(&Id::Number(id)).is_some(), id < most);
        }
        assert!(matches!(books.take(&Id::Number(most)), Some(Kind::ToolsList)));
    }
}
