//! The two directions of a single server's run.
//!
//! There are no queues: each direction reads a line, looks at it and writes it, so a side that does not read
//! slows the other down and memory stays bounded by one line each way.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::books::{Books, Kind};
use super::end::{Broken, End};
use crate::audit::{CallOutcome, Decision, Event, Log, Peer, Unwritable, millis, tool_name};
use crate::catalog;
use crate::envelope::{self, EnvelopeError, Id, Message, Notification, Object, Outcome, Request, Response};
use crate::launch::ServerEntry;
use crate::line::{Line, LineReader, LineWriter};
use crate::permit::{ClientRequest, Forward, ToolCall};
use crate::upstream::deadline::{self, Overruns};
use crate::upstream::garbage::Garbage;
use crate::upstream::pipes::{Input, Output};
use crate::{rpc, text};

/// How long a server that does not read may delay the next call's end.
const TELL_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Proxy<'p, W> {
    pub(super) entry: &'p ServerEntry,
    pub(super) audit: &'p Log,
    client: Mutex<LineWriter<W>>,
    server: Mutex<Option<Input>>,
    books: Books,
    handshake: Notify,
    garbage: std::sync::Mutex<Garbage>,
    overruns: Overruns,
    call_sent: Notify,
    client_left: AtomicBool,
    asked: AtomicBool,
}

/// What to do with one line of the client.
enum Step {
    Forward(Forward),
    Answer(Bytes),
    Nothing,
}

impl<'p, W: AsyncWrite + Unpin> Proxy<'p, W> {
    pub(super) fn new(entry: &'p ServerEntry, audit: &'p Log, client: LineWriter<W>, server: Input) -> Self {
        Proxy {
            entry,
            audit,
            client: Mutex::new(client),
            server: Mutex::new(Some(server)),
            books: Books::default(),
            handshake: Notify::new(),
            garbage: std::sync::Mutex::default(),
            overruns: Overruns::default(),
            call_sent: Notify::new(),
            client_left: AtomicBool::new(false),
            asked: AtomicBool::new(false),
        }
    }

    /// Runs both directions until one of them has a reason to end.
    pub(super) async fn run<R: AsyncRead + Unpin>(
        &self,
        client: &mut LineReader<R>,
        server: &mut Output,
        shutdown: &CancellationToken,
    ) -> End {
        tokio::select! {
            end = self.pump_server(server) => end,
            end = self.pump_client(client) => end,
            end = self.handshake_overdue() => end,
            end = self.calls_overdue() => end,
            () = shutdown.cancelled() => End::ShutDown,
        }
    }

    /// Whether the client has sent a request.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn into_client(self) -> LineWriter<W> {
        self.client.into_inner()
    }

    pub(super) async fn close_input(&self) {
        drop(self.server.lock().await.take());
    }

    /// Answers what is pending with an error.
    pub(super) async fn fail_pending(&self, sentence: &str, patience: Duration) {
        for (id, kind) in self.books.take_all() {
            let answer = rpc::error(&rpc::id_json(&id), rpc::SERVER_UNAVAILABLE, sentence);
            if tokio::time::timeout(patience, self.to_client(&answer)).await.is_err() {
                tracing::debug!("the client does not read its answers");
            }
            self.record_call(kind, CallOutcome::ServerGone);
        }
    }

    async fn to_client(&self, line: &[u8]) -> Result<(), End> {
        self.client.lock().await.write(line).await.map_err(|error| {
            tracing::debug!(%error, "the client does not take its answers any more");
            End::ClientLeft
        })
    }

    async fn to_server(&self, forward: &Forward) {
        let mut server = self.server.lock().await;
        if let Some(input) = server.as_mut()
            && let Err(error) = input.write(forward.line()).await
        {
            // Its output will end too; that is where the pending requests are answered.
            tracing::debug!(%error, "the server does not take messages any more");
        }
    }

    /// Ends with [`End::ServerBroken`] when `initialize` stays unanswered past the start timeout.
    async fn handshake_overdue(&self) -> End {
        self.handshake.notified().await;
        tokio::time::sleep(self.entry.start_timeout()).await;
        if !self.books.awaits_initialize() {
            return std::future::pending().await;
        }
        let seconds = self.entry.start_timeout().as_secs_f32();
        End::ServerBroken(Broken::Silent { seconds })
    }

    // ---- client to server

    async fn pump_client<R: AsyncRead + Unpin>(&self, client: &mut LineReader<R>) -> End {
        loop {
            let step = match client.next().await {
                Ok(Some(Line::Message(line))) => self.client_line(&line),
                Ok(Some(Line::TooLong)) => Step::Answer(rpc::error(
                    "null",
                    rpc::INVALID_REQUEST,
                    "the client sent a line over the limit of 16 MiB",
                )),
                Ok(None) | Err(_) => break,
            };
            let written = match step {
                Step::Forward(forward) => {
                    self.to_server(&forward).await;
                    Ok(())
                }
                Step::Answer(answer) => self.to_client(&answer).await,
                Step::Nothing => Ok(()),
            };
            if let Err(end) = written {
                return end;
            }
        }
        // The end of its input is how a server is told to finish; it may still answer what it has.
        self.client_left.store(true, Ordering::Relaxed);
        self.close_input().await;
        tokio::time::sleep(self.entry.stop_timeout()).await;
        End::ClientLeft
    }

    /// Gives up calls that take longer than the policy allows; ends when the server has let too many run out.
    async fn calls_overdue(&self) -> End {
        let limit = self.entry.policy.limits.call_time;
        loop {
            match self.books.next_due(limit) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => self.call_sent.notified().await,
            }
            if let Err(end) = self.expire(limit).await {
                return end;
            }
        }
    }

    async fn expire(&self, limit: Duration) -> Result<(), End> {
        for (id, kind) in self.books.expire(limit) {
            self.expired(&rpc::id_json(&id), kind, limit).await?;
        }
        Ok(())
    }

    async fn expired(&self, id: &str, kind: Kind, limit: Duration) -> Result<(), End> {
        let tool = if let Kind::Call { tool, .. } = &kind { tool.as_str() } else { "" };
        let sentence = deadline::sentence(&self.entry.name(), tool, limit);
        self.record_call(kind, CallOutcome::TimeOver);
        self.to_client(&rpc::error(id, rpc::CALL_TIME_OVER, &sentence)).await?;
        if let Ok(cancelled) = Forward::own(&deadline::cancelled(id))
            && tokio::time::timeout(TELL_PATIENCE, self.to_server(&cancelled)).await.is_err()
        {
            tracing::debug!("the server does not read; it is not told that a call was given up");
        }
        self.overruns.count(limit).map_or(Ok(()), |overrun| Err(self.server_broken(Broken::Overrun(overrun))))
    }

    fn client_line(&self, line: &Bytes) -> Step {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Step::Nothing;
        }
        match envelope::parse(line) {
            Ok(Message::Request(request)) => self.client_request(line, request),
            Ok(Message::Notification(notification)) => self.client_notification(line, &notification),
            Ok(Message::Response(response)) => Step::Forward(Forward::response(line, &response)),
            Err(error) => self.client_violation("null", &error),
        }
    }

    fn client_violation(&self, id: &str, error: &EnvelopeError) -> Step {
        let detail = format!("sent {error}");
        let event = Event::ProtocolViolation { by: Peer::Client, detail: &detail };
        self.audit.record(&self.entry.name(), &event);
        Step::Answer(rpc::error(id, error.code(), &format!("the client {detail}")))
    }

    fn client_notification(&self, line: &Bytes, notification: &Notification<'_>) -> Step {
        if notification.method == "notifications/cancelled" {
            self.cancelled(notification);
        }
        match Forward::notification(line, notification) {
            Ok(forward) => Step::Forward(forward),
            Err(error) => self.client_violation("null", &error),
        }
    }

    /// A cancelled request gets no answer, so it is not pending any more.
    fn cancelled(&self, notification: &Notification<'_>) {
        let params = notification.params.and_then(|params| Object::parse(params.get(), &["requestId"]).ok());
        let id = params.and_then(|params| params.get("requestId").and_then(Id::parse));
        if let Some(kind) = id.and_then(|id| self.books.cancel(&id)) {
            self.record_call(kind, CallOutcome::Cancelled);
        }
    }

    fn client_request(&self, line: &Bytes, request: Request<'_>) -> Step {
        self.asked.store(true, Ordering::Relaxed);
        let (id, raw_id) = (request.id.clone(), request.raw_id);
        match ClientRequest::classify(request) {
            Ok(ClientRequest::Call(call)) => self.client_call(line, &id, call),
            Ok(ClientRequest::Plain(plain)) => {
                let kind = match plain.request().method.as_ref() {
                    "initialize" => Kind::Initialize,
                    "tools/list" => Kind::ToolsList,
                    _ => Kind::Other,
                };
                self.enter(&id, raw_id.get(), kind, || plain.forward_as_sent(line))
            }
            Err(error) => self.client_violation(raw_id.get(), &error),
        }
    }

    fn client_call(&self, line: &Bytes, id: &Id, call: ToolCall<'_>) -> Step {
        let raw_id = call.request().raw_id;
        let tool = tool_name(call.tool());
        let unwritable =
            |error: Unwritable| rpc::error(raw_id.get(), rpc::SERVER_UNAVAILABLE, &error.to_string());
        if let Err(error) = self.audit.check() {
            return Step::Answer(unwritable(error));
        }
        let permitted = match call.permit(&self.entry.policy) {
            Ok(permitted) => permitted,
            Err(refusal) => {
                let event = Event::ToolCall { tool, decision: Decision::Refused, rule: &refusal.rule };
                self.audit.record(&refusal.server, &event);
                return Step::Answer(rpc::error(raw_id.get(), rpc::REFUSED_BY_POLICY, &refusal.to_string()));
            }
        };
        let rule = permitted.rule().to_owned();
        let kind = Kind::Call { tool: tool.clone(), since: Instant::now() };
        let step = self.enter(id, raw_id.get(), kind, || permitted.forward_as_sent(line));
        if matches!(step, Step::Forward(_)) {
            // Written first: a call that the server has seen must have left a trace.
            let event = Event::ToolCall { tool, decision: Decision::Permitted, rule: &rule };
            if let Err(error) = self.audit.try_record(&self.entry.name(), &event) {
                self.books.take(id);
                return Step::Answer(unwritable(error));
            }
            self.call_sent.notify_one();
        }
        step
    }

    fn enter(
        &self,
        id: &Id,
        raw_id: &str,
        kind: Kind,
        forward: impl FnOnce() -> Result<Forward, crate::edit::Misplaced>,
    ) -> Step {
        let starts_handshake = matches!(kind, Kind::Initialize);
        if let Err(refused) = self.books.enter(id.clone(), kind) {
            return Step::Answer(rpc::error(raw_id, rpc::OVERLOADED, &refused.to_string()));
        }
        if starts_handshake {
            self.handshake.notify_one();
        }
        match forward() {
            Ok(forward) => Step::Forward(forward),
            Err(error) => {
                self.books.take(id);
                Step::Answer(rpc::error(raw_id, rpc::INVALID_REQUEST, &error.to_string()))
            }
        }
    }

    // ---- server to client

    async fn pump_server(&self, server: &mut Output) -> End {
        loop {
            let line = match server.next().await {
                Ok(Some(Line::Message(line))) => line,
                Ok(Some(Line::TooLong)) => {
                    return self.server_broken(Broken::LongLine);
                }
                Ok(None) | Err(_) if self.client_left.load(Ordering::Relaxed) => return End::ClientLeft,
                Ok(None) | Err(_) => return End::ServerEnded,
            };
            if let Err(end) = self.server_line(line).await {
                return end;
            }
        }
    }

    fn server_broken(&self, broken: Broken) -> End {
        let event = Event::ProtocolViolation { by: Peer::Server, detail: &broken.to_string() };
        self.audit.record(&self.entry.name(), &event);
        End::ServerBroken(broken)
    }

    async fn server_line(&self, line: Bytes) -> Result<(), End> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let parsed = match envelope::parse(&line) {
            Ok(message) => message,
            Err(error) => return self.garbage(&line, &error),
        };
        self.garbage_count().interrupted();
        self.overruns.interrupted();
        match parsed {
            Message::Response(response) => self.server_response(&line, &response).await,
            Message::Request(_) | Message::Notification(_) => {
                self.to_client(&envelope::single_line(line)).await
            }
        }
    }

    fn garbage(&self, line: &Bytes, error: &EnvelopeError) -> Result<(), End> {
        let (is_first, too_much) = {
            let mut garbage = self.garbage_count();
            garbage.count();
            (garbage.is_first(), garbage.too_much())
        };
        let name = self.entry.name();
        let start = String::from_utf8_lossy(line.get(..line.len().min(200)).unwrap_or_default()).into_owned();
        let start = text::bounded(&start, 100);
        // The first says what is wrong; the ones after it must not bury what else there is to read.
        if is_first {
            tracing::warn!(server = name, "the server sent {error}: {start}");
            let detail = format!("sent {error}");
            self.audit.record(&name, &Event::ProtocolViolation { by: Peer::Server, detail: &detail });
        } else {
            tracing::info!(server = name, "the server sent {error}: {start}");
        }
        too_much.map_or(Ok(()), |too_much| Err(End::ServerBroken(Broken::Garbage(too_much))))
    }

    fn garbage_count(&self) -> std::sync::MutexGuard<'_, Garbage> {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line for all the garbage after the first: the audit log must not grow with it.
    pub(super) fn sum_up(&self) {
        let summary = self.garbage_count().summary();
        let Some(detail) = summary else { return };
        self.audit
            .record(&self.entry.name(), &Event::ProtocolViolation { by: Peer::Server, detail: &detail });
    }

    async fn server_response(&self, line: &Bytes, response: &Response<'_>) -> Result<(), End> {
        let Some(kind) = response.id.as_ref().and_then(|id| self.books.take(id)) else {
            // Also the late answer to a cancelled request. It must not pass: it could be an unfiltered list.
            tracing::debug!(server = self.entry.name(), "the server answered what nobody asked");
            return Ok(());
        };
        let filtered = match (&kind, response.outcome) {
            (Kind::ToolsList, Outcome::Result(result)) => {
                catalog::filter_tools(&self.entry.policy, response.line, result)
            }
            (Kind::Initialize | Kind::ToolsList | Kind::Call { .. } | Kind::Other, _) => Ok(None),
        };
        let sent = match filtered {
            Ok(Some(filtered)) => self.to_client(&envelope::single_line(filtered)).await,
            Ok(None) => self.to_client(&envelope::single_line(line.clone())).await,
            Err(error) => {
                let sentence = format!("server `{}` answered `tools/list` with {error}", self.entry.name());
                self.to_client(&rpc::error(response.raw_id.get(), rpc::SERVER_UNAVAILABLE, &sentence)).await
            }
        };
        self.record_call(kind, call_outcome(response.outcome));
        sent
    }

    fn record_call(&self, kind: Kind, outcome: CallOutcome) {
        let Kind::Call { tool, since } = kind else { return };
        let event = Event::ToolResult { tool, duration_ms: millis(since.elapsed()), outcome };
        self.audit.record(&self.entry.name(), &event);
    }
}

/// How a call ended, from its answer.
pub(crate) fn call_outcome(outcome: Outcome<'_>) -> CallOutcome {
    let Outcome::Result(result) = outcome else { return CallOutcome::Error };
    let is_error = Object::parse(result.get(), &[]).ok().and_then(|result| result.get("isError"));
    match is_error.map(serde_json::value::RawValue::get) {
        Some("true") => CallOutcome::ToolError,
        Some(_) | None => CallOutcome::Result,
    }
}
