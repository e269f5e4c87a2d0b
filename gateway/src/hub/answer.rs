//! The answer to one request of a client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::session::{MAX_AT_ONE_SERVER, Target};
use super::{Hub, Output, Session};
use crate::audit::{CallOutcome, Decision, Event, millis, tool_name};
use crate::catalog::{self, Listing};
use crate::edit::{Edits, Misplaced};
use crate::envelope::{self, EnvelopeError, Id, Message, Object, Request};
use crate::permit::{ClientRequest, Forward, PermittedCall, PlainRequest, ToolCall};
use crate::protocol;
use crate::rpc;
use crate::single::call_outcome;
use crate::text;
use crate::upstream::connection::{self, Reply, SendError, Waiter};
use crate::upstream::deadline;
use crate::upstream::server::{Ready, Server};

/// After how long the gateway gives up on an answer to anything but a call, which has the policy's
/// `limits.call_time`. Clients give up after a minute or so and mostly say so; this frees the places of requests
/// whose clients went away without a word.
const ANSWER_DEADLINE: Duration = Duration::from_hours(1);

/// An error to answer with.
pub(super) struct Failure {
    pub(super) code: i64,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: i64, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    pub(super) fn unavailable(error: &impl ToString) -> Self {
        Failure::new(rpc::SERVER_UNAVAILABLE, error.to_string())
    }
}

/// What a request came to: a line for the client, or nothing because it was cancelled.
pub(super) type Answer = Result<Option<Bytes>, Failure>;

/// A request on its way to a server, and the way back.
pub(super) struct Trip<'a> {
    pub(super) session: &'a Session,
    /// Which request of the session this is.
    pub(super) serial: u64,
    pub(super) line: &'a Bytes,
    pub(super) output: &'a mpsc::Sender<Output>,
}

impl Hub {
    /// Answers one request. The line has been parsed before; parsing it again here lets this future own it.
    pub(super) async fn answer(
        self: &Arc<Self>,
        (session, serial): (&Session, u64),
        line: &Bytes,
        output: &mpsc::Sender<Output>,
    ) -> Option<Bytes> {
        let Ok(Message::Request(request)) = envelope::parse(line) else { return None };
        let raw_id = request.raw_id;
        let trip = Trip { session, serial, line, output };
        match self.dispatch(&trip, request).await {
            Ok(answer) => answer,
            Err(failure) => Some(rpc::error(raw_id.get(), failure.code, &failure.message)),
        }
    }

    async fn dispatch(self: &Arc<Self>, trip: &Trip<'_>, request: Request<'_>) -> Answer {
        if request.method == "ping" {
            return Ok(Some(rpc::result(request.raw_id.get(), "{}")));
        }
        if !trip.session.is_initialized() {
            return Err(Failure::new(rpc::INVALID_REQUEST, protocol::HANDSHAKE_NEEDED));
        }
        let raw_id = request.raw_id;
        if let Err(error) = progress_token(&request) {
            return Ok(Some(self.violation(raw_id.get(), &error)));
        }
        match ClientRequest::classify(request) {
            Ok(ClientRequest::Call(call)) => self.call(trip, call).await,
            Ok(ClientRequest::Plain(plain)) => self.plain(trip, plain).await,
            Err(error) => Ok(Some(self.violation(raw_id.get(), &error))),
        }
    }

    async fn plain(self: &Arc<Self>, trip: &Trip<'_>, plain: PlainRequest<'_>) -> Answer {
        let raw_id = plain.request().raw_id.get();
        let method = plain.request().method.clone();
        if let Some(listing) = Listing::of_method(&method) {
            refuse_cursor(plain.request())?;
            let result = self.list(listing).await;
            return Ok(Some(rpc::result(raw_id, &result)));
        }
        match method.as_ref() {
            "prompts/get" => self.prompt(trip, plain, &[]).await,
            "resources/read" => self.read_resource(trip, plain).await,
            "resources/subscribe" => self.subscribe(trip, plain).await,
            "resources/unsubscribe" => self.unsubscribe(trip, plain).await,
            "completion/complete" => self.complete(trip, plain).await,
            "logging/setLevel" => self.set_level(plain.request()).await,
            _ => {
                let message = format!("the gateway does not know the method `{}`", text::name(&method));
                Err(Failure::new(rpc::METHOD_NOT_FOUND, message))
            }
        }
    }

    async fn call(&self, trip: &Trip<'_>, call: ToolCall<'_>) -> Answer {
        self.audit.check().map_err(|error| Failure::unavailable(&error))?;
        let unknown = || {
            let message = format!("no server of the gateway has a tool `{}`", text::name(call.tool()));
            Failure::new(rpc::INVALID_PARAMS, message)
        };
        let (name, tool) = catalog::split_name(call.tool()).ok_or_else(unknown)?;
        let server = Arc::clone(self.server(name).ok_or_else(unknown)?);
        let tool = tool.to_owned();
        let permitted = match call.renamed(tool).permit(&server.entry.policy) {
            Ok(permitted) => permitted,
            Err(refusal) => {
                self.audit.record(
                    &refusal.server,
                    &Event::ToolCall {
                        tool: refusal.tool.clone(),
                        decision: Decision::Refused,
                        rule: &refusal.rule,
                    },
                );
                return Err(Failure::new(rpc::REFUSED_BY_POLICY, refusal.to_string()));
            }
        };
        self.permitted(trip, &server, permitted).await
    }

    async fn permitted(&self, trip: &Trip<'_>, server: &Arc<Server>, call: PermittedCall<'_>) -> Answer {
        let tool = tool_name(call.tool());
        // Written first: a call that the server has seen must have left a trace.
        let event = Event::ToolCall { tool: tool.clone(), decision: Decision::Permitted, rule: call.rule() };
        self.audit.try_record(server.name(), &event).map_err(|error| Failure::unavailable(&error))?;
        let mut record = CallRecord {
            hub: self,
            server: server.name(),
            tool,
            since: Instant::now(),
            // What holds when this future is dropped because the client cancelled.
            outcome: CallOutcome::Cancelled,
        };
        let request = call.request().clone();
        let forward = |id| call.into_forward(trip.line, |request, edits| stamp(request, edits, id));
        let answer = match self.start(server).await {
            Ok(ready) => {
                let limit = server.entry.policy.limits.call_time;
                let late = deadline::sentence(server.name(), &record.tool, limit);
                let patience = Patience { limit, late: Failure::new(rpc::CALL_TIME_OVER, late) };
                forward_request(trip, &ready, (&request, patience), forward).await
            }
            Err(failure) => Err(failure),
        };
        record.outcome = match &answer {
            Ok(Some(line)) => outcome_of(line),
            Ok(None) => CallOutcome::Cancelled,
            Err(failure) if failure.code == rpc::SERVER_UNAVAILABLE => CallOutcome::ServerGone,
            Err(failure) if failure.code == rpc::CALL_TIME_OVER => CallOutcome::TimeOver,
            Err(_) => CallOutcome::NotForwarded,
        };
        answer
    }

    async fn prompt(&self, trip: &Trip<'_>, plain: PlainRequest<'_>, path: &[&'static str]) -> Answer {
        let unknown = || Failure::new(rpc::INVALID_PARAMS, "no server of the gateway has this prompt");
        let raw_name = member(plain.request(), path, "name").ok_or_else(unknown)?;
        let name = envelope::text(raw_name).ok_or_else(unknown)?;
        let (server, prompt) = catalog::split_name(&name).ok_or_else(unknown)?;
        let server = Arc::clone(self.server(server).ok_or_else(unknown)?);
        let ready = self.start(&server).await?;
        let rename = Some((raw_name, rpc::quoted(prompt)));
        forward_plain(trip, &ready, plain, rename).await
    }

    async fn complete(self: &Arc<Self>, trip: &Trip<'_>, plain: PlainRequest<'_>) -> Answer {
        let kind = member(plain.request(), &["ref"], "type").and_then(envelope::text);
        match kind.as_deref() {
            Some("ref/prompt") => self.prompt(trip, plain, &["ref"]).await,
            Some("ref/resource") => {
                let uri = member(plain.request(), &["ref"], "uri").and_then(envelope::text);
                let uri = uri.map(std::borrow::Cow::into_owned).unwrap_or_default();
                let server = self.owner_of(&uri).await?;
                let ready = self.start(&server).await?;
                forward_plain(trip, &ready, plain, None).await
            }
            Some(_) | None => {
                Err(Failure::new(rpc::INVALID_PARAMS, "the client asked to complete something unknown"))
            }
        }
    }

    /// The server, started if need be.
    pub(super) async fn start(&self, server: &Arc<Server>) -> Result<Arc<Ready>, Failure> {
        server.ready().await.map_err(|error| Failure::unavailable(&error))
    }
}

/// Sends a request that calls no tool.
pub(super) async fn forward_plain(
    trip: &Trip<'_>,
    ready: &Ready,
    plain: PlainRequest<'_>,
    replace: Option<(&RawValue, String)>,
) -> Answer {
    let request = plain.request().clone();
    let forward = |id| {
        plain.into_forward(trip.line, |request, edits| {
            if let Some((at, with)) = replace {
                edits.replace(at.get(), with)?;
            }
            stamp(request, edits, id)
        })
    };
    let name = ready.connection.name();
    let late = Failure::unavailable(&format!("server `{name}` did not answer within an hour"));
    let patience = Patience { limit: ANSWER_DEADLINE, late };
    forward_request(trip, ready, (&request, patience), forward).await
}

/// How long an answer may take, and what the client is told when it takes longer.
struct Patience {
    limit: Duration,
    late: Failure,
}

/// Puts the gateway's id in the place of the client's id and progress token.
fn stamp<'a>(request: &Request<'a>, edits: &mut Edits<'a>, id: i64) -> Result<(), Misplaced> {
    edits.replace(request.raw_id.get(), id.to_string())?;
    if let Some(token) = progress_token(request).map_err(|_refused_before| Misplaced)? {
        edits.replace(token.get(), id.to_string())?;
    }
    Ok(())
}

/// The progress token, if there is one. What cannot be read here cannot be replaced either, and would reach the
/// server as another client's token or this client's own.
pub(super) fn progress_token<'a>(request: &Request<'a>) -> Result<Option<&'a RawValue>, EnvelopeError> {
    let Some(params) = request.params.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let keep = |error, key| {
        if error == EnvelopeError::NotAnObject { EnvelopeError::BadMember { key } } else { error }
    };
    let params = Object::parse(params.get(), &["_meta"]).map_err(|error| keep(error, "params"))?;
    let Some(meta) = params.get("_meta").filter(|raw| raw.get() != "null") else { return Ok(None) };
    let meta = Object::parse(meta.get(), &["progressToken"]).map_err(|error| keep(error, "_meta"))?;
    let Some(token) = meta.get("progressToken") else { return Ok(None) };
    match Id::parse(token) {
        Some(_string_or_integer) => Ok(Some(token)),
        None => Err(EnvelopeError::BadMember { key: "progressToken" }),
    }
}

async fn forward_request(
    trip: &Trip<'_>,
    ready: &Ready,
    (request, patience): (&Request<'_>, Patience),
    forward: impl FnOnce(i64) -> Result<Forward, Misplaced>,
) -> Answer {
    let (sender, mut replies) = connection::replies();
    let progress_token = progress_token(request)
        .map_err(|error| Failure::new(error.code(), format!("the client sent {error}")))?
        .map(|token| token.get().to_owned());
    let waiter = Waiter { replies: sender.clone(), progress_token };
    let connection = Arc::clone(&ready.connection);
    if !trip.session.reserve(&request.id, trip.serial, &connection) {
        return Err(Failure::new(
            rpc::OVERLOADED,
            format!(
                "the client has {MAX_AT_ONE_SERVER} requests pending at server `{}`, which is the most that the gateway allows",
                connection.name()
            ),
        ));
    }
    let aimed = Arc::clone(&connection);
    let make = |id| {
        trip.session.aim(&request.id, trip.serial, Target { connection: aimed, id, replies: sender });
        forward(id)
    };
    // A cancelled request drops this future; its place at the server must not stay taken.
    let waiting = connection.request(waiter, make).await.map_err(|error| send_failure(&error))?;
    let answer = relay(trip, request, &mut replies);
    tokio::time::timeout(patience.limit, answer).await.unwrap_or_else(|_elapsed| {
        waiting.expire(patience.limit);
        Err(patience.late)
    })
}

/// Passes on what comes before the answer, and the answer.
async fn relay(trip: &Trip<'_>, request: &Request<'_>, replies: &mut mpsc::Receiver<Reply>) -> Answer {
    while let Some(reply) = replies.recv().await {
        match reply {
            Reply::Related(line) => {
                if trip.output.capacity() > 1 && trip.output.try_send(Output::Related(line)).is_err() {
                    tracing::debug!("the client does not read");
                }
            }
            Reply::Answer(line) => return answer_line(&line, request).map(Some),
            Reply::Gone(reason) => return Err(Failure::unavailable(&reason)),
        }
    }
    Ok(None)
}

fn send_failure(error: &SendError) -> Failure {
    match error {
        SendError::Gone(_) => Failure::unavailable(error),
        SendError::Overloaded(_) => Failure::new(rpc::OVERLOADED, error.to_string()),
        SendError::Misplaced(_) => Failure::new(rpc::INVALID_REQUEST, error.to_string()),
    }
}

/// The server's answer under the client's id.
fn answer_line(line: &Bytes, request: &Request<'_>) -> Result<Bytes, Failure> {
    let broken = || Failure::new(rpc::SERVER_UNAVAILABLE, "the server gave no readable answer");
    let Ok(Message::Response(response)) = envelope::parse(line) else { return Err(broken()) };
    let mut edits = Edits::of(response.line);
    edits.replace(response.raw_id.get(), request.raw_id.get()).map_err(|_misplaced| broken())?;
    let edited = edits.finish().map_err(|_misplaced| broken())?;
    Ok(envelope::single_line(edited.into()))
}

fn outcome_of(line: &Bytes) -> CallOutcome {
    match envelope::parse(line) {
        Ok(Message::Response(response)) => call_outcome(response.outcome),
        Ok(Message::Request(_) | Message::Notification(_)) | Err(_) => CallOutcome::Error,
    }
}

/// A member of a request's parameters, below some objects.
pub(super) fn member<'a>(
    request: &Request<'a>,
    path: &[&'static str],
    key: &'static str,
) -> Option<&'a RawValue> {
    let mut at = request.params?;
    for step in path {
        at = Object::parse(at.get(), &[step]).ok()?.get(step)?;
    }
    Object::parse(at.get(), &[key]).ok()?.get(key)
}

/// The gateway's lists have one page, so it never gave out a cursor.
fn refuse_cursor(request: &Request<'_>) -> Result<(), Failure> {
    match member(request, &[], "cursor").map(RawValue::get) {
        None | Some("null") => Ok(()),
        Some(_) => Err(Failure::new(
            rpc::INVALID_PARAMS,
            "the client sent a cursor that the gateway did not give out",
        )),
    }
}

/// Writes the end of a permitted call into the audit log, however it ends.
struct CallRecord<'a> {
    hub: &'a Hub,
    server: &'a str,
    tool: String,
    since: Instant,
    outcome: CallOutcome,
}

impl Drop for CallRecord<'_> {
    fn drop(&mut self) {
        self.hub.audit.record(
            self.server,
            &Event::ToolResult {
                tool: std::mem::take(&mut self.tool),
                duration_ms: millis(self.since.elapsed()),
                outcome: self.outcome,
            },
        );
    }
}
