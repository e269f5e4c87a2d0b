//! Claims C9, C10 and C18: what a policy limits ends at the limit, by the layer that the enforcement lines name, and
//! nobody else notices. As root and as an ordinary user.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests look at /sys and /proc by path")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Place, Session, User, cgroups, need, stderr, unconfined};

const NONE: Value = Value::Null;

/// What `explain` says of a limit: `enforced`, `soft` or `degraded`.
fn state(place: &Place, policy: &std::path::Path, what: &str) -> Value {
    let explained: Value =
        serde_json::from_str(&place.must(["explain", policy.to_str().unwrap(), "--json"])).unwrap();
    let lines = explained["spec"]["enforcement"].as_array().unwrap().clone();
    lines.into_iter().find(|line| line["what"] == what).map_or(NONE, |line| line["state"].clone())
}

/// The cgroup directories of what this session started.
fn cgroups_of(session: &Session) -> Vec<PathBuf> {
    let below = support::descendants(session.child.id());
    let names: Vec<String> = support::processes()
        .into_iter()
        .filter(|process| below.contains(&process.pid))
        .map(|process| format!("{}-{}", process.pid, process.started))
        .collect();
    cgroups().into_iter().filter(|dir| names.iter().any(|name| dir.ends_with(name))).collect()
}

/// C9: bytes and files in /tmp, open descriptors and the length of a file end at the policy's numbers, each with the
/// errno of its limit, and the server goes on.
#[test]
fn c9_files_end_at_their_limits() {
    for user in User::all() {
        let control = unconfined(user, "exhaust", &json!({}));
        for attempt in ["tmp_bytes", "tmp_files", "open_files", "file_size"] {
            control.succeeded(attempt);
        }
        let place = Place::new(user);
        let policy =
            place.demo_policy("limits: { tmp: 4MiB, tmp_files: 100, open_files: 64, file_size: 8MiB }");
        let mut session = place.session(&policy);
        let inside = session.attack("exhaust", json!({}));
        inside.refused("tmp_bytes", &["ENOSPC"]);
        inside.refused("tmp_files", &["ENOSPC"]);
        inside.refused("open_files", &["EMFILE"]);
        inside.refused("file_size", &["EFBIG"]);
        let reached = |id: &str| inside.attempt(id)["figures"]["reached"].as_u64().unwrap();
        assert_eq!(reached("tmp_bytes"), 4 * 1024 * 1024);
        assert!((90..100).contains(&reached("tmp_files")), "{}", reached("tmp_files"));
        assert!((55..64).contains(&reached("open_files")), "{}", reached("open_files"));
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3, "the server still answers");
    }
}

/// C10: a server that takes more memory than its policy allows is killed, by the kernel where there is a cgroup and by
/// the keeper where there is none, and whoever asked is told why.
#[test]
fn c10_a_memory_hog_is_killed() {
    for user in User::all() {
        // The control: unconfined, the same takes what it wants.
        unconfined(user, "exhaust", &json!({ "what": "memory" })).succeeded("memory");
        let place = Place::new(user);
        let policy = place.demo_policy("limits: { memory: 64MiB }");
        let state = state(&place, &policy, "limit on memory");
        let expected = if user == User::Root { "enforced" } else { "soft" };
        if !need("a writable memory cgroup as root", state["state"] == expected) {
            continue;
        }
        let mut session = place.session(&policy);
        let family: Vec<_> = support::descendants(session.child.id());
        let answer = session.call("exhaust", json!({ "what": "memory" }));
        let message = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("more memory than `limits.memory` allows"), "{answer:#}");
        let (status, said) = session.end();
        assert_eq!(status.code(), Some(128 + 9), "{said}");
        assert!(said.contains("hint: raise `limits.memory`"), "{said}");
        let left: Vec<_> =
            support::processes().into_iter().filter(|process| family.contains(&process.pid)).collect();
        assert!(left.is_empty(), "{left:?}");
        let stop = place.audit().into_iter().find(|event| event["event"] == "server_stop").unwrap();
        assert!(stop["reason"].as_str().unwrap().contains("limits.memory"), "{stop}");
        // A server that stays below it is not disturbed, with half as much again as room.
        let mut session = place.session(&place.demo_policy("limits: { memory: 768MiB }"));
        session.attack("exhaust", json!({ "what": "memory" })).succeeded("memory");
    }
}

/// C10: what took effect is read back once the sandbox stands, and written down.
#[test]
fn c10_what_was_found_is_in_the_audit_log() {
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("limits: { memory: 64MiB, open_files: 100, pids: 30 }");
        let session = place.session(&policy);
        let found = |what: &str| {
            let start = place.audit().into_iter().find(|event| event["event"] == "server_start").unwrap();
            let lines = start["facts"]["enforcement"].as_array().unwrap().clone();
            lines.into_iter().find(|line| line["what"] == what).unwrap()["found"].clone()
        };
        let rlimits = found("limits on open files, file size and core dumps");
        assert!(rlimits.as_str().unwrap().contains("OpenFiles 100"), "{rlimits}");
        if user == User::Ordinary {
            assert_eq!(found("limit on memory"), NONE, "there is nothing to read");
            continue;
        }
        if !need("a writable memory cgroup", state(&place, &policy, "limit on memory")["state"] == "enforced")
        {
            continue;
        }
        let memory = found("limit on memory");
        assert!(memory.as_str().unwrap().contains(" 67108864"), "{memory}");
        assert!(found("limit on pids").as_str().unwrap().contains("pids.max 30"));
        // The same as the kernel says of the directory that pid 1 and the server are in, and the supervisor is not.
        let dirs = cgroups_of(&session);
        let read = |file: &str| {
            dirs.iter().filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok()).collect::<Vec<_>>()
        };
        assert!(read("pids.max").iter().all(|text| text == "30\n"), "{dirs:?}");
        let below = support::descendants(session.child.id());
        let members = read("cgroup.procs");
        assert!(!members.is_empty());
        for text in members {
            let mut pids: Vec<u32> = text.lines().map(|pid| pid.parse().unwrap()).collect();
            pids.sort_unstable();
            assert_eq!(pids, below[2..], "keeper and supervisor are outside, reaper and server inside");
        }
    }
}

/// C10: `limits.io` is set for the disks behind image and mounts where the kernel has it, and what it does not do is
/// said and has to be accepted.
#[test]
fn c10_disks_are_limited_where_that_means_something() {
    for user in User::all() {
        let place = Place::new(user);
        let strict = place.demo_policy("limits: { io: 1MiB }");
        let output = place.run(["explain", strict.to_str().unwrap()]);
        let v1 = std::path::Path::new("/sys/fs/cgroup/blkio").is_dir();
        if user == User::Ordinary || v1 {
            assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
            assert!(stderr(&output).contains("accept_degraded: [io]"), "{}", stderr(&output));
        }
        let text = std::fs::read_to_string(&strict).unwrap().replace("cpus]", "cpus, io]");
        let policy = place.write("accepting.yaml", text);
        let state = state(&place, &policy, "limit on io");
        if user == User::Ordinary {
            assert_eq!(state["state"], "degraded");
            place.session(&policy);
            continue;
        }
        if !need("an io or blkio controller as root", state["state"] != "degraded") {
            continue;
        }
        let session = place.session(&policy);
        let set: Vec<String> = cgroups_of(&session)
            .iter()
            .flat_map(|dir| ["blkio.throttle.read_bps_device", "io.max"].map(|file| dir.join(file)))
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        assert!(set.iter().any(|text| text.contains("1048576")), "{set:?}");
    }
}

/// A gateway in front of the demo server under two names, one with more lines of policy.
fn two(place: &Place, more: &str) -> Session {
    place.demo_policy("");
    let [bad, good] = [("bad", more), ("good", "")].map(|(name, more)| place.policy(name, "demo:1", more));
    let arguments = ["gateway", "run", "--policy", bad.to_str().unwrap(), "--policy", good.to_str().unwrap()];
    let mut session = Session::start(&mut place.palisade(arguments));
    session.initialize();
    session
}

/// C18: a server that floods its standard output and standard error slows down itself and nobody else.
#[test]
fn c18_a_flood_of_output_holds_up_nobody_else() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = two(&place, "limits: { output: 64KiB }");
        assert_eq!(session.call("good__add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        for what in ["output", "errors"] {
            let flood = json!({ "name": "bad__exhaust", "arguments": { "what": what } });
            session.send(&json!({ "jsonrpc": "2.0", "id": what, "method": "tools/call", "params": flood }));
            for n in 0..20 {
                assert_eq!(session.call("good__add", json!({ "a": n, "b": 1 }))["sum"], n + 1);
            }
        }
    }
}

/// Calls of 300 ms, and a server that is stopped soon after.
const SHORT: &str = "limits: { call_time: 300ms }\nlifecycle: { stop_timeout: 200ms }";

/// C18: a call that takes longer than the policy allows is given up with an error that names the limit; a server that
/// does nothing but let calls run out is ended and, behind the gateway, started again.
#[test]
fn c18_a_call_has_an_end() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = two(&place, SHORT);
        for _ in 0..3 {
            let answer = session.call("bad__exhaust", json!({ "what": "time" }));
            assert!(answer["error"]["message"].as_str().unwrap().contains("`limits.call_time`"), "{answer}");
            assert_eq!(session.call("good__add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        }
        assert_eq!(session.call("bad__add", json!({ "a": 1, "b": 2 }))["sum"], 3, "started again");
        // The one that hangs has to be signalled before its end can be written down.
        let stopped = || place.audit().into_iter().find(|event| event["event"] == "server_stop");
        let deadline = Instant::now() + support::PATIENCE;
        while stopped().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let stop = stopped().unwrap();
        assert!(stop["reason"].as_str().unwrap().contains("3 calls"), "{stop}");

        // In the place of the server itself, the same call ends the run.
        let policy = place.demo_policy(SHORT);
        let mut session = place.session(&policy);
        for _ in 0..3 {
            let answer = session.call("exhaust", json!({ "what": "time" }));
            assert!(answer["error"]["message"].as_str().unwrap().contains("`limits.call_time`"), "{answer}");
        }
        let (status, said) = session.end();
        assert!(!status.success() && said.contains("hint: raise `limits.call_time`"), "{status}: {said}");
    }
}
