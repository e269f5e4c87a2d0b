//! The process's own standard input and output, without a thread in between.
//!
//! `tokio::io::stdin` reads on a blocking thread, which costs two thread switches per message and keeps a
//! runtime from ending. Clients give pipes (Python, Rust) or Unix sockets (Node), which can be polled:
//! - a pipe is opened anew through `/proc/self/fd`, so that `O_NONBLOCK` is set on our own open file
//!   description and not on one that a shell or another process shares;
//! - a socket cannot be opened anew, and its flag is shared with whoever inherited the same end: a wrapper
//!   that waits for us, which does not read meanwhile;
//! - anything else (a terminal, a file) goes through tokio's threads.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// A client's messages.
pub type ClientInput = Box<dyn AsyncRead + Send + Unpin>;
/// Messages to a client.
pub type ClientOutput = Box<dyn AsyncWrite + Send + Unpin>;

/// Standard input and output of this process. To be called inside a tokio runtime, once.
///
/// When standard input is a terminal or a file, a thread of tokio's may still be reading when everything else
/// has ended: end the runtime with `shutdown_background`.
pub fn standard_streams() -> (ClientInput, ClientOutput) {
    let input =
        polled_input(io::stdin().as_fd()).unwrap_or_else(|_not_pollable| Box::new(tokio::io::stdin()));
    let output =
        polled_output(io::stdout().as_fd()).unwrap_or_else(|_not_pollable| Box::new(tokio::io::stdout()));
    (input, output)
}

fn polled_input(fd: BorrowedFd<'_>) -> io::Result<ClientInput> {
    if let Ok(socket) = socket(fd) {
        return Ok(Box::new(socket));
    }
    Ok(Box::new(pipe::OpenOptions::new().open_receiver(path(fd)?)?))
}

fn polled_output(fd: BorrowedFd<'_>) -> io::Result<ClientOutput> {
    if let Ok(socket) = socket(fd) {
        return Ok(Box::new(socket));
    }
    Ok(Box::new(pipe::OpenOptions::new().open_sender(path(fd)?)?))
}

fn socket(fd: BorrowedFd<'_>) -> io::Result<UnixStream> {
    let socket = StdUnixStream::from(fd.try_clone_to_owned()?);
    // Fails for everything that is no socket, before anything is changed.
    socket.local_addr()?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The name under which the kernel opens this descriptor's file anew.
fn path(fd: BorrowedFd<'_>) -> io::Result<String> {
    // To open a terminal anew could make it the controlling one.
    if fd.is_terminal() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn pipes_are_polled_and_the_original_stays_blocking() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let mut input = polled_input(reader.as_fd()).unwrap();
        let mut output = polled_output(writer.as_fd()).unwrap();
        output.write_all(b"ab").await.unwrap();
        let mut seen = [0; 2];
        input.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"ab");
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            writer.write_all(b"c").unwrap();
        });
        let mut one = [0; 1];
        reader.read_exact(&mut one).expect("a blocking read waits");
        late.join().unwrap();
    }

    #[tokio::test]
    async fn sockets_are_polled() {
        let (near, mut far) = StdUnixStream::pair().unwrap();
        let mut input = polled_input(near.as_fd()).unwrap();
        let mut output = polled_output(near.as_fd()).unwrap();
        far.write_all(b"in").unwrap();
        let mut seen = [0; 2];
        input.read_exact(&mut seen).await.unwrap();
        output.write_all(b"out").await.unwrap();
        let mut said = [0; 3];
        far.read_exact(&mut said).unwrap();
        assert_eq!((&seen, &said), (b"in", b"out"));
    }

    #[tokio::test]
    async fn files_are_left_to_threads() {
        let file = tempfile::tempfile().unwrap();
        assert!(polled_input(file.as_fd()).is_err());
    }
}
