//! The JSON-RPC messages that the gateway writes itself.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::envelope::Id;

/// JSON-RPC 2.0: the method does not exist.
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC 2.0: invalid parameters.
pub(crate) const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC 2.0: invalid request.
pub(crate) const INVALID_REQUEST: i64 = -32600;

// The specification (2026-07-28, basic/index, error codes) asks that new codes lie outside the range that
// JSON-RPC reserves.

/// The policy of a server does not allow the call.
pub const REFUSED_BY_POLICY: i64 = -31001;
/// The server could not be started, has ended, or has broken the protocol.
pub const SERVER_UNAVAILABLE: i64 = -31002;
/// Too many requests are pending.
pub const OVERLOADED: i64 = -31003;
/// A call took longer than the server's policy allows.
pub const CALL_TIME_OVER: i64 = -31004;

/// The text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The id as JSON.
pub(crate) fn id_json(id: &Id) -> String {
    match id {
        Id::Number(number) => number.to_string(),
        Id::Text(text) => quoted(text),
    }
}

/// An error answer; `id` is JSON text.
pub(crate) fn error(id: &str, code: i64, message: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{}}}}}"#, quoted(message)).into()
}

/// A result answer; `id` and `result` are JSON text.
pub(crate) fn result(id: &str, result: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into()
}

/// A log message to the client (2025-11-25, server/utilities/logging) that comes from the gateway itself.
pub(crate) fn log_message(server: &str, message: &str) -> Bytes {
    let params = json!({
        "level": "error",
        "logger": "palisade",
        "data": { "server": server, "message": message },
    });
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }).to_string().into()
}
