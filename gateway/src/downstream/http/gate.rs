//! Who may speak to the endpoint at all.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{Answer, plain};

/// The shortest bearer token: 32 characters, 128 bits when written in hexadecimal.
const MIN_TOKEN_BYTES: usize = 32;

/// The longest bearer token: it must fit into the header section with room to spare.
const MAX_TOKEN_BYTES: usize = 4096;

/// The secret that a client must present. It is wiped when dropped and cannot be printed.
pub struct Token(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Token(..)")
    }
}

/// A text is not usable as a bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Too short or too long.
    #[error("a bearer token has between {MIN_TOKEN_BYTES} and {MAX_TOKEN_BYTES} characters")]
    Length,
    /// Something other than visible ASCII.
    #[error("a bearer token has visible ASCII characters only")]
    Character,
}

impl TokenError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some("make one with `openssl rand -hex 32`".to_owned())
    }
}

impl Token {
    /// Checks and takes over a token.
    pub fn new(token: Vec<u8>) -> Result<Self, TokenError> {
        let token = Zeroizing::new(token);
        if token.len() < MIN_TOKEN_BYTES || token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Length);
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Character);
        }
        Ok(Token(token))
    }

    /// Takes the same time for every wrong token of the right length.
    fn matches(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(presented).into()
    }
}

/// What an endpoint accepts.
#[derive(Debug)]
pub struct HttpOptions {
    /// The bearer token.
    pub token: Token,
    /// Origins besides those of this machine, such as `https://chat.example`.
    pub allowed_origins: Vec<String>,
    /// `Host` values besides the address that is listened on, such as the name of a proxy.
    pub allowed_hosts: Vec<String>,
}

/// The checks that every request passes before anything is done for it.
pub(super) struct Gate {
    address: SocketAddr,
    options: HttpOptions,
}

impl Gate {
    pub(super) fn new(address: SocketAddr, options: HttpOptions) -> Self {
        Gate { address, options }
    }

    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Box<Answer>> {
        self.check_host(headers)?;
        self.check_origin(headers)?;
        self.check_token(headers)
    }

    /// A page that had its own name resolved to this machine (DNS rebinding) still sends that name here.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Box<Answer>> {
        let refused = || Box::new(plain(StatusCode::FORBIDDEN, "the Host header does not name this gateway"));
        let host = only(headers, &header::HOST)?.and_then(|host| host.to_str().ok()).ok_or_else(refused)?;
        let listed = self.options.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
        if listed || self.is_own_host(host) { Ok(()) } else { Err(refused()) }
    }

    fn is_own_host(&self, host: &str) -> bool {
        let (name, port) = split_port(host);
        let port_fits = match port {
            Some(port) => port.parse() == Ok(self.address.port()),
            None => self.address.port() == 80,
        };
        port_fits && is_loopback(name)
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Box<Answer>> {
        let Some(origin) = only(headers, &header::ORIGIN)? else { return Ok(()) };
        let allowed = origin.to_str().is_ok_and(|origin| self.is_allowed_origin(origin));
        if allowed {
            return Ok(());
        }
        Err(Box::new(plain(StatusCode::FORBIDDEN, "the gateway does not take requests from this origin")))
    }

    fn is_allowed_origin(&self, origin: &str) -> bool {
        if self.options.allowed_origins.iter().any(|allowed| allowed == origin) {
            return true;
        }
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| is_loopback(split_port(authority).0))
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Box<Answer>> {
        let presented = only(headers, &header::AUTHORIZATION)?.and_then(|value| bearer(value.as_bytes()));
        if presented.is_some_and(|token| self.options.token.matches(token)) {
            return Ok(());
        }
        let mut answer = plain(StatusCode::UNAUTHORIZED, "the gateway wants its bearer token");
        // RFC 6750 section 3: no error code when the client presented nothing.
        let challenge = if presented.is_some() {
            "Bearer realm=\"palisade\", error=\"invalid_token\""
        } else {
            "Bearer realm=\"palisade\""
        };
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        Err(Box::new(answer))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The value of a header that may occur once: of two, a proxy and the gateway could each take another.
pub(super) fn only<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, Box<Answer>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Box::new(plain(StatusCode::BAD_REQUEST, "a header occurs twice that may occur once")));
    }
    Ok(first)
}

pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Box<Answer>> {
    let value =
        only(headers, &header::CONTENT_TYPE)?.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Box::new(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a message is sent as application/json")))
}

/// Every one of `wanted` must be acceptable to the client.
pub(super) fn check_accept(headers: &HeaderMap, wanted: &[&str]) -> Result<(), Box<Answer>> {
    let values: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let ranges: Vec<&str> = values
        .iter()
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .collect();
    if wanted.iter().all(|wanted| ranges.iter().any(|range| accepts(range, wanted))) {
        return Ok(());
    }
    Err(Box::new(plain(
        StatusCode::NOT_ACCEPTABLE,
        "a POST must accept application/json and text/event-stream, a GET text/event-stream",
    )))
}

fn accepts(range: &str, media_type: &str) -> bool {
    if range == "*/*" || range.eq_ignore_ascii_case(media_type) {
        return true;
    }
    let family = media_type.split('/').next().unwrap_or_default();
    range.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(family))
}

/// Host and port of an authority; brackets of an IPv6 address are taken off.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':'));
    }
    match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        let token = Token::new(b"0123456789abcdef0123456789abcdef".to_vec()).unwrap();
        let options = HttpOptions {
            token,
            allowed_origins: vec!["https://chat.example".to_owned()],
            allowed_hosts: vec!["gateway.example".to_owned()],
        };
        Gate::new("127.0.0.1:8811".parse().unwrap(), options)
    }

    #[test]
    fn hosts() {
        let gate = gate();
        for own in ["127.0.0.1:8811", "localhost:8811", "LOCALHOST:8811", "[::1]:8811"] {
            assert!(gate.is_own_host(own), "{own}");
        }
        let foreign = [
            "evil.example:8811",
            "127.0.0.1",
            "127.0.0.1:80",
            "localhost.evil.example:8811",
            "",
            ":8811",
            "[::1",
        ];
        for foreign in foreign {
            assert!(!gate.is_own_host(foreign), "{foreign}");
        }
    }

    #[test]
    fn origins() {
        let gate = gate();
        for allowed in
            ["http://localhost:5173", "http://127.0.0.1", "https://[::1]:3", "https://chat.example"]
        {
            assert!(gate.is_allowed_origin(allowed), "{allowed}");
        }
        let foreign = [
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "file://localhost",
            "https://chat.example.evil",
        ];
        for foreign in foreign {
            assert!(!gate.is_allowed_origin(foreign), "{foreign}");
        }
    }

    #[test]
    fn tokens() {
        assert_eq!(Token::new(b"short".to_vec()).unwrap_err(), TokenError::Length);
        assert_eq!(Token::new(vec![b' '; 40]).unwrap_err(), TokenError::Character);
        let token = Token::new(vec![b'a'; 40]).unwrap();
        assert!(token.matches(&[b'a'; 40]) && !token.matches(&[b'a'; 39]) && !token.matches(&[b'b'; 40]));
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(bearer(b"bearer x"), Some(&b"x"[..]));
        assert_eq!(bearer(b"Basic xx"), None);
    }
}
