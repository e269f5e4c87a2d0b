//! What servers write to their standard error: logged line by line under the server's name, bounded in length
//! and rate, with the last lines kept for the error that says why a server ended.
//!
//! The attacker considered: a server that floods the log, or writes escapes and line breaks to forge lines of
//! other servers. The pipe is always drained, so that a chatty server does not block.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncRead;
use tokio::time::{Duration, Instant};

use super::rate::Shed;
use crate::line::{Line, LineReader};
use crate::text;

/// The longest line that is logged whole: a stack frame or a JSON log record fits; more is cut off.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// How many lines are logged per second on average, and at once: a Node stack trace with its source line is
/// about 30 lines, a start-up banner about 50.
const LINES_PER_SECOND: u32 = 50;
const BURST_LINES: u32 = 500;

/// What is kept for an error report: enough for the message above a stack trace.
const TAIL_LINES: usize = 20;
const TAIL_LINE_CHARS: usize = 400;

/// The last lines of a server's standard error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last line that is not blank: what a server says last is mostly why it ended.
    pub(crate) fn last(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find(|line| !line.trim().is_empty()).cloned()
    }

    #[cfg(test)]
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Reads to the end of the stream.
pub(crate) async fn drain(server: String, stream: Shed<impl AsyncRead + Unpin>, tail: Tail) {
    let mut reader = LineReader::new(stream, MAX_LINE_BYTES);
    let mut rate = Rate::new();
    loop {
        let line = reader.next().await;
        rate.bytes_left_out = rate.bytes_left_out.saturating_add(reader.source().left_out());
        match line {
            Ok(Some(Line::Message(line))) => rate.log(&server, &String::from_utf8_lossy(&line), &tail),
            Ok(Some(Line::TooLong)) => rate.log(&server, "(a line over the limit was left out)", &tail),
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(server, %error, "the server's standard error ended early");
                break;
            }
        }
    }
    rate.report(&server);
}

/// A token bucket, and the number of lines that it left out.
struct Rate {
    tokens: u32,
    filled: Instant,
    left_out: u64,
    /// What was not even split into lines.
    bytes_left_out: u64,
}

impl Rate {
    fn new() -> Self {
        Rate { tokens: BURST_LINES, filled: Instant::now(), left_out: 0, bytes_left_out: 0 }
    }

    fn log(&mut self, server: &str, line: &str, tail: &Tail) {
        let line = line.trim_end();
        tail.push(text::bounded(line, TAIL_LINE_CHARS));
        if self.take() {
            self.report(server);
            tracing::info!(target: "palisade::server", server, "{}", text::bounded(line, MAX_LINE_BYTES));
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    fn take(&mut self) -> bool {
        let seconds = self.filled.elapsed().as_secs();
        if seconds > 0 {
            let fresh = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(LINES_PER_SECOND);
            self.tokens = self.tokens.saturating_add(fresh).min(BURST_LINES);
            self.filled = self.filled.checked_add(Duration::from_secs(seconds)).unwrap_or_else(Instant::now);
        }
        let available = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        available
    }

    fn report(&mut self, server: &str) {
        if self.left_out > 0 || self.bytes_left_out > 0 {
            let (lines, bytes) = (self.left_out, self.bytes_left_out);
            tracing::warn!(target: "palisade::server", server, lines, bytes, "lines of standard error were left out");
            (self.left_out, self.bytes_left_out) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_escaped_and_cut() {
        let mut input = Vec::new();
        for n in 0..100 {
            input.extend_from_slice(format!("line {n}\n").as_bytes());
        }
        input.extend_from_slice(b"\x1b[2Jboom \xff\n\n");
        let tail = Tail::default();
        drain("s".into(), Shed::new(&input[..], u64::MAX), tail.clone()).await;
        assert_eq!(tail.lines().len(), TAIL_LINES);
        assert_eq!(tail.last().unwrap(), "\\u{1b}[2Jboom \u{fffd}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_to_the_rate() {
        let mut rate = Rate::new();
        let logged = (0..10_000).filter(|_| rate.take()).count();
        assert_eq!(logged, usize::try_from(BURST_LINES).unwrap());
        tokio::time::advance(Duration::from_secs(2)).await;
        let logged = (0..10_000).filter(|_| rate.take()).count();
        assert_eq!(logged, usize::try_from(LINES_PER_SECOND * 2).unwrap());
    }
}
