use std::collections::BTreeSet;

use palisade_policy::{Baseline, Policy};
use palisade_sandbox::HostSupport;
use palisade_sandbox::seccomp::allowlist;
use palisade_sandbox::spec::ResolveInput;

use super::*;
use crate::commands::demo::attack::Outcome;

fn policy() -> Policy {
    let text = "palisade: 1\nserver: demo\nimage: { reference: \"demo:1\", unsigned: \"a test\" }\n\
                filesystem: { mounts: [{ source: /srv, target: /workspace }] }\n\
                accept_degraded: [memory, cpus, pids, landlock]\n";
    palisade_policy::parse("demo.yaml", text).unwrap()
}

fn spec() -> SandboxSpec {
    let (policy, host) = (policy(), HostSupport::probe());
    SandboxSpec::resolve(ResolveInput { policy: &policy, image: None, host: &host, home: None }).unwrap()
}

fn attempt(id: &str, about: &str, outcome: Outcome, errno: Option<&str>) -> Attempt {
    Attempt {
        id: id.into(),
        what: about.into(),
        outcome,
        errno: errno.map(Into::into),
        detail: String::new(),
    }
}

fn judged(spec: &SandboxSpec, attempt: &Attempt) -> Verdict {
    let allowlist = allowlist(Baseline::Static).unwrap();
    judge(attempt, Facts { spec, allowlist: &allowlist, planted: &|_attempt| Planted::Yes })
}

#[test]
fn each_row_is_honoured_by_a_sandbox_that_has_the_layer() {
    let spec = spec();
    for row in ROWS {
        if matches!(row.meaning, Meaning::Refused(Layer::Landlock)) && spec.landlock.abi == 0 {
            continue;
        }
        let verdict = judged(&spec, &attempt(row.id, row.about, row.outcome, row.errno));
        assert!(!matches!(verdict, Verdict::Unexpected(_)), "{}: {verdict:?}", row.id);
    }
}

#[test]
fn a_success_is_never_taken_for_a_refusal() {
    let spec = spec();
    let harmless = |row: &&Row| !matches!(row.meaning, Meaning::Harmless);
    for row in ROWS.iter().filter(harmless).filter(|row| row.about.is_empty()) {
        for (outcome, errno) in
            [(Outcome::Succeeded, None), (Outcome::Succeeded, row.errno), (Outcome::NotTried, None)]
        {
            let verdict = judged(&spec, &attempt(row.id, row.about, outcome, errno));
            assert!(matches!(verdict, Verdict::Unexpected(_)), "{}: {verdict:?}", row.id);
        }
    }
}

#[test]
fn another_error_number_is_not_explained_away() {
    let other = attempt("mount", "", Outcome::Refused, Some("EACCES"));
    assert!(matches!(judged(&spec(), &other), Verdict::Unexpected(_)));
    let unknown = attempt("something_new", "", Outcome::Refused, Some("EPERM"));
    assert!(matches!(judged(&spec(), &unknown), Verdict::Unexpected(_)));
}

#[test]
fn a_layer_that_the_sandbox_lacks_is_not_named() {
    let refused = |id, errno| attempt(id, "", Outcome::Refused, Some(errno));
    let mut open_network = spec();
    open_network.namespaces.retain(|namespace| namespace != "network");
    let mut writable = spec();
    for mount in &mut writable.mounts {
        mount.flags.retain(|flag| !["ro", "noexec", "subset=pid"].contains(&flag.as_str()));
    }
    for (spec, attempt) in [
        (&open_network, refused("public_udp", "ENETUNREACH")),
        (&writable, refused("create_root", "EROFS")),
        (&writable, refused("exec_tmp", "EACCES")),
        (&writable, refused("hostname", "ENOENT")),
    ] {
        assert!(matches!(judged(spec, &attempt), Verdict::Unexpected(_)), "{attempt:?}");
    }
    // The positive control: the same attempts in the sandbox as it is.
    assert!(matches!(judged(&spec(), &refused("exec_tmp", "EACCES")), Verdict::Refused(..)));
}

#[test]
fn the_filter_is_not_named_for_a_call_that_it_allows() {
    let allowlist = allowlist(Baseline::Static).unwrap();
    assert!(allowed_whatever_the_arguments(&allowlist, "read"));
    assert!(!allowed_whatever_the_arguments(&allowlist, "socket"), "only with certain arguments");
    assert!(!allowed_whatever_the_arguments(&allowlist, "mount"));
}

#[test]
fn without_a_planted_canary_not_finding_it_shows_nothing() {
    let (spec, allowlist) = (spec(), allowlist(Baseline::Static).unwrap());
    let facts = Facts { spec: &spec, allowlist: &allowlist, planted: &|_attempt| Planted::No };
    let verdict = judge(&attempt("own_canary", "", Outcome::Refused, None), facts);
    assert!(matches!(verdict, Verdict::Moot(_)), "{verdict:?}");
}

#[test]
fn every_row_gives_its_reason_and_no_row_is_twice() {
    let mut seen = BTreeSet::new();
    for row in ROWS {
        assert!(row.why.len() > 10, "{} has no reason", row.id);
        assert!(seen.insert((row.id, row.about, row.errno)), "{} is twice", row.id);
    }
}
