//! The lists against what the servers of the test set called (`recorded.json`, made by `tests/record-calls` on `x86_64`).
//!
//! A line that no server needed has to say why it stays, in `keep`; a line that was needed has no `keep`, so that the word
//! does not outlive its reason.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const RECORDED: &str = include_str!("../recorded.json");

/// What was called, and by whom: a server's name, or `palisade` for reaper and lock-down.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    syscall: String,
    /// Argument, and its bits that some line looks at.
    #[serde(default)]
    args: BTreeMap<u8, Word>,
    by: BTreeSet<String>,
}

/// The servers that a file is for.
fn servers(file: &str) -> &'static [&'static str] {
    match file {
        "base.json" => &["palisade", "demo", "everything", "filesystem", "memory", "browser", "time", "git"],
        "node.json" => &["everything", "filesystem", "memory", "browser"],
        "python.json" => &["time", "git"],
        "browser.json" => &["browser"],
        other => panic!("whom is {other} for?"),
    }
}

fn needed(rule: &Rule, servers: &[&str], calls: &[Call]) -> bool {
    let meets = |call: &Call| {
        rule.args.iter().all(|condition| {
            call.args.get(&condition.index).is_some_and(|value| value.0 & condition.mask.0 == condition.is.0)
        })
    };
    calls
        .iter()
        .filter(|call| {
            call.syscall == rule.syscall && call.by.iter().any(|by| servers.contains(&by.as_str()))
        })
        .any(meets)
}

fn complaints(rules: &[Rule], servers: &[&str], calls: &[Call]) -> Vec<String> {
    let shown = |rule: &Rule| format!("{} {:x?}", rule.syscall, alternative(rule));
    rules
        .iter()
        .filter_map(|rule| match (needed(rule, servers, calls), &rule.keep) {
            (false, None) => {
                Some(format!("{}: no server needs it, and nothing says why it stays", shown(rule)))
            }
            (true, Some(_)) => {
                Some(format!("{}: a server needs it, so `keep` is not the reason", shown(rule)))
            }
            (true, None) | (false, Some(_)) => None,
        })
        .collect()
}

fn calls() -> Vec<Call> {
    serde_json::from_str(RECORDED).unwrap()
}

fn lines(file: &str) -> Vec<Rule> {
    let all = BASELINES.iter().flat_map(|baseline| files(*baseline));
    let (_, text) = all.copied().find(|(name, _)| *name == file).unwrap();
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_line_is_needed_or_says_why_it_stays() {
    for file in ["base.json", "node.json", "python.json", "browser.json"] {
        let found = complaints(&lines(file), servers(file), &calls());
        assert!(found.is_empty(), "{file}:\n{}", found.join("\n"));
    }
}

/// The control: the same check finds a line too many and a `keep` too many.
#[test]
fn a_line_without_need_or_reason_is_found() {
    let mut rules = lines("base.json");
    let read = rules.iter_mut().find(|rule| rule.syscall == "read").unwrap();
    read.keep = Some("out of habit".into());
    rules.push(Rule {
        syscall: "vmsplice".into(),
        only: None,
        args: vec![],
        comment: "a test".into(),
        keep: None,
    });
    let found = complaints(&rules, servers("base.json"), &calls());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("read ") && found[1].starts_with("vmsplice "), "{found:?}");
    // A condition that nobody met is a line that nobody needed.
    let listen: Condition =
        serde_json::from_str(r#"{"index": 0, "is": "0x7777", "comment": "no such option"}"#).unwrap();
    let rule = Rule {
        syscall: "prctl".into(),
        only: None,
        args: vec![listen],
        comment: "a test".into(),
        keep: None,
    };
    assert_eq!(complaints(&[rule], servers("base.json"), &calls()).len(), 1);
}

/// What palisade itself was seen to call behind the filter cannot be removed by a policy.
#[test]
fn what_palisade_was_seen_to_call_is_listed_as_ours() {
    let ours: BTreeSet<&str> = ours().unwrap().iter().map(|note| note.syscall.as_str()).collect();
    for call in calls().iter().filter(|call| call.by.contains("palisade")) {
        assert!(ours.contains(call.syscall.as_str()), "{} is not in ours.json", call.syscall);
    }
    assert!(calls().iter().any(|call| call.by.contains("palisade") && call.syscall == "execve"));
}
