//! Several servers behind one endpoint.
//!
//! ```text
//! downstream (stdio, http) ── line ──► Hub::accept ──► route ──► Server ──► Connection ──► server
//!                          ◄── Out ────── serve   ◄── replies ──────────────┘
//!                          ◄── Session::outbound ◄── events (notifications, requests of servers)
//! ```
//!
//! - Tools and prompts are `server__name`. Resource URIs pass unchanged and are routed by which server listed
//!   them (`resources`); an unlisted URI is only sent to a server if there is just one it could mean, because
//!   a URI may itself be confidential to its server.
//! - Ids: each server sees the gateway's own ids, and each client sees its own again. So do progress tokens
//!   and the ids of requests that servers send.
//! - All sessions share one process per server in this version; a server that keeps state per client mixes
//!   the state of the sessions. A gateway has one bearer token, so all sessions belong to one principal.
//! - Capabilities: the gateway declares what it can route itself, at once, so that a slow server does not
//!   delay a client's handshake. `tasks`, `experimental` and `extensions` are not declared, in neither
//!   direction: pending.

mod answer;
mod events;
mod lists;
mod resources;
mod route;
mod session;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use palisade_policy::Start;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Log;
use crate::launch::ServerEntry;
use crate::rpc;
use crate::single::Context;
use crate::upstream::connection::ServerEvents;
use crate::upstream::process::STOP_BACKSTOP;
use crate::upstream::server::{Server, StartError, Surroundings, Wishes};

use self::events::Events;
use self::resources::Resources;

pub(crate) use self::route::{Accepted, Output};
pub(crate) use self::session::Session;

/// How many messages may wait for a client that does not read: notifications and requests of servers. More
/// are dropped (notifications) or refused (requests); answers are not counted here.
const OUTBOUND_MESSAGES: usize = 64;

/// All servers and all sessions.
pub(crate) struct Hub {
    servers: Vec<Arc<Server>>,
    sessions: Mutex<BTreeMap<u64, Arc<Session>>>,
    next_session: AtomicU64,
    wishes: Arc<Wishes>,
    resources: Mutex<Resources>,
    audit: Arc<Log>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Hub {
    pub(crate) fn new(entries: Vec<ServerEntry>, context: &Context) -> Arc<Self> {
        Arc::new_cyclic(|hub: &Weak<Hub>| {
            let events: Arc<dyn ServerEvents> = Arc::new(Events { hub: Weak::clone(hub) });
            let around = Surroundings {
                audit: Arc::clone(&context.audit),
                events,
                wishes: Arc::default(),
                closing: CancellationToken::new(),
                tasks: TaskTracker::new(),
            };
            Hub {
                resources: Mutex::new(Resources::of(entries.len())),
                servers: entries.into_iter().map(|entry| Arc::new(Server::new(entry, &around))).collect(),
                sessions: Mutex::default(),
                next_session: AtomicU64::new(1),
                audit: around.audit,
                wishes: around.wishes,
                closing: around.closing,
                tasks: around.tasks,
            }
        })
    }

    /// Launches the servers whose policy says so, without waiting for any.
    pub(crate) fn start_early(self: &Arc<Self>) {
        for server in
            self.servers.iter().filter(|server| server.entry.policy.lifecycle.start == Start::AtStart)
        {
            let (hub, server) = (Arc::clone(self), Arc::clone(server));
            tokio::spawn(async move { hub.report_failure(&server, server.launch_early().await) });
        }
    }

    /// Gives the servers that were launched early their handshake, now that a client is there.
    fn greet_early(self: &Arc<Self>) {
        for server in
            self.servers.iter().filter(|server| server.entry.policy.lifecycle.start == Start::AtStart)
        {
            let (hub, server) = (Arc::clone(self), Arc::clone(server));
            tokio::spawn(async move { hub.report_failure(&server, server.ready().await) });
        }
    }

    /// A new session and what the gateway sends it of its own accord.
    pub(crate) fn open_session(&self) -> (Arc<Session>, mpsc::Receiver<Bytes>) {
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(id, outbound));
        self.sessions().insert(id, Arc::clone(&session));
        (session, messages)
    }

    /// Ends a session: what it waits for is forgotten, and servers that wait for its answers are told.
    pub(crate) fn close_session(&self, session: &Session) {
        self.sessions().remove(&session.id);
        self.resources().forget_session(session.id);
        session.close();
    }

    /// Ends all servers, in parallel, and returns when none is left: also none that was just being started.
    /// Bounded by the longest stop timeout plus the launcher's own deadlines.
    pub(crate) async fn shut_down(&self, reason: &str) {
        self.closing.cancel();
        self.tasks.close();
        let ending = async {
            for server in &self.servers {
                server.shut_down(reason).await;
            }
            self.tasks.wait().await;
        };
        let bound = self.stop_timeout().saturating_add(STOP_BACKSTOP);
        if tokio::time::timeout(bound, ending).await.is_err() {
            tracing::error!("a server has not ended in time");
        }
    }

    /// The longest time that a policy lets a server take to end.
    pub(crate) fn stop_timeout(&self) -> std::time::Duration {
        self.servers.iter().map(|server| server.entry.stop_timeout()).max().unwrap_or_default()
    }

    fn report_failure<T>(&self, server: &Server, started: Result<T, StartError>) {
        if let Err(error) = started {
            self.report(server.name(), &error.to_string());
        }
    }

    /// Tells the operator and every client what is wrong with a server.
    fn report(&self, server: &str, sentence: &str) {
        tracing::error!(server, "{sentence}");
        self.broadcast(&rpc::log_message(server, sentence));
    }

    fn broadcast(&self, line: &Bytes) {
        for session in self.sessions().values() {
            session.notify(line.clone());
        }
    }

    fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.iter().find(|server| server.name() == name)
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resources(&self) -> MutexGuard<'_, Resources> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
