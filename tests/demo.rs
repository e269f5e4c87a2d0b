//! `palisade demo`, run as a person would run it: as root and as an ordinary user.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the tests start programs and look at what is left")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{
    PATIENCE, Place, Process, Session, User, assert_plain, names_in, remember, stderr, wait_within, watch,
};

const ATTACKS: [&str; 9] = [
    "steal_ssh_keys",
    "read_environment",
    "list_host_processes",
    "dial_metadata",
    "dial_public",
    "fork_bomb",
    "symlink_escape",
    "write_outside",
    "become_root",
];

/// A place with a directory of its own for the demonstration's temporary files.
struct Stage {
    place: Place,
    temporary: PathBuf,
}

impl Stage {
    fn new(user: User) -> Self {
        let place = Place::new(user);
        let temporary = place.dir("run");
        Self { place, temporary }
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.palisade(["demo"].iter().chain(arguments));
        // What the attacks look for in environments.
        command.env("PALISADE_DEMO_CANARY", "1").env("USER", "somebody");
        command.env("XDG_RUNTIME_DIR", &self.temporary).env("TMPDIR", &self.temporary);
        command
    }

    fn serve(&self) -> Session {
        let mut session = Session::start(&mut self.demo(&["--serve"]));
        session.initialize();
        session
    }

    fn temporary_directories(&self) -> Vec<String> {
        names_in(&self.temporary)
    }

    #[track_caller]
    fn nothing_left(&self, family: &[Process]) {
        self.place.nothing_left(family);
        assert_eq!(self.temporary_directories(), Vec::<String>::new());
        assert!(!self.place.store().exists(), "the demo must not touch the store");
    }
}

/// One printed attempt.
#[derive(Debug)]
struct Line<'a> {
    tool: &'a str,
    outcome: &'a str,
    errno: &'a str,
    layer: &'a str,
    attempt: &'a str,
}

/// The attempts, out of the columns in which they are printed.
fn attempts(text: &str) -> Vec<Line<'_>> {
    let (mut tool, mut found) = ("", Vec::new());
    let (_, below) = text.split_once("what was tried").expect("the heading of the attempts");
    let (table, _) = below.split_once(" attempts: ").expect("the summary");
    for line in table.lines() {
        let column = |from: usize, to: usize| line.get(from..to.min(line.len())).unwrap_or("").trim();
        if !line.is_empty() && !line.starts_with(' ') {
            tool = line.split_whitespace().next().unwrap_or("");
        } else if !column(2, 13).is_empty() {
            found.push(Line {
                tool,
                outcome: column(2, 13),
                errno: column(13, 26),
                layer: column(26, 45),
                attempt: column(45, usize::MAX),
            });
        }
    }
    found
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_attack_is_shown_with_the_layer_that_refused_it() {
    for user in User::all() {
        let stage = Stage::new(user);
        let watched = watch(&mut stage.demo(&[]), "");
        let text = stdout(&watched.output);
        assert!(watched.output.status.success(), "{user:?}\n{text}\n{}", stderr(&watched.output));
        assert_eq!(stderr(&watched.output), "");
        assert_attempts(&text);
        assert_story(&text);
        assert_client_lines(&stage, &text);
        assert!(!watched.family.is_empty(), "the servers were seen while they ran");
        stage.nothing_left(&watched.family);
    }
}

fn assert_attempts(text: &str) {
    let attempts = attempts(text);
    for tool in ATTACKS {
        let of_this: Vec<_> = attempts.iter().filter(|line| line.tool == tool).collect();
        assert!(of_this.iter().any(|line| line.outcome == "refused"), "{tool} is not refused: {text}");
    }
    for line in &attempts {
        match line.outcome {
            "refused" => assert!(!line.layer.is_empty(), "no layer: {line:?}"),
            "harmless" | "moot" => {}
            _ => panic!("{line:?}"),
        }
    }
    // With the canary set, each of these has something to find; and one call of each kind of layer.
    for (attempt, errnos, layers) in [
        ("find PALISADE_DEMO_CANARY in its own", &[""][..], &["own environment"][..]),
        ("variables of a person's session", &[""], &["own environment"]),
        ("find PALISADE_DEMO_CANARY in the environment of", &["ENOENT"], &["pid namespace"]),
        ("read $DEMO/home/.ssh/{id_ed25519", &["ENOENT"], &["mount namespace"]),
        ("follow HOME", &["ENOENT"], &["mount namespace"]),
        ("signal every process id", &["ESRCH"], &["pid namespace"]),
        ("connect to 169.254.169.254:80", &["EACCES", "ENETUNREACH"], &["Landlock", "network namespace"]),
        ("send a DNS question", &["ENETUNREACH"], &["network namespace"]),
        ("abstract unix socket", &["EPERM"], &["seccomp filter"]),
        ("fork up to", &["EAGAIN"], &["process limit"]),
        ("open /etc/shadow", &["ENOENT"], &["mount namespace"]),
        ("create a file in /etc", &["EROFS"], &["read-only mount"]),
        ("core_pattern", &["ENOENT"], &["procfs options"]),
        ("execute a program that it wrote to /tmp", &["EACCES"], &["noexec mount"]),
        ("make a user namespace (unshare)", &["EPERM"], &["seccomp filter"]),
        ("in a new user namespace (clone3)", &["ENOSYS"], &["seccomp filter"]),
    ] {
        let line = attempts.iter().find(|line| line.attempt.contains(attempt));
        let line = line.unwrap_or_else(|| panic!("no attempt to {attempt}: {text}"));
        assert!(line.outcome == "refused" && errnos.contains(&line.errno), "{line:?}");
        assert!(layers.contains(&line.layer), "{line:?}");
    }
    let refused = attempts.iter().filter(|line| line.outcome == "refused").count();
    let summary = format!("{} attempts: {refused} refused, ", attempts.len());
    assert!(text.contains(&summary) && text.contains(" 0 unexpected"), "{summary} is not in {text}");
}

/// What comes before the attacks, and how it is shown.
fn assert_story(text: &str) {
    for told in [
        "\nverified   sha256:",
        "\nrefused    the same image, under a policy with another key:\n           none of the 1 signatures",
        "\ncalled     demo__echo -> {\"text\":\"hello from an MCP client\"}",
        "\ncalled     demo__add 2, 40 -> {\"sum\":42}",
        "\ncalled     neighbour__read_environment -> found GITHUB_TOKEN, its own secret",
        "\nrefused    neighbour__become_root, by the gateway: ",
        "\n    accept_degraded: [landlock, memory, cpus]\n",
        "\ntook: image ",
    ] {
        assert!(text.contains(told), "{told:?} is not in {text}");
    }
    assert_plain(text);
    // The policy and the client's lines are to be copied, and are not cut.
    let (_, below) = text.split_once("\nverified").unwrap();
    let (told, _) = below.split_once("\nto attack from").unwrap();
    for line in told.lines() {
        assert!(line.chars().count() <= 120, "longer than 120 columns: {line}");
    }
}

fn assert_client_lines(stage: &Stage, text: &str) {
    let (_, json) = text.split_once("configuration:\n").expect("the lines for a client");
    let lines: Value = serde_json::from_str(json).unwrap();
    let server = &lines["mcpServers"]["palisade-demo"];
    assert_eq!(server["command"], stage.place.program().to_str().unwrap());
    assert_eq!(server["args"], json!(["demo", "--serve"]));
}

#[test]
fn reasons_are_given_when_asked_for() {
    let stage = Stage::new(User::Ordinary);
    let text = stdout(&stage.demo(&["--verbose"]).output().unwrap());
    assert!(text.contains("the network namespace has no route"), "{text}");
    assert_attempts(&text);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let stage = Stage::new(User::Ordinary);
    let mut child = stage.demo(&[]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("directory"), "{first}");
    let status = wait_within(&mut child, PATIENCE).expect("it ends");
    assert!(status.success(), "{status}");
    stage.nothing_left(&[]);
}

#[test]
fn a_client_of_ones_own_can_attack() {
    for user in User::all() {
        let stage = Stage::new(user);
        let mut session = stage.serve();
        let listed = session.request("tools/list", json!({}));
        assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(12), "{listed}");
        let echoed = session.call("demo__echo", json!({ "text": "over a pipe" }));
        assert_eq!(echoed, json!({ "text": "over a pipe" }));
        session.attack("demo__become_root", json!({})).refused("unshare_user", &["EPERM"]);
        let mut family = Vec::new();
        remember(&mut family, session.child.id());
        assert!(family.len() >= 3, "keeper, supervisor, reaper, server: {family:?}");

        // A second one beside it takes nothing away.
        let (status, said) = stage.serve().end();
        assert!(status.success(), "{status}\n{said}");
        assert_eq!(stage.temporary_directories().len(), 1);
        assert_eq!(session.call("demo__add", json!({ "a": 1, "b": 2 })), json!({ "sum": 3 }));

        let (status, said) = session.end();
        assert!(status.success(), "{status}\n{said}");
        assert!(said.contains("palisade demo: gateway    ready on standard input and output"), "{said}");
        stage.nothing_left(&family);
    }
}

#[test]
fn a_signal_ends_everything_that_was_started() {
    for user in User::all() {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
            let stage = Stage::new(user);
            let mut session = stage.serve();
            session.call("demo__echo", json!({ "text": "start the server" }));
            let mut family = Vec::new();
            remember(&mut family, session.child.id());
            assert!(family.len() >= 3, "{family:?}");
            kill(pid(session.child.id()), signal).unwrap();
            let status = wait_within(&mut session.child, Duration::from_secs(10)).expect("it ends");
            // One second from here, at the most.
            stage.place.nothing_left(&family);
            if signal == Signal::SIGKILL {
                // What SIGKILL leaves is found by the next one, and taken away.
                assert_eq!(stage.temporary_directories().len(), 1);
                let (status, said) = stage.serve().end();
                assert!(status.success(), "{said}");
            } else {
                assert!(status.success(), "{signal}: {status}");
            }
            stage.nothing_left(&family);
        }
    }
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    for user in User::all() {
        // Early, while the image is made, and later, among the attacks.
        for until in ["directory", "steal_ssh_keys"] {
            let stage = Stage::new(user);
            let mut child = stage.demo(&[]).stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().starts_with(until)));
            kill(pid(child.id()), Signal::SIGINT).unwrap();
            let rest = lines.map_while(Result::ok).collect::<Vec<_>>().join("\n");
            let status = wait_within(&mut child, PATIENCE).expect("it ends");
            // The attacks take a moment only: it may have been through.
            let through = rest.contains("to attack from a client of your own");
            assert_eq!(status.code(), Some(if through { 0 } else { 125 }), "{status}: {rest}");
            assert!(!through || until != "directory", "it did not notice the signal: {rest}");
            stage.nothing_left(&[]);
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}
