//! The escape suite: every attempt of the probe (`tests/probe`), inside, as root and as an ordinary user.
//!
//! An attempt counts only if the same program, making the same attempt, succeeds without the sandbox on this machine: as
//! that user, as root, or in namespaces of its own. Where it cannot, `NO_CONTROL` names it with the reason, and it is
//! printed. What each must meet inside is in [`expectations`].

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests act as a person would, on paths")]

mod expectations;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use support::probe::{Attempts, Targets};
use support::{Place, Session, User};

use expectations::{AFTER_ALL, Expected, NO_CONTROL, expected};

fn confined(place: &Place, more: &str) -> Session {
    if !place.root.join("layout-probe-1").is_dir() {
        place.import_probe(&[]);
    }
    let policy = place.probe_policy("probe", more);
    place.session(&policy)
}

fn succeeds(attempts: &Attempts, id: &str) -> bool {
    attempts.get(id).is_some_and(|attempt| attempt["outcome"] == "succeeded")
}

/// The attempts that the machine lets an unconfined process make, in each way of being unconfined.
fn controls(place: &Place, targets: &Targets) -> Vec<Attempts> {
    let given = targets.outside(place);
    let mut controls =
        vec![place.unconfined_probe(&given, &[]), place.unconfined_probe(&given, &["--private"])];
    if place.user == User::Ordinary && User::all().contains(&User::Root) {
        let root = Place::new(User::Root);
        root.probe_policy("probe", "");
        let targets = Targets::new(&root);
        controls.push(root.unconfined_probe(&targets.outside(&root), &[]));
    }
    controls
}

fn complaint(id: &str, attempt: &Value) -> Option<String> {
    let group = attempt["group"].as_str().unwrap_or_default();
    let errno = attempt["errno"].as_str();
    let refused = attempt["outcome"] == "refused";
    let as_expected = match expected(group, id) {
        Expected::Errno(errnos) => refused && errno.is_some_and(|errno| errnos.contains(&errno)),
        Expected::Killed(signal) => {
            refused && attempt["detail"].as_str() == Some(&format!("killed by signal {signal}"))
        }
        Expected::Allowed => attempt["outcome"] == "succeeded",
    };
    (!as_expected)
        .then(|| format!("{group} {id}: {} {:?} ({})", attempt["outcome"], errno, attempt["detail"]))
}

/// No attempt of the probe gets anywhere, and each is known to work where nothing confines it.
#[test]
fn every_way_out_is_refused_and_works_outside() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = confined(&place, "");
        let targets = Targets::new(&place);
        let inside = session.probe(&targets.inside());
        let complaints: Vec<String> =
            inside.iter().filter_map(|(id, attempt)| complaint(id, attempt)).collect();
        assert!(complaints.is_empty(), "{user:?}:\n{}", complaints.join("\n"));

        let controls = controls(&place, &targets);
        let mut without = Vec::new();
        let mut with = 0_usize;
        for id in inside.keys() {
            if controls.iter().any(|control| succeeds(control, id)) {
                with += 1;
            } else if let Some((_, why)) = NO_CONTROL.iter().find(|(known, _why)| known == id) {
                println!("{user:?}: `{id}` is refused, and has no control here: {why}");
            } else {
                without.push(id);
            }
        }
        println!("{user:?}: {} attempts, {with} of them with a positive control", inside.len());
        assert!(without.is_empty(), "{user:?}: no control works for {without:?}");
        assert!(with >= 200, "{user:?}: only {with} attempts have a positive control");
    }
}

/// Each exception of the table is one that there is.
#[test]
fn every_expectation_is_about_an_attempt() {
    let place = Place::new(User::all()[0]);
    place.probe_policy("probe", "");
    let targets = Targets::new(&place);
    let all = place.unconfined_probe(&targets.outside(&place), &[]);
    for id in NO_CONTROL.iter().map(|(id, _why)| id).chain(AFTER_ALL) {
        assert!(all.contains_key(*id), "there is no attempt `{id}`");
    }
}

/// C7, from inside: what the kernel says of the server to the server itself.
#[test]
fn c7_the_kernel_says_so_inside() {
    for user in User::all() {
        let place = Place::new(user);
        let facts = confined(&place, "limits: { open_files: 99, pids: 17 }").facts();
        let status = |name: &str| facts["status"][name].as_str().unwrap_or_default().to_owned();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(set), "0000000000000000", "{set}");
        }
        assert_eq!((status("NoNewPrivs"), status("Seccomp")), ("1".into(), "2".into()));
        assert_eq!(status("Seccomp_filters"), "1");
        assert_eq!(facts["securebits"], 0b1110_1111, "the securebits are set and locked");
        assert_eq!(facts["setgroups"], "deny\n");
        for map in ["uid_map", "gid_map"] {
            let numbers: Vec<u32> = facts[map]
                .as_str()
                .unwrap()
                .split_whitespace()
                .map(|number| number.parse().unwrap())
                .collect();
            assert_eq!(numbers.len(), 3, "{map} has one line: {numbers:?}");
            assert_eq!(numbers[2], 1, "{map} maps one id");
            if user == User::Root {
                assert!(numbers[1] > 65_535, "{map}: inside is nobody outside: {numbers:?}");
            }
        }
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let theirs = facts["namespaces"][kind].as_str().unwrap();
            let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert!(theirs.starts_with(kind), "{kind}: {theirs}");
            assert_ne!(theirs, ours.to_str().unwrap(), "{kind}");
        }
        let limits = facts["limits"].as_str().unwrap();
        let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(limit("Max open files").contains(" 99 "), "{limits}");
        assert_eq!(facts["descriptors"].as_object().unwrap().keys().collect::<Vec<_>>(), ["0", "1", "2"]);
        for target in facts["descriptors"].as_object().unwrap().values() {
            assert!(target.as_str().unwrap().starts_with("pipe:"), "a pipe and nothing else: {target}");
        }
        // Itself, and no other: pid 1 is hidden.
        assert_eq!(facts["processes"].as_array().unwrap().len(), 1, "{}", facts["processes"]);
        assert_eq!(facts["tmp"], json!([]));
        check_mounts(facts["mounts"].as_str().unwrap());
    }
}

/// Every mount has the flags that it was promised. Of several at one place the last is the one that is seen.
fn check_mounts(table: &str) {
    let mut seen = std::collections::BTreeMap::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        seen.insert(fields[4], fields[5].split(',').collect::<Vec<_>>());
    }
    for (target, options) in &seen {
        let line = format!("{target} {options:?}");
        assert!(options.contains(&"nosuid"), "{line}");
        // The six devices are bound from the host, and have to work.
        let device = target.starts_with("/dev/") && *target != "/dev/shm";
        assert!(device || options.contains(&"nodev"), "{line}");
        let writable = ["/tmp", "/dev/shm", "/first", "/second", "/proc"].contains(target);
        assert!(writable || device || options.contains(&"ro"), "{line}");
        assert!(*target == "/" || device || options.contains(&"noexec"), "{line}");
    }
    for expected in ["/", "/proc", "/dev", "/dev/shm", "/tmp", "/first", "/second", "/third"] {
        assert!(seen.contains_key(expected), "no mount at {expected}: {table}");
    }
}

/// A set-id program of the image gives nothing: its bits are gone, and it would get no privilege with them.
#[test]
fn c7_set_id_programs_give_nothing() {
    use std::os::unix::fs::PermissionsExt;
    for user in User::all() {
        let place = Place::new(user);
        place.import_probe(&[]);
        let policy = place.probe_policy("probe", "");
        let mode = place.session(&policy).facts()["setid_mode"].as_u64().unwrap();
        assert_eq!(mode & 0o6000, 0, "{mode:o}");
        if user == User::Ordinary && User::all().contains(&User::Root) {
            // The control: the same file outside, owned by root, makes an ordinary user root, and so does a file
            // capability for its part.
            let directory = Place::new(User::Root);
            let program = directory.write("program", palisade_probe_binary::PROBE);
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
            assert_eq!(identity(&place, &program).0, "0", "a set-id program outside");
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
            let given = directory.probe_command().arg("--set-capability").arg(&program).status().unwrap();
            assert!(given.success());
            assert_ne!(identity(&place, &program).1, "0000000000000000", "a file capability outside");
        }
    }
}

/// Effective user id and capabilities of a program when this place's user executes it.
fn identity(place: &Place, program: &std::path::Path) -> (String, String) {
    use std::os::unix::process::CommandExt;
    let id = place.user.id();
    let output = std::process::Command::new(program).arg("--ids").uid(id).gid(id).output().unwrap();
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    let field = |name: &str, column: usize| {
        let line = facts["status"][name].as_str().unwrap_or_default();
        line.split_whitespace().nth(column).unwrap_or_default().to_owned()
    };
    (field("Uid", 1), field("CapEff", 0))
}

/// What the image's program is called with is the image's and the policy's, and where it starts is inside.
#[test]
fn the_working_directory_and_the_descriptors_lead_nowhere() {
    for user in User::all() {
        let place = Place::new(user);
        let facts = confined(&place, "").facts();
        assert_eq!(facts["directory"], "/");
        for hidden in ["home", "root", "var", "boot", "sys", "etc"] {
            let root = facts["root"].as_array().unwrap();
            assert!(!root.contains(&json!(hidden)), "/{hidden} is there: {root:?}");
        }
        let mut devices: Vec<&str> =
            facts["dev"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        devices.sort_unstable();
        for device in &devices {
            let known = [
                "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
                "tty", "urandom", "zero",
            ];
            assert!(known.contains(device), "an unexpected device: {devices:?}");
        }
    }
}
