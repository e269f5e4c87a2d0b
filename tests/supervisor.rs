//! The processes around a server: the supervisor's own confinement (C23), and sandboxes that are kept ready.

#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    reason = "tests look at /proc by path, and add to the clock"
)]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::{PATIENCE, Place, Process, Session, User, descendants, processes};

/// The processes below `ancestor` that call themselves `name`.
fn named(ancestor: u32, name: &str) -> Vec<u32> {
    let is_it = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    descendants(ancestor).into_iter().filter(is_it).collect()
}

/// Waits until there are `count` of them, and returns them.
#[track_caller]
fn wait_for(ancestor: u32, name: &str, count: usize) -> Vec<u32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = named(ancestor, name);
        if found.len() == count {
            return found;
        }
        assert!(Instant::now() < deadline, "{count} `{name}` were expected: {found:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

const CONFINED: [&str; 5] = [
    "NoNewPrivs:\t1",
    "Seccomp:\t2",
    "CapInh:\t0000000000000000",
    "CapPrm:\t0000000000000000",
    "CapEff:\t0000000000000000",
];

/// C23: while a server runs, its supervisor has no capability, a filter, and no descriptor of a file. (That the
/// filter is strict is a unit test of the list: `the_supervisors_list_is_strict`.)
#[test]
fn c23_the_supervisor_is_confined() {
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("");
        let mut session = place.session(&policy);
        session.call("add", json!({ "a": 1, "b": 2 }));
        let [supervisor] = named(session.child.id(), "palisade-super")[..] else { panic!("no supervisor") };
        let [keeper] = named(session.child.id(), "palisade-keeper")[..] else { panic!("no keeper") };
        for line in CONFINED {
            assert!(status(supervisor).contains(line), "{line}: {}", status(supervisor));
        }
        // The control: the same program without these walls.
        assert!(!status(keeper).contains("NoNewPrivs:\t1"), "{}", status(keeper));
        // What it holds: control socket, standard error, pid 1, the two pipes; no directory, no file.
        for entry in std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap() {
            let target = std::fs::read_link(entry.unwrap().path()).unwrap();
            let target = target.to_string_lossy();
            let harmless = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
            assert!(harmless.iter().any(|kind| target.starts_with(kind)), "it holds {target}");
        }
    }
}

fn gateway(place: &Place, more: &str) -> Session {
    let policy = place.demo_policy(more);
    let mut session =
        Session::start(&mut place.palisade(["gateway", "run", "--policy", policy.to_str().unwrap()]));
    session.initialize();
    session
}

/// Everything below the gateway, to see later that it is gone.
fn family(session: &Session) -> Vec<Process> {
    let below = descendants(session.child.id());
    processes().into_iter().filter(|process| below.contains(&process.pid)).collect()
}

/// A policy with `lifecycle.warm` has that many sandboxes ready: locked down, nothing of the image running.
/// A start takes one, and another is built; one that was killed meanwhile does no harm.
#[test]
fn sandboxes_are_kept_ready() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = gateway(&place, "lifecycle: { warm: 2 }");
        let ready = wait_for(session.child.id(), "palisade-init", 2);
        for pid in &ready {
            for line in CONFINED {
                assert!(status(*pid).contains(line), "{line}: {}", status(*pid));
            }
            assert!(descendants(*pid).is_empty(), "something of the image runs");
            // Three pipes for the server, and secrets, status and gate; nothing that the clone brought along.
            let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().collect();
            let targets: Vec<_> = open.iter().map(|fd| std::fs::read_link(fd.path()).unwrap()).collect();
            assert!(targets.len() == 6, "{targets:?}");
            assert!(
                targets.iter().all(|target| target.to_string_lossy().starts_with("pipe:")),
                "{targets:?}"
            );
        }

        let answer = session.call("demo__add", json!({ "a": 40, "b": 2 }));
        assert_eq!(answer["sum"], 42, "{answer}");
        let now = wait_for(session.child.id(), "palisade-init", 3);
        let taken: Vec<&u32> = now.iter().filter(|pid| !descendants(**pid).is_empty()).collect();
        assert_eq!(taken.len(), 1, "one server runs");
        assert!(ready.contains(taken[0]), "it was started in a sandbox that was ready");

        // The server and one of the two that wait are killed; the next call takes the other, or builds one.
        let waiting = now.iter().find(|pid| descendants(**pid).is_empty()).unwrap();
        for victim in [taken[0], waiting] {
            kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = session.call("demo__add", json!({ "a": 1, "b": 1 }));
            if answer["sum"] == 2 {
                break;
            }
            assert!(Instant::now() < deadline, "it does not come back: {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let family = family(&session);
        assert!(session.end().0.success());
        place.nothing_left(&family);
    }
}

/// Sandboxes that wait end with the gateway, however that ends.
#[test]
fn c15_sandboxes_that_wait_end_with_the_gateway() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = gateway(&place, "lifecycle: { warm: 2 }");
        wait_for(session.child.id(), "palisade-init", 2);
        let family = family(&session);
        assert_eq!(family.len(), 6, "two keepers, supervisors and reapers: {family:?}");
        kill(Pid::from_raw(session.child.id().cast_signed()), Signal::SIGKILL).unwrap();
        session.child.wait().unwrap();
        place.nothing_left(&family);
    }
}
