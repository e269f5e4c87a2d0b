//! `fork_bomb`: starts processes until something stops it.
//!
//! Bounded by itself in three ways, so that it is safe to run without a sandbox: a number of processes, a time, and
//! children that end by themselves even where this process is killed or may not signal them.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::json;

use super::{Arguments, in_child, reap};
use crate::raw::{self, Arg, Call};
use crate::report::{Control, Plan, Report};

/// Sixty-four times what a policy grants that says nothing of processes (64): reaching it means no limit.
const MAX_CHILDREN: usize = 4096;

/// With the children's sleep, which may start at the last moment, and the reaping, still below a second on a machine
/// of usual speed.
const MAX_FORKING: Duration = Duration::from_millis(400);
/// So many are tried however long it takes: a slow machine (an emulated one, say) needs more than that time for the 64
/// processes of a policy that says nothing, and must not look like one without a limit.
const AT_LEAST: usize = 256;
const CHILD_SLEEP_NANOSECONDS: u64 = 400_000_000;

pub(crate) fn run(_arguments: &Arguments<'_>) -> Report {
    let controls = vec![Control::new("start one process and wait for it", in_child(|| Ok(())))];
    let plan = Plan::new("fork", format!("fork up to {MAX_CHILDREN} processes that stay"))
        .proves("the server can use up the process ids of the host")
        .unconfined("succeeds: no refusal before its own bound in number or time");
    let start = Instant::now();
    let (children, end) = fork_until(start);
    let forks = children.len();
    let Killed { killed, reaped } = kill_all(&children);
    let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let attempt = match end {
        End::Refused(errno) => plan.refused(errno, format!("after {forks} processes: {}", errno.desc())),
        End::OwnBound => plan.succeeded(format!("{forks} processes and no refusal")),
    };
    let figures = json!({ "forks": forks, "bound": MAX_CHILDREN, "killed": killed, "reaped": reaped, "elapsed_ms": elapsed_ms });
    Report { controls, attempts: vec![attempt.with_figures(figures)] }
}

enum End {
    Refused(Errno),
    OwnBound,
}

fn fork_until(start: Instant) -> (Vec<i32>, End) {
    let mut children = Vec::with_capacity(MAX_CHILDREN);
    while children.len() < AT_LEAST || (children.len() < MAX_CHILDREN && start.elapsed() < MAX_FORKING) {
        match raw::fork(0, linger) {
            Ok(child) => children.push(child),
            Err(errno) => return (children, End::Refused(errno)),
        }
    }
    (children, End::OwnBound)
}

/// What a child does: it goes when its parent goes, and otherwise soon. Where the kernel refuses either, it goes at
/// once, and counts until it is reaped.
fn linger() -> u8 {
    let die_with_parent = [Arg::Value(libc::PR_SET_PDEATHSIG), Arg::Value(libc::SIGKILL)];
    let span = [0_u64.to_ne_bytes(), CHILD_SLEEP_NANOSECONDS.to_ne_bytes()].concat();
    let lingered = raw::call(Call::PRCTL, &mut { die_with_parent })
        .and_then(|_zero| raw::call(Call::NANOSLEEP, &mut [Arg::Bytes(&span), Arg::Value(0)]));
    u8::from(lingered.is_err())
}

/// Kills and reaps; a child that may not be signalled is waited for, since it ends by itself.
fn kill_all(children: &[i32]) -> Killed {
    let kill = |child: i32| raw::call(Call::KILL, &mut [Arg::Value(child), Arg::Value(libc::SIGKILL)]);
    // All are killed before any is waited for, so that the waiting does not add up.
    let killed = children.iter().filter(|child| kill(**child).is_ok()).count();
    let reaped = children.iter().filter(|child| reap(**child).is_ok()).count();
    Killed { killed, reaped }
}

struct Killed {
    killed: usize,
    reaped: usize,
}
