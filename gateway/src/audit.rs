//! The audit log: one JSON object per line, appended, for every start, stop, call and violation.
//!
//! No arguments, no results, no secrets; names that a server or a client chose are bounded and escaped.
//! When the log cannot be written, tool calls are refused until it can ([`Log::check`]): a call that
//! leaves no trace is worse than a call that fails.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::launch::{Ending, ExitReport, ExitStatus};
use crate::text;

/// An open audit log.
#[derive(Debug)]
pub struct Log {
    sink: Mutex<Sink>,
}

struct Sink {
    out: Box<dyn Write + Send>,
    state: SinkState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SinkState {
    Sound,
    /// The last write failed; the file may end in the middle of a line.
    Broken,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sink").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The audit log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written, so no server is started and no tool is called")]
pub struct Unwritable;

/// What happened. The server's name and the time are added by [`Log::record`].
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The server's process was started.
    ServerStart {
        /// Image digest, spec digest, evidence, enforcement: from the launcher.
        facts: &'a Value,
    },
    /// The server could not be started.
    LaunchFailed {
        /// The error's sentence.
        error: &'a str,
    },
    /// The server ended.
    ServerStop {
        /// Why the gateway let it end.
        reason: &'a str,
        /// Exit status.
        exit_code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
        /// Whether the gateway had to end it.
        stopped: bool,
    },
    /// A tool is about to be called, or the call was refused. Written before the server sees the call.
    ToolCall {
        /// The tool's name.
        tool: String,
        /// `permitted` or `refused`.
        decision: Decision,
        /// The rule that decided.
        rule: &'a str,
    },
    /// A permitted call is over.
    ToolResult {
        /// The tool's name.
        tool: String,
        /// From the request to the answer.
        duration_ms: u64,
        /// How it ended.
        outcome: CallOutcome,
    },
    /// A server or a client broke the protocol.
    ProtocolViolation {
        /// `server` or `client`.
        by: Peer,
        /// What was sent, in words.
        detail: &'a str,
    },
}

/// Whether a call was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The policy allows it.
    Permitted,
    /// The policy does not allow it.
    Refused,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// The server answered with a result.
    Result,
    /// The server answered with a result that says `isError`.
    ToolError,
    /// The server answered with a JSON-RPC error.
    Error,
    /// The client gave up.
    Cancelled,
    /// It took longer than the policy's `limits.call_time`.
    TimeOver,
    /// The server ended before it answered, or could not be started.
    ServerGone,
    /// The call never reached the server.
    NotForwarded,
}

/// Who sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// The server.
    Server,
    /// The client.
    Client,
}

#[derive(Serialize)]
struct Record<'a> {
    ts: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    server: &'a str,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Event<'_> {
    pub(crate) fn stop<'a>(reason: &'a str, exit: &ExitReport) -> Event<'a> {
        let (exit_code, signal) = match exit.status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        Event::ServerStop { reason, exit_code, signal, stopped: exit.ending == Ending::Stopped }
    }
}

impl Log {
    /// A log that appends to `file`, which the caller has opened for appending, and for reading if a line that
    /// was cut off when the machine went down is to be ended before the first event.
    pub fn append_to(file: File) -> Self {
        let state = if ends_in_a_line(&file) { SinkState::Broken } else { SinkState::Sound };
        Log { sink: Mutex::new(Sink { out: Box::new(file), state }) }
    }

    /// A log that goes to any writer. Each event is one `write_all` of a whole line.
    pub fn write_to(out: Box<dyn Write + Send>) -> Self {
        Log { sink: Mutex::new(Sink { out, state: SinkState::Sound }) }
    }

    /// Appends one event; `server` is empty for what concerns no server. A failure is reported through `tracing` and makes [`Log::check`] fail.
    pub fn record(&self, server: &str, event: &Event<'_>) {
        if self.try_record(server, event).is_err() {
            tracing::debug!(server, "an event is missing from the audit log");
        }
    }

    /// Like [`Log::record`], for what must not happen without a trace.
    pub fn try_record(&self, server: &str, event: &Event<'_>) -> Result<(), Unwritable> {
        let record = Record { ts: timestamp(), server, event };
        let line = serde_json::to_string(&record).map_err(io::Error::from);
        let mut sink = self.sink();
        line.and_then(|line| sink.append(&line)).map_err(|error| {
            tracing::error!(%error, server, "the audit log cannot be written");
            Unwritable
        })
    }

    /// Fails while the log cannot be written. After a failure it tries again, so that a log whose disk has
    /// room again recovers.
    pub fn check(&self) -> Result<(), Unwritable> {
        let mut sink = self.sink();
        match sink.state {
            SinkState::Sound => Ok(()),
            SinkState::Broken => sink.end_broken_line().map_err(|_reported_before| Unwritable),
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    fn append(&mut self, line: &str) -> io::Result<()> {
        self.end_broken_line()?;
        self.state = SinkState::Broken;
        self.out.write_all(format!("{line}\n").as_bytes())?;
        self.out.flush()?;
        self.state = SinkState::Sound;
        Ok(())
    }

    fn end_broken_line(&mut self) -> io::Result<()> {
        if self.state == SinkState::Broken {
            self.out.write_all(b"\n")?;
            self.out.flush()?;
            self.state = SinkState::Sound;
        }
        Ok(())
    }
}

/// Whether a file ends in the middle of a line. A file that cannot be read is taken to be whole.
fn ends_in_a_line(file: &File) -> bool {
    let Ok(last) = file.metadata().map(|metadata| metadata.len().saturating_sub(1)) else { return false };
    let mut byte = [b'\n'];
    file.read_at(&mut byte, last).is_ok() && byte != [b'\n']
}

/// A tool's name as the log carries it.
pub(crate) fn tool_name(name: &str) -> String {
    text::name(name)
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339, UTC, milliseconds.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().unwrap();
            let room = disk.1.saturating_sub(disk.0.len());
            let taken = bytes.get(..room.min(bytes.len())).unwrap();
            if taken.is_empty() && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.0.extend_from_slice(taken);
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk {
        fn resize(&self, room: usize) {
            self.0.lock().unwrap().1 = room;
        }

        fn lines(&self) -> Vec<String> {
            let disk = self.0.lock().unwrap();
            String::from_utf8(disk.0.clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    fn violation(log: &Log, detail: &str) {
        log.record("s", &Event::ProtocolViolation { by: Peer::Server, detail });
    }

    #[test]
    fn each_event_is_one_line_with_time_and_server() {
        let disk = Disk::default();
        disk.resize(10_000);
        let log = Log::write_to(Box::new(disk.clone()));
        violation(&log, "a \"line\"\nbreak");
        let lines = disk.lines();
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(value["event"], "protocol_violation");
        assert_eq!(value["server"], "s");
        let ts = value["ts"].as_str().unwrap();
        assert!(ts.len() == 24 && ts.ends_with('Z'), "{ts}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's own small file")]
    fn a_line_that_was_cut_off_is_ended_before_the_first_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let open = |read| File::options().append(true).read(read).open(&path).unwrap();
        for (before, expected) in [("{\"cut", 2), ("{}\n", 2), ("", 1)] {
            std::fs::write(&path, before).unwrap();
            violation(&Log::append_to(open(true)), "x");
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines.len(), expected, "{text}");
            assert!(serde_json::from_str::<Value>(lines[expected - 1]).is_ok(), "{text}");
        }
        // Without the right to read, the log is written all the same.
        std::fs::write(&path, "{}\n").unwrap();
        violation(&Log::append_to(open(false)), "x");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_full_disk_is_noticed_and_recovered_from_without_gluing_lines() {
        let disk = Disk::default();
        let log = Log::write_to(Box::new(disk.clone()));
        disk.resize(10);
        violation(&log, "cut");
        assert_eq!(log.check(), Err(Unwritable));
        disk.resize(10_000);
        assert_eq!(log.check(), Ok(()));
        violation(&log, "whole");
        assert!(disk.lines().last().unwrap().contains("whole"));
        assert!(serde_json::from_str::<Value>(disk.lines().last().unwrap()).is_ok());
    }
}
