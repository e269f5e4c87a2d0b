//! The HTTP endpoint, spoken to byte by byte.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::*;
use crate::launch::ServerEntry;
use crate::{GatewayError, HttpOptions, Token, Transport, run_gateway};

pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub(super) struct Served {
    pub(super) port: u16,
    pub(super) shutdown: CancellationToken,
    running: JoinHandle<Result<(), GatewayError>>,
}

pub(super) async fn serve(servers: Vec<ServerEntry>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = HttpOptions {
        token: Token::new(TOKEN.as_bytes().to_vec()).unwrap(),
        allowed_origins: Vec::new(),
        allowed_hosts: Vec::new(),
    };
    let (context, _) = context();
    let shutdown = context.shutdown.clone();
    let running = tokio::spawn(run_gateway(servers, Transport::Http { listener, options }, context));
    Served { port, shutdown, running }
}

impl Served {
    pub(super) async fn end(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running)
            .await
            .expect("the gateway does not end");
        ended.unwrap().unwrap();
    }

    /// Sends a request head and body, returns status, head and what came of the body until `until` or the end.
    async fn raw(&self, head: &str, body: &str, until: &str) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{head}\r\nConnection: close\r\n{length}\r\n{body}");
        // The endpoint may answer and close before it has read everything.
        drop(stream.write_all(request.as_bytes()).await);
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        let reading = async {
            while !String::from_utf8_lossy(&seen).contains(until) {
                match stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => seen.extend_from_slice(&chunk[..n]),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the endpoint is silent");
        Reply::read(&String::from_utf8_lossy(&seen))
    }

    fn head(&self, method: &str, more: &str) -> String {
        format!(
            "{method} /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {TOKEN}{more}",
            self.port
        )
    }

    async fn post(&self, session: Option<&str>, message: &Value) -> Reply {
        let session = session.map(|id| format!("\r\nMcp-Session-Id: {id}")).unwrap_or_default();
        self.raw(&self.head("POST", &format!("{TYPES}{session}")), &message.to_string(), NEVER).await
    }

    /// Opens the event stream of a session.
    async fn listen(&self, session: &str) -> TcpStream {
        let head = self.head("GET", &format!("\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}"));
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut seen = [0; 15];
        stream.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"HTTP/1.1 200 OK");
        stream
    }

    async fn open(&self, capabilities: Value) -> String {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": { "name": "t", "version": "0" } });
        let reply = self
            .post(None, &json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let session = reply.header("mcp-session-id").expect("a session id");
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(self.post(Some(&session), &initialized).await.status, 202);
        session
    }
}

const TYPES: &str = "\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream";
const NEVER: &str = "\0";

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    text: String,
}

impl Reply {
    fn read(seen: &str) -> Reply {
        let (head, text) = seen.split_once("\r\n\r\n").unwrap_or((seen, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_owned(), text: text.to_owned() }
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The messages of an event stream; chunk sizes and comments are left out.
    fn events(&self) -> Vec<Value> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn one() -> Served {
    serve(vec![entry("a", QUICK, polite_server("a"))]).await
}

#[tokio::test]
async fn a_session_from_initialize_to_delete() {
    let served = one().await;
    let session = served.open(json!({})).await;
    assert!(session.len() == 32 && session.chars().all(|c| c.is_ascii_hexdigit()));
    let call = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "a__echo" } });
    let reply = served.post(Some(&session), &call).await;
    assert_eq!((reply.status, reply.header("content-type").as_deref()), (200, Some("application/json")));
    assert_eq!((&reply.json()["id"], &reply.json()["result"]["x-server"]), (&json!(5), &json!("a")));
    // Another session is another session, with the same ids.
    let other = served.open(json!({})).await;
    assert_ne!(session, other);
    assert_eq!(served.post(Some(&other), &call).await.json()["id"], 5);
    let head = served.head("DELETE", &format!("\r\nMcp-Session-Id: {session}"));
    assert_eq!(served.raw(&head, "", NEVER).await.status, 204);
    assert_eq!(served.post(Some(&session), &call).await.status, 404);
    assert_eq!(served.post(Some(&other), &call).await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn who_may_not_speak_is_told_so() {
    let served = one().await;
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string();
    let port = served.port;
    let host = format!("Host: 127.0.0.1:{port}");
    let auth = format!("Authorization: Bearer {TOKEN}");
    let cases = [
        (401, format!("POST /mcp HTTP/1.1\r\n{host}{TYPES}")),
        (401, format!("POST /mcp HTTP/1.1\r\n{host}\r\nAuthorization: Bearer wrong{TYPES}")),
        (401, format!("POST /mcp HTTP/1.1\r\n{host}\r\nAuthorization: Basic {TOKEN}{TYPES}")),
        (400, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\n{auth}{TYPES}")),
        (403, format!("POST /mcp HTTP/1.1\r\nHost: evil.example:{port}\r\n{auth}{TYPES}")),
        (403, format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:1\r\n{auth}{TYPES}")),
        (403, format!("POST /mcp HTTP/1.1\r\n{auth}{TYPES}")),
        (403, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nOrigin: http://evil.example{TYPES}")),
        (403, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nOrigin: null{TYPES}")),
        (404, format!("POST /other HTTP/1.1\r\n{host}\r\n{auth}{TYPES}")),
        (405, format!("PUT /mcp HTTP/1.1\r\n{host}\r\n{auth}{TYPES}")),
        (405, format!("OPTIONS /mcp HTTP/1.1\r\n{host}\r\n{auth}{TYPES}")),
        (
            406,
            format!(
                "POST /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Type: application/json\r\nAccept: text/html"
            ),
        ),
        (
            406,
            format!(
                "POST /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Type: application/json\r\nAccept: application/json"
            ),
        ),
        (415, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Type: text/plain\r\nAccept: */*")),
        (400, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}{TYPES}")),
        (400, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}{TYPES}\r\nMCP-Protocol-Version: 2026-07-28")),
        (400, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}{TYPES}\r\nMCP-Protocol-Version: nonsense")),
        (404, format!("POST /mcp HTTP/1.1\r\n{host}\r\n{auth}{TYPES}\r\nMcp-Session-Id: guess")),
        (400, format!("GET /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nAccept: text/event-stream")),
        (406, format!("GET /mcp HTTP/1.1\r\n{host}\r\n{auth}\r\nAccept: application/json")),
        (400, format!("DELETE /mcp HTTP/1.1\r\n{host}\r\n{auth}")),
    ];
    for (status, head) in cases {
        let body = if head.starts_with("POST") { body.as_str() } else { "" };
        let reply = served.raw(&head, body, NEVER).await;
        assert_eq!(reply.status, status, "{head}\n{}", reply.text);
        assert_eq!(reply.header("www-authenticate").is_some(), status == 401, "{head}");
    }
    // The positive control: the same request with what is asked for.
    let session = served.open(json!({})).await;
    assert_eq!(
        served.post(Some(&session), &json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })).await.status,
        200
    );
    served.end().await;
}

#[tokio::test]
async fn a_modern_request_is_refused_so_that_clients_fall_back() {
    let served = one().await;
    let head = served
        .head("POST", &format!("{TYPES}\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: server/discover"));
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "server/discover" }).to_string();
    let reply = served.raw(&head, &body, NEVER).await;
    assert_eq!(reply.json()["id"], 1, "a client must see that this answers its request");
    let code = reply.json()["error"]["code"].as_i64().unwrap();
    assert!(reply.status == 400 && !(-32099..=-32020).contains(&code), "{code}");
    served.end().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let served = one().await;
    let session = served.open(json!({})).await;
    let head = served.head("POST", &format!("{TYPES}\r\nMcp-Session-Id: {session}"));
    let body =
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":\"{}\"}}", "x".repeat(17 << 20));
    assert_eq!(served.raw(&head, &body, NEVER).await.status, 413);
    let big = format!("{}\r\nX-Big: {}", served.head("POST", TYPES), "x".repeat(20_000));
    assert_eq!(served.raw(&big, "{}", NEVER).await.status, 431);
    let many = "\r\nX-Many: 1".repeat(100);
    assert_eq!(served.raw(&served.head("POST", &many), "{}", NEVER).await.status, 431);
    served.end().await;
}

#[tokio::test]
async fn malformed_messages_are_refused_and_pretty_ones_are_forwarded_on_one_line() {
    let served = one().await;
    let session = served.open(json!({})).await;
    let head = served.head("POST", &format!("{TYPES}\r\nMcp-Session-Id: {session}"));
    for body in ["", "nonsense", "[]", "{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"ping\"}"] {
        let body = if body.is_empty() { " " } else { body };
        assert_eq!(served.raw(&head, body, NEVER).await.status, 400, "{body}");
    }
    let pretty = "{\n \"jsonrpc\": \"2.0\",\r\n \"id\": 1, \"method\": \"tools/call\",\n \"params\": {\n \"name\": \"a__echo\"\n }\n}\n";
    assert_eq!(served.raw(&head, pretty, NEVER).await.json()["result"]["x-server"], "a");
    served.end().await;
}

/// Sends progress, asks the client, and only then answers.
fn talkative() -> Arc<Fake> {
    fake(|io| {
        while let Some(message) = io.hear() {
            if message["method"] == "tools/call" {
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/progress",
                    "params": { "progressToken": message["params"]["_meta"]["progressToken"], "progress": 1 } }));
                io.say(&json!({ "jsonrpc": "2.0", "id": 77, "method": "elicitation/create", "params": {} }));
                let answer = io.hear().unwrap();
                assert_eq!(answer["id"], 77);
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
                io.say(&reply(&message, json!({ "elicited": answer["result"] })));
            } else if let Some(answer) = polite("t", &message) {
                io.say(&answer);
            }
        }
        0
    })
}

#[tokio::test]
async fn what_belongs_to_a_request_is_streamed_with_its_answer() {
    let served = Arc::new(serve(vec![entry("t", QUICK, talkative())]).await);
    // The first session could answer too, but it is not the one that called.
    let bystander = served.open(json!({ "elicitation": {} })).await;
    let session = served.open(json!({ "elicitation": {} })).await;
    let params = json!({ "name": "t__x", "_meta": { "progressToken": 1 } });
    let call = json!({ "jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": params });
    let head = served.head("POST", &format!("{TYPES}\r\nMcp-Session-Id: {session}"));
    let streaming = {
        let served = Arc::clone(&served);
        let body = call.to_string();
        tokio::spawn(async move { served.raw(&head, &body, NEVER).await })
    };
    // The question's id is the gateway's first for this session.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": { "action": "accept" } });
    assert_eq!(served.post(Some(&session), &answer).await.status, 202);
    let reply = streaming.await.unwrap();
    assert_eq!(reply.header("content-type").as_deref(), Some("text/event-stream"));
    let events = reply.events();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(
        (&events[0]["method"], &events[0]["params"]["progressToken"]),
        (&json!("notifications/progress"), &json!(1))
    );
    assert_eq!((&events[1]["method"], &events[1]["id"]), (&json!("elicitation/create"), &json!(1)));
    assert_eq!(
        (&events[2]["id"], &events[2]["result"]["elicited"]["action"]),
        (&json!("c"), &json!("accept"))
    );
    // What belongs to no request waits for the event stream of each session.
    for id in [bystander, session] {
        let head = served.head("GET", &format!("\r\nAccept: text/event-stream\r\nMcp-Session-Id: {id}"));
        let reply = served.raw(&head, "", "list_changed").await;
        assert_eq!(reply.events()[0]["method"], "notifications/tools/list_changed");
    }
    served.shutdown.cancel();
}

#[tokio::test]
async fn a_session_has_one_event_stream_at_a_time() {
    let served = one().await;
    let session = served.open(json!({})).await;
    let head = served.head("GET", &format!("\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}"));
    let mut first = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    first.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut seen = [0; 15];
    first.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 200 OK");
    assert_eq!(served.raw(&head, "", NEVER).await.status, 409);
    drop(first);
    for _ in 0..100 {
        let reply = served.raw(&head, "", "\r\n\r\n").await;
        if reply.status == 200 {
            served.end().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the stream was not given back");
}

#[tokio::test]
async fn sessions_are_bounded() {
    let served = one().await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let session = served.open(json!({})).await;
        streams.push(served.listen(&session).await);
    }
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {} });
    let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    assert_eq!(served.post(None, &message).await.status, 503);
    served.end().await;
}

#[tokio::test]
async fn the_session_that_was_unused_for_longest_gives_way() {
    let served = one().await;
    let streaming = served.open(json!({})).await;
    let _stream = served.listen(&streaming).await;
    let idle = served.open(json!({})).await;
    let used = served.open(json!({})).await;
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    for _ in 3..64 {
        served.open(json!({})).await;
    }
    assert_eq!(served.post(Some(&used), &ping).await.status, 200);
    served.open(json!({})).await;
    assert_eq!(served.post(Some(&idle), &ping).await.status, 404);
    for kept in [&streaming, &used] {
        assert_eq!(served.post(Some(kept), &ping).await.status, 200);
    }
    served.end().await;
}

/// Asks for an elicitation when it is called or told something, and says what came of it.
fn asking(io: &mut Io) -> i32 {
    let question = json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create" });
    let mut heard = Value::Null;
    while let Some(message) = io.hear() {
        let told = message["method"] == "notifications/roots/list_changed";
        if told || message["params"]["name"] == "ask" {
            io.say(&question);
            heard = io.hear().unwrap();
        }
        if message["method"] == "tools/call" {
            io.say(&reply(&message, json!({ "code": heard["error"]["code"] })));
        } else if let Some(answer) = polite("a", &message) {
            io.say(&answer);
        }
    }
    0
}

#[tokio::test]
async fn a_server_asks_only_a_client_that_uses_it() {
    let served = serve(vec![entry("a", QUICK, fake(asking))]).await;
    let able = served.open(json!({ "elicitation": {} })).await;
    let unable = served.open(json!({})).await;
    let call =
        |name: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": name } });
    // One that uses the server cannot answer: the other one must not be asked in its place.
    let answer = served.post(Some(&unable), &call("a__ask")).await;
    assert!(answer.text.contains("-32601"), "{}", answer.text);
    // Nobody uses it, and there are two.
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    assert_eq!(served.post(Some(&able), &changed).await.status, 202);
    // The server must hear its refusal before the call that asks for it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = served.post(Some(&unable), &call("a__heard")).await;
    assert!(answer.text.contains("-32601"), "{}", answer.text);
    served.end().await;
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let options = HttpOptions {
        token: Token::new(TOKEN.as_bytes().to_vec()).unwrap(),
        allowed_origins: Vec::new(),
        allowed_hosts: Vec::new(),
    };
    let transport = Transport::Http { listener, options };
    let error =
        run_gateway(vec![entry("a", "", polite_server("a"))], transport, context().0).await.unwrap_err();
    assert!(error.to_string().contains("does not listen on `0.0.0.0") && error.hint().is_some());
}
