//! The sessions of the endpoint: few, unguessable, and gone when they are not used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hub::{Hub, Session};

/// How many sessions may be open. One person has a handful of clients; each session costs a queue.
const MAX_SESSIONS: usize = 64;

/// How long a session may be unused: no request, no pending answer and no open event stream. Long enough for
/// a lunch break; a client whose session is gone starts a new one by itself (404).
const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// How often unused sessions are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// 128 bits: not to be guessed (the specification asks for a cryptographically secure id).
const ID_BYTES: usize = 16;

/// A session and what belongs to its transport.
pub(super) struct Handle {
    pub(super) session: Arc<Session>,
    used: Mutex<Instant>,
    /// Messages that belong to no request; taken by the event stream while there is one.
    messages: Mutex<Option<mpsc::Receiver<Bytes>>>,
}

impl Handle {
    pub(super) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn take_messages(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The event stream has ended; the next one goes on where it stopped.
    pub(super) fn give_back(&self, messages: mpsc::Receiver<Bytes>) {
        *self.messages.lock().unwrap_or_else(PoisonError::into_inner) = Some(messages);
        self.touch();
    }

    /// Since when nobody has used the session; `None` while somebody does.
    fn idle_since(&self) -> Option<Instant> {
        let streams = self.messages.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        (!streams && self.session.pending_requests() == 0).then_some(used)
    }

    fn is_idle(&self) -> bool {
        self.idle_since().is_some_and(|since| since.elapsed() >= IDLE_TIMEOUT)
    }
}

/// All sessions by id.
#[derive(Default)]
pub(super) struct Table(Mutex<HashMap<String, Arc<Handle>>>);

impl Table {
    /// A new session; `None` when there are too many that are in use, or the kernel gives no randomness.
    pub(super) fn open(&self, hub: &Hub) -> Option<(String, Arc<Handle>)> {
        self.sweep(hub);
        self.make_room(hub);
        let mut random = [0; ID_BYTES];
        if let Err(error) = getrandom::fill(&mut random) {
            tracing::error!(%error, "the kernel gave no randomness for a session id");
            return None;
        }
        let id = format!("{:032x}", u128::from_ne_bytes(random));
        let mut sessions = self.sessions();
        if sessions.len() >= MAX_SESSIONS {
            return None;
        }
        let (session, messages) = hub.open_session();
        let messages = Mutex::new(Some(messages));
        let handle = Arc::new(Handle { session, used: Mutex::new(Instant::now()), messages });
        sessions.insert(id.clone(), Arc::clone(&handle));
        Some((id, handle))
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Handle>> {
        self.sessions().get(id).cloned()
    }

    pub(super) fn close(&self, id: &str, hub: &Hub) {
        let handle = self.sessions().remove(id);
        if let Some(handle) = handle {
            hub.close_session(&handle.session);
        }
    }

    /// Waits for the time to look for unused sessions, and closes them.
    pub(super) async fn sweep_when_due(&self, hub: &Hub) {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        self.sweep(hub);
    }

    pub(super) fn clear(&self, hub: &Hub) {
        let sessions = std::mem::take(&mut *self.sessions());
        for handle in sessions.into_values() {
            hub.close_session(&handle.session);
        }
    }

    /// Closes the session that has been idle for longest when the table is full: clients that do not say when
    /// they leave must not lock out those that come.
    fn make_room(&self, hub: &Hub) {
        let oldest = {
            let sessions = self.sessions();
            if sessions.len() < MAX_SESSIONS {
                return;
            }
            let idle = sessions.iter().filter_map(|(id, handle)| Some((handle.idle_since()?, id)));
            idle.min().map(|(_, id)| id.clone())
        };
        if let Some(id) = oldest {
            tracing::info!("too many sessions; the one that was unused for longest is closed");
            self.close(&id, hub);
        }
    }

    fn sweep(&self, hub: &Hub) {
        let idle: Vec<String> =
            self.sessions().iter().filter(|(_, handle)| handle.is_idle()).map(|(id, _)| id.clone()).collect();
        for id in idle {
            self.close(&id, hub);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Handle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
