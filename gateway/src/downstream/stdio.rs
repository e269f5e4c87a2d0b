//! One client on standard input and output.

mod streams;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use bytes::Bytes;

use crate::hub::{Accepted, Hub, Output, Session};
use crate::line::{Line, LineReader, LineWriter, MAX_MESSAGE_BYTES};
use crate::rpc;

pub use self::streams::{ClientInput, ClientOutput, standard_streams};

/// How many answers may wait for a client that does not read before its next message is read.
const MAX_UNREAD: usize = 128;

/// Where all answers of the client go. Tasks write one line at a time; a client that does not read makes
/// them wait, and their number is bounded by what a session may have pending.
struct Client<W> {
    writer: Mutex<LineWriter<W>>,
    left: CancellationToken,
}

impl<W: AsyncWrite + Unpin> Client<W> {
    async fn write(&self, line: &[u8]) {
        let written = tokio::select! {
            written = async { self.writer.lock().await.write(line).await } => written,
            () = self.left.cancelled() => return,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "the client does not take its answers any more");
            self.left.cancel();
        }
    }
}

/// Serves one client until it leaves or the gateway shall end.
pub(crate) async fn serve<R, W>(hub: &Arc<Hub>, (input, output): (R, W), shutdown: &CancellationToken)
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let client =
        Arc::new(Client { writer: Mutex::new(LineWriter::new(output)), left: shutdown.child_token() });
    let (session, messages) = hub.open_session();
    let mut sending = JoinSet::new();
    sending.spawn(send_messages(Arc::clone(&client), messages));
    let mut answers = JoinSet::new();
    let mut reader = LineReader::new(input, MAX_MESSAGE_BYTES);
    tokio::select! {
        () = read(hub, &session, &client, &mut reader, &mut answers) => {
            // A client that closes its input after a request still wants the answer.
            let answered = async { while answers.join_next().await.is_some() {} };
            if tokio::time::timeout(hub.stop_timeout(), answered).await.is_err() {
                tracing::debug!("the client left with requests pending");
            }
        }
        () = client.left.cancelled() => {}
    }
    client.left.cancel();
    hub.close_session(&session);
}

async fn read<R, W>(
    hub: &Arc<Hub>,
    session: &Arc<Session>,
    client: &Arc<Client<W>>,
    reader: &mut LineReader<R>,
    answers: &mut JoinSet<()>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    loop {
        let line = match reader.next().await {
            Ok(Some(Line::Message(line))) => line,
            Ok(Some(Line::TooLong)) => {
                let refusal = "the client sent a line over the limit of 16 MiB";
                client.write(&rpc::error("null", rpc::INVALID_REQUEST, refusal)).await;
                continue;
            }
            Ok(None) | Err(_) => return,
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        // A client that asks but does not read must not pile up answers.
        if answers.len() >= MAX_UNREAD && answers.join_next().await.is_none() {
            return;
        }
        match hub.accept(session, &line) {
            Accepted::Nothing => {}
            Accepted::Refused(answer) => client.write(&answer).await,
            Accepted::Request(output) => {
                answers.spawn(send_answer(Arc::clone(client), output));
            }
        }
        while answers.try_join_next().is_some() {}
    }
}

async fn send_answer<W: AsyncWrite + Unpin>(client: Arc<Client<W>>, mut output: mpsc::Receiver<Output>) {
    while let Some(Output::Related(line) | Output::Answer(line)) = output.recv().await {
        client.write(&line).await;
    }
}

async fn send_messages<W: AsyncWrite + Unpin>(client: Arc<Client<W>>, mut messages: mpsc::Receiver<Bytes>) {
    while let Some(line) = messages.recv().await {
        client.write(&line).await;
    }
}
