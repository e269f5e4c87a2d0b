//! A small MCP server that is half honest and half hostile.
//!
//! `palisade demo` packs this one static binary into an image (nothing else is in it), runs it in a sandbox, and
//! lets it attack. Every attack reports what it tried and what the kernel answered, so that the reader of the demo
//! and the tests see the refusal and not merely the absence of damage.
//!
//! Reading order: [`serve`] reads lines, [`mcp`] answers requests, [`tools`] is the list of tools, [`attack`] the
//! hostile ones, [`report`] the shape of what they say, [`raw`] the system calls that the standard library lacks.
//!
//! `--probe TOOL` runs one attack without MCP. Run outside a sandbox, it is the positive control of the denial
//! tests: the same attempt that the sandbox refuses succeeds there. It stays harmless: what would change the
//! machine is called with arguments that the kernel rejects only after it has granted permission.
//!
//! `--misbehave HOW` is a server that breaks the protocol ([`misbehave`]), for tests of hosts.
//!
//! Deliberately absent: name resolution (a static glibc cannot do it alone), threads, and the palisade crates:
//! hostile code must not share code with what confines it. For the same reason the one unsafe function here
//! lives in [`raw`] and not in `palisade-sys`.

mod attack;
mod mcp;
mod misbehave;
mod serve;
mod tools;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use palisade_attack::{raw, report};
use serde_json::{Map, Value};

use crate::misbehave::Misbehaviour;

/// The argument with which a copy of this binary, run from a place where nothing may run, says that it ran.
const EXEC_CANARY: &str = "--exec-canary";

const USAGE: &str = concat!(
    "usage: palisade-demo-server    speak MCP on stdin and stdout\n",
    "       palisade-demo-server --probe TOOL [--arguments JSON] [--allow-dial]\n",
    "       palisade-demo-server --misbehave garbage|endless-line|exit|deaf|mute    for tests of hosts\n",
);

fn main() -> ExitCode {
    let answer = match Mode::from_args(std::env::args_os().skip(1)) {
        Ok(Mode::Serve) => serve::run(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Ok(Mode::Probe(probe)) => probe.run(&mut io::stdout().lock()),
        Ok(Mode::ExecCanary) => return ExitCode::SUCCESS,
        Ok(Mode::Misbehave(how)) => match how.run(&mut io::stdin().lock(), &mut io::stdout().lock()) {
            Ok(status) => return ExitCode::from(status),
            Err(error) => Err(error),
        },
        Err(message) => return fail(2, &format!("error: {message}\n\n{USAGE}")),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our answers has gone: there is nothing left to do, and nothing wrong.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(125, &format!("error: {error}\n")),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    match io::stderr().write_all(message.as_bytes()) {
        // Where stderr is gone as well, the exit code is all that can be said.
        Ok(()) | Err(_) => ExitCode::from(code),
    }
}

enum Mode {
    Serve,
    Probe(Probe),
    ExecCanary,
    Misbehave(Misbehaviour),
}

struct Probe {
    attack: tools::Attack,
    arguments: Map<String, Value>,
}

impl Mode {
    fn from_args(args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
        match args.next().as_deref() {
            None => Ok(Self::Serve),
            Some(EXEC_CANARY) => Ok(Self::ExecCanary),
            Some("--probe") => Probe::from_args(args).map(Self::Probe),
            Some("--misbehave") => misbehaviour(args.next()).map(Self::Misbehave),
            Some(other) => Err(format!("unknown argument {other:?}")),
        }
    }
}

fn misbehaviour(name: Option<String>) -> Result<Misbehaviour, String> {
    let name = name.ok_or("`--misbehave` needs to be told how")?;
    Misbehaviour::named(&name).ok_or_else(|| format!("there is no misbehaviour {name:?}"))
}

impl Probe {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let name = args.next().ok_or("`--probe` needs the name of an attack tool")?;
        let attack = tools::attack(&name).ok_or_else(|| format!("no attack tool is called {name:?}"))?;
        let mut arguments = Map::new();
        let mut may_dial = false;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--allow-dial" => may_dial = true,
                "--arguments" => {
                    let text = args.next().ok_or("`--arguments` needs a JSON object")?;
                    arguments = serde_json::from_str(&text)
                        .map_err(|error| format!("`--arguments` is not a JSON object: {error}"))?;
                }
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        if attack.dials && !may_dial {
            return Err(format!(
                "`{name}` sends packets off this machine; say `--allow-dial` if you mean it"
            ));
        }
        Ok(Self { attack, arguments })
    }

    fn run(&self, out: &mut impl Write) -> io::Result<()> {
        let report = (self.attack.run)(&attack::Arguments(&self.arguments));
        writeln!(out, "{:#}", report.to_json(self.attack.name))?;
        out.flush()
    }
}
