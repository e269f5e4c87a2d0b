//! Kernels that have all that palisade asks for.

use super::{accepted, degraded, explained, policy, trials};
use crate::scenario::Scenario;
use crate::support::{Place, User};
use serde_json::json;

trials![everything_is_enforced, landlock_alone_refuses_a_connection,];

fn everything_is_enforced(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let file = policy(&place, &accepted(scenario, user));
        let spec = &explained(&place, &file)["spec"];
        let abi = spec["landlock"]["abi"].as_u64().unwrap();
        assert!(scenario.fits(abi), "Landlock ABI {abi}");
        assert_eq!(spec["landlock"]["scoped"], true);
        let expected: &[&str] = match user {
            User::Root => &[],
            User::Ordinary => &["limit on memory", "limit on cpus"],
        };
        assert_eq!(degraded(spec), expected);
        let text = place.must(["explain", file.to_str().unwrap()]);
        assert!(text.contains(&format!("landlock (ABI {abi}, at least 3)")), "{text}");
    }
}

fn landlock_alone_refuses_a_connection(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let file = policy(&place, &accepted(scenario, user));
        let mut session = place.session(&file);
        // Landlock answers before the network namespace does (ENETUNREACH), since ABI 4.
        session.attack("dial_public", json!({})).refused("public_tcp", &["EACCES"]);
        session.end();
    }
}
