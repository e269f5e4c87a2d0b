//! A launched server with asynchronous pipes, its standard error being read.

use std::io;

use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::process::Process;
use super::rate::{Paced, Shed};
use super::stderr::{self, Tail};
use crate::launch::{Launched, ServerEntry};
use crate::line::{LineReader, LineWriter, MAX_MESSAGE_BYTES};

/// The way into a server.
pub(crate) type Input = LineWriter<pipe::Sender>;
/// The way out of a server.
pub(crate) type Output = LineReader<Paced<pipe::Receiver>>;

/// A server whose pipes are ready for messages.
pub(crate) struct Pipes {
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) process: Process,
    pub(crate) errors: Tail,
    pub(crate) errors_read: JoinHandle<()>,
}

impl Pipes {
    pub(crate) fn open(entry: &ServerEntry, launched: Launched) -> io::Result<Self> {
        let rate = entry.policy.limits.output.bytes();
        let Launched { stdin, stdout, stderr, process, facts: _ } = launched;
        let process = Process::watch(process)?;
        let input = LineWriter::new(pipe::Sender::from_owned_fd(stdin)?);
        let output = Paced::new(pipe::Receiver::from_owned_fd(stdout)?, rate);
        let output = LineReader::new(output, MAX_MESSAGE_BYTES);
        let errors = Tail::default();
        let stderr = Shed::new(pipe::Receiver::from_owned_fd(stderr)?, rate);
        let errors_read = tokio::spawn(stderr::drain(entry.name(), stderr, errors.clone()));
        Ok(Pipes { input, output, process, errors, errors_read })
    }
}
