//! Kernels on which nothing runs, whatever a policy accepts.

use super::{policy, refused, trials};
use crate::scenario::Scenario;
use crate::support::{Place, User};

trials![a_kernel_that_is_too_old_is_refused_by_name];

fn a_kernel_that_is_too_old_is_refused_by_name(_scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let doctor = place.must(["doctor"]);
        assert!(doctor.contains("MISSING   mounts") && doctor.contains("No server can run here"), "{doctor}");
        let file = policy(&place, "accept_degraded: [landlock, memory, cpus]");
        for command in ["run", "explain"] {
            let output = place.run([command, file.to_str().unwrap()]);
            refused(&output, &["has no `mount_setattr`, which came with Linux 5.12", "hint: use Linux 6.2"]);
        }
    }
}
