//! The set-up of a sandbox with a kernel that says no, or that lies.
//!
//! The shim of the probe program (`tests/probe/src/deny.rs`) makes chosen system calls fail or claim success without doing
//! anything. Each call of the set-up fails once, at each place where it is made: the first, the second and so on, counted
//! over all processes of the start. The rule is the same for all: either nothing of the image is executed, the error
//! names the step, and nothing is left; or the server runs and is confined exactly as it is without the shim.

#![cfg(test)]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "tests act as a person would, on paths, and count"
)]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::probe::{posture, questions, watch_to_end};
use support::{Place, User, Watched, one_error};

/// A place whose image is unpacked already, so that a start makes the sandbox and nothing else.
struct Start {
    place: Place,
    policy: PathBuf,
    marker: PathBuf,
    normal: Value,
}

impl Start {
    fn new(user: User) -> Self {
        let place = Place::new(user);
        place.import_probe(&["--mark", "/first/marker"]);
        let policy = place.probe_policy("probe", "");
        place.must(["image", "prepare", policy.to_str().unwrap()]);
        place.probe_program();
        let marker = place.root.join("first/marker");
        let mut start = Self { place, policy, marker, normal: Value::Null };
        // A rule that nothing meets: the count of filters is the shim's one more in every run.
        let ran = start.run(&["setns,1=0x7:EPERM".to_owned()]);
        start.normal = posture(&ran.output.stdout)
            .unwrap_or_else(|| panic!("it does not run: {}", String::from_utf8_lossy(&ran.output.stderr)));
        assert!(start.marker.exists(), "the marker shows that the program ran");
        start
    }

    fn run(&self, rules: &[String]) -> Watched {
        let _absent = std::fs::remove_file(&self.marker);
        watch_to_end(&mut self.place.shimmed(rules, &self.policy), &questions())
    }

    /// What is wrong with the end of a run; none where it was refused in order, or confined as ever.
    fn complaint(&self, rule: &str) -> (Outcome, Option<String>) {
        let ran = self.run(&[rule.to_owned()]);
        self.place.nothing_left(&ran.family);
        let said = String::from_utf8_lossy(&ran.output.stderr).into_owned();
        let found = posture(&ran.output.stdout);
        let may_have_run = self.marker.exists() || matches!(ran.output.status.code(), Some(0 | 1));
        if found.is_none() && may_have_run && rule.starts_with(ENDS_WITH_ITS_REAPER) {
            return (Outcome::Refused(said), None);
        }
        if self.marker.exists() {
            let wrong = found.as_ref() != Some(&self.normal);
            let difference =
                || format!("{rule}: runs, and differently confined:\n{}", self.difference(found.as_ref()));
            return (Outcome::Runs, wrong.then(difference));
        }
        let status = ran.output.status.code();
        let panics = status == Some(101) && PANICS.contains(&rule);
        if !panics && !matches!(status, Some(125 | 126 | 3)) {
            return (Outcome::Refused(said.clone()), Some(format!("{rule}: status {status:?}: {said}")));
        }
        let complaint = if panics { None } else { unreadable(&said) };
        (Outcome::Refused(said), complaint.map(|what| format!("{rule}: {what}")))
    }

    fn difference(&self, found: Option<&Value>) -> String {
        let Some(found) = found else { return "it gave no answer".into() };
        let keys = self.normal.as_object().unwrap().keys();
        keys.filter(|key| found[key.as_str()] != self.normal[key.as_str()])
            .map(|key| format!("  {key}: {} and not {}", found[key.as_str()], self.normal[key.as_str()]))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// How often a start makes each of these calls.
    fn counts(&self, calls: &[&str]) -> Vec<u64> {
        let rules: Vec<String> = calls.iter().map(|call| format!("{call}:count")).collect();
        let ran = self.run(&rules);
        assert_eq!(posture(&ran.output.stdout).as_ref(), Some(&self.normal), "counting changes nothing");
        self.place.hits()
    }

    /// Lets each of these calls fail at each place, and says how each ended.
    fn each_fails_once(&self, calls: &[&str]) {
        let mut complaints = Vec::new();
        for (call, count) in calls.iter().zip(self.counts(calls)) {
            let (mut refused, mut runs) = (0, 0);
            // A call that is never made proves nothing. Only root changes owners and drops groups.
            let roots = ["fchown", "setgroups"].contains(call) && self.place.user == User::Ordinary;
            assert!(count > 0 || roots, "{:?}: {call} is never made", self.place.user);
            // A loop over 41 capabilities is one step; its first and last call and some between stand for it.
            let stride = count.div_ceil(MOST_OF_ONE_CALL).max(1);
            for nth in (1..=count).rev().step_by(usize::try_from(stride).unwrap()) {
                let errno = ["EPERM", "ENOMEM", "EIO"][usize::try_from(nth % 3).unwrap()];
                match self.complaint(&format!("{call}#{nth}:{errno}")) {
                    (_, Some(complaint)) => complaints.push(complaint),
                    (Outcome::Refused(_), None) => refused += 1,
                    (Outcome::Runs, None) => runs += 1,
                }
            }
            println!(
                "{:?} {call}: made {count} times, refused {refused}, confined all the same {runs}",
                self.place.user
            );
        }
        assert!(complaints.is_empty(), "{:?}:\n{}", self.place.user, complaints.join("\n"));
    }
}

/// What a start has left behind, which fails the test, must not stay on the machine as well.
impl Drop for Start {
    fn drop(&mut self) {
        for process in support::processes() {
            let program = std::fs::read_link(format!("/proc/{}/exe", process.pid));
            if program.is_ok_and(|program| program == self.place.program()) {
                let pid = nix::unistd::Pid::from_raw(process.pid.cast_signed());
                let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// No call but the dropping of capabilities is made more often.
const MOST_OF_ONE_CALL: u64 = 24;

enum Outcome {
    Runs,
    Refused(String),
}

/// Refused by tokio, which panics where it cannot make the socket pair of its signals; nothing has been started then.
const PANICS: [&str; 3] = ["socketpair#1:EPERM", "socketpair#1:ENOMEM", "socketpair#1:EIO"];

/// The reaper closes its descriptors when the server has been executed already, locked down; it ends and takes the
/// server with it.
const ENDS_WITH_ITS_REAPER: &str = "close_range#";

/// What is wrong with an error as it is shown. The keeper writes to the same standard error as the gateway, so that
/// there may be two, each with its hint.
fn unreadable(said: &str) -> Option<String> {
    let lines = |prefix: &str| said.lines().filter(|line| line.starts_with(prefix)).count();
    let (errors, hints) = (lines("error: "), lines("hint: "));
    let raw =
        ["panicked", ".rs:", "RUST_BACKTRACE", "Some(", "Err("].iter().find(|word| said.contains(**word));
    let wrong = errors == 0 || errors != hints || raw.is_some();
    wrong.then(|| format!("{errors} errors and {hints} hints: {said}"))
}

fn for_everybody(calls: &[&str]) {
    for user in User::all() {
        Start::new(user).each_fails_once(calls);
    }
}

/// Mounts and roots.
#[test]
fn each_mount_fails_once() {
    for_everybody(&["mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr"]);
}

/// Namespaces, identities, capabilities and the last locks.
#[test]
fn each_lock_fails_once() {
    for_everybody(&[
        "unshare",
        "setgroups",
        "setresuid",
        "setresgid",
        "capset",
        "prctl,0=38",
        "prctl,0=28",
        "prctl,0=24",
        "prctl,0=1",
        "prctl,0=4",
        "prlimit64,3=0",
        "landlock_create_ruleset",
        "landlock_add_rule",
        "landlock_restrict_self",
        "seccomp,0=1",
        "sethostname",
        "setsid",
    ]);
}

/// What the set-up is made with.
#[test]
fn each_tool_fails_once() {
    for_everybody(&["pidfd_open", "socketpair", "close_range", "mkdirat", "fchown"]);
}

/// A setter that claims success and does nothing is caught, or did not matter.
#[test]
fn a_setter_that_lies_is_caught() {
    /// The setter, and the word by which the error must name it; empty where it may turn out not to matter.
    const SETTERS: [(&str, &str); 16] = [
        ("prctl,0=38", "no_new_privs"),
        ("prctl,0=28", "securebits"),
        ("prctl,0=24", "capabilit"),
        ("capset", "capabilit"),
        ("prlimit64,3=0", "limit"),
        ("prlimit64,1=7,3=0", "limit"),
        ("prlimit64,1=6,3=0", "limit"),
        ("landlock_restrict_self", "Landlock"),
        ("seccomp,0=1", "ecc"),
        ("setgroups", "group"),
        ("prctl,0=1", "die"),
        ("unshare", ""),
        ("pivot_root", ""),
        ("mount_setattr", ""),
        ("setresuid", ""),
        ("setresgid", ""),
    ];
    if nix::unistd::Uid::effective().is_root() {
        // What root would give up, so that not giving it up can be noticed.
        nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(4), nix::unistd::Gid::from_raw(6)]).unwrap();
    }
    for user in User::all() {
        let start = Start::new(user);
        let mut complaints = Vec::new();
        for (setter, step) in SETTERS {
            match start.complaint(&format!("{setter}:0")) {
                (_, Some(complaint)) => complaints.push(complaint),
                (Outcome::Refused(said), None) if said.contains(step) => {
                    println!("{user:?} {setter}: {said}");
                }
                (Outcome::Refused(said), None) => {
                    complaints.push(format!("{setter}: the error does not name the step `{step}`: {said}"));
                }
                // What this user does not set cannot lie.
                (Outcome::Runs, None)
                    if step.is_empty() || (setter == "setgroups" && user == User::Ordinary) =>
                {
                    println!("{user:?} {setter}: did not matter");
                }
                (Outcome::Runs, None) => complaints.push(format!("{setter}: nobody noticed")),
            }
        }
        assert!(complaints.is_empty(), "{user:?}:\n{}", complaints.join("\n"));
    }
}

/// A kernel without newer calls: fully confined, or refused by name.
#[test]
fn a_kernel_that_lacks_calls_is_refused_or_makes_no_difference() {
    const FAMILIES: [(&str, &[&str]); 7] = [
        ("Landlock", &["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]),
        ("openat2", &["openat2"]),
        ("clone3", &["clone3"]),
        ("fsopen", &["fsopen", "fsconfig", "fsmount", "fspick"]),
        ("open_tree", &["open_tree", "move_mount", "mount_setattr"]),
        ("close_range", &["close_range"]),
        ("pidfd", &["pidfd_open", "pidfd_send_signal"]),
    ];
    for user in User::all() {
        let start = Start::new(user);
        for (family, calls) in FAMILIES {
            let rules: Vec<String> = calls.iter().map(|call| format!("{call}:ENOSYS")).collect();
            let ran = start.run(&rules);
            start.place.nothing_left(&ran.family);
            let said = String::from_utf8_lossy(&ran.output.stderr).into_owned();
            let found = posture(&ran.output.stdout);
            if start.marker.exists() {
                let difference = start.difference(found.as_ref());
                assert_eq!(found.as_ref(), Some(&start.normal), "{user:?} {family}:\n{difference}");
                println!("{user:?} without {family}: confined as ever");
            } else {
                let status = ran.output.status.code();
                assert!(status.is_some_and(|status| [3, 125].contains(&status)), "{family}: {said}");
                let shown = one_error(&said);
                println!("{user:?} without {family}: {}: {:?}", shown.message, shown.causes);
            }
        }
    }
}
