//! What `palisade doctor` says, and settings that forbid a sandbox.

use serde_json::Value;

use super::{accepted, policy, refused, trials};
use crate::scenario::Scenario;
use crate::support::{Place, User};

trials![
    the_doctor_names_the_kernel_and_what_it_has,
    user_namespaces_for_root_only_are_a_refusal_with_its_remedy,
    no_user_namespaces_at_all_are_a_refusal_with_its_remedy,
];

/// The first word of the doctor's line on a feature.
fn verdict(text: &str, feature: &str) -> String {
    let line = text.lines().find(|line| line.contains(&format!("  {feature} "))).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

fn the_doctor_names_the_kernel_and_what_it_has(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let report: Value = serde_json::from_str(&place.must(["doctor", "--json"])).unwrap();
        let host = &report["host"];
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(host["kernel"], release.trim());
        let abi = host["landlock_abi"].as_u64().unwrap();
        assert!(scenario.fits(abi), "Landlock ABI {abi}");
        assert_eq!(host["user_namespaces"]["state"], "available");
        // Not loaded yet when this is the first case; the first mount loads it.
        assert_eq!(host["overlayfs"], true);

        let text = place.must(["doctor"]);
        let landlock = if scenario.landlock < 3 { "degraded" } else { "ok" };
        assert_eq!(verdict(&text, "Landlock"), landlock, "{text}");
        let (version, cgroups) = match user {
            User::Root => ("v2", "ok"),
            User::Ordinary => ("unusable", "degraded"),
        };
        assert_eq!(host["cgroups"]["version"], version);
        assert_eq!(verdict(&text, "cgroups"), cgroups, "{text}");
    }
}

/// Runs `tried` while a setting of the kernel has another value.
fn with_setting(path: &str, value: &str, tried: impl FnOnce()) {
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, value).unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(tried));
    std::fs::write(path, before.trim()).unwrap();
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Debian's own switch; the other distributions' kernels do not have it.
fn user_namespaces_for_root_only_are_a_refusal_with_its_remedy(scenario: &Scenario) {
    let [ordinary, root] = [User::Ordinary, User::Root].map(Place::new);
    let run = |place: &Place| {
        let file = policy(place, &accepted(scenario, place.user));
        place.run(["run", file.to_str().unwrap()])
    };
    with_setting("/proc/sys/kernel/unprivileged_userns_clone", "0", || {
        let remedy = "sysctl -w kernel.unprivileged_userns_clone=1, or run palisade as root";
        refused(&run(&ordinary), &["forbids user namespaces: kernel.unprivileged_userns_clone = 0", remedy]);
        let doctor = ordinary.must(["doctor"]);
        assert!(doctor.contains("MISSING   user namespaces") && doctor.contains(remedy), "{doctor}");
        assert!(run(&root).status.success(), "root may still");
    });
    assert!(run(&ordinary).status.success(), "with the setting undone");
}

fn no_user_namespaces_at_all_are_a_refusal_with_its_remedy(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let file = policy(&place, &accepted(scenario, user));
        let run = || place.run(["run", file.to_str().unwrap()]);
        with_setting("/proc/sys/user/max_user_namespaces", "0", || {
            refused(&run(), &["forbids user namespaces: user.max_user_namespaces = 0", "sysctl -w"]);
        });
        assert!(run().status.success(), "with the setting undone");
    }
}
