//! Files that nobody would write.

use proptest::prelude::*;

use super::*;
use crate::parse_bytes;

/// Uses most of the language, on several lines, so that a random change hits something.
const SEED: &str = "palisade: 1
server: time
image:
  reference: time:1
  signed_by: [{ key: a.pub, tlog: optional }]
args: [\"-x\", 'é', plain]
environment: { A: x, B: \"y\\n\" }
filesystem:
  mounts:
    - { source: ~/a, target: /b, access: read-only }
    - source: /c   # a comment
      target: /d
secrets:
  - name: t
    env: T
limits: { memory: 1GiB, cpus: 1.5, pids: 65 }
tools:
  allow: [\"a*\"]
lifecycle: { start: at-start, start_timeout: 10s }
";

/// Bits of YAML that matter to its grammar.
const PIECES: [&str; 28] = [
    "\n",
    "  ",
    "\t",
    ": ",
    "- ",
    "? ",
    "# ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "&a ",
    "*a",
    "!t ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "<<: ",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "é",
    "\\",
];

/// Whatever the bytes, the answer is a policy or a refusal whose every finding can be shown.
fn answers(bytes: &[u8]) {
    match parse_bytes("p", bytes) {
        Ok(policy) => assert!(policy.to_canonical_json().is_ok()),
        Err(error) => {
            assert!(!error.findings().is_empty());
            assert!(!error.to_string().contains('\n'), "{error}");
            for finding in error.findings() {
                assert!(error.source_text().get(finding.span.clone()).is_some(), "{finding:?}");
                assert!(
                    finding.hint.is_some() && !finding.message.chars().any(char::is_control),
                    "{finding:?}"
                );
                if let Some(related) = &finding.related {
                    assert!(error.source_text().get(related.span.clone()).is_some(), "{finding:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        answers(&bytes);
    }

    #[test]
    fn any_text(text in ".{0,256}") {
        answers(text.as_bytes());
        answers(with(&text).as_bytes());
    }

    #[test]
    fn pieces_of_yaml(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..64)) {
        answers(pieces.concat().as_bytes());
        answers(with(&pieces.concat()).as_bytes());
    }

    #[test]
    fn a_policy_with_something_put_in(at in 0..SEED.len(), piece in prop::sample::select(&PIECES[..]), cut in 0..8_usize) {
        let (before, after) = SEED.as_bytes().split_at(at);
        answers(&[before, piece.as_bytes(), after.get(cut..).unwrap_or(&[])].concat());
    }

    #[test]
    fn a_policy_with_a_byte_changed(at in 0..SEED.len(), byte in any::<u8>()) {
        let mut bytes = SEED.as_bytes().to_vec();
        bytes[at] = byte;
        answers(&bytes);
    }

    #[test]
    fn two_lines_swapped(one in 0..18_usize, other in 0..18_usize) {
        let mut lines: Vec<&str> = SEED.lines().collect();
        lines.swap(one, other);
        answers(lines.join("\n").as_bytes());
    }
}

/// What an editor accepts by the schema's patterns, the parser accepts: for the patterns that say everything.
#[test]
fn the_patterns_of_the_schema_say_what_the_parser_says() {
    type Accepts = fn(&str) -> bool;
    let exact: [(&str, Accepts); 6] = [
        (crate::name::SERVER_PATTERN, |text| text.parse::<crate::ServerName>().is_ok()),
        (crate::name::SECRET_PATTERN, |text| text.parse::<crate::SecretName>().is_ok()),
        (crate::digest::PATTERN, |text| text.parse::<crate::Digest>().is_ok()),
        (crate::tools::PATTERN, |text| text.parse::<crate::ToolPattern>().is_ok()),
        ("^[A-Za-z_][A-Za-z0-9_]{0,127}$", |text| crate::name::check_variable(text).is_ok()),
        ("^[0-9]{1,6}(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$", |text| text.parse::<crate::ByteSize>().is_ok()),
    ];
    for (pattern, accepts) in exact {
        let bare = pattern.trim_start_matches('^').trim_end_matches('$');
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = prop::string::string_regex(bare).unwrap();
        let outcome = runner.run(&strategy, |text| {
            prop_assert!(accepts(&text), "{pattern}: {text}");
            Ok(())
        });
        assert_eq!(outcome, Ok(()));
    }
}

#[test]
fn the_seed_is_a_policy() {
    policy(SEED);
}
