//! Kernels whose Landlock is older than what palisade asks for, or missing.

use super::{accepted, degraded, explained, policy, refused, trials};
use crate::scenario::Scenario;
use crate::support::{Place, User};
use serde_json::json;

trials![a_policy_that_asks_for_landlock_is_refused_by_name, a_policy_that_gives_landlock_up_runs_and_says_so,];

const LIMITS_GIVEN_UP: &str = "accept_degraded: [memory, cpus]";

fn a_policy_that_asks_for_landlock_is_refused_by_name(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let file = policy(&place, LIMITS_GIVEN_UP);
        let file = file.to_str().unwrap();
        let hint = "accept_degraded";
        if scenario.landlock == 0 {
            // Not even unpacked.
            for command in [&["run", file][..], &["image", "prepare", file]] {
                refused(&place.run(command), &["needs Landlock, which this kernel does not offer", hint]);
            }
            assert!(place.unpacked().is_empty());
            continue;
        }
        let words = [&format!("offers Landlock ABI {}, and 3 is needed", scenario.landlock), hint];
        for command in ["run", "explain"] {
            refused(&place.run([command, file]), &words);
        }
    }
}

fn a_policy_that_gives_landlock_up_runs_and_says_so(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let file = policy(&place, &accepted(scenario, user));
        let promise = "writes only where the policy mounts write access, and below /tmp and /dev/shm";
        let spec = &explained(&place, &file)["spec"];
        assert_eq!(spec["landlock"]["abi"], scenario.landlock);
        assert!(degraded(spec).contains(&promise.to_owned()), "{spec:#}");
        let text = place.must(["explain", file.to_str().unwrap()]);
        let reason = format!("the kernel offers Landlock ABI {}", scenario.landlock);
        assert!(text.contains(&reason), "{text}");

        let mut session = place.session(&file);
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        // What Landlock would have done twice is still done once.
        let report = session.attack("write_outside", json!({}));
        report.refused("create_root", &["EROFS"]);
        report.refused("exec_tmp", &["EACCES"]);
        let network = session.attack("dial_public", json!({}));
        network.refused("public_tcp", &["ENETUNREACH"]);
        session.end();
        let audit = serde_json::to_string(&place.audit()).unwrap();
        assert!(audit.contains(&reason), "the audit log has it too: {audit}");
    }
}
