//! The hostile tools, one module each, and the few steps that they share.
//!
//! What every one of them keeps to: it never reports the content of what it reached, only that it reached it; it
//! cleans up what it made; it waits for no longer than a second; and what would leave a mark on a machine is
//! either made in a child process that exits at once or called with an argument that is invalid on purpose.

pub(crate) mod dial;
pub(crate) mod environment;
pub(crate) mod exhaust;
pub(crate) mod fork;
pub(crate) mod processes;
pub(crate) mod root;
pub(crate) mod ssh;
pub(crate) mod symlink;
pub(crate) mod write;

use palisade_attack::steps::{
    c_string, errno, exit_code, in_child, list, open, open_at, own_pid, parent_pid, read, read_some, reap,
};
use serde_json::{Map, Value};

/// The arguments of one tool call.
#[derive(Debug)]
pub(crate) struct Arguments<'a>(pub(crate) &'a Map<String, Value>);

impl Arguments<'_> {
    /// A string argument that was given and is not empty.
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A string argument that holds a process id.
    fn pid(&self) -> Option<i32> {
        self.text("pid").and_then(|text| text.parse().ok()).filter(|pid| *pid > 0)
    }
}
