//! Newline-delimited messages on a byte stream: read with a bound, written whole.
//!
//! The attacker considered: a peer that never sends the newline (a 1 GiB "line" must cost a bounded amount of
//! memory), and a future that is dropped half-way (a half-written line would corrupt the next message).
//! Both directions are safe to cancel: what was read stays in the reader, what was not yet written stays in
//! the writer and goes out before the next line.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest message that is accepted from either side: 16 MiB. The largest legitimate messages are
/// base64 images and files; 10 MiB of content (the size at which chat clients refuse attachments) is
/// 13.4 MiB in base64, and the envelope around it is small.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How much is asked from the stream at once: the capacity of a Linux pipe, so that one read empties it.
const READ_BYTES: usize = 64 * 1024;

/// A buffer that grew past this for one long line is given back to the allocator once it is empty, so that an
/// idle connection does not hold 16 MiB.
const KEEP_BYTES: usize = 1024 * 1024;

/// What the stream holds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// One line without its newline.
    Message(Bytes),
    /// A line over the limit. Its bytes are thrown away; reading may go on after it.
    TooLong,
}

/// Reads lines of at most `limit` bytes.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    source: R,
    buffer: BytesMut,
    scanned: usize,
    limit: usize,
    skipping: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader that holds at most `limit` bytes and one read's worth more.
    pub(crate) fn new(source: R, limit: usize) -> Self {
        LineReader { source, buffer: BytesMut::new(), scanned: 0, limit, skipping: false }
    }

    /// The next line; `None` at the end of the stream. A last line without a newline counts as a line:
    /// every client and server in use accepts one.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.buffered() {
                return Ok(Some(line));
            }
            self.make_room();
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Ok(self.rest());
            }
        }
    }

    /// What it reads from.
    pub(crate) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    fn buffered(&mut self) -> Option<Line> {
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(found) = memchr::memchr(b'\n', fresh) else {
            self.scanned = self.buffer.len();
            return self.overflow();
        };
        let length = self.scanned.saturating_add(found);
        let line = self.buffer.split_to(length);
        self.buffer.advance(1);
        self.scanned = 0;
        if std::mem::take(&mut self.skipping) {
            return self.buffered();
        }
        Some(if line.len() > self.limit { Line::TooLong } else { Line::Message(line.freeze()) })
    }

    fn overflow(&mut self) -> Option<Line> {
        if self.skipping {
            self.drop_buffer();
            return None;
        }
        if self.buffer.len() <= self.limit {
            return None;
        }
        self.drop_buffer();
        self.skipping = true;
        Some(Line::TooLong)
    }

    fn drop_buffer(&mut self) {
        self.buffer = BytesMut::new();
        self.scanned = 0;
    }

    fn make_room(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_BYTES {
            self.drop_buffer();
        }
        self.buffer.reserve(READ_BYTES);
    }

    fn rest(&mut self) -> Option<Line> {
        let line = std::mem::take(&mut self.buffer);
        self.scanned = 0;
        if self.skipping || line.is_empty() {
            return None;
        }
        Some(Line::Message(line.freeze()))
    }
}

/// Writes whole lines, even when a call is dropped before it ends.
#[derive(Debug)]
pub(crate) struct LineWriter<W> {
    sink: W,
    unsent: BytesMut,
}

impl<W: AsyncWrite + Unpin> LineWriter<W> {
    /// A writer with nothing unsent.
    pub(crate) fn new(sink: W) -> Self {
        LineWriter { sink, unsent: BytesMut::new() }
    }

    /// Writes what an earlier, dropped call left, then `line` and a newline.
    pub(crate) async fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.flush().await?;
        self.unsent.reserve(line.len().saturating_add(1));
        self.unsent.extend_from_slice(line);
        self.unsent.extend_from_slice(b"\n");
        self.flush().await
    }

    /// Writes what is unsent.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            if self.sink.write_buf(&mut self.unsent).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.unsent.capacity() > KEEP_BYTES {
            self.unsent = BytesMut::new();
        }
        self.sink.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &'static [u8], limit: usize) -> Vec<Line> {
        let mut reader = LineReader::new(input, limit);
        let mut out = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            out.push(line);
        }
        out
    }

    fn message(text: &'static str) -> Line {
        Line::Message(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn splits_at_newlines_and_keeps_the_last_line() {
        assert_eq!(lines(b"a\n\nbc", 10).await, [message("a"), message(""), message("bc")]);
        assert_eq!(lines(b"", 10).await, []);
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_reported_once_and_skipped() {
        assert_eq!(lines(b"abc\nabcd\nab", 3).await, [message("abc"), Line::TooLong, message("ab")]);
        assert_eq!(lines(b"abcd", 3).await, [Line::TooLong]);
    }

    #[tokio::test]
    async fn an_endless_line_costs_bounded_memory() {
        const LIMIT: usize = 100_000;
        let endless =
            tokio::io::AsyncReadExt::chain(tokio::io::repeat(b'x').take(64 * 1024 * 1024), &b"\nok\n"[..]);
        let mut reader = LineReader::new(endless, LIMIT);
        assert_eq!(reader.next().await.unwrap(), Some(Line::TooLong));
        assert!(reader.buffer.capacity() <= LIMIT * 4);
        assert_eq!(reader.next().await.unwrap(), Some(message("ok")));
        assert!(reader.buffer.capacity() <= LIMIT * 4);
    }

    #[tokio::test]
    async fn a_dropped_write_is_finished_by_the_next_one() {
        let (near, far) = tokio::io::duplex(4);
        let mut writer = LineWriter::new(near);
        let dropped =
            tokio::time::timeout(std::time::Duration::from_millis(10), writer.write(b"0123456789")).await;
        assert!(dropped.is_err());
        let reading = tokio::spawn(async move {
            let mut reader = LineReader::new(far, 100);
            (reader.next().await.unwrap(), reader.next().await.unwrap())
        });
        writer.write(b"next").await.unwrap();
        assert_eq!(reading.await.unwrap(), (Some(message("0123456789")), Some(message("next"))));
    }
}
