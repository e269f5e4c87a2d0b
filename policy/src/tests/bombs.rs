//! Files that are made to cost much. Each is refused; that each is refused at once is what the bounds are
//! for, and the number of steps is bounded by the number of nodes, so nothing here measures time.

use super::*;
use crate::Rule;
use crate::bounds::{MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES};

fn rules(text: &str) -> Vec<Rule> {
    error(text).findings().iter().map(|finding| finding.rule).collect()
}

#[test]
fn aliases() {
    let mut laughs = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for (before, name) in ('a'..='h').zip('b'..='i') {
        let items = vec![format!("*{before}"); 9].join(", ");
        laughs += &numbered(0..1, |_| format!("{name}: &{name} [{items}]\n"));
    }
    assert!(rules(&with(&laughs)).iter().all(|&rule| matches!(rule, Rule::PlainYaml | Rule::UnknownKey)));
    let cycle = with("args: &a [*a]");
    assert_eq!(rules(&cycle), [Rule::PlainYaml, Rule::PlainYaml]);
}

#[test]
fn depth() {
    let flow = |n: usize| with(&format!("x: {}{}", "[".repeat(n), "]".repeat(n)));
    let block = |n: usize| with(&format!("x:\n  {}y", "- ".repeat(n)));
    let maps = |n: usize| with(&format!("x: {}{}", "{a: ".repeat(n), "}".repeat(n)));
    for deep in [flow, block, maps] {
        assert_eq!(rules(&deep(MAX_DEPTH + 1)), [Rule::Bounds]);
        assert_eq!(rules(&deep(10_000)), [Rule::Bounds]);
        // The positive control: what is just not too deep is refused for another reason.
        assert_eq!(rules(&deep(MAX_DEPTH - 1)), [Rule::UnknownKey]);
    }
    assert_eq!(error(&flow(5_000)).findings()[0].message, "the file nests deeper than 8 levels");
}

#[test]
fn size() {
    let comment = |n: usize| format!("{SMALLEST}#{}", "x".repeat(n - SMALLEST.len() - 1));
    policy(&comment(MAX_FILE_BYTES));
    let error = error(&comment(MAX_FILE_BYTES + 1));
    assert_eq!(error.findings()[0].message, "the file has 65537 bytes, 65536 are allowed");
    assert_eq!(error.findings()[0].span, MAX_FILE_BYTES..MAX_FILE_BYTES + 1);
    assert_eq!(rules(&comment(16 << 20)), [Rule::Bounds]);
    // A character that the limit cuts in two.
    assert_eq!(rules(&format!("a{}", "é".repeat(MAX_FILE_BYTES))), [Rule::Bounds]);
    assert_eq!(crate::parse_bytes("p", &vec![0xff; 16 << 20]).unwrap_err().findings().len(), 1);
}

#[test]
fn nodes() {
    let many = |n: usize| with(&format!("args: [{}]", "a,".repeat(n)));
    assert_eq!(rules(&many(MAX_NODES)), [Rule::Bounds]);
    assert_eq!(error(&many(MAX_NODES)).findings()[0].message, "the file has more than 4096 keys and values");
    let keys = numbered(0..MAX_NODES, |n| format!("k{n}: 1\n"));
    assert_eq!(rules(&keys), [Rule::Bounds]);
    // Each kind of nothing that fills a file.
    for filler in [
        "a: ", "- ", "[", "]", "{", "}", "&a ", "*a ", "!a ", "? ", ": ", "\"", "'", "|\n", "---\n", "%",
        ",", "[a: ", "{? ", "\\",
    ] {
        let text = filler.repeat(MAX_FILE_BYTES / filler.len());
        assert!(!rules(&text).is_empty(), "{filler:?}");
    }
}
