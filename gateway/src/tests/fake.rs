//! Servers made of a thread and three pipes, behind the same seam as a sandbox.

use std::io::{self, BufRead as _, BufReader, Lines, PipeReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::audit::Log;
use crate::launch::{
    Ending, ExitReport, ExitStatus, Launch, LaunchError, Launched, ServerEntry, ServerProcess,
};
use crate::single::Context;

/// A server's side of its pipes.
pub(super) struct Io {
    pub(super) input: Lines<BufReader<PipeReader>>,
    pub(super) out: PipeWriter,
    pub(super) err: PipeWriter,
    killed: mpsc::Receiver<()>,
}

impl Io {
    pub(super) fn say(&mut self, message: &Value) {
        self.say_line(&message.to_string());
    }

    /// A server whose reader is gone goes on; a test looks at the other end.
    pub(super) fn say_line(&mut self, line: &str) {
        drop(writeln!(self.out, "{line}"));
    }

    pub(super) fn hear(&mut self) -> Option<Value> {
        let line = self.input.next()?.ok()?;
        Some(serde_json::from_str(&line).expect("the gateway sends JSON"))
    }

    /// Ignores everything until it is killed.
    pub(super) fn linger(&mut self) {
        self.killed.recv().unwrap_or_default();
    }
}

type Script = dyn Fn(&mut Io) -> i32 + Send + Sync;

/// Starts threads that run a script.
pub(super) struct Fake {
    script: Arc<Script>,
    pub(super) starts: AtomicUsize,
    pub(super) stops: Arc<AtomicUsize>,
    pub(super) alive: Arc<AtomicUsize>,
}

pub(super) fn fake(script: impl Fn(&mut Io) -> i32 + Send + Sync + 'static) -> Arc<Fake> {
    Arc::new(Fake {
        script: Arc::new(script),
        starts: AtomicUsize::new(0),
        stops: Arc::default(),
        alive: Arc::default(),
    })
}

impl Fake {
    pub(super) fn launcher(self: &Arc<Self>) -> Arc<dyn Launch> {
        Arc::<Fake>::clone(self)
    }

    pub(super) fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }

    pub(super) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    pub(super) fn stops(&self) -> usize {
        self.stops.load(Ordering::SeqCst)
    }
}

struct FakeProcess {
    notice: PipeReader,
    kill: mpsc::Sender<()>,
    status: Arc<Mutex<Option<i32>>>,
    stops: Arc<AtomicUsize>,
    notice_end: Arc<Mutex<Option<PipeWriter>>>,
    alive: Arc<AtomicUsize>,
}

impl Launch for Fake {
    fn launch(&self) -> Result<Launched, LaunchError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (stdin_read, stdin) = io::pipe().unwrap();
        let (stdout, out) = io::pipe().unwrap();
        let (stderr, err) = io::pipe().unwrap();
        let (notice, notice_write) = io::pipe().unwrap();
        let (kill, killed) = mpsc::channel();
        let status = Arc::new(Mutex::new(None));
        let notice_end = Arc::new(Mutex::new(Some(notice_write)));
        let process = FakeProcess {
            notice,
            kill,
            status: Arc::clone(&status),
            stops: Arc::clone(&self.stops),
            notice_end: Arc::clone(&notice_end),
            alive: Arc::clone(&self.alive),
        };
        let script = Arc::clone(&self.script);
        let alive = Arc::clone(&self.alive);
        std::thread::spawn(move || {
            let mut io = Io { input: BufReader::new(stdin_read).lines(), out, err, killed };
            let code = script(&mut io);
            drop(io);
            *status.lock().unwrap() = Some(code);
            // Counted before the notice is given.
            if let Some(notice) = notice_end.lock().unwrap().take() {
                alive.fetch_sub(1, Ordering::SeqCst);
                drop(notice);
            }
        });
        Ok(Launched {
            stdin: OwnedFd::from(stdin),
            stdout: OwnedFd::from(stdout),
            stderr: OwnedFd::from(stderr),
            process: Box::new(process),
            facts: json!({ "image": "sha256:fake" }),
        })
    }
}

impl ServerProcess for FakeProcess {
    fn exit_notice(&self) -> io::Result<OwnedFd> {
        self.notice.try_clone().map(OwnedFd::from)
    }

    fn stop(&mut self) -> ExitReport {
        self.stops.fetch_add(1, Ordering::SeqCst);
        self.kill.send(()).unwrap_or_default();
        if let Some(notice) = self.notice_end.lock().unwrap().take() {
            self.alive.fetch_sub(1, Ordering::SeqCst);
            drop(notice);
        }
        ExitReport { status: ExitStatus::Signal(9), ending: Ending::Stopped }
    }

    fn wait(&mut self) -> ExitReport {
        let status = self.status.lock().unwrap().map_or(ExitStatus::Unknown, ExitStatus::Code);
        ExitReport { status, ending: Ending::Itself }
    }
}

/// A launcher that takes longer than anybody waits.
pub(super) struct Slow(pub(super) Arc<Fake>, pub(super) Duration);

impl Launch for Slow {
    fn launch(&self) -> Result<Launched, LaunchError> {
        std::thread::sleep(self.1);
        self.0.launch()
    }
}

/// A launcher that refuses.
pub(super) struct Refusing;

impl Launch for Refusing {
    fn launch(&self) -> Result<Launched, LaunchError> {
        Err(LaunchError::new("the image has no signature")
            .with_hint("sign it")
            .with_source(io::Error::other("nothing was found")))
    }
}

/// A policy for a server, with more lines of YAML.
pub(super) fn entry(name: &str, more: &str, launch: Arc<dyn Launch>) -> ServerEntry {
    let text = format!("palisade: 1\nserver: {name}\nimage: {{ reference: fake, unsigned: a test }}\n{more}");
    let policy = palisade_policy::parse("test.yaml", &text).unwrap_or_else(|error| panic!("{error}: {text}"));
    ServerEntry { policy: Arc::new(policy), launch }
}

/// Short deadlines, so that tests of bad servers are quick.
pub(super) const QUICK: &str = "lifecycle: { start_timeout: 1s, stop_timeout: 1s }\n";

/// What was written to the audit log.
#[derive(Clone, Default)]
pub(super) struct Audited(Arc<Mutex<Vec<u8>>>);

impl Write for Audited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Audited {
    pub(super) fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn of(&self, event: &str) -> Vec<Value> {
        self.events().into_iter().filter(|value| value["event"] == event).collect()
    }
}

pub(super) fn context() -> (Context, Audited) {
    let audited = Audited::default();
    let audit = Arc::new(Log::write_to(Box::new(audited.clone())));
    (Context { audit, shutdown: CancellationToken::new() }, audited)
}

/// The client's end of two streams.
pub(super) struct Client {
    pub(super) to: Option<DuplexStream>,
    pub(super) from: tokio::io::Lines<tokio::io::BufReader<DuplexStream>>,
}

/// A client and the gateway's side of its streams.
pub(super) fn client() -> (Client, (DuplexStream, DuplexStream)) {
    let (to, gateway_in) = tokio::io::duplex(1 << 20);
    let (gateway_out, from) = tokio::io::duplex(1 << 20);
    let from = tokio::io::BufReader::new(from).lines();
    (Client { to: Some(to), from }, (gateway_in, gateway_out))
}

impl Client {
    pub(super) async fn send(&mut self, message: &Value) {
        self.send_line(&message.to_string()).await;
    }

    pub(super) async fn send_line(&mut self, line: &str) {
        let to = self.to.as_mut().expect("the client has not left");
        to.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub(super) async fn line(&mut self) -> Option<String> {
        tokio::time::timeout(Duration::from_secs(20), self.from.next_line())
            .await
            .expect("the gateway is silent")
            .unwrap()
    }

    pub(super) async fn message(&mut self) -> Value {
        let line = self.line().await.expect("the gateway has closed");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a request and returns its answer, leaving out notifications.
    pub(super) async fn ask(&mut self, id: i64, method: &str, params: Value) -> Value {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await;
        self.answer(id).await
    }

    pub(super) async fn answer(&mut self, id: i64) -> Value {
        loop {
            let message = self.message().await;
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
        }
    }

    pub(super) async fn initialize(&mut self, capabilities: Value) -> Value {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "0" },
        });
        let answer = self.ask(0, "initialize", params).await;
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        answer
    }

    pub(super) fn leave(&mut self) {
        self.to = None;
    }
}

/// A request as a server sees it.
#[expect(clippy::needless_pass_by_value, reason = "callers write the result in place")]
pub(super) fn reply(request: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
}

/// What a well-behaved server named `name` answers; `None` for notifications and what it does not know.
pub(super) fn polite(name: &str, request: &Value) -> Option<Value> {
    let params = &request["params"];
    let result = match request["method"].as_str()? {
        "initialize" => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": { "listChanged": true }, "prompts": {}, "resources": { "subscribe": true }, "logging": {}, "completions": {} },
            "serverInfo": { "name": name, "version": "1" },
        }),
        "tools/list" if params["cursor"] == "two" => {
            json!({ "tools": [{ "name": "drop", "inputSchema": {} }] })
        }
        "tools/list" => json!({
            "tools": [{ "name": "echo", "x-vendor": { "n": 1.0 }, "inputSchema": { "type": "object" } }],
            "nextCursor": "two",
        }),
        "tools/call" => json!({
            "content": [{ "type": "text", "text": params.to_string() }],
            "x-server": name,
        }),
        "prompts/list" => json!({ "prompts": [{ "name": "hello" }] }),
        "prompts/get" => json!({ "messages": [], "x-asked": params["name"], "x-server": name }),
        "resources/list" => json!({ "resources": [{ "uri": format!("{name}://one"), "name": "one" }] }),
        "resources/templates/list" => {
            json!({ "resourceTemplates": [{ "uriTemplate": format!("{name}://row/{{id}}"), "name": "row" }] })
        }
        "resources/read" => json!({ "contents": [{ "uri": params["uri"], "text": name }] }),
        "completion/complete" => json!({ "completion": { "values": [name, params["ref"].to_string()] } }),
        "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" => json!({}),
        _ => return None,
    };
    Some(reply(request, result))
}

/// A server that does everything right.
pub(super) fn polite_server(name: &'static str) -> Arc<Fake> {
    fake(move |io| {
        while let Some(request) = io.hear() {
            if let Some(answer) = polite(name, &request) {
                io.say(&answer);
            }
        }
        0
    })
}
