//! What a client sends, and who answers it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::session::Begun;
use super::{Hub, Session};
use crate::audit::{Event, Peer};
use crate::edit::Edits;
use crate::envelope::{self, EnvelopeError, Id, Message, Notification, Object, Request, Response};
use crate::permit::Forward;
use crate::upstream::connection::RELATED_MESSAGES;
use crate::upstream::server::Handshake;
use crate::{protocol, rpc};

/// What a request's client gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// A notification or a request of a server that belongs to the request.
    Related(Bytes),
    /// The answer; nothing follows.
    Answer(Bytes),
}

/// What became of a line.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// Nothing is answered.
    Nothing,
    /// The line is no message; this says so.
    Refused(Bytes),
    /// Answered on this channel, unless it is cancelled: then the channel just ends.
    Request(mpsc::Receiver<Output>),
}

impl Hub {
    /// Takes one line of a client.
    pub(crate) fn accept(self: &Arc<Self>, session: &Arc<Session>, line: &Bytes) -> Accepted {
        match envelope::parse(line) {
            Ok(Message::Request(request)) => self.request(session, line, &request),
            Ok(Message::Notification(notification)) => {
                self.client_notification(session, line, &notification);
                Accepted::Nothing
            }
            Ok(Message::Response(response)) => {
                client_response(session, &response);
                Accepted::Nothing
            }
            Err(error) => Accepted::Refused(self.violation("null", &error)),
        }
    }

    /// The error for a message that is refused, which is recorded.
    pub(super) fn violation(&self, id: &str, error: &EnvelopeError) -> Bytes {
        let detail = format!("sent {error}");
        self.audit.record("", &Event::ProtocolViolation { by: Peer::Client, detail: &detail });
        rpc::error(id, error.code(), &format!("the client {detail}"))
    }

    fn request(self: &Arc<Self>, session: &Arc<Session>, line: &Bytes, request: &Request<'_>) -> Accepted {
        let raw_id = request.raw_id.get();
        let Begun { cancelled, serial } = match session.begin(request.id.clone()) {
            Ok(begun) => begun,
            Err(refused) => {
                return Accepted::Refused(rpc::error(raw_id, rpc::OVERLOADED, &refused.to_string()));
            }
        };
        let (sender, output) = mpsc::channel(RELATED_MESSAGES.saturating_add(1));
        let id = request.id.clone();
        // `initialize` is answered here: what follows it must find the session initialised.
        if request.method == "initialize" {
            let answer = self.initialize(session, request);
            session.end(&id, serial);
            if sender.try_send(Output::Answer(answer)).is_err() {
                tracing::debug!("the client left before its handshake was answered");
            }
            return Accepted::Request(output);
        }
        let (hub, session, line) = (Arc::clone(self), Arc::clone(session), line.clone());
        tokio::spawn(async move {
            let answer = tokio::select! {
                answer = hub.answer((&session, serial), &line, &sender) => answer,
                () = cancelled.cancelled() => None,
            };
            session.end(&id, serial);
            if let Some(answer) = answer
                && sender.send(Output::Answer(answer)).await.is_err()
            {
                tracing::debug!("the client left before it was answered");
            }
        });
        Accepted::Request(output)
    }

    fn initialize(self: &Arc<Self>, session: &Session, request: &Request<'_>) -> Bytes {
        let raw_id = request.raw_id.get();
        let params: Option<Value> = request.params.and_then(|params| serde_json::from_str(params.get()).ok());
        let Some(params) = params.filter(Value::is_object) else {
            return rpc::error(
                raw_id,
                rpc::INVALID_PARAMS,
                "the client sent `initialize` without parameters",
            );
        };
        let version = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        let version = protocol::negotiate(version);
        let capabilities = routable(params.get("capabilities"));
        let names = capabilities.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
        if session.initialize(names).is_err() {
            return rpc::error(raw_id, rpc::INVALID_REQUEST, "the client sent `initialize` twice");
        }
        let client_info = params.get("clientInfo").cloned().unwrap_or_else(protocol::own_info);
        self.wishes.greet(Handshake { version, capabilities, client_info });
        self.greet_early();
        let result = json!({
            "protocolVersion": version,
            "capabilities": own_capabilities(),
            "serverInfo": protocol::own_info(),
        });
        rpc::result(raw_id, &result.to_string())
    }

    fn client_notification(&self, session: &Session, line: &Bytes, notification: &Notification<'_>) {
        match notification.method.as_ref() {
            "notifications/cancelled" => cancel(session, notification),
            "notifications/roots/list_changed" => self.tell_all(line, notification),
            "notifications/progress" => progress(session, line, notification),
            "notifications/initialized" => {}
            other => tracing::debug!(method = crate::text::name(other), "a notification that goes nowhere"),
        }
    }

    fn tell_all(&self, line: &Bytes, notification: &Notification<'_>) {
        for ready in self.servers.iter().filter_map(|server| server.running()) {
            if let Ok(forward) = Forward::notification(line, notification) {
                ready.connection.tell(forward);
            }
        }
    }
}

/// What the gateway can route, whatever the servers turn out to offer.
fn own_capabilities() -> Value {
    json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "logging": {},
        "completions": {},
    })
}

/// The client's capabilities without those that the gateway cannot route.
fn routable(capabilities: Option<&Value>) -> Value {
    let mut capabilities = capabilities.and_then(Value::as_object).cloned().unwrap_or_default();
    capabilities.retain(|name, _| !matches!(name.as_str(), "tasks" | "extensions"));
    Value::Object(capabilities)
}

/// Passes a cancellation on under the id that the server knows, and stops waiting.
fn cancel(session: &Session, notification: &Notification<'_>) {
    let params = notification.params.and_then(|params| Object::parse(params.get(), &["requestId"]).ok());
    let Some(raw_id) = params.and_then(|params| params.get("requestId")) else { return };
    let Some(request) = Id::parse(raw_id).and_then(|id| session.give_up(&id)) else { return };
    request.cancelled.cancel();
    let Some(target) = request.target else { return };
    if target.connection.forget(target.id).is_none() {
        return;
    }
    let mut edits = Edits::of(notification.line);
    let edited = edits.replace(raw_id.get(), target.id.to_string()).and_then(|()| edits.finish());
    let Ok(line) = edited.map(Bytes::from) else { return };
    if let Ok(forward) = Forward::notification(&line, notification) {
        target.connection.tell(forward);
    }
}

/// Progress of something that a server asked of the client.
fn progress(session: &Session, line: &Bytes, notification: &Notification<'_>) {
    let params = notification.params.and_then(|params| Object::parse(params.get(), &["progressToken"]).ok());
    let token = params.and_then(|params| params.get("progressToken"));
    let Some(connection) = token.and_then(|token| session.asked_with_token(token.get())) else { return };
    if let Ok(forward) = Forward::notification(line, notification) {
        connection.tell(forward);
    }
}

/// Gives a server the client's answer under the id that the server used.
fn client_response(session: &Session, response: &Response<'_>) {
    let Some(asked) = response.id.as_ref().and_then(|id| session.answered(id)) else {
        tracing::debug!("the client answered what nobody asked");
        return;
    };
    let mut edits = Edits::of(response.line);
    let edited = edits.replace(response.raw_id.get(), asked.raw_id).and_then(|()| edits.finish());
    let Ok(line) = edited.map(Bytes::from) else { return };
    asked.connection.tell(Forward::response(&line, response));
}
