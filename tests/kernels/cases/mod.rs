//! What is tried inside a machine. A case fails by panicking, as a test does.

pub(crate) mod everything;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod limits;
pub(crate) mod old_landlock;
pub(crate) mod sandbox;
pub(crate) mod suites;
pub(crate) mod too_old;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::scenario::Scenario;
use crate::support::{DEMO_SERVER, Place, User, stderr};

/// A name, and what it does.
pub(crate) type Case = (&'static str, fn(&Scenario));

/// Lists the cases of a module.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn cases() -> Vec<$crate::cases::Case> {
            vec![$((stringify!($name), $name)),*]
        }
    };
}
use trials;

/// What a policy must give up so that `user` can run a server at all: Landlock where the kernel's is too old, and
/// limits where there is no cgroup for that user.
fn accepted(scenario: &Scenario, user: User) -> String {
    let mut names = Vec::new();
    if scenario.landlock < 3 {
        names.push("landlock");
    }
    if user == User::Ordinary {
        names.extend(["memory", "cpus"]);
    }
    format!("accept_degraded: [{}]", names.join(", "))
}

/// A policy for the sample server, with these lines and no other.
fn policy(place: &Place, lines: &str) -> PathBuf {
    if !place.root.join("layout-demo-1").is_dir() {
        place.import_program("demo:1", DEMO_SERVER, &[]);
    }
    place.write(
        "demo.yaml",
        format!(
            "palisade: 1\nserver: demo\nimage: {{ reference: \"demo:1\", unsigned: \"a test\" }}\n{lines}\n"
        ),
    )
}

/// What `palisade explain --json` says.
fn explained(place: &Place, policy: &Path) -> Value {
    serde_json::from_str(&place.must(["explain", policy.to_str().unwrap(), "--json"])).unwrap()
}

/// The lines of `enforcement` that are not kept, by what they promise.
fn degraded(spec: &Value) -> Vec<String> {
    let lines = spec["enforcement"].as_array().unwrap();
    let kept = |line: &&Value| line["state"]["state"] != "enforced";
    lines.iter().filter(kept).map(|line| line["what"].as_str().unwrap().to_owned()).collect()
}

/// Asserts a refusal by the policy (status 3) that has all of these words.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}
