//! Servers that break the protocol instead of attacking the sandbox; for tests of hosts.
//!
//! Each is one way in which a server can be a bad partner on its pipes: it says what is no message, says it without
//! end, leaves, stays, or says nothing. A host must come out of each with one clear error and nothing left over.

use std::io::{self, BufRead, Write};

use nix::sys::signal::SigSet;

use crate::serve;

/// The line that [`Misbehaviour::Garbage`] repeats.
const GARBAGE: &str = "this line is no MCP message, and the next one is none either";

/// The length of the line of [`Misbehaviour::EndlessLine`]: 64 times the longest message that anybody has a use for.
const ENDLESS_LINE_BYTES: u64 = 1024 * 1024 * 1024;

/// What [`Misbehaviour::Exit`] returns: a status that nothing else here returns.
const EXIT_STATUS: u8 = 7;

/// A way to be a bad partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    /// Lines that are no messages, until nobody reads them.
    Garbage,
    /// One line of 1 GiB.
    EndlessLine,
    /// The end, before anything is read or said.
    Exit,
    /// An honest server that neither the end of its input nor a signal ends.
    Deaf,
    /// A server that reads everything and answers nothing.
    Mute,
}

impl Misbehaviour {
    const ALL: [(&'static str, Self); 5] = [
        ("garbage", Self::Garbage),
        ("endless-line", Self::EndlessLine),
        ("exit", Self::Exit),
        ("deaf", Self::Deaf),
        ("mute", Self::Mute),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, it)| *it)
    }

    /// Misbehaves; the exit status, if it comes to an end.
    pub(crate) fn run(self, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<u8> {
        match self {
            Self::Garbage => loop {
                writeln!(output, "{GARBAGE}")?;
            },
            Self::EndlessLine => {
                endless_line(output, ENDLESS_LINE_BYTES)?;
                Ok(0)
            }
            Self::Exit => {
                writeln!(io::stderr(), "this server leaves before it says anything")?;
                Ok(EXIT_STATUS)
            }
            Self::Deaf => {
                SigSet::all().thread_block()?;
                serve::run(input, output)?;
                loop {
                    std::thread::park();
                }
            }
            Self::Mute => {
                io::copy(input, &mut io::sink())?;
                Ok(0)
            }
        }
    }
}

fn endless_line(output: &mut impl Write, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(b'x'), bytes), output)?;
    writeln!(output)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then says that nobody reads any more.
    struct Leaving {
        taken: Vec<u8>,
        limit: usize,
    }

    impl Write for Leaving {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.taken.len() >= self.limit {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_misbehaviour_has_a_name() {
        for (name, it) in Misbehaviour::ALL {
            assert_eq!(Misbehaviour::named(name), Some(it));
        }
        assert_eq!(Misbehaviour::named("politely"), None);
    }

    #[test]
    fn garbage_goes_on_until_nobody_reads_it() {
        let mut output = Leaving { taken: Vec::new(), limit: 100_000 };
        let ended = Misbehaviour::Garbage.run(&mut io::empty(), &mut output);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let text = String::from_utf8(output.taken).unwrap();
        assert!(text.lines().count() > 1000);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_err()));
    }

    #[test]
    fn an_endless_line_is_one_line() {
        let mut output = Vec::new();
        endless_line(&mut output, 300_000).unwrap();
        assert_eq!(output.len(), 300_001);
        assert_eq!(output.iter().position(|&byte| byte == b'\n'), Some(300_000));
    }

    #[test]
    fn mute_and_exit_say_nothing_on_stdout() {
        for (it, status) in [(Misbehaviour::Mute, 0), (Misbehaviour::Exit, EXIT_STATUS)] {
            let mut output = Vec::new();
            let mut input = &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n"[..];
            assert_eq!(it.run(&mut input, &mut output).unwrap(), status);
            assert_eq!(output, b"");
        }
    }
}
