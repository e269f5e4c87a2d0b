//! How much a server may write that is no message.
//!
//! The attacker considered: a server that writes a valid message after every few lines of garbage, so that a
//! count of lines in a row never reaches its limit while the logs and the audit log grow without end.

use std::fmt;

/// How many lines in a row that are no messages a server may write. A banner or a stack trace on the wrong
/// stream is survivable and has fewer lines; a server that never says anything else is stopped.
pub(crate) const MAX_IN_A_ROW: u32 = 64;

/// How many lines that are no messages one process may write in all: sixteen stack traces of the length above.
/// A server that logs each request to its standard output reaches it, and has to be told not to.
pub(crate) const MAX_IN_TOTAL: u32 = 1024;

/// The count for one process.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    in_a_row: u32,
    total: u32,
}

/// The limit that a server has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMuch {
    InARow,
    InTotal,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TooMuch::InARow => write!(f, "it sent {MAX_IN_A_ROW} lines in a row that are no MCP messages"),
            TooMuch::InTotal => write!(f, "it sent {MAX_IN_TOTAL} lines that are no MCP messages"),
        }
    }
}

impl Garbage {
    /// Counts a line.
    pub(crate) fn count(&mut self) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    /// Whether the line that was counted last is the process's first.
    pub(crate) fn is_first(&self) -> bool {
        self.total == 1
    }

    /// A message came.
    pub(crate) fn interrupted(&mut self) {
        self.in_a_row = 0;
    }

    pub(crate) fn too_much(&self) -> Option<TooMuch> {
        if self.in_a_row >= MAX_IN_A_ROW {
            return Some(TooMuch::InARow);
        }
        (self.total >= MAX_IN_TOTAL).then_some(TooMuch::InTotal)
    }

    /// What the audit log says at the end, when the first line was not the only one.
    pub(crate) fn summary(&self) -> Option<String> {
        (self.total > 1).then(|| format!("sent {} lines in all that are no MCP messages", self.total))
    }
}
