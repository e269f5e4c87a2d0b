//! What happens to a call that takes longer than `limits.call_time`.
//!
//! The client gets an error, the server is told to stop working on it, and its late answer is dropped. A server need
//! not confirm that, so silence proves nothing after one call; a server that lets several run out and says nothing at
//! all meanwhile does not work any more, or does nothing else, and is ended.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// How many calls may run out without a word from the server in between: one may be a bug of one tool, two a
/// coincidence.
const MAX_SILENT: u32 = 3;

/// The count for one running server.
#[derive(Debug, Default)]
pub(crate) struct Overruns(AtomicU32);

/// The server has let too many calls run out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Overrun {
    limit: Duration,
}

impl Overruns {
    /// A call has run out; says so when it was one too many.
    pub(crate) fn count(&self, limit: Duration) -> Option<Overrun> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        (before.saturating_add(1) >= MAX_SILENT).then_some(Overrun { limit })
    }

    /// The server has said something.
    pub(crate) fn interrupted(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it let {MAX_SILENT} calls run out of the {:?} of `limits.call_time` and said nothing meanwhile",
            self.limit
        )
    }
}

/// What the client is told.
pub(crate) fn sentence(server: &str, tool: &str, limit: Duration) -> String {
    format!(
        "the call of `{tool}` took longer than the {limit:?} that `limits.call_time` allows to server `{server}`"
    )
}

/// What the server is told (2025-11-25, basic/utilities/cancellation); `id` is JSON text.
pub(crate) fn cancelled(id: &str) -> Value {
    let id: Value = serde_json::from_str(id).unwrap_or_default();
    json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": id, "reason": "the call took longer than the gateway's policy allows" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_silent_overruns_are_one_too_many() {
        let overruns = Overruns::default();
        let limit = Duration::from_secs(30);
        assert!(overruns.count(limit).is_none() && overruns.count(limit).is_none());
        overruns.interrupted();
        assert!(overruns.count(limit).is_none() && overruns.count(limit).is_none());
        let said = overruns.count(limit).unwrap().to_string();
        assert_eq!(
            said,
            "it let 3 calls run out of the 30s of `limits.call_time` and said nothing meanwhile"
        );
    }

    #[test]
    fn ids_of_both_kinds_are_cancelled_as_they_are() {
        assert_eq!(cancelled("7")["params"]["requestId"], 7);
        assert_eq!(cancelled("\"a\\n\"")["params"]["requestId"], "a\n");
    }
}
