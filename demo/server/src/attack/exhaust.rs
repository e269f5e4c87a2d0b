//! `exhaust`: uses up what a policy limits. Not in the list of tools: it is for tests of hosts, and one part of it is
//! chosen with the argument `what`.
//!
//! Every part has a bound of its own that is far above what the tests allow, so that it is safe without a sandbox.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use super::{Arguments, errno, in_child, own_pid};
use crate::report::{Attempt, Control, Plan, Report};

const MAX_TMP_BYTES: usize = 32 * 1024 * 1024;
const MAX_TMP_FILES: usize = 2000;
const MAX_OPEN_FILES: usize = 900;
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
const MAX_MEMORY_BYTES: usize = 512 * 1024 * 1024;
const CHUNK: usize = 1024 * 1024;

/// Longer than anything that watches needs to notice.
const HOLD: Duration = Duration::from_secs(2);

pub(crate) fn run(arguments: &Arguments<'_>) -> Report {
    let controls = vec![Control::new("make a file in /tmp and remove it", made_and_removed())];
    let attempts = match arguments.text("what") {
        Some("memory") => vec![memory()],
        Some("time") => vec![time()],
        Some("output") => vec![flood("output", &mut io::stdout())],
        Some("errors") => vec![flood("errors", &mut io::stderr())],
        Some(_) | None => vec![tmp_bytes(), tmp_files(), open_files(), file_size()],
    };
    Report { controls, attempts }
}

/// A directory in /tmp that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Errno> {
        let path = Path::new("/tmp").join(format!("palisade-exhaust-{}", own_pid()));
        std::fs::create_dir(&path).map_err(|error| errno(&error))?;
        Ok(Self(path))
    }

    fn create(&self, name: &str) -> Result<File, Errno> {
        File::create(self.0.join(name)).map_err(|error| errno(&error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let names = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let left = names.filter(|name| std::fs::remove_file(name.path()).is_err()).count();
        if left > 0 || std::fs::remove_dir(&self.0).is_err() {
            // Inside, /tmp ends with the sandbox.
        }
    }
}

fn made_and_removed() -> Result<(), Errno> {
    Scratch::new()?.create("control").map(drop)
}

/// What was reached before the refusal, or the own bound.
fn end(plan: Plan, reached: usize, result: Result<(), Errno>) -> Attempt {
    let figures = json!({ "reached": reached });
    match result {
        Ok(()) => plan.succeeded(format!("{reached} and no refusal")),
        Err(errno) => plan.refused(errno, format!("after {reached}: {}", errno.desc())),
    }
    .with_figures(figures)
}

fn tmp_bytes() -> Attempt {
    let plan = Plan::new("tmp_bytes", format!("write {MAX_TMP_BYTES} bytes to /tmp"));
    let mut written = 0_usize;
    let result = Scratch::new().and_then(|scratch| {
        let mut file = scratch.create("bytes")?;
        let chunk = vec![1; CHUNK];
        while written < MAX_TMP_BYTES {
            file.write_all(&chunk).map_err(|error| errno(&error))?;
            written = written.saturating_add(CHUNK);
        }
        Ok(())
    });
    end(plan, written, result)
}

fn tmp_files() -> Attempt {
    let plan = Plan::new("tmp_files", format!("make {MAX_TMP_FILES} empty files in /tmp"));
    let mut made = 0_usize;
    let result = Scratch::new().and_then(|scratch| {
        while made < MAX_TMP_FILES {
            drop(scratch.create(&made.to_string())?);
            made = made.saturating_add(1);
        }
        Ok(())
    });
    end(plan, made, result)
}

fn open_files() -> Attempt {
    let plan = Plan::new("open_files", format!("open /dev/null {MAX_OPEN_FILES} times"));
    let mut held = Vec::new();
    let mut result = Ok(());
    while held.len() < MAX_OPEN_FILES && result.is_ok() {
        match super::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(errno) => result = Err(errno),
        }
    }
    end(plan, held.len(), result)
}

/// With its signal blocked, the call says why; otherwise the process would just be gone.
fn file_size() -> Attempt {
    let plan = Plan::new("file_size", format!("make one file of {MAX_FILE_BYTES} bytes, as a child"));
    let made = in_child(|| {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGXFSZ);
        signals.thread_block()?;
        let scratch = Scratch::new()?;
        scratch.create("long")?.set_len(MAX_FILE_BYTES).map_err(|error| errno(&error))
    });
    plan.judge_child(made)
}

fn memory() -> Attempt {
    let plan = Plan::new("memory", format!("touch {MAX_MEMORY_BYTES} bytes of memory"));
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut result = Ok(());
    while held.len().saturating_mul(CHUNK) < MAX_MEMORY_BYTES && result.is_ok() {
        let mut chunk = Vec::new();
        match chunk.try_reserve_exact(CHUNK) {
            Ok(()) => chunk.resize(CHUNK, 1),
            Err(_refused) => result = Err(Errno::ENOMEM),
        }
        held.push(chunk);
    }
    std::thread::sleep(HOLD);
    end(plan, held.len().saturating_mul(CHUNK), result)
}

/// Does not answer, and does not read that nobody waits any more.
fn time() -> Attempt {
    std::thread::sleep(Duration::from_hours(1));
    Plan::new("time", "take an hour").succeeded("an hour is over")
}

/// Notifications, which a host has to look at, as fast as it takes them.
fn flood(name: &'static str, stream: &mut impl Write) -> Attempt {
    let plan = Plan::new(name, "write without end for two seconds");
    let line = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "debug", "data": "x".repeat(900) } });
    let start = Instant::now();
    let mut lines = 0_usize;
    let mut result = Ok(());
    while start.elapsed() < HOLD && result.is_ok() {
        result = writeln!(stream, "{line}").map_err(|error| errno(&error));
        lines = lines.saturating_add(1);
    }
    end(plan, lines, result)
}
