//! How fast a server's output is taken (`limits.output`).
//!
//! Standard output is read no faster than the policy allows, so that a server that writes more has to wait: nothing
//! of a message may be lost. Standard error is read on, so that a chatty server does not stall, but what is too much is
//! thrown away and counted, and read in steps with pauses, so that throwing away costs little.
//!
//! The attacker considered: a server that writes without end, valid messages even. Parsing and passing on each of them
//! would take a processor from everybody else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

/// Bytes that may be taken now: as many as come in a second, filled up as time goes by.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    fn new(bytes_per_second: u64) -> Self {
        Bucket { bytes_per_second, tokens: bytes_per_second, filled: Instant::now() }
    }

    /// How many bytes may be taken at `now`.
    fn fill(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.filled).min(Duration::from_secs(1));
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let fresh = self.bytes_per_second.saturating_mul(micros).div_euclid(1_000_000);
        // A trickle must not be rounded away: time only passes for whole bytes.
        if fresh > 0 {
            self.tokens = self.tokens.saturating_add(fresh).min(self.bytes_per_second);
            self.filled = now;
        }
        self.tokens
    }

    fn take(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }
}

/// How long to wait when nothing may be taken, and between two steps of throwing away: the capacity of a pipe
/// (64 KiB) each time is some 6 MiB a second, for which reading takes below a hundredth of a processor.
const PAUSE: Duration = Duration::from_millis(10);

/// Reads no faster than the rate.
#[derive(Debug)]
pub(crate) struct Paced<R> {
    source: R,
    bucket: Bucket,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<R> Paced<R> {
    pub(crate) fn new(source: R, bytes_per_second: u64) -> Self {
        Paced { source, bucket: Bucket::new(bytes_per_second), waiting: None }
    }
}

/// Polls the sleep that is under way; afterwards there is none.
fn rest(waiting: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> Poll<()> {
    if let Some(sleep) = waiting {
        ready!(sleep.as_mut().poll(context));
        *waiting = None;
    }
    Poll::Ready(())
}

fn pause() -> Pin<Box<Sleep>> {
    let now = Instant::now();
    Box::pin(sleep_until(now.checked_add(PAUSE).unwrap_or(now)))
}

/// Reads at most `most` bytes.
fn read_some<R: AsyncRead + Unpin>(
    source: &mut R,
    context: &mut Context<'_>,
    (buffer, most): (&mut ReadBuf<'_>, u64),
) -> Poll<io::Result<u64>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let before = buffer.filled().len();
    if most >= buffer.remaining() {
        ready!(Pin::new(source).poll_read(context, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        return Poll::Ready(Ok(u64::try_from(read).unwrap_or(u64::MAX)));
    }
    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
    ready!(Pin::new(source).poll_read(context, &mut part))?;
    let read = part.filled().len();
    buffer.advance(read);
    Poll::Ready(Ok(u64::try_from(read).unwrap_or(u64::MAX)))
}

impl<R: AsyncRead + Unpin> AsyncRead for Paced<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Paced { source, bucket, waiting } = self.get_mut();
        loop {
            ready!(rest(waiting, context));
            let tokens = bucket.fill(Instant::now());
            if tokens == 0 {
                *waiting = Some(pause());
                continue;
            }
            let read = ready!(read_some(source, context, (buffer, tokens)))?;
            bucket.take(read);
            return Poll::Ready(Ok(()));
        }
    }
}

/// Reads on, but gives away no more than the rate; counts the rest.
#[derive(Debug)]
pub(crate) struct Shed<R> {
    source: R,
    bucket: Bucket,
    waiting: Option<Pin<Box<Sleep>>>,
    left_out: u64,
}

/// What is thrown away at once: the capacity of a pipe.
const SHED_BYTES: usize = 64 * 1024;

impl<R> Shed<R> {
    pub(crate) fn new(source: R, bytes_per_second: u64) -> Self {
        Shed { source, bucket: Bucket::new(bytes_per_second), waiting: None, left_out: 0 }
    }

    /// How many bytes were thrown away since the last question.
    pub(crate) fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Shed<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Shed { source, bucket, waiting, left_out } = self.get_mut();
        loop {
            ready!(rest(waiting, context));
            let tokens = bucket.fill(Instant::now());
            if tokens > 0 {
                let read = ready!(read_some(source, context, (buffer, tokens)))?;
                bucket.take(read);
                return Poll::Ready(Ok(()));
            }
            let mut waste = vec![0; SHED_BYTES];
            let most = u64::try_from(SHED_BYTES).unwrap_or(u64::MAX);
            let read = ready!(read_some(source, context, (&mut ReadBuf::new(&mut waste), most)))?;
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            *left_out = left_out.saturating_add(read);
            *waiting = Some(pause());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_holds_what_comes_in_a_second() {
        let mut bucket = Bucket::new(1000);
        assert_eq!(bucket.fill(Instant::now()), 1000);
        bucket.take(1000);
        assert_eq!(bucket.fill(Instant::now()), 0);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(bucket.fill(Instant::now()), 250);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(bucket.fill(Instant::now()), 1000);
        // Asked often, a slow bucket still fills.
        let mut slow = Bucket::new(10);
        slow.take(10);
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(5)).await;
            slow.fill(Instant::now());
        }
        assert_eq!(slow.tokens, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_of_standard_output_is_lost_and_it_takes_its_time() {
        let text: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let started = Instant::now();
        let mut read = Vec::new();
        let mut paced = Paced::new(&text[..], 1000);
        while paced.read_buf(&mut read).await.unwrap() > 0 {}
        assert_eq!(read, text);
        let seconds = started.elapsed().as_secs_f32();
        assert!((3.9..4.5).contains(&seconds), "a second's worth at once, four more in {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_on_standard_error_is_counted() {
        let started = Instant::now();
        let mut shed = Shed::new(tokio::io::repeat(b'x').take(10 * 1024 * 1024), 1000);
        let mut read = Vec::new();
        while shed.read_buf(&mut read).await.unwrap() > 0 {}
        let kept = u64::try_from(read.len()).unwrap();
        assert!((1000..10_000).contains(&kept), "{kept}");
        assert_eq!(shed.left_out() + kept, 10 * 1024 * 1024);
        assert_eq!(shed.left_out(), 0);
        assert!(started.elapsed() < Duration::from_secs(5), "it does not stall: {:?}", started.elapsed());
    }
}
