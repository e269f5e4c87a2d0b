//! The text of a policy before any parser sees it.
//!
//! The attacker considered: the author of a policy that somebody else reviews. What the reviewer's screen
//! shows must be what the parser reads, so characters that hide or reorder text are refused wherever they
//! stand, comments included ("Trojan Source", CVE-2021-42574), and so is every line break that editors
//! disagree about.

use crate::bounds::MAX_FILE_BYTES;
use crate::error::{Finding, Findings, Rule};

/// Checks the text, and says whether it may go to the YAML parser.
pub(crate) fn check(text: &str, findings: &mut Findings) {
    if text.len() > MAX_FILE_BYTES {
        let length = text.len();
        let message = format!("the file has {length} bytes, {MAX_FILE_BYTES} are allowed");
        let start = text.floor_char_boundary(MAX_FILE_BYTES);
        let end =
            start.saturating_add(text.get(start..).and_then(|s| s.chars().next()).map_or(0, char::len_utf8));
        findings.push(
            Finding::new(Rule::Bounds, start..end, message)
                .label("the limit is here")
                .hint("a policy describes one server; remove what does not belong to it"),
        );
        return;
    }
    if text.starts_with('\u{feff}') {
        findings.push(
            Finding::new(Rule::Text, 0..3, "the file begins with a byte-order mark")
                .label("byte-order mark")
                .hint("save the file as UTF-8 without a byte-order mark"),
        );
        return;
    }
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let lone_return = c == '\r' && chars.peek().is_none_or(|&(_, next)| next != '\n');
        if lone_return || is_hidden(c) {
            findings.push(hidden(at, c));
        }
    }
}

/// What to say when the bytes of a file are not UTF-8; `at` is where the text ends that is.
pub(crate) fn not_utf8(at: usize) -> Finding {
    let replacement = char::REPLACEMENT_CHARACTER.len_utf8();
    Finding::new(Rule::Text, at..at.saturating_add(replacement), "the file is not UTF-8 text")
        .label("this byte")
        .hint("save the file as UTF-8")
}

/// Whether a character is one that a reviewer cannot see, or that changes the order of what is seen.
pub(crate) fn is_hidden(c: char) -> bool {
    // Line breaks to some editors and not to others, and not to YAML 1.2.
    let line_break = matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}');
    // Bidirectional embeddings, overrides and isolates.
    let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Without width, and without meaning outside of running text.
    let empty = matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}');
    // Tags: an invisible copy of ASCII.
    let tag = matches!(c, '\u{e0000}'..='\u{e007f}');
    let control = c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    line_break || reorders || empty || tag || control
}

fn hidden(at: usize, c: char) -> Finding {
    let message = format!("the file has the character U+{:04X}, which a reader cannot see", u32::from(c));
    let hint = if c == '\r' {
        "end lines with a line feed"
    } else {
        "remove it; inside double quotes, an escape such as \"\\t\" shows what is meant"
    };
    let end = at.saturating_add(c.len_utf8());
    Finding::new(Rule::Text, at..end, message).label("here").hint(hint)
}
