//! What servers send of their own accord: notifications for the clients, and requests that a client answers.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{Answer, Failure, progress_token};
use super::session::Asked;
use super::{Hub, Session};
use crate::edit::Edits;
use crate::envelope::{self, Id, Notification, Object, Request};
use crate::rpc;
use crate::text;
use crate::upstream::connection::{Connection, ServerEvents};
use crate::upstream::server::ask;

/// The longest notification that is passed to every client. Log messages are lines of text; what is larger
/// belongs into a result, and up to 64 of these wait per session.
const MAX_NOTIFICATION_BYTES: usize = 256 * 1024;

/// The hub as the servers' connections see it.
pub(super) struct Events {
    pub(super) hub: Weak<Hub>,
}

impl ServerEvents for Events {
    fn notification(&self, from: &Arc<Connection>, line: &Bytes, notification: &Notification<'_>) {
        if let Some(hub) = self.hub.upgrade() {
            hub.server_notification(from, line, notification);
        }
    }

    fn request(&self, from: &Arc<Connection>, request: &Request<'_>) -> Option<Bytes> {
        let hub = self.hub.upgrade()?;
        // A ping asks whether the other end of this pipe lives, and that is the gateway.
        if request.method == "ping" {
            return Some(rpc::result(request.raw_id.get(), "{}"));
        }
        hub.server_request(from, request)
            .err()
            .map(|failure| rpc::error(request.raw_id.get(), failure.code, &failure.message))
    }

    fn ended(&self, connection: &Arc<Connection>, reason: &str) {
        let Some(hub) = self.hub.upgrade() else { return };
        for session in hub.all_sessions() {
            session.forget_connection(connection);
        }
        let oversized = connection.oversized();
        if oversized > 1 {
            tracing::warn!(server = connection.name(), oversized, "notifications were too large to pass on");
        }
        if !hub.closing.is_cancelled() {
            hub.report(connection.name(), reason);
        }
    }
}

impl Hub {
    fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    fn server_notification(&self, from: &Arc<Connection>, line: &Bytes, notification: &Notification<'_>) {
        if line.len() > MAX_NOTIFICATION_BYTES {
            // The first says what is wrong, the end of the server says how many there were.
            if from.count_oversized() == 0 {
                let bytes = line.len();
                tracing::warn!(server = from.name(), bytes, "a notification is too large to pass on");
            }
            return;
        }
        let line = envelope::single_line(line.clone());
        match notification.method.as_ref() {
            // A message that could not be marked as this server's could pass for another's, or the gateway's.
            "notifications/message" => {
                if let Some(line) = with_logger(from.name(), notification) {
                    self.broadcast(&line);
                } else {
                    tracing::debug!(server = from.name(), "a malformed log message is dropped");
                }
            }
            "notifications/cancelled" => self.withdrawn(from, notification),
            "notifications/resources/updated" => self.updated(from, &line, notification),
            _ => self.broadcast(&line),
        }
    }

    fn updated(&self, from: &Arc<Connection>, line: &Bytes, notification: &Notification<'_>) {
        let params = notification.params.and_then(|params| Object::parse(params.get(), &["uri"]).ok());
        let uri = params.and_then(|params| params.get("uri").and_then(envelope::text));
        let Some(server) = self.servers.iter().position(|server| server.name() == from.name()) else {
            return;
        };
        let subscribers = self.resources().subscribers(server, uri.as_deref().unwrap_or_default());
        for session in self.all_sessions() {
            if subscribers.contains(&session.id) {
                session.notify(line.clone());
            }
        }
    }

    /// A server gives up a request to a client: the client knows it by another id.
    fn withdrawn(&self, from: &Arc<Connection>, notification: &Notification<'_>) {
        let params = notification.params.and_then(|params| Object::parse(params.get(), &["requestId"]).ok());
        let Some(raw_id) = params.and_then(|params| params.get("requestId")) else { return };
        let Some(server_id) = Id::parse(raw_id) else { return };
        for session in self.all_sessions() {
            let Some(id) = session.withdraw(from, &rpc::id_json(&server_id)) else { continue };
            let mut edits = Edits::of(notification.line);
            let edited = edits.replace(raw_id.get(), id.to_string()).and_then(|()| edits.finish());
            if let Ok(line) = edited {
                session.notify(envelope::single_line(line.into()));
            }
            return;
        }
    }

    /// Hands a server's request to the client that is meant: one that has a request pending at this server. A
    /// server must not reach a client that does not use it, so another one is meant only if it is the only one.
    fn server_request(&self, from: &Arc<Connection>, request: &Request<'_>) -> Result<(), Failure> {
        let capability = match request.method.as_ref() {
            "sampling/createMessage" => Some("sampling"),
            "elicitation/create" => Some("elicitation"),
            "roots/list" => Some("roots"),
            _ => None,
        };
        let mut meant = self.all_sessions();
        meant.retain(|session| session.is_initialized());
        if meant.len() > 1 {
            meant.retain(|session| session.uses(from));
        }
        let able = |session: &&Arc<Session>| capability.is_none_or(|name| session.has(name));
        let Some(session) = meant.iter().find(able) else {
            let method = text::name(&request.method);
            return Err(Failure::new(
                rpc::METHOD_NOT_FOUND,
                format!("no client of the gateway answers `{method}`"),
            ));
        };
        let token = progress_token(request)
            .map_err(|error| Failure::new(rpc::INVALID_REQUEST, format!("the server sent {error}")))?;
        let asked = Asked {
            connection: Arc::clone(from),
            raw_id: rpc::id_json(&request.id),
            progress_token: token.map(|token| token.get().to_owned()),
        };
        let make = |id: i64| {
            let mut edits = Edits::of(request.line);
            edits.replace(request.raw_id.get(), id.to_string()).ok()?;
            Some(envelope::single_line(edits.finish().ok()?.into()))
        };
        session.ask(asked, make).map_err(|why| Failure::new(rpc::OVERLOADED, why))
    }

    /// Sets the log level at all running servers, and at those that start later.
    pub(super) async fn set_level(&self, request: &Request<'_>) -> Answer {
        let params: Option<Value> = request.params.and_then(|params| serde_json::from_str(params.get()).ok());
        let level = params.as_ref().and_then(|params| params.get("level")).filter(|level| level.is_string());
        let Some(level) = level else {
            return Err(Failure::new(rpc::INVALID_PARAMS, "the client named no `level`"));
        };
        let level = json!({ "level": level });
        self.wishes.set_log_level(level.clone());
        let mut asking = tokio::task::JoinSet::new();
        for server in &self.servers {
            let Some(ready) = server.running().filter(|ready| ready.has("logging")) else { continue };
            let (level, deadline) = (level.clone(), server.entry.start_timeout());
            asking.spawn(async move {
                let asked = ask(&ready.connection, "logging/setLevel", &level);
                tokio::time::timeout(deadline, asked).await.unwrap_or(Ok(String::new()))
            });
        }
        while let Some(joined) = asking.join_next().await {
            if let Err(why) = joined.map_err(|error| error.to_string()).flatten() {
                tracing::warn!("a log level was not set: {why}");
            }
        }
        Ok(Some(rpc::result(request.raw_id.get(), "{}")))
    }
}

/// A log message whose `logger` says which server it comes from.
fn with_logger(server: &str, notification: &Notification<'_>) -> Option<Bytes> {
    let raw_params = notification.params?;
    let params = Object::parse(raw_params.get(), &["logger"]).ok()?;
    let mut edits = Edits::of(notification.line);
    match params.get("logger").map(|raw| (raw, envelope::text(raw))) {
        Some((raw, Some(logger))) => {
            edits.replace(raw.get(), rpc::quoted(&format!("{server}/{logger}"))).ok()?;
        }
        Some((raw, None)) => edits.replace(RawValue::get(raw), rpc::quoted(server)).ok()?,
        None => edits.insert_member(raw_params.get(), "logger", &rpc::quoted(server)).ok()?,
    }
    Some(envelope::single_line(edits.finish().ok()?.into()))
}
