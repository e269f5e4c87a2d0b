//! One running server: requests go in under ids of the gateway, answers come back to whoever asked, and at
//! the end everybody who still waits is told.
//!
//! The attacker considered: a server that writes garbage or an endless line, answers what nobody asked, never
//! reads its input, floods notifications, or ends in the middle. Memory per server is bounded by one line
//! each way plus what is pending; nothing that one server does blocks another or the gateway.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::deadline::{self, Overruns};
use super::garbage::Garbage;
use super::pipes::{Input, Output, Pipes};
use super::process::Process;
use super::stderr::Tail;
use crate::audit::{Event as AuditEvent, Log, Peer};
use crate::edit::Misplaced;
use crate::envelope::{self, Id, Message, Notification, Object, Request, Response};
use crate::launch::{ExitReport, ServerEntry};
use crate::line::Line;
use crate::permit::Forward;
use crate::text;

/// How many requests may be pending at one server. Clients call a handful of tools at a time; each pending
/// request may end in an answer of 16 MiB, so the number bounds memory to 1 GiB in the worst case.
const MAX_PENDING: usize = 64;

/// How many messages may wait for one request's client: a progress notification each. More are dropped, the
/// answer never is.
pub(crate) const RELATED_MESSAGES: usize = 64;

/// How many messages that want no answer may wait for a server that does not read. More are dropped: nothing
/// that one server does may hold up a client's other messages.
const MAX_TOLD: usize = 16;

/// How long to wait for the exit status of a server whose output ended, so that the error can name it.
const STATUS_GRACE: Duration = Duration::from_millis(250);

/// How long to read what a server had written before it ended.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// What comes back for a request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A notification or a request of the server that belongs to the request; already fit for the client.
    Related(Bytes),
    /// The answer, with the gateway's id.
    Answer(Bytes),
    /// There will be no answer, for this reason.
    Gone(Arc<str>),
}

/// Where replies of one request go.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) replies: mpsc::Sender<Reply>,
    /// The client's progress token as JSON; the server knows the request by the gateway's id instead.
    pub(crate) progress_token: Option<String>,
}

/// A channel for the replies of one request. One place more than related messages, kept for the answer.
pub(crate) fn replies() -> (mpsc::Sender<Reply>, mpsc::Receiver<Reply>) {
    mpsc::channel(RELATED_MESSAGES.saturating_add(1))
}

/// What a server sends of its own accord.
pub(crate) trait ServerEvents: Send + Sync + 'static {
    /// A notification other than progress.
    fn notification(&self, from: &Arc<Connection>, line: &Bytes, notification: &Notification<'_>);
    /// A request; returns the line to answer with if it can be answered at once.
    fn request(&self, from: &Arc<Connection>, request: &Request<'_>) -> Option<Bytes>;
    /// The connection has ended.
    fn ended(&self, connection: &Arc<Connection>, reason: &str);
}

/// A request could not be handed to the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("{0}")]
    Gone(Arc<str>),
    #[error("server `{0}` has {MAX_PENDING} requests pending, which is the most that the gateway allows")]
    Overloaded(String),
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
}

/// A running server.
pub(crate) struct Connection {
    entry: ServerEntry,
    name: String,
    input: tokio::sync::Mutex<Option<Input>>,
    pending: Mutex<HashMap<i64, Waiter>>,
    next_id: AtomicI64,
    told: mpsc::Sender<Forward>,
    closing: CancellationToken,
    reason: Mutex<Option<Arc<str>>>,
    errors: Tail,
    oversized: AtomicU64,
    overruns: Overruns,
}

impl Connection {
    /// Takes over a launched server and reads its output until the end.
    pub(crate) fn open(
        entry: ServerEntry,
        pipes: Pipes,
        audit: Arc<Log>,
        events: Arc<dyn ServerEvents>,
        tasks: &TaskTracker,
    ) -> Arc<Connection> {
        let Pipes { input, output, process, errors, errors_read } = pipes;
        let (told, telling) = mpsc::channel(MAX_TOLD);
        let connection = Arc::new(Connection {
            name: entry.name(),
            entry,
            input: tokio::sync::Mutex::new(Some(input)),
            pending: Mutex::default(),
            next_id: AtomicI64::new(1),
            told,
            closing: CancellationToken::new(),
            reason: Mutex::default(),
            errors,
            oversized: AtomicU64::new(0),
            overruns: Overruns::default(),
        });
        let driver =
            Driver { connection: Arc::clone(&connection), audit, events, garbage: Garbage::default() };
        tasks.spawn(driver.run(output, process, errors_read));
        tokio::spawn(tell(Arc::clone(&connection), telling));
        connection
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the server said last on its standard error.
    pub(crate) fn last_error_line(&self) -> Option<String> {
        self.errors.last()
    }

    /// Whether messages can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.closing.is_cancelled()
    }

    /// Counts a notification that was too large to pass on; how many there were before it.
    pub(crate) fn count_oversized(&self) -> u64 {
        self.oversized.fetch_add(1, Ordering::Relaxed)
    }

    /// How many notifications were too large to pass on.
    pub(crate) fn oversized(&self) -> u64 {
        self.oversized.load(Ordering::Relaxed)
    }

    /// Lets the server end: closes its input, then stops it after the policy's timeout.
    pub(crate) fn close(&self, reason: &str) {
        self.set_reason(reason);
        self.closing.cancel();
    }

    /// The call under this id took too long: the server is told, and ended if it has let too many run out
    /// without a word.
    pub(crate) fn give_up(&self, id: i64, limit: Duration) {
        let cancelled = deadline::cancelled(&id.to_string());
        if let Ok(forward) = Forward::own(&cancelled) {
            self.tell(forward);
        }
        if let Some(overrun) = self.overruns.count(limit) {
            self.close(&format!("server `{}` was stopped: {overrun}", self.name));
        }
    }

    /// Why there is no answer.
    pub(crate) fn reason(&self) -> Arc<str> {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reason.unwrap_or_else(|| format!("server `{}` has ended", self.name).into())
    }

    /// Sends a request under a fresh id; the replies go to `waiter`.
    pub(crate) async fn request(
        &self,
        waiter: Waiter,
        make: impl FnOnce(i64) -> Result<Forward, Misplaced>,
    ) -> Result<Waiting<'_>, SendError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let forward = make(id)?;
        self.register(id, waiter)?;
        // From here on, also if this future is dropped while it writes.
        let waiting = Waiting { connection: self, id };
        self.send(&forward).await?;
        Ok(waiting)
    }

    /// Hands over a line that wants no answer, without waiting; it is lost when the server does not read.
    pub(crate) fn tell(&self, forward: Forward) {
        if self.told.try_send(forward).is_err() {
            tracing::warn!(server = self.name, "the server does not read; a message to it is dropped");
        }
    }

    /// Writes a line that wants no answer.
    pub(crate) async fn send(&self, forward: &Forward) -> Result<(), SendError> {
        let written = async {
            let mut input = self.input.lock().await;
            match input.as_mut() {
                Some(input) => input.write(forward.line()).await.is_ok(),
                None => false,
            }
        };
        // A server that does not read must not hold the lock for ever once the connection closes.
        let written = tokio::select! {
            written = written => written,
            () = self.closing.cancelled() => false,
        };
        if written { Ok(()) } else { Err(SendError::Gone(self.reason())) }
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget(&self, id: i64) -> Option<Waiter> {
        self.pending().remove(&id)
    }

    /// Whether this request still waits for its answer.
    pub(crate) fn is_pending(&self, id: i64) -> bool {
        self.pending().contains_key(&id)
    }

    fn register(&self, id: i64, waiter: Waiter) -> Result<(), SendError> {
        let mut pending = self.pending();
        // Checked under the lock under which `fail_pending` empties the table, so nobody waits for ever.
        if !self.is_open() {
            return Err(SendError::Gone(self.reason()));
        }
        if pending.len() >= MAX_PENDING {
            return Err(SendError::Overloaded(self.name.clone()));
        }
        pending.insert(id, waiter);
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<i64, Waiter>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_reason(&self, reason: &str) {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(reason.into());
        }
    }

    fn fail_pending(&self) {
        let reason = self.reason();
        let waiters = std::mem::take(&mut *self.pending());
        for waiter in waiters.into_values() {
            deliver(&waiter.replies, Reply::Gone(Arc::clone(&reason)));
        }
    }
}

/// A request's place at its server. Dropping it frees the place when the asker goes away before the answer comes.
#[must_use]
pub(crate) struct Waiting<'a> {
    connection: &'a Connection,
    id: i64,
}

impl Waiting<'_> {
    /// Gives the request up because it took too long.
    pub(crate) fn expire(&self, limit: Duration) {
        if self.connection.forget(self.id).is_some() {
            self.connection.give_up(self.id, limit);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.connection.forget(self.id).is_some() {
            tracing::debug!(server = self.connection.name, "an answer is not waited for any more");
        }
    }
}

/// Writes what [`Connection::tell`] was given, as fast as the server reads.
async fn tell(connection: Arc<Connection>, mut telling: mpsc::Receiver<Forward>) {
    loop {
        let next = tokio::select! {
            next = telling.recv() => next,
            () = connection.closing.cancelled() => None,
        };
        let Some(forward) = next else { return };
        if connection.send(&forward).await.is_err() {
            return;
        }
    }
}

/// The one place of the channel that is kept for the last reply makes this succeed, unless nobody listens.
fn deliver(replies: &mpsc::Sender<Reply>, last: Reply) {
    if replies.try_send(last).is_err() {
        tracing::debug!("nobody waits for an answer any more");
    }
}

/// Why reading a server's output ended.
enum End {
    Eof,
    Broken(String),
    Closed,
    Exited,
}

struct Driver {
    connection: Arc<Connection>,
    audit: Arc<Log>,
    events: Arc<dyn ServerEvents>,
    garbage: Garbage,
}

impl Driver {
    async fn run(mut self, mut output: Output, process: Process, errors_read: tokio::task::JoinHandle<()>) {
        let connection = Arc::clone(&self.connection);
        let end = tokio::select! {
            end = self.read(&mut output) => end,
            () = connection.closing.cancelled() => End::Closed,
            () = process.ended() => End::Exited,
        };
        if matches!(end, End::Exited)
            && tokio::time::timeout(DRAIN_GRACE, self.read(&mut output)).await.is_err()
        {
            tracing::debug!(server = connection.name, "the server's output stayed open after its end");
        }
        self.sum_up();
        let has_status = matches!(end, End::Eof | End::Exited)
            && tokio::time::timeout(STATUS_GRACE, process.ended()).await.is_ok();
        let grace = connection.entry.stop_timeout();
        if has_status {
            let exit = process.stop(grace).await;
            self.settle_errors(errors_read).await;
            self.finish(&end, Some(exit)).await;
            self.report_stop(&exit);
        } else {
            self.finish(&end, None).await;
            let exit = process.stop(grace).await;
            self.settle_errors(errors_read).await;
            self.report_stop(&exit);
        }
        self.events.ended(&connection, &connection.reason());
    }

    async fn settle_errors(&self, errors_read: tokio::task::JoinHandle<()>) {
        if tokio::time::timeout(DRAIN_GRACE, errors_read).await.is_err() {
            tracing::debug!(
                server = self.connection.name,
                "the server's standard error stayed open after its end"
            );
        }
    }

    /// Tells everybody who waits, and closes the server's input.
    async fn finish(&self, end: &End, exit: Option<ExitReport>) {
        let connection = &self.connection;
        connection.set_reason(&self.sentence(end, exit));
        connection.closing.cancel();
        connection.fail_pending();
        // `closing` has made every writer give the lock back.
        drop(connection.input.lock().await.take());
    }

    fn sentence(&self, end: &End, exit: Option<ExitReport>) -> String {
        let name = &self.connection.name;
        let what = match (end, exit) {
            (End::Broken(what), _) => return format!("server `{name}` was stopped: {what}"),
            (_, Some(exit)) => format!("server `{name}` {}", exit.sentence()),
            (End::Eof, None) => format!("server `{name}` closed its output"),
            (End::Closed | End::Exited, None) => format!("server `{name}` has ended"),
        };
        text::with_last_line(what, self.connection.last_error_line())
    }

    fn report_stop(&self, exit: &ExitReport) {
        let reason = self.connection.reason();
        let own = text::without_quotes(&reason);
        self.audit.record(&self.connection.name, &AuditEvent::stop(own, exit));
        tracing::info!(server = self.connection.name, status = %exit.status, "{reason}");
    }

    async fn read(&mut self, output: &mut Output) -> End {
        loop {
            let line = match output.next().await {
                Ok(Some(Line::Message(line))) => line,
                Ok(Some(Line::TooLong)) => return self.broken("it sent a line over the limit of 16 MiB"),
                Ok(None) => return End::Eof,
                Err(error) => return End::Broken(format!("its output cannot be read: {error}")),
            };
            if let Some(end) = self.line(&line) {
                return end;
            }
        }
    }

    fn line(&mut self, line: &Bytes) -> Option<End> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let message = match envelope::parse(line) {
            Ok(message) => message,
            Err(error) => return self.garbage(line, &error),
        };
        self.garbage.interrupted();
        self.connection.overruns.interrupted();
        match message {
            Message::Response(response) => self.response(line, &response),
            Message::Notification(notification) => self.notification(line, &notification),
            Message::Request(request) => self.request(&request),
        }
        None
    }

    fn garbage(&mut self, line: &Bytes, error: &envelope::EnvelopeError) -> Option<End> {
        self.garbage.count();
        let start = String::from_utf8_lossy(line.get(..line.len().min(200)).unwrap_or_default()).into_owned();
        let start = text::bounded(&start, 100);
        // The first says what is wrong; the ones after it must not bury what else there is to read.
        if self.garbage.is_first() {
            tracing::warn!(server = self.connection.name, "the server sent {error}: {start}");
            let detail = format!("sent {error}");
            self.audit.record(
                &self.connection.name,
                &AuditEvent::ProtocolViolation { by: Peer::Server, detail: &detail },
            );
        } else {
            tracing::info!(server = self.connection.name, "the server sent {error}: {start}");
        }
        let too_much = self.garbage.too_much()?;
        tracing::error!(server = self.connection.name, "the server is stopped: {too_much}");
        Some(End::Broken(too_much.to_string()))
    }

    /// One line for all the garbage after the first: the audit log must not grow with it.
    fn sum_up(&self) {
        let Some(detail) = self.garbage.summary() else { return };
        let event = AuditEvent::ProtocolViolation { by: Peer::Server, detail: &detail };
        self.audit.record(&self.connection.name, &event);
    }

    fn broken(&self, what: &str) -> End {
        let event = AuditEvent::ProtocolViolation { by: Peer::Server, detail: what };
        self.audit.record(&self.connection.name, &event);
        tracing::error!(server = self.connection.name, "the server is stopped: {what}");
        End::Broken(what.to_owned())
    }

    fn response(&self, line: &Bytes, response: &Response<'_>) {
        let waiter = match response.id {
            Some(Id::Number(id)) => self.connection.forget(id),
            Some(Id::Text(_)) | None => None,
        };
        let Some(waiter) = waiter else {
            // The answer to a cancelled request looks the same, so this is no violation.
            tracing::debug!(server = self.connection.name, "the server answered what nobody asked");
            return;
        };
        deliver(&waiter.replies, Reply::Answer(line.clone()));
    }

    fn notification(&self, line: &Bytes, notification: &Notification<'_>) {
        if notification.method == "notifications/progress" {
            if self.progress(notification).is_none() {
                tracing::debug!(server = self.connection.name, "progress of a request that is not pending");
            }
            return;
        }
        self.events.notification(&self.connection, line, notification);
    }

    /// Gives the client's own token back and hands the notification to the request that it belongs to.
    fn progress(&self, notification: &Notification<'_>) -> Option<()> {
        let params = Object::parse(notification.params?.get(), &["progressToken"]).ok()?;
        let raw_token = params.get("progressToken")?;
        let Id::Number(id) = Id::parse(raw_token)? else { return None };
        let (replies, token) = {
            let pending = self.connection.pending();
            let waiter = pending.get(&id)?;
            (waiter.replies.clone(), waiter.progress_token.clone()?)
        };
        let mut edits = crate::edit::Edits::of(notification.line);
        edits.replace(raw_token.get(), token).ok()?;
        let line = Bytes::from(edits.finish().ok()?);
        related(&replies, envelope::single_line(line));
        Some(())
    }

    fn request(&self, request: &Request<'_>) {
        if let Some(answer) = self.events.request(&self.connection, request) {
            self.connection.tell(Forward::own_answer(answer));
        }
    }
}

/// Hands a related message to a request's client, and drops it when that client does not read: the last place
/// of the channel belongs to the answer.
pub(crate) fn related(replies: &mpsc::Sender<Reply>, line: Bytes) -> bool {
    if replies.capacity() <= 1 {
        return false;
    }
    replies.try_send(Reply::Related(line)).is_ok()
}
