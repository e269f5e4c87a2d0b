//! Killed at any point, nothing half-made remains.
#![expect(clippy::disallowed_methods, reason = "whole runs are started to be killed")]

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_image::{Store, Trust, VerifyRequest, unpack, verify};

use crate::support::{Fixture, image_name, trials};
use crate::unpack::many_files;

trials![
    a_killed_child_leaves_nothing,
    a_killed_run_leaves_nothing_and_its_child_goes_with_it,
    what_is_being_made_is_not_swept,
];

/// Files enough that a kill falls into the middle.
const FILES: usize = 6_000;

/// The role `__prepare`: unpack an image, and say how it ended.
pub(crate) fn prepare(store: &str, name: &str) -> ExitCode {
    let store = Store::open(store.as_ref()).unwrap();
    let trust = Trust::Unsigned { reason: "a test".into() };
    let image =
        verify(&store, &VerifyRequest { name: &image_name(name), expected_digest: None, trust }).unwrap();
    match unpack(&store, image) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(fixture: &Fixture) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["__prepare", fixture.path("store").to_str().unwrap(), "a:1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the run's own child has written something, and gives that child's id.
fn wait_for_child(fixture: &Fixture, run: &Child) -> Option<Pid> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let children = format!("/proc/{0}/task/{0}/children", run.id());
        let child = std::fs::read_to_string(children).unwrap_or_default();
        let is_writing = fixture.entries("tmp").iter().any(|entry| {
            let tree = fixture.path("store/tmp").join(entry).join("tree");
            std::fs::read_dir(tree).is_ok_and(|entries| entries.count() > 10)
        });
        if let (true, Ok(child)) = (is_writing, child.trim().parse()) {
            return Some(Pid::from_raw(child));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn a_killed_child_leaves_nothing() {
    let fixture = Fixture::new();
    fixture.import(&many_files(FILES), "a:1");
    let run = start(&fixture);
    let child = wait_for_child(&fixture, &run).unwrap();
    kill(child, Signal::SIGKILL).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("the unpacking process died (signal: 9"), "{said}");
    fixture.assert_published(0);
    fixture.unpack("a:1").unwrap();
    fixture.assert_published(1);
}

fn a_killed_run_leaves_nothing_and_its_child_goes_with_it() {
    let fixture = Fixture::new();
    fixture.import(&many_files(FILES), "a:1");
    let mut run = start(&fixture);
    let child = wait_for_child(&fixture, &run).unwrap();
    kill(child, None).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    while is_running(child) {
        assert!(Instant::now() < deadline, "the unpacking process outlived its parent");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fixture.entries("tmp").len(), 1, "the control: something was left to sweep");
    assert_eq!(fixture.entries("rootfs").len(), 0);
    drop(Store::open(&fixture.path("store")).unwrap());
    fixture.assert_published(0);
    fixture.unpack("a:1").unwrap();
    fixture.assert_published(1);
}

/// An orphan that nobody reaps stays as a zombie, which is not running.
fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

fn what_is_being_made_is_not_swept() {
    let fixture = Fixture::new();
    fixture.import(&many_files(FILES), "a:1");
    let mut run = start(&fixture);
    wait_for_child(&fixture, &run).unwrap();
    drop(Store::open(&fixture.path("store")).unwrap());
    assert!(run.wait().unwrap().success());
    fixture.assert_published(1);
}
