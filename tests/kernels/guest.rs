//! Inside the machine: runs the cases of one scenario, one after the other, and reports each as a line of JSON.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::support::{cgroups, processes};

/// The argument with which `tests/kernels/guest.sh` starts this binary.
pub(crate) const ROLE: &str = "__guest";

/// How one case ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) case: String,
    /// What it said when it failed.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
}

/// What the running case has said as it panicked: only the hook knows where that was.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

pub(crate) fn run(name: &str) -> ExitCode {
    let scenario = Scenario::named(name).unwrap();
    std::panic::set_hook(Box::new(|panic| *LAST_PANIC.lock().unwrap() = panic.to_string()));
    for (case, run) in scenario.all_cases() {
        let started = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            run(&scenario);
            nothing_is_left();
        }));
        let failure = ended.err().map(|_panic| LAST_PANIC.lock().unwrap().clone());
        let report = Report { case: case.to_owned(), failure, seconds: started.elapsed().as_secs_f64() };
        println!("{}", serde_json::to_string(&report).unwrap());
    }
    ExitCode::SUCCESS
}

/// Each case leaves the machine as it found it: no process of the program and no cgroup of it.
fn nothing_is_left() {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let running: Vec<u32> = processes()
            .into_iter()
            .filter(|process| process.state != 'Z' && is_palisade(process.pid))
            .map(|process| process.pid)
            .collect();
        let mut made = cgroups();
        made.extend([PathBuf::from(PARENT)].into_iter().filter(|parent| parent.is_dir()));
        if running.is_empty() && made.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            // So that the next case is not the one to be blamed.
            for dir in &made {
                let _may_be_in_use = std::fs::remove_dir(dir);
            }
            panic!("left behind: processes {running:?}, cgroups {made:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What holds the cgroups of all sandboxes, and goes with the last.
const PARENT: &str = "/sys/fs/cgroup/palisade";

fn is_palisade(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("palisade"))
}
