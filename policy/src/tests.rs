//! Tests of the whole path, from the text of a file to the policy or to what its author is told.

mod bombs;
mod every_key;
mod policies;
mod random;
mod refusals;
mod values;

use crate::{Policy, PolicyError, parse};

/// Grants nothing.
const SMALLEST: &str = "palisade: 1\nserver: time\nimage: { reference: time, unsigned: built here }\n";

fn error(text: &str) -> PolicyError {
    match parse("p.yaml", text) {
        Ok(policy) => panic!("accepted: {text:?}\n{policy:#?}"),
        Err(error) => error,
    }
}

fn policy(text: &str) -> Policy {
    parse("p.yaml", text).unwrap_or_else(|error| panic!("{error}\n{text}\n{:#?}", error.findings()))
}

/// The smallest policy with something below it.
fn with(more: &str) -> String {
    format!("{SMALLEST}{more}\n")
}

/// Many lines, each made from its number.
fn numbered(numbers: std::ops::Range<usize>, line: impl Fn(usize) -> String) -> String {
    numbers.map(line).collect::<Vec<_>>().concat()
}

/// Each finding as `message ¦ the bytes that it points at ¦ hint`.
fn told(text: &str) -> Vec<String> {
    let error = error(text);
    assert!(!error.findings().is_empty(), "a refusal without a finding");
    let lines = error.findings().iter().map(|finding| {
        let slice = error.source_text().get(finding.span.clone()).expect("the span is within the text");
        let hint = finding.hint.as_deref().unwrap_or_else(|| panic!("no hint: {}", finding.message));
        assert!(!finding.message.contains('\n') && !finding.message.ends_with('.'), "{}", finding.message);
        format!("{} ¦ {slice} ¦ {hint}", finding.message)
    });
    lines.collect()
}

/// Asserts that the smallest policy with `more` is refused with exactly these findings.
#[track_caller]
fn refuses(more: &str, expected: &[&str]) {
    let found = told(&with(more));
    assert_eq!(found, expected, "for {more:?}");
}
