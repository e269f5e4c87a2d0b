//! What a filter costs each call: without one, with the two filters that seccompiler makes of the same lists, and with ours.
//!
//! `cargo bench -p palisade-sandbox --bench seccomp` prints the table of `benches/README.md`. Filters cannot be taken off again,
//! so each variant is a process of its own: this program, started again. A round starts every variant once, in turn; a process
//! times batches of one call after the other. Minimum and median are over the batches of all rounds.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends the program; its table is its output"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::IsTerminal;
use std::process::Command;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use palisade_policy::Baseline;
use palisade_sandbox::seccomp::{Allowlist, allowlist};
use serde_json::{Value, json};

/// Rounds: the median of the medians is stable to some 3 % here.
const ROUNDS: usize = 15;
/// Batches of a call in one process.
const BATCHES: usize = 40;
/// Calls in a batch: some milliseconds, far above what reading the clock costs.
const CALLS: u32 = 5_000;

const VARIANTS: [&str; 3] = ["no filter", "seccompiler, two filters", "palisade, one filter"];

/// A call, and how it is made.
type Measured = (&'static str, fn());

const MEASURED: [Measured; 6] = [
    ("getppid (allowed whatever its arguments)", || {
        black_box(nix::unistd::getppid());
    }),
    ("openat and close (two rules)", || {
        black_box(open("/dev/null", OFlag::O_RDONLY, Mode::empty()).is_ok());
    }),
    ("fcntl (9 rules)", || {
        black_box(fcntl(std::io::stdout(), FcntlArg::F_GETFL).is_ok());
    }),
    ("ioctl (7 rules)", || {
        black_box(std::io::stdout().is_terminal());
    }),
    ("prctl (11 rules)", || {
        black_box(nix::sys::prctl::get_name().is_ok());
    }),
    ("unshare (refused)", || {
        black_box(unshare(CloneFlags::empty()).is_ok());
    }),
];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--variant") => one_process(&std::env::args().nth(2).unwrap()),
        _ => all(),
    }
}

/// Installs a variant's filters and measures every call.
fn one_process(variant: &str) {
    nix::sys::prctl::set_no_new_privs().unwrap();
    let list = allowlist(Baseline::Node).unwrap();
    match variant {
        "seccompiler, two filters" => {
            for program in by_seccompiler(&list) {
                seccompiler::apply_filter(&program).unwrap();
            }
        }
        "palisade, one filter" => {
            for filter in list.compile().unwrap() {
                filter.install().unwrap();
            }
        }
        _ => {}
    }
    let mut found = BTreeMap::new();
    for (name, call) in MEASURED {
        let times: Vec<f64> = (0..BATCHES).map(|_| batch(call)).collect();
        found.insert(name, times);
    }
    println!("{}", json!(found));
}

fn batch(call: fn()) -> f64 {
    let started = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// The layout before: clone3 in a filter of its own, then the allowlist.
fn by_seccompiler(list: &Allowlist) -> Vec<seccompiler::BpfProgram> {
    let mut calls: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for rule in list.rules() {
        let args: Vec<Value> = rule
            .args
            .iter()
            .map(|condition| {
                let op = match condition.mask.0 {
                    0xffff_ffff => json!("eq"),
                    mask => json!({ "masked_eq": mask }),
                };
                json!({ "index": condition.index, "type": "dword", "op": op, "val": condition.is.0 })
            })
            .collect();
        let line = json!({ "syscall": rule.syscall, "args": args });
        calls.entry(&rule.syscall).or_default().push(line);
    }
    let mut lines: Vec<Value> = calls.into_values().flatten().collect();
    for line in &mut lines {
        if line["args"].as_array().unwrap().is_empty() {
            line.as_object_mut().unwrap().remove("args");
        }
    }
    lines.push(json!({ "syscall": "clone3" }));
    [
        (json!("allow"), json!({ "errno": 38 }), vec![json!({ "syscall": "clone3" })]),
        (json!({ "errno": 1 }), json!("allow"), lines),
    ]
    .into_iter()
    .map(|(otherwise, matched, lines)| {
        let document =
            json!({ "filter": { "mismatch_action": otherwise, "match_action": matched, "filter": lines } });
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let mut programs = seccompiler::compile_from_json(document.to_string().as_bytes(), arch).unwrap();
        programs.remove("filter").unwrap()
    })
    .collect()
}

fn all() {
    let mut times: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for variant in VARIANTS {
            let output =
                Command::new(std::env::current_exe().unwrap()).args(["--variant", variant]).output().unwrap();
            assert!(output.status.success(), "{variant}: {}", String::from_utf8_lossy(&output.stderr));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            for (name, _) in MEASURED {
                let batches = found[name].as_array().unwrap().iter().map(|time| time.as_f64().unwrap());
                times.entry((name, variant)).or_default().extend(batches);
            }
        }
    }
    println!("{}\n", sizes());
    println!(
        "| call | variant | min ns | median ns | ratio of medians | median added ns |\n|---|---|---|---|---|---|"
    );
    for (name, _) in MEASURED {
        let baseline = median(times.get_mut(&(name, VARIANTS[0])).unwrap());
        for variant in VARIANTS {
            let all = times.get_mut(&(name, variant)).unwrap();
            let middle = median(all);
            println!(
                "| {name} | {variant} | {:.1} | {middle:.1} | {:.2} | {:.1} |",
                all[0],
                middle / baseline,
                middle - baseline
            );
        }
    }
}

/// Instructions, and what compiling costs.
fn sizes() -> String {
    let list = allowlist(Baseline::Node).unwrap();
    let mut compiling: Vec<f64> = (0..200)
        .map(|_| {
            let started = Instant::now();
            black_box(list.compile_anew().unwrap());
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    let mut resolving: Vec<f64> = (0..200)
        .map(|_| {
            let started = Instant::now();
            black_box(allowlist(Baseline::Node).unwrap().digest());
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    let theirs: Vec<String> = by_seccompiler(&list).iter().map(|program| program.len().to_string()).collect();
    format!(
        "Baseline node: {} instructions, with seccompiler {}. Reading and digesting the list takes {:.0} µs, compiling it {:.0} µs (medians).",
        list.compile_anew().unwrap().len(),
        theirs.join(" + "),
        median(&mut resolving),
        median(&mut compiling)
    )
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
