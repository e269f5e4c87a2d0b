//! The attacker of the escape suite: one static program that tries every way out that we know of.
//!
//! ```text
//! palisade-probe                           an MCP server with one tool, `probe`: {"group": G, …} runs one group
//! palisade-probe --mark FILE               the same, after it has made FILE: "this program was executed"
//! palisade-probe --probe JSON [--private]  runs a group and prints its attempts, one JSON object a line
//! palisade-probe --deny RULE… -- COMMAND   runs COMMAND where chosen system calls fail, lie or are counted
//! palisade-probe --ids                     prints which ids and capabilities it was executed with
//! ```
//!
//! `--probe` outside a sandbox is the positive control: the attempt that a sandbox refuses succeeds there. With
//! `--private` it first enters a user namespace and others of its own, in which an ordinary user may mount, set the
//! host name and so on without touching the machine. What cannot be made private is called with an argument that is
//! invalid on purpose: the kernel's objection to it (`reached`) shows that permission had been given.
//!
//! Reading order: [`probes`] the attempts by group, [`limits`] attempts that use something up, [`facts`] what the
//! process is, [`deny`] the shim. System calls and reports are those of the sample server (`demo/server`).
//!
//! Deliberately absent: threads, the palisade crates, and anything that outlives the process.

#![forbid(unsafe_code)]

mod deny;
mod facts;
mod given;
mod limits;
mod probes;
mod serve;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::given::Given;

/// The argument with which a copy of this binary, run from a place where nothing may run, says that it ran.
const EXEC_CANARY: &str = "--exec-canary";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().map(|first| first.to_string_lossy().into_owned());
    let done = match first.as_deref() {
        None => serve::run(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Some(EXEC_CANARY) => return ExitCode::SUCCESS,
        Some("--mark") => mark(arguments.next()),
        Some("--probe") => probe(arguments),
        Some("--ids") => writeln!(io::stdout(), "{}", facts::all()),
        Some("--set-capability") => give_capability(arguments.next()),
        Some("--deny") => return deny::main(arguments),
        Some(other) => Err(io::Error::other(format!("unknown argument {other:?}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our answers has gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &io::Error) -> ExitCode {
    match writeln!(io::stderr(), "palisade-probe: {error}") {
        // Where stderr is gone as well, the exit code is all that can be said.
        Ok(()) | Err(_) => ExitCode::from(125),
    }
}

fn mark(file: Option<OsString>) -> io::Result<()> {
    let file = file.ok_or_else(|| io::Error::other("`--mark` needs a file"))?;
    drop(OpenOptions::new().write(true).create(true).truncate(false).open(file)?);
    serve::run(&mut io::stdin().lock(), &mut io::stdout().lock())
}

fn probe(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let text = arguments.next().ok_or_else(|| io::Error::other("`--probe` needs a JSON object"))?;
    let given = Given::parse(&text.to_string_lossy())?;
    if arguments.next().is_some_and(|flag| flag == "--private") {
        probes::enter_private_namespaces()?;
    }
    let mut out = io::stdout().lock();
    for attempt in probes::run(&given) {
        writeln!(out, "{attempt}")?;
    }
    out.flush()
}

/// Gives a file the capability that is nearly root, as an image's layer might.
fn give_capability(file: Option<OsString>) -> io::Result<()> {
    let file = file.ok_or_else(|| io::Error::other("`--set-capability` needs a file"))?;
    Ok(probes::set_file_capability(&file.to_string_lossy())?)
}
