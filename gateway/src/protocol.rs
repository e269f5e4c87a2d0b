//! Revisions of MCP, and how the gateway names itself.

use serde_json::{Value, json};

/// The handshake revisions that the gateway speaks on both sides, oldest first.
pub(crate) const LEGACY: &[&str] = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The newest of them.
pub(crate) const LATEST: &str = "2025-11-25";

/// What the gateway says to a request of the stateless revision. It is none of that revision's own error
/// codes, so a client that speaks both falls back to the handshake (2026-07-28, basic/versioning).
pub(crate) const HANDSHAKE_NEEDED: &str =
    "this gateway needs the `initialize` handshake of MCP revision 2025-11-25 or earlier";

/// The revision to answer a client with: its own if the gateway speaks it, the newest otherwise.
pub(crate) fn negotiate(wanted: &str) -> &'static str {
    LEGACY.iter().copied().find(|version| *version == wanted).unwrap_or(LATEST)
}

/// `serverInfo` to clients, `clientInfo` to servers when no client has come yet.
pub(crate) fn own_info() -> Value {
    json!({ "name": "palisade", "version": env!("CARGO_PKG_VERSION") })
}
