//! Streamable HTTP (MCP 2025-11-25, transports), for clients of this machine.
//!
//! The attackers considered: a web page in a browser of the same machine (DNS rebinding, cross-origin
//! requests), a local process without the token, and a client that sends slowly, sends much, or never reads.
//! In this order, every request is checked for its `Host`, its `Origin`, its bearer token, and only then for
//! what it asks. Everything that a client can make grow has a limit: connections, header bytes, body bytes,
//! sessions, pending requests, queued messages.
//!
//! `gate` holds those checks; `serve` below answers POST, GET and DELETE; `table` holds the sessions; `body`
//! is the two forms of an answer. One path, so there is no router: hyper alone.
//!
//! A request is answered as JSON if its answer is the first message, and as an event stream otherwise, or
//! after [`STREAM_AFTER`]. Streams are not resumable: a broken one loses its answer.

mod body;
mod gate;
mod table;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::envelope::{self, Message};
use crate::hub::{Accepted, Hub, Output};
use crate::line::MAX_MESSAGE_BYTES;
use crate::{protocol, rpc};

use self::body::AnyBody;
use self::table::{Handle, Table};

pub use self::gate::{HttpOptions, Token, TokenError};

/// The path of the endpoint.
pub(crate) const ENDPOINT: &str = "/mcp";

/// How many connections may be open. A client has one per pending request and one for its event stream; 64
/// sessions with four each.
const MAX_CONNECTIONS: usize = 256;

/// The most bytes of a request's header section: 16 KiB, twice what common servers accept. Tokens and cookies fit.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The most headers of a request. Browsers send about 20.
const MAX_HEADERS: usize = 64;

/// How long a client may take to send its headers, and then its body.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// After how long an answer that has not come is begun as an event stream, so that intermediaries and clients
/// see that the request lives.
const STREAM_AFTER: Duration = Duration::from_secs(5);

/// How long open connections may take to end when the gateway ends.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The HTTP endpoint could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The socket has no address.
    #[error("the listening socket is not usable")]
    Socket(#[source] io::Error),
    /// The address is not a loopback address.
    #[error("the gateway does not listen on `{0}`, which other machines can reach without encryption")]
    NotLoopback(SocketAddr),
}

impl ListenError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ListenError::Socket(_) => None,
            ListenError::NotLoopback(_) => {
                Some("listen on 127.0.0.1 and put a proxy that speaks TLS in front of it".to_owned())
            }
        }
    }
}

/// How often the log says that connections are refused: once a minute shows that it goes on.
const REFUSED_INTERVAL: Duration = Duration::from_mins(1);

/// What every connection needs.
struct Endpoint {
    hub: Arc<Hub>,
    gate: gate::Gate,
    table: Table,
    shutdown: CancellationToken,
}

type Answer = Response<AnyBody>;

/// Serves until the gateway shall end.
pub(crate) async fn serve(
    hub: &Arc<Hub>,
    listener: TcpListener,
    options: HttpOptions,
    shutdown: &CancellationToken,
) -> Result<(), ListenError> {
    let address = listener.local_addr().map_err(ListenError::Socket)?;
    if !address.ip().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    let endpoint = Arc::new(Endpoint {
        hub: Arc::clone(hub),
        gate: gate::Gate::new(address, options),
        table: Table::default(),
        shutdown: shutdown.child_token(),
    });
    let mut refused = Refused::default();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = shutdown.cancelled() => break,
            () = endpoint.table.sweep_when_due(hub) => continue,
        };
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            refused.count();
            continue;
        };
        let endpoint = Arc::clone(&endpoint);
        connections.spawn(async move {
            connection(endpoint, stream).await;
            drop(permit);
        });
    }
    drop(listener);
    endpoint.table.clear(hub);
    let closing = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_GRACE, closing).await.is_err() {
        tracing::debug!("connections were cut");
    }
    Ok(())
}

/// Connections that were refused because there were too many.
#[derive(Default)]
struct Refused {
    since_told: u64,
    told: Option<tokio::time::Instant>,
}

impl Refused {
    /// Says so, but not for each: whoever can open connections could fill the log.
    fn count(&mut self) {
        self.since_told = self.since_told.saturating_add(1);
        if self.told.is_none_or(|told| told.elapsed() >= REFUSED_INTERVAL) {
            tracing::warn!(refused = self.since_told, "too many connections; some are refused");
            *self = Refused { since_told: 0, told: Some(tokio::time::Instant::now()) };
        }
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Mostly a lack of descriptors: waiting is all that helps.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(endpoint: Arc<Endpoint>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "answers may be delayed");
    }
    let shutdown = endpoint.shutdown.clone();
    let service = hyper::service::service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

impl Endpoint {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Err(refused) = self.gate.check(request.headers()) {
            return *refused;
        }
        if request.uri().path() != ENDPOINT {
            return plain(StatusCode::NOT_FOUND, "the endpoint is /mcp");
        }
        let answer = match *request.method() {
            Method::POST => self.post(request).await,
            Method::GET => self.get(request.headers()),
            Method::DELETE => self.delete(request.headers()),
            _ => Err(Box::new(not_allowed())),
        };
        answer.unwrap_or_else(|refused| *refused)
    }

    async fn post(&self, request: Request<Incoming>) -> Result<Answer, Box<Answer>> {
        let headers = request.headers();
        gate::check_content_type(headers)?;
        gate::check_accept(headers, &["application/json", "text/event-stream"])?;
        let version = version(headers)?;
        let session = session_id(headers)?;
        // A session that is gone is told so before its body is read.
        let known = session.as_deref().map(|id| self.session(id)).transpose()?;
        let body = read_body(request).await?;
        if version == Version::Unknown {
            return Err(handshake_needed(&body));
        }
        match known {
            Some(handle) => self.message(&handle, body).await,
            None => self.first_message(body).await,
        }
    }

    /// A message without a session can only be `initialize`.
    async fn first_message(&self, body: Bytes) -> Result<Answer, Box<Answer>> {
        match envelope::parse(&body) {
            Ok(Message::Request(request)) if request.method == "initialize" => {}
            Ok(Message::Request(_) | Message::Notification(_) | Message::Response(_)) => {
                return Err(handshake_needed(&body));
            }
            Err(error) => {
                let answer = rpc::error("null", error.code(), &format!("the client sent {error}"));
                return Err(Box::new(json(StatusCode::BAD_REQUEST, answer)));
            }
        }
        let Some((id, handle)) = self.table.open(&self.hub) else {
            return Err(Box::new(plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "the gateway has too many sessions",
            )));
        };
        let mut answer = self.message(&handle, body).await?;
        if !handle.session.is_initialized() {
            self.table.close(&id, &self.hub);
            return Ok(answer);
        }
        if let Ok(value) = header::HeaderValue::from_str(&id) {
            answer.headers_mut().insert(SESSION_ID, value);
        }
        Ok(answer)
    }

    async fn message(&self, handle: &Arc<Handle>, body: Bytes) -> Result<Answer, Box<Answer>> {
        handle.touch();
        match self.hub.accept(&handle.session, &body) {
            Accepted::Nothing => Ok(empty(StatusCode::ACCEPTED)),
            Accepted::Refused(answer) => Err(Box::new(json(StatusCode::BAD_REQUEST, answer))),
            Accepted::Request(mut output) => match tokio::time::timeout(STREAM_AFTER, output.recv()).await {
                Ok(Some(Output::Answer(answer))) => Ok(json(StatusCode::OK, answer)),
                Ok(Some(related @ Output::Related(_))) => {
                    Ok(stream(AnyBody::answers(Some(related), output, Arc::clone(handle))))
                }
                // Cancelled: there is no answer to send.
                Ok(None) => Ok(empty(StatusCode::ACCEPTED)),
                Err(_elapsed) => Ok(stream(AnyBody::answers(None, output, Arc::clone(handle)))),
            },
        }
    }

    fn get(&self, headers: &HeaderMap) -> Result<Answer, Box<Answer>> {
        gate::check_accept(headers, &["text/event-stream"])?;
        if version(headers)? == Version::Unknown {
            return Err(handshake_needed(b""));
        }
        let Some(id) = session_id(headers)? else { return Err(no_session()) };
        let handle = self.session(&id)?;
        handle.touch();
        match handle.take_messages() {
            Some(messages) => Ok(stream(AnyBody::messages(messages, handle))),
            None => Err(Box::new(plain(StatusCode::CONFLICT, "the session has an event stream already"))),
        }
    }

    fn delete(&self, headers: &HeaderMap) -> Result<Answer, Box<Answer>> {
        let Some(id) = session_id(headers)? else { return Err(no_session()) };
        self.session(&id)?;
        self.table.close(&id, &self.hub);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn session(&self, id: &str) -> Result<Arc<Handle>, Box<Answer>> {
        let gone = || Box::new(plain(StatusCode::NOT_FOUND, "the session does not exist or has ended"));
        self.table.get(id).ok_or_else(gone)
    }
}

async fn read_body(request: Request<Incoming>) -> Result<Bytes, Box<Answer>> {
    let body = Limited::new(request.into_body(), MAX_MESSAGE_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Box::new(plain(StatusCode::PAYLOAD_TOO_LARGE, "a message has 16 MiB at most")))
        }
        Ok(Err(_)) => Err(Box::new(plain(StatusCode::BAD_REQUEST, "the body cannot be read"))),
        Err(_elapsed) => Err(Box::new(plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))),
    }
}

fn session_id(headers: &HeaderMap) -> Result<Option<String>, Box<Answer>> {
    let Some(value) = gate::only(headers, &SESSION_ID)? else { return Ok(None) };
    match value.to_str() {
        Ok(id) => Ok(Some(id.to_owned())),
        Err(_not_ascii) => Err(no_session()),
    }
}

/// What a request's `MCP-Protocol-Version` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Nothing, or a revision with a handshake.
    Known,
    /// Another revision.
    Unknown,
}

fn version(headers: &HeaderMap) -> Result<Version, Box<Answer>> {
    let Some(value) = gate::only(headers, &PROTOCOL_VERSION)? else { return Ok(Version::Known) };
    let known = value.to_str().is_ok_and(|version| protocol::LEGACY.contains(&version));
    Ok(if known { Version::Known } else { Version::Unknown })
}

/// None of the stateless revision's own errors, but under the request's id: a client that speaks both eras
/// takes this for the answer of a gateway that needs the handshake, and falls back.
fn handshake_needed(body: &[u8]) -> Box<Answer> {
    let id = match envelope::parse(body) {
        Ok(Message::Request(request)) => request.raw_id.get(),
        Ok(Message::Notification(_) | Message::Response(_)) | Err(_) => "null",
    };
    let answer = rpc::error(id, rpc::INVALID_REQUEST, protocol::HANDSHAKE_NEEDED);
    Box::new(json(StatusCode::BAD_REQUEST, answer))
}

fn no_session() -> Box<Answer> {
    Box::new(plain(StatusCode::BAD_REQUEST, "the request has no usable Mcp-Session-Id"))
}

fn not_allowed() -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "the endpoint takes POST, GET and DELETE");
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST, GET, DELETE"));
    answer
}

fn empty(status: StatusCode) -> Answer {
    with_body(status, None, AnyBody::empty())
}

fn plain(status: StatusCode, sentence: &'static str) -> Answer {
    with_body(
        status,
        Some("text/plain; charset=utf-8"),
        AnyBody::whole(Bytes::from_static(sentence.as_bytes())),
    )
}

fn json(status: StatusCode, message: Bytes) -> Answer {
    with_body(status, Some("application/json"), AnyBody::whole(message))
}

fn stream(body: AnyBody) -> Answer {
    let mut answer = with_body(StatusCode::OK, Some("text/event-stream"), body);
    answer.headers_mut().insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    answer
}

fn with_body(status: StatusCode, content_type: Option<&'static str>, body: AnyBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    }
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refused_connections_are_reported_once_a_minute() {
        let mut refused = Refused::default();
        refused.count();
        for left_out in 1..=1000 {
            refused.count();
            assert_eq!(refused.since_told, left_out, "said nothing");
        }
        tokio::time::advance(REFUSED_INTERVAL).await;
        refused.count();
        assert_eq!(refused.since_told, 0, "said how many");
    }
}
