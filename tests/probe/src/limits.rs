//! Attempts to use something up. Each is bounded by the number that the test gives, so that it is safe without a
//! sandbox, and reports how far it came.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use palisade_attack::raw::{self, Arg, Call};
use palisade_attack::report::{ChildEnd, Plan};
use palisade_attack::steps::{errno, in_child, own_pid, reap};
use serde_json::{Value, json};

use crate::given::Given;

const MIB: usize = 1024 * 1024;

/// Runs the attempt that `limit` names.
pub(crate) fn run(given: &Given) -> Vec<Value> {
    let bound = given.amount("bound", 64);
    let directory = given.text("directory").unwrap_or("/tmp");
    let attempt = match given.text("limit") {
        Some("memory") => memory(bound),
        Some("bytes") => fill(directory, bound, "bytes", fill_bytes),
        Some("inodes") => fill(directory, bound, "inodes", fill_inodes),
        Some("descriptors") => descriptors(bound),
        Some("processes") => processes(bound),
        Some("file_size") => file_size(directory, bound),
        Some("processor") => processor(bound),
        Some("stderr") => errors(bound),
        Some("run") => execute(given),
        Some(_) | None => return Vec::new(),
    };
    vec![attempt]
}

fn counted(plan: Plan, reached: u64, end: Result<(), Errno>) -> Value {
    let judged = plan.judge(end.map(|()| format!("its own bound, {reached}")));
    judged.with_figures(json!({ "reached": reached })).to_json()
}

/// In a child: what ends it is the kernel's killer, and the server should live to tell.
fn memory(mebibytes: u64) -> Value {
    let plan = Plan::new("memory", format!("touch {mebibytes} MiB of memory"));
    let grown = in_child(|| {
        let mut held: Vec<Vec<u8>> = Vec::new();
        for _ in 0..mebibytes {
            let mut block = Vec::new();
            block.try_reserve_exact(MIB).map_err(|_no_memory| Errno::ENOMEM)?;
            block.resize(MIB, 1);
            held.push(block);
        }
        Ok(())
    });
    plan.judge_child(grown).to_json()
}

/// Fills a directory up to a bound; how far it came, and what stopped it.
type Filler = fn(&str, u64) -> (u64, Result<(), Errno>);

fn fill(directory: &str, bound: u64, id: &'static str, until: Filler) -> Value {
    let folder = format!("{directory}/palisade-probe-fill-{}", own_pid());
    let plan = Plan::new(id, format!("use up the {id} of {directory}, at most {bound}"));
    if let Err(error) = std::fs::create_dir(&folder) {
        return plan.not_tried(errno(&error), "could not make a directory").to_json();
    }
    let (reached, end) = until(&folder, bound);
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody else writes in a directory that this process has just made"
    )]
    let removed = std::fs::remove_dir_all(&folder).is_ok();
    let judged = plan.judge(end.map(|()| format!("its own bound, {reached}")));
    judged.with_figures(json!({ "reached": reached, "removed": removed })).to_json()
}

/// `bound` is in MiB; so is the answer.
fn fill_bytes(folder: &str, bound: u64) -> (u64, Result<(), Errno>) {
    let written = || -> Result<_, Errno> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).open(format!("{folder}/file")).map_err(|error| errno(&error))
    };
    let mut file = match written() {
        Ok(file) => file,
        Err(error) => return (0, Err(error)),
    };
    let block = vec![0_u8; MIB];
    for reached in 0..bound {
        if let Err(error) = file.write_all(&block) {
            return (reached, Err(errno(&error)));
        }
    }
    (bound, Ok(()))
}

fn fill_inodes(folder: &str, bound: u64) -> (u64, Result<(), Errno>) {
    for reached in 0..bound {
        let mut options = OpenOptions::new();
        if let Err(error) = options.write(true).create_new(true).open(format!("{folder}/{reached}")) {
            return (reached, Err(errno(&error)));
        }
    }
    (bound, Ok(()))
}

/// A write behind the bound, which is in MiB. The signal that comes with it is ignored, as any server may.
fn file_size(directory: &str, bound: u64) -> Value {
    let path = format!("{directory}/palisade-probe-large-{}", own_pid());
    let plan = Plan::new("file_size", format!("make a file of more than {bound} MiB in {directory}"));
    let made = in_child(|| {
        use std::os::unix::fs::FileExt;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(&path).map_err(|error| errno(&error))?;
        let at = bound.saturating_mul(1024 * 1024);
        file.write_at(b"x", at).map(drop).map_err(|error| errno(&error))
    });
    if std::fs::remove_file(&path).is_err() {
        // It was not made.
    }
    plan.judge_child(made).to_json()
}

fn descriptors(bound: u64) -> Value {
    let plan = Plan::new("descriptors", format!("open {bound} descriptors"));
    let mut open = Vec::new();
    let mut end = Ok(());
    for _ in 0..bound {
        match raw::call(Call::DUP, &mut [Arg::Value(1)]) {
            Ok(number) => open.push(number),
            Err(error) => {
                end = Err(error);
                break;
            }
        }
    }
    for number in open.iter().filter_map(|number| i32::try_from(*number).ok()) {
        if raw::call(Call::CLOSE, &mut [Arg::Value(number)]).is_err() {
            // It was ours a moment ago; what the report says of it stays true.
        }
    }
    counted(plan, u64::try_from(open.len()).unwrap_or(u64::MAX), end)
}

/// Children that end by themselves after a moment, all alive at once.
fn processes(bound: u64) -> Value {
    let plan = Plan::new("processes", format!("start {bound} processes that stay"));
    let mut children = Vec::new();
    let mut end = Ok(());
    for _ in 0..bound {
        let lingering = raw::fork(0, || {
            std::thread::sleep(Duration::from_millis(500));
            0
        });
        match lingering {
            Ok(child) => children.push(child),
            Err(error) => {
                end = Err(error);
                break;
            }
        }
    }
    let reaped = children.iter().filter(|child| reap(**child).is_ok()).count();
    counted(plan, u64::try_from(reaped).unwrap_or(u64::MAX), end)
}

/// Two processes that do nothing but calculate, for `bound` milliseconds.
fn processor(bound: u64) -> Value {
    let plan = Plan::new("processor", format!("calculate for {bound} ms"));
    let spin = || {
        let until = Instant::now().checked_add(Duration::from_millis(bound));
        let mut sum = 0_u64;
        while until.is_some_and(|until| Instant::now() < until) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        Ok(())
    };
    let other = raw::fork(0, || u8::from(spin().is_err()));
    let own: Result<ChildEnd, Errno> = spin().map(|()| ChildEnd::Done);
    let judged = plan.judge_child(own).to_json();
    match other.and_then(reap) {
        Ok(_ended) => judged,
        Err(error) => Plan::new("processor", "start a second process").judge(Err(error)).to_json(),
    }
}

/// Runs a program of the image to its end; its status is in the figures.
fn execute(given: &Given) -> Value {
    let words = given.words("command");
    let plan = Plan::new("run", format!("run {}", words.join(" ")));
    let Some((program, arguments)) = words.split_first() else {
        return plan.not_tried(None, "there is no command").to_json();
    };
    #[expect(clippy::disallowed_methods, reason = "to run what the test names is what this is for")]
    let mut command = Command::new(program);
    // Its output is no message of ours.
    let ran = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match ran {
        Ok(status) => {
            let figures = json!({ "status": status.code(), "signal": status.signal() });
            plan.succeeded(status.to_string()).with_figures(figures).to_json()
        }
        Err(error) => plan.refused(errno(&error), "it could not be started").to_json(),
    }
}

/// `bound` MiB of lines on standard error.
fn errors(bound: u64) -> Value {
    let plan = Plan::new("stderr", format!("write {bound} MiB to standard error"));
    let end = lines(&mut io::stderr().lock(), "noise", bound).map_err(|error| errno(&error));
    counted(plan, bound, end)
}

/// `mebibytes` of messages that are no answers: what a server may send at any time.
pub(crate) fn flood(output: &mut impl Write, mebibytes: i32) -> io::Result<()> {
    let message = json!({
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": { "level": "info", "data": "x".repeat(900) },
    });
    lines(output, &message.to_string(), u64::try_from(mebibytes).unwrap_or(0))
}

fn lines(output: &mut impl Write, line: &str, mebibytes: u64) -> io::Result<()> {
    let length = u64::try_from(line.len()).unwrap_or(1).max(1);
    let count = mebibytes.saturating_mul(1024 * 1024).div_euclid(length);
    for _ in 0..count {
        writeln!(output, "{line}")?;
    }
    output.flush()
}
