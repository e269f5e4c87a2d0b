//! Life and death (claim C15): whatever is killed, whenever, nothing that was started stays.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests look at /proc by path")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::{Place, Process, Session, User, cgroups, descendants, processes, still_alive, wait_within};

/// The promise: one second after the gateway's end.
const ONE_SECOND: Duration = Duration::from_secs(1);

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// The processes below the session's, keeper first.
fn family(session: &Session) -> Vec<Process> {
    let below = descendants(session.child.id());
    processes().into_iter().filter(|process| below.contains(&process.pid)).collect()
}

/// Waits until none of `family` runs, at most a second.
#[track_caller]
fn all_gone(family: &[Process], what: &str) {
    let started = Instant::now();
    while !still_alive(family).is_empty() {
        assert!(started.elapsed() < ONE_SECOND, "{what}: still alive: {:?}", still_alive(family));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Our cgroups that belong to the keepers in `family`.
fn cgroups_of(family: &[Process]) -> Vec<std::path::PathBuf> {
    let ids: Vec<String> =
        family.iter().map(|process| format!("{}-{}", process.pid, process.started)).collect();
    cgroups().into_iter().filter(|dir| ids.iter().any(|id| dir.ends_with(id))).collect()
}

fn running(place: &Place) -> (Session, Vec<Process>) {
    let policy = place.demo_policy("");
    let mut session = place.session(&policy);
    session.call("add", json!({ "a": 1, "b": 2 }));
    let family = family(&session);
    // keeper, supervisor, reaper, server
    assert_eq!(family.len(), 4, "{family:?}");
    (session, family)
}

#[test]
fn c15_nothing_outlives_the_gateway() {
    for user in User::all() {
        let place = Place::new(user);
        for how in [
            Signal::SIGKILL,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGABRT,
        ] {
            let (mut session, family) = running(&place);
            signal(session.child.id(), how);
            let ended = wait_within(&mut session.child, ONE_SECOND);
            assert!(ended.is_some(), "{how}: the gateway still runs");
            all_gone(&family, how.as_str());
            let started = Instant::now();
            while !cgroups_of(&family).is_empty() {
                assert!(started.elapsed() < ONE_SECOND, "{how}: left {:?}", cgroups_of(&family));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[test]
fn c15_nothing_outlives_a_killed_part() {
    for user in User::all() {
        let place = Place::new(user);
        for (index, part) in ["keeper", "supervisor", "reaper", "server"].into_iter().enumerate() {
            let (mut session, family) = running(&place);
            signal(family[index].pid, Signal::SIGKILL);
            all_gone(&family, part);
            // The gateway says so and ends; it does not hang.
            let ended = wait_within(&mut session.child, Duration::from_secs(20));
            assert!(
                ended.is_some_and(|status| !status.success()),
                "{part}: {ended:?}\n{}",
                session.stderr_so_far()
            );
        }
        // A killed keeper cannot remove its cgroup; the next start does.
        drop(running(&place));
        let ours: Vec<_> = cgroups().into_iter().filter(|dir| is_orphan(dir)).collect();
        assert!(ours.is_empty(), "left over: {ours:?}");
    }
}

/// A stopped supervisor cannot follow the gateway; the keeper sees to it.
#[test]
fn c15_nothing_outlives_the_gateway_behind_a_stopped_supervisor() {
    for user in User::all() {
        let place = Place::new(user);
        let (mut session, family) = running(&place);
        signal(family[1].pid, Signal::SIGSTOP);
        signal(session.child.id(), Signal::SIGKILL);
        assert!(wait_within(&mut session.child, ONE_SECOND).is_some());
        all_gone(&family, "with its supervisor stopped");
    }
}

/// Ctrl-C goes to the whole foreground process group; only the gateway is in it, and it ends its servers in
/// order: the cgroup is removed.
#[test]
fn c15_an_interrupt_from_the_terminal_is_an_orderly_end() {
    use std::os::unix::process::CommandExt;
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("");
        let mut command = place.palisade(["run", policy.to_str().unwrap()]);
        command.process_group(0);
        let mut session = Session::start(&mut command);
        session.initialize();
        let family = family(&session);
        let group = Pid::from_raw(session.child.id().cast_signed());
        nix::sys::signal::killpg(group, Signal::SIGINT).unwrap();
        let ended = wait_within(&mut session.child, ONE_SECOND);
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        all_gone(&family, "Ctrl-C");
        assert!(cgroups_of(&family).is_empty());
    }
}

/// Whether the keeper that made this cgroup is gone.
fn is_orphan(dir: &std::path::Path) -> bool {
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    !processes().iter().any(|process| format!("{}-{}", process.pid, process.started) == name)
}

#[test]
fn c15_nothing_outlives_a_start_that_is_killed_half_way() {
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("");
        place.must(["image", "prepare", policy.to_str().unwrap()]);
        for delay_ms in (0..40).step_by(2) {
            let mut gateway = place
                .palisade(["run", policy.to_str().unwrap()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(delay_ms));
            let below = descendants(gateway.id());
            let family: Vec<_> =
                processes().into_iter().filter(|process| below.contains(&process.pid)).collect();
            gateway.kill().unwrap();
            gateway.wait().unwrap();
            all_gone(&family, &format!("killed after {delay_ms} ms"));
        }
        // One that started between the look and the kill is not in `family`.
        none_of_the_program(&place, "killed half way");
    }
}

/// Waits until no process runs this place's program, at most a second.
#[track_caller]
fn none_of_the_program(place: &Place, what: &str) {
    let started = Instant::now();
    loop {
        let mine: Vec<_> = processes()
            .into_iter()
            .filter(|process| {
                let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid));
                exe.is_ok_and(|exe| exe == place.program())
            })
            .collect();
        if mine.is_empty() {
            return;
        }
        assert!(started.elapsed() < ONE_SECOND, "{what}: {mine:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A supervisor that dies between the clone of pid 1 and the moment when pid 1 asks to die with it: the keeper ends
/// what is left.
#[test]
fn c15_nothing_outlives_a_supervisor_that_is_killed_while_it_launches() {
    const ROUNDS: u64 = 20;
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("");
        place.must(["image", "prepare", policy.to_str().unwrap()]);
        let mut hits = 0;
        for round in 0..ROUNDS {
            let mut gateway = place
                .palisade(["run", policy.to_str().unwrap()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // libcontainer gives pid 1 this name at its start; ours comes with the lock-down.
            let init = child_named(gateway.id(), "youki:[2:INIT]");
            std::thread::sleep(Duration::from_micros(round * 100));
            if let Some((supervisor, init)) = init {
                // Either may have ended by itself, which is no hit.
                let waits = comm(init) == "youki:[2:INIT]";
                let killed = kill(Pid::from_raw(supervisor.cast_signed()), Signal::SIGKILL).is_ok();
                hits += u64::from(waits && killed);
            }
            drop(gateway.stdin.take());
            let ended = wait_within(&mut gateway, support::PATIENCE);
            assert!(ended.is_some(), "the gateway hangs after round {round}");
            no_orphan(&format!("supervisor killed in round {round}"));
            none_of_the_program(&place, &format!("supervisor killed in round {round}"));
        }
        assert!(hits >= ROUNDS / 10, "{user:?}: only {hits} of {ROUNDS} were killed in the middle");
    }
}

/// Waits until no process of libcontainer's is without a parent of ours, at most a second. By name, since the program
/// of one that has left the host's mounts has no path any more.
#[track_caller]
fn no_orphan(what: &str) {
    let started = Instant::now();
    let orphans = || -> Vec<Process> {
        let adopted = processes().into_iter().filter(|process| process.parent == 1 && process.state != 'Z');
        adopted.filter(|process| comm(process.pid).starts_with("youki:")).collect()
    };
    while !orphans().is_empty() {
        assert!(started.elapsed() < ONE_SECOND, "{what}: {:?}", orphans());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first process below `gateway` that calls itself `name`, after its parent; none within a second. Follows the
/// kernel's lists of children, since looking through all of `/proc` takes longer than the phase that is wanted.
fn child_named(gateway: u32, name: &str) -> Option<(u32, u32)> {
    let started = Instant::now();
    while started.elapsed() < ONE_SECOND {
        for supervisor in children(gateway).into_iter().flat_map(children) {
            if let Some(init) = children(supervisor).into_iter().find(|init| comm(*init) == name) {
                return Some((supervisor, init));
            }
        }
    }
    None
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

#[test]
fn the_end_of_input_is_a_clean_end() {
    for user in User::all() {
        let place = Place::new(user);
        let (session, family) = running(&place);
        let (status, said) = session.end();
        assert!(status.success(), "{status}: {said}");
        all_gone(&family, "end of input");
        assert!(cgroups_of(&family).is_empty());
    }
}

/// Nothing of ours is mounted on the host at any time, and the state of a sandbox is in no directory of it.
#[test]
fn no_mount_and_no_state_on_the_host() {
    for user in User::all() {
        let place = Place::new(user);
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let (session, _family) = running(&place);
        let during = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let new: Vec<&str> = during.lines().filter(|line| !before.contains(*line)).collect();
        assert!(!new.iter().any(|line| line.contains("palisade") || line.contains("overlay")), "{new:?}");
        drop(session);
        let staging = std::fs::read_dir(place.store().join("tmp")).map_or(0, Iterator::count);
        assert_eq!(staging, 0, "left in the store's staging directory");
    }
}
