//! Servers beside each other: one that uses up what it can, one that is attacked by the other.
//!
//! Times are printed and not asserted; that an answer comes within the support's patience is.

#![cfg(test)]
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{PATIENCE, Place, Session, User, descendants};

/// A gateway with a hostile and a friendly server.
struct Gateway {
    place: Place,
    session: Session,
}

impl Gateway {
    fn new(user: User, hostile: &str) -> Self {
        let place = Place::new(user);
        place.import_probe(&[]);
        let hostile = place.probe_policy("hostile", hostile);
        let friend = place.demo_policy("");
        Self { session: start(&place, &[&hostile, &friend]), place }
    }

    /// Sends a call to the hostile server without waiting, and goes on calling the friend until that answer is there.
    fn beside(&mut self, given: &Value) -> (Value, Vec<Duration>) {
        let id = 5000;
        self.session.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": "hostile__probe", "arguments": given } }));
        let mut latencies = Vec::new();
        let begun = Instant::now();
        while latencies.len() < 20 || !self.session.has_answer(id) {
            assert!(begun.elapsed() < PATIENCE, "the hostile server never ends");
            let asked = Instant::now();
            let sum = self.session.call("demo__add", json!({ "a": 1, "b": 2 }));
            assert_eq!(sum["sum"], 3, "the friend answers: {sum}");
            latencies.push(asked.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        (self.session.answer_kept(id), latencies)
    }
}

fn start(place: &Place, policies: &[&PathBuf]) -> Session {
    let mut arguments = vec!["gateway".to_owned(), "run".to_owned()];
    for policy in policies {
        arguments.extend(["--policy".to_owned(), policy.display().to_string()]);
    }
    let mut session = Session::start(&mut place.palisade(&arguments));
    session.initialize();
    // Servers are started when they are first needed.
    session.request("tools/list", json!({}));
    session
}

fn print(what: &str, user: User, latencies: &[Duration]) {
    let mut sorted = latencies.to_vec();
    sorted.sort();
    let (median, worst) = (sorted.get(sorted.len().div_euclid(2)), sorted.last());
    let count = latencies.len();
    println!("{user:?} beside {what}: {count} answers of the friend, median {median:?}, worst {worst:?}");
}

/// Whatever a server uses up, it meets its limit, and its neighbour goes on answering.
#[test]
fn a_limit_is_met_and_the_neighbour_answers() {
    const LIMITS: &str = "limits: { pids: 24, tmp: 4MiB, open_files: 64, file_size: 8MiB, memory: 96MiB }";
    for user in User::all() {
        let mut gateway = Gateway::new(user, LIMITS);
        for (limit, bound, errnos) in [
            ("processes", 4096, &["EAGAIN"][..]),
            ("bytes", 64, &["ENOSPC", "EFBIG"]),
            ("inodes", 100_000, &["ENOSPC"]),
            ("descriptors", 10_000, &["EMFILE"]),
            ("file_size", 8, &["EFBIG", "ENOSPC"]),
        ] {
            let given = json!({ "group": "limits", "limit": limit, "bound": bound });
            let (answer, latencies) = gateway.beside(&given);
            print(limit, user, &latencies);
            let attempt = &answer["result"]["structuredContent"]["attempts"][0];
            let errno = attempt["errno"].as_str().unwrap_or("none");
            let killed = limit == "file_size" && attempt["detail"] == "killed by signal 25";
            assert!(
                attempt["outcome"] == "refused" && (errnos.contains(&errno) || killed),
                "{user:?} {limit}: {answer:#}"
            );
        }
        for (limit, bound) in [("processor", 700), ("stderr", 2)] {
            let given = json!({ "group": "limits", "limit": limit, "bound": bound });
            let (answer, latencies) = gateway.beside(&given);
            print(limit, user, &latencies);
            assert!(answer["result"].is_object() || answer["error"].is_object(), "{answer}");
        }
        // Messages that nobody asked for, 8 MiB of them.
        let (answer, latencies) = gateway.beside(&json!({ "group": "none", "flood_mib": 8 }));
        print("a flood of messages", user, &latencies);
        assert!(answer["result"].is_object() || answer["error"].is_object(), "{answer}");
        let family = family(&gateway.session);
        let Gateway { place, session } = gateway;
        session.end();
        place.nothing_left(&family);
    }
}

/// The same limits, not set: the control of the test above. What was refused there succeeds without a sandbox.
#[test]
fn without_a_sandbox_nothing_is_limited() {
    for user in User::all() {
        let place = Place::new(user);
        for (limit, bound) in
            [("processes", 40), ("bytes", 8), ("inodes", 3000), ("descriptors", 200), ("file_size", 2)]
        {
            let directory = place.dir("room");
            let given = json!({ "group": "limits", "limit": limit, "bound": bound, "directory": directory });
            let attempts = place.unconfined_probe(&given, &[]);
            assert_eq!(attempts[limit]["outcome"], "succeeded", "{:#}", attempts[limit]);
        }
    }
}

/// Memory, where a cgroup holds it: the kernel ends who takes too much, and only within that server.
#[test]
fn memory_is_taken_from_nobody_else() {
    for user in User::all() {
        if user == User::Ordinary {
            println!("{user:?}: no memory cgroup without delegation; the policy accepts that by name (C10)");
            continue;
        }
        let mut gateway = Gateway::new(user, "limits: { memory: 64MiB }");
        let (answer, latencies) =
            gateway.beside(&json!({ "group": "limits", "limit": "memory", "bound": 256 }));
        print("a memory hog", user, &latencies);
        let attempt = &answer["result"]["structuredContent"]["attempts"][0];
        // The child that grew was ended, or (memory.oom.group of cgroup v2) its whole server.
        assert!(attempt["outcome"] == "refused" || answer["error"].is_object(), "{answer:#}");
        assert_eq!(gateway.session.call("demo__add", json!({ "a": 2, "b": 2 }))["sum"], 4);
    }
}

fn family(session: &Session) -> Vec<support::Process> {
    let mut family = Vec::new();
    support::remember(&mut family, session.child.id());
    family
}

/// A server knows the ids, names and places of another one, and gets at nothing of it.
#[test]
fn two_servers_do_not_meet() {
    for user in User::all() {
        let place = Place::new(user);
        place.import_probe(&[]);
        let first = place.probe_policy("one", "");
        for (relation, second) in [
            ("the same policy", place.probe_policy("two", "")),
            ("another policy", place.policy("two", "probe:1", "limits: { pids: 9 }")),
        ] {
            let session = start(&place, &[&second]);
            let theirs = descendants(session.child.id());
            let mut attacker = start(&place, &[&first]);
            assert!(theirs.len() >= 4, "keeper, supervisor, reaper, server: {theirs:?}");
            for victim in theirs {
                meets_nobody(&mut attacker, &json!({ "group": "processes", "pid": victim }), relation);
            }
            for group in ["sockets", "files"] {
                let given = json!({
                    "group": group,
                    "abstract_socket": "palisade-two",
                    "socket_path": "/first/socket",
                    "first": "/first", "second": "/second", "third": "/third",
                    "host_file": place.root.join("two.yaml"),
                });
                meets_nobody(&mut attacker, &given, relation);
            }
            // Shared memory and temporary files are each server's own: what one leaves, the other does not see.
            let namespaces = attacker.probe_list("one__probe", &json!({ "group": "facts" })).remove(0);
            drop(session);
            let mut session = start(&place, &[&second]);
            let others = session.probe_list("two__probe", &json!({ "group": "facts" })).remove(0);
            for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
                assert_ne!(namespaces["namespaces"][kind], others["namespaces"][kind], "{relation}: {kind}");
            }
        }
    }
}

#[track_caller]
fn meets_nobody(attacker: &mut Session, given: &Value, relation: &str) {
    for attempt in attacker.probe_list("one__probe", given) {
        assert_eq!(attempt["outcome"], "refused", "{relation}: {given}: {attempt:#}");
    }
}

/// Ten classes of stressor of stress-ng, a second each.
const STRESSORS: [&[&str]; 10] = [
    &["--cpu", "2"],
    &["--vm", "1", "--vm-bytes", "32M"],
    &["--fork", "4"],
    &["--switch", "2"],
    &["--pipe", "2"],
    &["--futex", "2"],
    &["--timer", "1"],
    &["--dentry", "1"],
    &["--hdd", "1", "--hdd-bytes", "2M"],
    &["--sock", "1"],
];

/// What stress-ng does inside is felt by nobody outside.
#[test]
fn stress_inside_leaves_the_neighbour_answering() {
    let layout = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/images/stress");
    if !support::need("target/fixtures/images/stress (run tests/run)", layout.is_dir()) {
        return;
    }
    for user in User::all() {
        let place = Place::new(user);
        place.import_probe_with(&layout, "probe:1");
        let stress =
            place.probe_policy("hostile", "limits: { pids: 48, memory: 128MiB, cpus: 1, tmp: 16MiB }");
        let friend = place.demo_policy("");
        let mut gateway = Gateway { session: start(&place, &[&stress, &friend]), place };
        let mut family = Vec::new();
        for stressor in STRESSORS {
            let command: Vec<&str> =
                ["/usr/bin/stress-ng", "--timeout", "1", "--temp-path", "/tmp", "--quiet"]
                    .iter()
                    .chain(stressor)
                    .copied()
                    .collect();
            let given = json!({ "group": "limits", "limit": "run", "command": command });
            let (answer, latencies) = gateway.beside(&given);
            print(&stressor.join(" "), user, &latencies);
            let attempt = &answer["result"]["structuredContent"]["attempts"][0];
            assert_eq!(attempt["outcome"], "succeeded", "{user:?}: it ran: {answer:#}");
            println!("{user:?} {}: {}", stressor.join(" "), attempt["detail"]);
            support::remember(&mut family, gateway.session.child.id());
        }
        let Gateway { place, session } = gateway;
        session.end();
        place.nothing_left(&family);
    }
}
