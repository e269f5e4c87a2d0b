//! One server of the gateway over time: started when first needed or at start-up, given its handshake once,
//! started again after it ended, with a pause that grows when it keeps ending.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Connection, Reply, ServerEvents, Waiter};
use super::pipes::Pipes;
use super::process;
use crate::audit::{Event as AuditEvent, Log, Unwritable};
use crate::envelope::{self, Message, Object, Outcome};
use crate::launch::ServerEntry;
use crate::permit::Forward;
use crate::{protocol, text};

/// A server that ends sooner than this after its start has not been useful; its next start counts as a retry.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The pause before a retry: doubled each time from half a second, so that a server that cannot start costs
/// little, up to half a minute, so that one whose cause is mended is back before a person looks twice.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What every server is told at its handshake: taken from the first client.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    pub(crate) version: &'static str,
    /// The client's `capabilities` object as JSON.
    pub(crate) capabilities: Value,
    pub(crate) client_info: Value,
}

/// What the gateway's clients have asked of all servers, present and future.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    handshake: OnceLock<Handshake>,
    log_level: Mutex<Option<Value>>,
}

impl Wishes {
    /// Keeps the first client's handshake.
    pub(crate) fn greet(&self, handshake: Handshake) {
        if self.handshake.set(handshake).is_err() {
            tracing::debug!("a later client's capabilities do not change what running servers were told");
        }
    }

    pub(crate) fn set_log_level(&self, level: Value) {
        *self.log_level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
    }

    fn log_level(&self) -> Option<Value> {
        self.log_level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn handshake(&self) -> Handshake {
        self.handshake.get().cloned().unwrap_or_else(|| Handshake {
            version: protocol::LATEST,
            capabilities: json!({}),
            client_info: protocol::own_info(),
        })
    }
}

/// A server could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StartError {
    message: Arc<str>,
}

impl StartError {
    fn new(message: String) -> Self {
        StartError { message: message.into() }
    }
}

/// A server that has answered its handshake.
pub(crate) struct Ready {
    pub(crate) connection: Arc<Connection>,
    capabilities: Vec<String>,
}

impl Ready {
    /// Whether the server declared a capability such as `prompts`.
    pub(crate) fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }
}

/// One server.
pub(crate) struct Server {
    pub(crate) entry: ServerEntry,
    name: String,
    audit: Arc<Log>,
    events: Arc<dyn ServerEvents>,
    wishes: Arc<Wishes>,
    closing: CancellationToken,
    tasks: TaskTracker,
    current: Mutex<Option<Arc<Ready>>>,
    starting: tokio::sync::Mutex<Starting>,
}

#[derive(Default)]
struct Starting {
    /// Launched at start-up, before a client was there to hand over its capabilities.
    launched: Option<Arc<Connection>>,
    started: Option<Instant>,
    setbacks: u32,
    failure: Option<(StartError, Instant)>,
}

/// What all servers of a gateway share.
pub(crate) struct Surroundings {
    pub(crate) audit: Arc<Log>,
    pub(crate) events: Arc<dyn ServerEvents>,
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) closing: CancellationToken,
    /// Whatever holds a server's process; when it is empty, no server is left.
    pub(crate) tasks: TaskTracker,
}

impl Server {
    pub(crate) fn new(entry: ServerEntry, around: &Surroundings) -> Self {
        Server {
            name: entry.name(),
            entry,
            audit: Arc::clone(&around.audit),
            events: Arc::clone(&around.events),
            wishes: Arc::clone(&around.wishes),
            closing: around.closing.clone(),
            tasks: around.tasks.clone(),
            current: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The server if it is running and has answered its handshake.
    pub(crate) fn running(&self) -> Option<Arc<Ready>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|ready| ready.connection.is_open()).cloned()
    }

    /// The running server; starts it if needed, within its start-up deadline. The start goes on when the
    /// request that caused it is cancelled: the next one is likely to need it.
    pub(crate) async fn ready(self: &Arc<Self>) -> Result<Arc<Ready>, StartError> {
        if let Some(ready) = self.running() {
            return Ok(ready);
        }
        let server = Arc::clone(self);
        let start = tokio::spawn(async move { server.start_once().await });
        start.await.unwrap_or_else(|error| Err(StartError::new(format!("the start was given up: {error}"))))
    }

    async fn start_once(&self) -> Result<Arc<Ready>, StartError> {
        let mut starting = self.starting.lock().await;
        // Somebody else may have started it, or failed to, while this call waited.
        if let Some(ready) = self.running() {
            return Ok(ready);
        }
        self.check_pause(&mut starting)?;
        let started = tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(StartError::new("the gateway is shutting down".to_owned())),
            started = self.start(&mut starting) => started,
        };
        self.note(&mut starting, started)
    }

    /// Starts the process but leaves the handshake for the first client.
    pub(crate) async fn launch_early(&self) -> Result<(), StartError> {
        let mut starting = self.starting.lock().await;
        if self.running().is_some() || starting.launched.is_some() {
            return Ok(());
        }
        let launched = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Ok(()),
            launched = self.launch(self.deadline()) => launched,
        };
        match launched {
            Ok(connection) => {
                starting.launched = Some(connection);
                Ok(())
            }
            Err(error) => self.note(&mut starting, Err(error)).map(|_never| ()),
        }
    }

    /// Lets the server end; a start that is under way ends with `closing`.
    pub(crate) async fn shut_down(&self, reason: &str) {
        let launched = self.starting.lock().await.launched.take();
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        let current = current.map(|ready| Arc::clone(&ready.connection));
        for connection in launched.into_iter().chain(current) {
            connection.close(reason);
        }
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.entry.start_timeout()).unwrap_or(now)
    }

    fn check_pause(&self, starting: &mut Starting) -> Result<(), StartError> {
        self.count_quick_end(starting);
        match &starting.failure {
            Some((error, until)) if Instant::now() < *until => Err(error.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// A server that ended soon after its start is treated like one that failed to start, except that the
    /// first restart is immediate.
    fn count_quick_end(&self, starting: &mut Starting) {
        let Some(started) = starting.started.take() else { return };
        let ended = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        if started.elapsed() >= STABLE_AFTER {
            starting.setbacks = 0;
            return;
        }
        let reason = ended.map(|ready| ready.connection.reason());
        let error = StartError {
            message: reason.unwrap_or_else(|| format!("server `{}` has ended", self.name).into()),
        };
        starting.set_back(1, error);
    }

    fn note(
        &self,
        starting: &mut Starting,
        started: Result<Arc<Ready>, StartError>,
    ) -> Result<Arc<Ready>, StartError> {
        match &started {
            Ok(ready) => {
                starting.started = Some(Instant::now());
                starting.failure = None;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(ready));
            }
            Err(error) => {
                let sentence = error.to_string();
                let event = AuditEvent::LaunchFailed { error: text::without_quotes(&sentence) };
                self.audit.record(&self.name, &event);
                starting.set_back(2, error.clone());
            }
        }
        started
    }

    async fn start(&self, starting: &mut Starting) -> Result<Arc<Ready>, StartError> {
        let deadline = self.deadline();
        let connection = match starting.launched.take().filter(|connection| connection.is_open()) {
            Some(connection) => connection,
            None => self.launch(deadline).await?,
        };
        let closing = CloseOnDrop(Some(Arc::clone(&connection)));
        match timeout_at(deadline, self.initialize(&connection)).await {
            Ok(Ok(capabilities)) => {
                closing.disarm();
                Ok(Arc::new(Ready { connection, capabilities }))
            }
            Ok(Err(error)) => {
                connection.close(&error.to_string());
                Err(error)
            }
            Err(_elapsed) => {
                let message = self.late("answer `initialize`", connection.last_error_line());
                connection.close(&message);
                Err(StartError::new(message))
            }
        }
    }

    async fn launch(&self, deadline: Instant) -> Result<Arc<Connection>, StartError> {
        self.audit.check().map_err(|error| self.unrecorded(error))?;
        let launched =
            match timeout_at(deadline, process::launch(Arc::clone(&self.entry.launch), &self.tasks)).await {
                Ok(Ok(launched)) => launched,
                Ok(Err(error)) => {
                    return Err(StartError::new(format!(
                        "server `{}` cannot be started: {}",
                        self.name,
                        chain(&error)
                    )));
                }
                Err(_elapsed) => return Err(StartError::new(self.late("start", None))),
            };
        let event = AuditEvent::ServerStart { facts: &launched.facts };
        if let Err(error) = self.audit.try_record(&self.name, &event) {
            process::discard(launched, &self.tasks);
            return Err(self.unrecorded(error));
        }
        let pipes = Pipes::open(&self.entry, launched).map_err(|error| {
            StartError::new(format!("server `{}` has no usable pipes: {error}", self.name))
        })?;
        let (audit, events) = (Arc::clone(&self.audit), Arc::clone(&self.events));
        Ok(Connection::open(self.entry.clone(), pipes, audit, events, &self.tasks))
    }

    fn unrecorded(&self, error: Unwritable) -> StartError {
        StartError::new(format!("server `{}` cannot be started: {error}", self.name))
    }

    fn late(&self, what: &str, last_line: Option<String>) -> String {
        let seconds = self.entry.start_timeout().as_secs_f32();
        let sentence = format!("server `{}` did not {what} within {seconds} s", self.name);
        text::with_last_line(sentence, last_line)
    }

    async fn initialize(&self, connection: &Arc<Connection>) -> Result<Vec<String>, StartError> {
        let Handshake { version, capabilities, client_info } = self.wishes.handshake();
        let params = json!({
            "protocolVersion": version, "capabilities": capabilities, "clientInfo": client_info,
        });
        let answer = ask(connection, "initialize", &params).await.map_err(StartError::new)?;
        let capabilities = self.read_answer(&answer)?;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.tell(connection, &initialized).await?;
        if let Some(level) = self.wishes.log_level()
            && capabilities.iter().any(|name| name == "logging")
            && let Err(error) = ask(connection, "logging/setLevel", &level).await
        {
            tracing::warn!(server = self.name, "the log level was not set: {error}");
        }
        Ok(capabilities)
    }

    async fn tell(&self, connection: &Connection, message: &Value) -> Result<(), StartError> {
        let forward = Forward::own(message).map_err(|error| StartError::new(error.to_string()))?;
        connection.send(&forward).await.map_err(|error| StartError::new(error.to_string()))
    }

    fn read_answer(&self, result: &str) -> Result<Vec<String>, StartError> {
        let wrong =
            |what: &str| StartError::new(format!("server `{}` answered `initialize` {what}", self.name));
        let result = Object::parse(result, &["protocolVersion", "capabilities"])
            .map_err(|error| wrong(&format!("with {error}")))?;
        let version = result.get("protocolVersion").and_then(envelope::text);
        let version = version.ok_or_else(|| wrong("without a protocol version"))?;
        if !protocol::LEGACY.contains(&version.as_ref()) {
            let version = text::name(&version);
            return Err(wrong(&format!(
                "with protocol version `{version}`, which the gateway does not speak"
            )));
        }
        let capabilities = result.get("capabilities").map_or("{}", RawValue::get);
        let capabilities =
            Object::parse(capabilities, &[]).map_err(|error| wrong(&format!("with {error}")))?;
        Ok(capabilities.members().map(|(name, _)| name.to_owned()).collect())
    }
}

impl Starting {
    fn set_back(&mut self, weight: u32, error: StartError) {
        self.setbacks = self.setbacks.saturating_add(weight);
        let pause = match self.setbacks.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE),
        };
        let now = Instant::now();
        self.failure = Some((error, now.checked_add(pause).unwrap_or(now)));
    }
}

/// Stops a server whose start was given up in the middle.
struct CloseOnDrop(Option<Arc<Connection>>);

impl CloseOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close("its start was given up");
        }
    }
}

/// Asks a server on the gateway's own behalf; the result as JSON, or a sentence.
pub(crate) async fn ask(connection: &Connection, method: &str, params: &Value) -> Result<String, String> {
    let (sender, mut replies) = connection::replies();
    let waiter = Waiter { replies: sender, progress_token: None };
    let message = |id: i64| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let make = |id| Forward::own(&message(id)).map_err(|_never_a_tool_call| crate::edit::Misplaced);
    let _waiting = connection.request(waiter, make).await.map_err(|error| error.to_string())?;
    loop {
        match replies.recv().await {
            Some(Reply::Related(_)) => {}
            Some(Reply::Answer(line)) => return read_result(connection.name(), method, &line),
            Some(Reply::Gone(reason)) => return Err(reason.to_string()),
            None => return Err(connection.reason().to_string()),
        }
    }
}

fn read_result(server: &str, method: &str, line: &[u8]) -> Result<String, String> {
    match envelope::parse(line) {
        Ok(Message::Response(response)) => match response.outcome {
            Outcome::Result(result) => Ok(result.get().to_owned()),
            Outcome::Error(error) => {
                let message = Object::parse(error.get(), &[]).ok();
                let message = message.and_then(|error| error.get("message").and_then(envelope::text));
                let message = text::name(message.as_deref().unwrap_or("no message"));
                Err(text::with_error_message(&format!("server `{server}` answered `{method}`"), &message))
            }
        },
        Ok(Message::Request(_) | Message::Notification(_)) | Err(_) => {
            Err(format!("server `{server}` gave no readable answer to `{method}`"))
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut last = sentence.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // An error that only carries another one says the same as that one.
        if next != last {
            sentence = format!("{sentence}: {next}");
            last = next;
        }
        cause = error.source();
    }
    text::bounded(&sentence, 1000)
}
