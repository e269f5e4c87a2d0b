//! `read_environment`: secrets that lie in somebody's environment, its own or another process's.
//!
//! Whoever tests a sandbox puts `PALISADE_DEMO_CANARY` into the environment that starts it: found here, it leaked.
//! Names are reported, never values.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::{Arguments, list, own_pid, parent_pid, read};
use crate::report::{Attempt, Control, Plan, Report};

/// The marker that a test gives to everything outside the sandbox.
const CANARY: &str = "PALISADE_DEMO_CANARY";

/// Variables of a person's session or a CI job that no image declares.
const SESSION: [&str; 12] = [
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "SSH_AUTH_SOCK",
    "SSH_CONNECTION",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SUDO_USER",
    "CARGO_HOME",
    "GITHUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
];

/// The most names listed in a detail, so that it stays a line.
const MAX_NAMES: usize = 24;

pub(crate) fn run(arguments: &Arguments<'_>) -> Report {
    let own: Vec<String> =
        std::env::vars_os().map(|(name, _value)| name.to_string_lossy().into_owned()).collect();
    let likely = likely_processes(arguments.pid());
    let mut attempts = vec![look_for_canary(&own), look_for_session(&own), look_for_home()];
    attempts.extend(likely.iter().map(|pid| read_other(*pid)));
    attempts.extend(read_every_other(&likely));
    let controls = vec![Control::new("read /proc/self/status", read("/proc/self/status"))];
    Report { controls, attempts }
}

fn look_for_canary(own: &[String]) -> Attempt {
    let plan = Plan::new("own_canary", format!("find {CANARY} in its own environment"))
        .proves("the server inherits the environment of whoever started the gateway")
        .unconfined("succeeds where the variable is set");
    let names = own.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ");
    if own.iter().any(|name| name == CANARY) {
        plan.succeeded("it is there")
    } else {
        plan.refused(None, format!("not among the {} variables: {names}", own.len()))
    }
}

fn look_for_session(own: &[String]) -> Attempt {
    let plan = Plan::new("own_session", "find variables of a person's session in its own environment")
        .proves("the server inherits the environment of whoever started the gateway")
        .unconfined("succeeds: a shell sets PWD and USER at the least");
    let found: Vec<&str> = SESSION.into_iter().filter(|name| own.iter().any(|own| own == name)).collect();
    if found.is_empty() {
        plan.refused(None, format!("none of {} is set", SESSION.join(", ")))
    } else {
        plan.succeeded(format!("found {}", found.join(", ")))
    }
}

fn look_for_home() -> Attempt {
    let plan = Plan::new("own_home", "follow HOME to a person's home directory")
        .proves("the server knows a home directory of the host and sees it")
        .unconfined("succeeds");
    let Some(home) = std::env::var_os("HOME") else { return plan.refused(None, "HOME is not set") };
    let home = home.to_string_lossy();
    // What an image sets that has no users; both are the sandbox's own.
    if ["", "/", "/tmp"].contains(&home.as_ref()) {
        return plan.refused(None, format!("HOME is {home:?}, which is nobody's"));
    }
    let listed = list(&home);
    match listed {
        Ok(names) if names.is_empty() => plan.refused(None, "HOME names an empty directory"),
        Ok(names) => plan.succeeded(format!("{} entries", names.len())),
        Err(errno) => plan.refused(errno, errno.desc()),
    }
}

/// Processes that are worth a try even where /proc does not show them.
fn likely_processes(asked: Option<i32>) -> BTreeSet<i32> {
    [1, parent_pid()].into_iter().chain(asked).filter(|pid| *pid > 0 && *pid != own_pid()).collect()
}

fn environ(pid: i32) -> Result<Vec<u8>, Errno> {
    read(&format!("/proc/{pid}/environ"))
}

fn read_other(pid: i32) -> Attempt {
    let plan = Plan::new("other_environ", format!("read /proc/{pid}/environ"))
        .proves("the environment of another process, with whatever secrets are in it, can be read")
        .unconfined("succeeds for processes of the same user (as root: of any)");
    match environ(pid) {
        // The kernel gives nothing, without an error, for a kernel thread or a process that has just exited.
        Ok(content) if content.is_empty() => plan.refused(None, "empty"),
        Ok(content) => {
            let names = content.split(|byte| *byte == 0).filter(|entry| entry.contains(&b'='));
            plan.succeeded(format!("read {} variables", names.count()))
        }
        Err(errno) => plan.refused(errno, errno.desc()),
    }
}

/// Every process that can be seen, and those that are likely: is any readable, has any the marker.
fn read_every_other(likely: &BTreeSet<i32>) -> [Attempt; 2] {
    let seen = list("/proc").unwrap_or_default();
    let mut others: BTreeSet<i32> = seen.iter().filter_map(|name| name.parse().ok()).collect();
    others.extend(likely);
    others.remove(&own_pid());

    let read: Vec<Result<Vec<u8>, Errno>> = others.iter().map(|pid| environ(*pid)).collect();
    // A process that is not there says less than one that is and is closed.
    let refusals = || read.iter().filter_map(|content| content.as_ref().err().copied());
    let refusal =
        refusals().find(|errno| ![Errno::ENOENT, Errno::ESRCH].contains(errno)).or(refusals().next());
    let readable = read.iter().flatten().filter(|content| !content.is_empty());
    let canaries = readable.clone().filter(|content| holds_canary(content)).count();
    let readable = readable.count();

    let count = others.len();
    let plan = Plan::new(
        "every_environ",
        format!("read the environment of every process in /proc ({count} others)"),
    )
    .proves("the environment of another process, with whatever secrets are in it, can be read")
    .unconfined("succeeds: some other process of the same user is running");
    let every = match readable {
        0 => plan.refused(refusal, "none could be read"),
        _ => plan.succeeded(format!("read {readable} of them")),
    };
    let plan =
        Plan::new("other_canary", format!("find {CANARY} in the environment of {count} other processes"))
            .proves("a secret of the gateway or of another server can be read")
            .unconfined("succeeds where a readable process has the variable");
    let canary = match canaries {
        0 => plan.refused(refusal, "found nowhere"),
        _ => plan.succeeded(format!("{canaries} of them have it")),
    };
    [every, canary]
}

fn holds_canary(environ: &[u8]) -> bool {
    environ.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}
