//! One client: what it asked, what servers asked it, and where its messages go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::envelope::Id;
use crate::permit::Forward;
use crate::rpc;
use crate::upstream::connection::{Connection, Reply, related};

/// How many requests one session may have pending. Clients have a handful; each may hold an answer.
const MAX_IN_FLIGHT: usize = 64;

/// How many of them may be at one server, which takes four times as many from all its clients: one client that
/// floods a server leaves room for others.
pub(super) const MAX_AT_ONE_SERVER: usize = 16;

/// How many requests of servers one client may leave unanswered. A person answers one at a time.
const MAX_ASKED: usize = 64;

/// A client.
pub(crate) struct Session {
    pub(super) id: u64,
    outbound: mpsc::Sender<Bytes>,
    dropped: AtomicU64,
    in_flight: Mutex<HashMap<Id, InFlight>>,
    asked: Mutex<HashMap<i64, Asked>>,
    next_ask: AtomicI64,
    next_serial: AtomicU64,
    /// The names of the client's capabilities; unset until `initialize`.
    capabilities: OnceLock<Vec<String>>,
}

/// A request of the client that is not answered yet.
#[derive(Default)]
pub(super) struct InFlight {
    pub(super) cancelled: CancellationToken,
    pub(super) target: Option<Target>,
    /// Tells a request from a later one under the same id.
    serial: u64,
    /// The server at which it takes a place, from before it is sent.
    at: Option<Arc<Connection>>,
}

/// A request that was taken.
pub(super) struct Begun {
    pub(super) cancelled: CancellationToken,
    pub(super) serial: u64,
}

/// Where a request went.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) connection: Arc<Connection>,
    pub(super) id: i64,
    pub(super) replies: mpsc::Sender<Reply>,
}

/// A request of a server that this client has not answered yet.
pub(super) struct Asked {
    pub(super) connection: Arc<Connection>,
    /// The server's id as it sent it.
    pub(super) raw_id: String,
    /// The progress token in the server's request as it sent it.
    pub(super) progress_token: Option<String>,
}

/// A request of the client cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the client sent a request whose id is still pending")]
    DuplicateId,
    #[error("the client has {MAX_IN_FLIGHT} requests pending, which is the most that the gateway allows")]
    Full,
}

impl Session {
    pub(super) fn new(id: u64, outbound: mpsc::Sender<Bytes>) -> Self {
        Session {
            id,
            outbound,
            dropped: AtomicU64::new(0),
            in_flight: Mutex::default(),
            asked: Mutex::default(),
            next_ask: AtomicI64::new(1),
            next_serial: AtomicU64::new(1),
            capabilities: OnceLock::new(),
        }
    }

    /// Whether the client has shaken hands.
    pub(crate) fn is_initialized(&self) -> bool {
        self.capabilities.get().is_some()
    }

    pub(super) fn initialize(&self, capabilities: Vec<String>) -> Result<(), Vec<String>> {
        self.capabilities.set(capabilities)
    }

    pub(super) fn has(&self, capability: &str) -> bool {
        self.capabilities.get().is_some_and(|names| names.iter().any(|name| name == capability))
    }

    /// Queues a message that may be lost when the client does not read.
    pub(super) fn notify(&self, line: Bytes) {
        if self.is_initialized() && !self.push(line) && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(session = self.id, "the client does not read; notifications are dropped");
        }
    }

    /// Queues a message; false when there is no room or nobody reads.
    pub(super) fn push(&self, line: Bytes) -> bool {
        self.outbound.try_send(line).is_ok()
    }

    pub(super) fn begin(&self, id: Id) -> Result<Begun, Refused> {
        let mut in_flight = self.in_flight();
        if in_flight.contains_key(&id) {
            return Err(Refused::DuplicateId);
        }
        if in_flight.len() >= MAX_IN_FLIGHT {
            return Err(Refused::Full);
        }
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let request = InFlight { serial, ..InFlight::default() };
        let cancelled = request.cancelled.clone();
        in_flight.insert(id, request);
        Ok(Begun { cancelled, serial })
    }

    /// Notes where a request went, so that it can be cancelled there.
    pub(super) fn aim(&self, id: &Id, serial: u64, target: Target) {
        let mut in_flight = self.in_flight();
        if let Some(request) = in_flight.get_mut(id).filter(|request| request.serial == serial) {
            request.target = Some(target);
        }
    }

    /// Takes a place at a server; false when this session has its share there.
    pub(super) fn reserve(&self, id: &Id, serial: u64, connection: &Arc<Connection>) -> bool {
        let mut in_flight = self.in_flight();
        let here = |at: &Option<Arc<Connection>>| at.as_ref().is_some_and(|at| Arc::ptr_eq(at, connection));
        if in_flight.values().filter(|request| here(&request.at)).count() >= MAX_AT_ONE_SERVER {
            return false;
        }
        if let Some(request) = in_flight.get_mut(id).filter(|request| request.serial == serial) {
            request.at = Some(Arc::clone(connection));
        }
        true
    }

    /// A request is over, unless the client has cancelled it: then the id may be another request's by now.
    pub(super) fn end(&self, id: &Id, serial: u64) {
        let mut in_flight = self.in_flight();
        if in_flight.get(id).is_some_and(|request| request.serial == serial) {
            in_flight.remove(id);
        }
    }

    /// The client has cancelled a request.
    pub(super) fn give_up(&self, id: &Id) -> Option<InFlight> {
        self.in_flight().remove(id)
    }

    /// How many requests are not answered yet.
    pub(crate) fn pending_requests(&self) -> usize {
        self.in_flight().len()
    }

    /// Whether a request of this session is at this server's process.
    pub(super) fn uses(&self, connection: &Arc<Connection>) -> bool {
        self.in_flight().values().any(|request| {
            request.target.as_ref().is_some_and(|target| Arc::ptr_eq(&target.connection, connection))
        })
    }

    /// Hands a server's request to the client under an id of this session: with a pending request at that
    /// server if there is one, of the client's own accord otherwise.
    pub(super) fn ask(
        &self,
        asked: Asked,
        make: impl FnOnce(i64) -> Option<Bytes>,
    ) -> Result<(), &'static str> {
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let line = make(id).ok_or("the request cannot be passed on")?;
        let connection = Arc::clone(&asked.connection);
        {
            let mut waiting = self.asked();
            if waiting.len() >= MAX_ASKED {
                return Err("the client has too many requests to answer");
            }
            waiting.insert(id, asked);
        }
        if self.related_to(&connection, &line) || self.push(line) {
            return Ok(());
        }
        self.asked().remove(&id);
        Err("the client does not read")
    }

    fn related_to(&self, connection: &Arc<Connection>, line: &Bytes) -> bool {
        let in_flight = self.in_flight();
        let targets = in_flight.values().filter_map(|request| request.target.as_ref());
        let here = targets.filter(|target| Arc::ptr_eq(&target.connection, connection));
        // A target whose answer has come does not take messages any more.
        let mut open = here.filter(|target| connection.is_pending(target.id));
        open.any(|target| related(&target.replies, line.clone()))
    }

    /// The request of a server that the client answers.
    pub(super) fn answered(&self, id: &Id) -> Option<Asked> {
        match id {
            Id::Number(id) => self.asked().remove(id),
            Id::Text(_) => None,
        }
    }

    /// The server whose request carried this progress token.
    pub(super) fn asked_with_token(&self, token: &str) -> Option<Arc<Connection>> {
        let asked = self.asked();
        let found = asked.values().find(|asked| asked.progress_token.as_deref() == Some(token));
        found.map(|asked| Arc::clone(&asked.connection))
    }

    /// The gateway's id of a server's request, given up by that server.
    pub(super) fn withdraw(&self, connection: &Arc<Connection>, raw_id: &str) -> Option<i64> {
        let mut asked = self.asked();
        let (id, _) = asked
            .iter()
            .find(|(_, asked)| Arc::ptr_eq(&asked.connection, connection) && asked.raw_id == raw_id)?;
        let id = *id;
        asked.remove(&id);
        Some(id)
    }

    /// A server has ended; it waits for nothing any more.
    pub(super) fn forget_connection(&self, connection: &Arc<Connection>) {
        self.asked().retain(|_, asked| !Arc::ptr_eq(&asked.connection, connection));
    }

    pub(super) fn close(&self) {
        let in_flight = std::mem::take(&mut *self.in_flight());
        for request in in_flight.into_values() {
            request.cancelled.cancel();
        }
        let asked = std::mem::take(&mut *self.asked());
        for asked in asked.into_values() {
            let answer = rpc::error(&asked.raw_id, rpc::SERVER_UNAVAILABLE, "the client has left");
            asked.connection.tell(Forward::own_answer(answer));
        }
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<Id, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<i64, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_late_end_of_a_cancelled_request_leaves_a_later_one_under_its_id_alone() {
        let session = Session::new(1, mpsc::channel(1).0);
        let id = Id::Number(7);
        let first = session.begin(id.clone()).unwrap_or_else(|refused| panic!("{refused}"));
        assert!(session.give_up(&id).is_some());
        let second = session.begin(id.clone()).unwrap_or_else(|refused| panic!("{refused}"));
        session.end(&id, first.serial);
        assert_eq!(session.pending_requests(), 1);
        session.end(&id, second.serial);
        assert_eq!(session.pending_requests(), 0);
    }
}
