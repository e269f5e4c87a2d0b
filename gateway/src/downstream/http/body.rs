//! The forms of an answer's body: whole, or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use super::table::Handle;
use crate::envelope;
use crate::hub::Output;

/// How often a quiet stream carries a comment, so that a connection that is gone is noticed and one that
/// lives is not closed by something in between. Common proxies give up after 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A body.
pub(super) enum AnyBody {
    Whole(Option<Bytes>),
    Events(Events),
}

/// A stream of server-sent events.
pub(super) struct Events {
    source: Source,
    handle: Arc<Handle>,
    quiet: Pin<Box<Sleep>>,
}

enum Source {
    /// The messages of one request, up to its answer.
    Answers {
        first: Option<Output>,
        output: mpsc::Receiver<Output>,
    },
    /// The messages of a session that belong to no request; `None` while being given back.
    Messages(Option<mpsc::Receiver<Bytes>>),
    Ended,
}

impl AnyBody {
    pub(super) fn empty() -> Self {
        AnyBody::Whole(None)
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        AnyBody::Whole(Some(bytes))
    }

    pub(super) fn answers(
        first: Option<Output>,
        output: mpsc::Receiver<Output>,
        handle: Arc<Handle>,
    ) -> Self {
        AnyBody::events(Source::Answers { first, output }, handle)
    }

    pub(super) fn messages(messages: mpsc::Receiver<Bytes>, handle: Arc<Handle>) -> Self {
        AnyBody::events(Source::Messages(Some(messages)), handle)
    }

    fn events(source: Source, handle: Arc<Handle>) -> Self {
        AnyBody::Events(Events { source, handle, quiet: Box::pin(sleep(KEEP_ALIVE)) })
    }
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AnyBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            AnyBody::Events(events) => {
                events.poll(context).map(|event| event.map(|event| Ok(Frame::data(event))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnyBody::Whole(bytes) => bytes.is_none(),
            AnyBody::Events(events) => matches!(events.source, Source::Ended),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnyBody::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                u64::try_from(length).map_or_else(|_too_long| SizeHint::default(), SizeHint::with_exact)
            }
            AnyBody::Events(_) => SizeHint::default(),
        }
    }
}

impl Events {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(message) = self.poll_message(context) {
            self.handle.touch();
            self.restart_quiet();
            return Poll::Ready(message.map(|message| event(&message)));
        }
        ready!(self.quiet.as_mut().poll(context));
        self.restart_quiet();
        // The new timer has to know this task before the body says that it waits again.
        Poll::Ready(Some(Bytes::from_static(b":\n\n")))
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Answers { first, output } => {
                let next = match first.take() {
                    Some(first) => Some(first),
                    None => ready!(output.poll_recv(context)),
                };
                match next {
                    Some(Output::Related(line)) => Poll::Ready(Some(line)),
                    Some(Output::Answer(line)) => {
                        self.source = Source::Ended;
                        Poll::Ready(Some(line))
                    }
                    None => {
                        self.source = Source::Ended;
                        Poll::Ready(None)
                    }
                }
            }
            Source::Messages(Some(messages)) => messages.poll_recv(context),
            Source::Messages(None) | Source::Ended => Poll::Ready(None),
        }
    }

    fn restart_quiet(&mut self) {
        let now = Instant::now();
        self.quiet.as_mut().reset(now.checked_add(KEEP_ALIVE).unwrap_or(now));
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Source::Messages(messages) = &mut self.source
            && let Some(messages) = messages.take()
        {
            self.handle.give_back(messages);
        }
    }
}

/// One message as an event. A raw line break would end the `data` field, so there must be none.
fn event(message: &Bytes) -> Bytes {
    let message = envelope::single_line(message.clone());
    let mut out = BytesMut::with_capacity(message.len().saturating_add(24));
    out.put_slice(b"event: message\ndata: ");
    out.put_slice(&message);
    out.put_slice(b"\n\n");
    out.freeze()
}
