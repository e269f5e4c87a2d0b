//! The sandbox as a whole: the demonstration, what the kernel says of a running server, and its end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{accepted, policy, trials};
use crate::scenario::Scenario;
use crate::support::{Place, User, descendants, processes, stderr, still_alive};

trials![
    the_demonstration_holds_for_root,
    the_demonstration_holds_for_an_ordinary_user,
    the_kernel_says_that_the_server_is_locked_down,
    nothing_outlives_a_killed_gateway,
];

fn demonstration(user: User) {
    let place = Place::new(user);
    let output = place.run(["demo"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}\n{}", output.status, stderr(&output));
    assert!(text.contains(" moot, 0 unexpected"), "{text}");
}

fn the_demonstration_holds_for_root(_scenario: &Scenario) {
    demonstration(User::Root);
}

fn the_demonstration_holds_for_an_ordinary_user(_scenario: &Scenario) {
    demonstration(User::Ordinary);
}

/// The server's process, seen from outside: the only one below the gateway that runs the image's program.
fn server_below(gateway: u32) -> u32 {
    let is_server = |pid: &u32| {
        let link = std::fs::read_link(format!("/proc/{pid}/exe"));
        link.is_ok_and(|exe| exe.ends_with("bin/server"))
    };
    descendants(gateway).into_iter().find(is_server).unwrap()
}

fn the_kernel_says_that_the_server_is_locked_down(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = place.session(&policy(&place, &accepted(scenario, user)));
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let server = server_below(session.child.id());
        let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        let none = "0000000000000000";
        for (field, value) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Seccomp_filters", "1"),
            ("CapInh", none),
            ("CapPrm", none),
            ("CapEff", none),
            ("CapBnd", none),
            ("CapAmb", none),
        ] {
            assert!(status.lines().any(|line| line == format!("{field}:\t{value}")), "{field}: {status}");
        }
        for namespace in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
            let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(server), of(std::process::id()), "{namespace}");
        }
        session.end();
    }
}

fn nothing_outlives_a_killed_gateway(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = place.session(&policy(&place, &accepted(scenario, user)));
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let below = descendants(session.child.id());
        let family: Vec<_> = processes().into_iter().filter(|each| below.contains(&each.pid)).collect();
        assert!(family.len() >= 4, "keeper, supervisor, reaper, server: {family:?}");
        session.child.kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !still_alive(&family).is_empty() {
            assert!(Instant::now() < deadline, "still alive: {:?}", still_alive(&family));
            std::thread::sleep(Duration::from_millis(5));
        }
        // That no cgroup is left either is looked at after each case.
    }
}
