//! The only parser of JSON-RPC messages from servers and clients.
//!
//! It reads the envelope (`jsonrpc`, `id`, `method`, `params`, `result`, `error`) and leaves everything below
//! as the bytes that were sent, so that unknown fields, the order of keys and the form of numbers survive.
//!
//! The attacker considered: somebody who wants the gateway to read one message and the server another (a
//! *parser differential*), because then a refused tool call could pass. Hence:
//! - a known key that occurs twice is refused (parsers differ on which one wins);
//! - a key that differs from a known one only in case is refused (Go's `encoding/json` takes `Method` for
//!   `method`, also with U+017F and U+212A);
//! - a key, a method or a tool's name with a control character is refused: a parser whose strings end at a NUL
//!   takes `name\0x` for `name`, and one that strips or skips control characters does too;
//! - arrays (JSON-RPC batches) are refused; MCP removed them in 2025-06-18;
//! - raw line breaks between tokens are replaced by spaces before a message is forwarded, see
//!   [`single_line`]: a server that reads lines in "universal newline" mode (Python's text streams) would
//!   take the text after a carriage return for a message of its own.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The most members that one object of the envelope may have. The schema knows at most a dozen for any
/// object that the gateway opens; 4096 leaves room for `_meta` and extensions and bounds the work per message.
pub const MAX_MEMBERS: usize = 4096;

/// The longest request id, in bytes of JSON. Clients use counters and UUIDs (38 bytes); ids are kept while a
/// request is pending, so they must not be a way to store megabytes.
pub const MAX_ID_BYTES: usize = 1024;

/// The keys of an envelope that have a meaning.
const ENVELOPE_KEYS: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// Why a line is not a message. Reads on after "the server sent" or "the client sent".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The bytes are not UTF-8 (MCP requires it, transports).
    #[error("a line that is not UTF-8")]
    NotUtf8,
    /// The text is not JSON, or not an object.
    #[error("a line that is not a JSON object")]
    NotAnObject,
    /// An array of messages.
    #[error("a JSON-RPC batch, which MCP does not have since revision 2025-06-18")]
    Batch,
    /// `jsonrpc` is not `"2.0"`.
    #[error("a message whose `jsonrpc` is not \"2.0\"")]
    Version,
    /// A known key occurs more than once.
    #[error("a message with two `{key}` keys, which two parsers may read differently")]
    DuplicateKey {
        /// The key.
        key: &'static str,
    },
    /// A key that a case-insensitive parser takes for a known one.
    #[error(
        "a message with a key that differs from `{key}` only in case, which two parsers may read differently"
    )]
    LookalikeKey {
        /// The key that it resembles.
        key: &'static str,
    },
    /// A key that a parser which cuts or strips control characters may take for another.
    #[error("a message with a control character in a key, which two parsers may read differently")]
    ControlInKey,
    /// The same in a method or a tool's name.
    #[error(
        "a message whose `{key}` has control characters or surrounding spaces, which two programs may read differently"
    )]
    AmbiguousText {
        /// The key.
        key: &'static str,
    },
    /// More than [`MAX_MEMBERS`] members.
    #[error("an object with more than {MAX_MEMBERS} members")]
    TooManyMembers,
    /// The id is neither a string nor an integer, or too long.
    #[error("a message whose `id` is neither a string nor an integer")]
    BadId,
    /// A member has the wrong type.
    #[error("a message whose `{key}` has the wrong type")]
    BadMember {
        /// The key.
        key: &'static str,
    },
    /// Neither a request, nor a notification, nor a response, or more than one of them.
    #[error("a message that is not exactly one of request, notification and response")]
    Shape,
    /// `tools/call` as a notification or in another spelling.
    #[error("a `tools/call` that is not a request")]
    DisguisedCall,
}

impl EnvelopeError {
    /// The JSON-RPC error code for an answer.
    pub fn code(&self) -> i64 {
        match self {
            EnvelopeError::NotUtf8 | EnvelopeError::NotAnObject => -32700,
            EnvelopeError::BadMember { key: "name" } | EnvelopeError::AmbiguousText { key: "name" } => -32602,
            EnvelopeError::Batch
            | EnvelopeError::Version
            | EnvelopeError::DuplicateKey { .. }
            | EnvelopeError::LookalikeKey { .. }
            | EnvelopeError::ControlInKey
            | EnvelopeError::AmbiguousText { .. }
            | EnvelopeError::TooManyMembers
            | EnvelopeError::BadId
            | EnvelopeError::BadMember { .. }
            | EnvelopeError::Shape
            | EnvelopeError::DisguisedCall => -32600,
        }
    }
}

/// A request id by value, so that `"a"` and `"\u0061"` are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Id {
    /// An integer id.
    Number(i64),
    /// A string id, unescaped.
    Text(Box<str>),
}

/// One message.
#[derive(Debug, Clone)]
pub enum Message<'a> {
    /// Wants an answer.
    Request(Request<'a>),
    /// Wants none.
    Notification(Notification<'a>),
    /// The answer to a request.
    Response(Response<'a>),
}

/// A message with `id` and `method`.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The whole message as sent.
    pub line: &'a str,
    /// The id by value.
    pub id: Id,
    /// The id as sent.
    pub raw_id: &'a RawValue,
    /// The method, unescaped.
    pub method: Cow<'a, str>,
    /// The parameters as sent.
    pub params: Option<&'a RawValue>,
}

/// A message with `method` and without `id`.
#[derive(Debug, Clone)]
pub struct Notification<'a> {
    /// The whole message as sent.
    pub line: &'a str,
    /// The method, unescaped.
    pub method: Cow<'a, str>,
    /// The parameters as sent.
    pub params: Option<&'a RawValue>,
}

/// A message with `id` and one of `result` and `error`.
#[derive(Debug, Clone)]
pub struct Response<'a> {
    /// The whole message as sent.
    pub line: &'a str,
    /// The id by value; `None` for an error that answers an unreadable request.
    pub id: Option<Id>,
    /// The id as sent.
    pub raw_id: &'a RawValue,
    /// The result or error as sent.
    pub outcome: Outcome<'a>,
}

/// What a response carries.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// `result`.
    Result(&'a RawValue),
    /// `error`.
    Error(&'a RawValue),
}

/// Reads one message. The line must not contain its newline.
pub fn parse(line: &[u8]) -> Result<Message<'_>, EnvelopeError> {
    let line = std::str::from_utf8(line).map_err(|_not_utf8| EnvelopeError::NotUtf8)?;
    if line.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[') {
        return Err(EnvelopeError::Batch);
    }
    let members = Object::parse(line, ENVELOPE_KEYS)?;
    if members.text("jsonrpc")?.as_deref() != Some("2.0") {
        return Err(EnvelopeError::Version);
    }
    let raw_id = members.get("id");
    let params = members.get("params");
    let outcome = outcome(&members)?;
    let method = members.text("method")?;
    if method.as_deref().is_some_and(has_control) {
        return Err(EnvelopeError::AmbiguousText { key: "method" });
    }
    match (method, raw_id, outcome) {
        (Some(method), Some(raw_id), None) => {
            Ok(Message::Request(Request { line, id: request_id(raw_id)?, raw_id, method, params }))
        }
        (Some(method), None, None) => Ok(Message::Notification(Notification { line, method, params })),
        (None, Some(raw_id), Some(outcome)) => {
            Ok(Message::Response(Response { line, id: response_id(raw_id, outcome)?, raw_id, outcome }))
        }
        _ => Err(EnvelopeError::Shape),
    }
}

fn outcome<'a>(members: &Object<'a>) -> Result<Option<Outcome<'a>>, EnvelopeError> {
    match (members.get("result"), members.get("error")) {
        (Some(result), None) => Ok(Some(Outcome::Result(result))),
        (None, Some(error)) => Ok(Some(Outcome::Error(error))),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(EnvelopeError::Shape),
    }
}

fn request_id(raw: &RawValue) -> Result<Id, EnvelopeError> {
    Id::parse(raw).ok_or(EnvelopeError::BadId)
}

fn response_id(raw: &RawValue, outcome: Outcome<'_>) -> Result<Option<Id>, EnvelopeError> {
    match outcome {
        // JSON-RPC 2.0 section 5: null when the id of the request could not be read.
        Outcome::Error(_) if raw.get() == "null" => Ok(None),
        Outcome::Error(_) | Outcome::Result(_) => request_id(raw).map(Some),
    }
}

impl Id {
    /// The id in a member such as `id` or `requestId`; `None` when it is neither a string nor an integer.
    pub fn parse(raw: &RawValue) -> Option<Id> {
        if raw.get().len() > MAX_ID_BYTES {
            return None;
        }
        if let Some(text) = text(raw) {
            return Some(Id::Text(text.into()));
        }
        raw.get().parse().ok().map(Id::Number)
    }
}

/// The members of one JSON object, in order, with their values as sent.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads an object in which the keys of `known` must be unambiguous.
    pub fn parse(json: &'a str, known: &[&'static str]) -> Result<Self, EnvelopeError> {
        let Members { members, overflow } =
            serde_json::from_str(json).map_err(|_not_json| EnvelopeError::NotAnObject)?;
        if overflow {
            return Err(EnvelopeError::TooManyMembers);
        }
        if members.iter().any(|(name, _)| has_control(name)) {
            return Err(EnvelopeError::ControlInKey);
        }
        for key in known {
            check_unambiguous(&members, key)?;
        }
        Ok(Object { members })
    }

    /// The value of a key as sent.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The value of a key that must be a string if it is there.
    pub fn text(&self, key: &'static str) -> Result<Option<Cow<'a, str>>, EnvelopeError> {
        self.get(key).map(|raw| text(raw).ok_or(EnvelopeError::BadMember { key })).transpose()
    }

    /// The keys and values in the order in which they were sent.
    pub fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|(name, value)| (name.as_ref(), *value))
    }
}

/// The elements of a JSON array as sent, at most `max` of them.
pub fn array(raw: &RawValue, max: usize) -> Option<Vec<&RawValue>> {
    let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    (elements.len() <= max).then_some(elements)
}

/// The string in a JSON value, unescaped.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// The message on one line. In valid JSON a raw carriage return or newline can only stand between tokens, so
/// a space in its place changes nothing for a JSON parser, and leaves nothing for a line reader to split at.
pub fn single_line(message: Bytes) -> Bytes {
    if memchr::memchr2(b'\r', b'\n', &message).is_none() {
        return message;
    }
    message.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect()
}

fn check_unambiguous(members: &[(Cow<'_, str>, &RawValue)], key: &'static str) -> Result<(), EnvelopeError> {
    let mut seen = false;
    for (name, _) in members {
        if name == key {
            if std::mem::replace(&mut seen, true) {
                return Err(EnvelopeError::DuplicateKey { key });
            }
        } else if folds_to(name, key) {
            return Err(EnvelopeError::LookalikeKey { key });
        }
    }
    Ok(())
}

/// Whether the text has one of U+0000 to U+001F, or U+007F.
pub(crate) fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_control())
}

/// Whether a case-insensitive parser would take `name` for `key`. Folding through lower and upper case also
/// catches U+017F (long s) and U+212A (Kelvin sign), which Go's `encoding/json` folds to `s` and `k`.
pub(crate) fn folds_to(name: &str, key: &str) -> bool {
    // A character that folds to an ASCII letter has at most three bytes.
    if name.len() < key.len() || name.len() > key.len().saturating_mul(3) {
        return false;
    }
    fold(name).eq(fold(key))
}

fn fold(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase)
}

struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

struct Members<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    overflow: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut found = Members { members: Vec::with_capacity(4), overflow: false };
        while let Some(Text(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            if found.members.len() < MAX_MEMBERS {
                found.members.push((name, value));
            } else {
                found.overflow = true;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
