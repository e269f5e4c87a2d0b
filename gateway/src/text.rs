//! Names and sentences that came from a server or a client, made fit for a log line or an error.
//!
//! The attacker considered: a server that puts terminal escapes, line breaks or megabytes into a tool's
//! name, an error message or its stderr, to forge log lines or to confuse whoever reads them.

/// The longest name that is quoted. Tool names are at most 128 characters by the specification (2025-11-25,
/// server/tools); twice that leaves room for a URI that is still worth reading in a log.
pub(crate) const MAX_QUOTED_CHARS: usize = 256;

/// The text with control characters, line and direction overrides escaped, cut after `max` characters.
pub(crate) fn bounded(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for (seen, c) in text.chars().enumerate() {
        if seen >= max {
            out.push('…');
            break;
        }
        push_escaped(&mut out, c);
    }
    out
}

/// What stands between a sentence of the gateway and a line that the server wrote to its standard error.
const LAST_LINE: &str = "; its last line of standard error: ";

/// What stands between a sentence of the gateway and the message of a server's error.
const ERROR_MESSAGE: &str = " with an error: ";

/// The sentence with what the server said last, if it said anything.
pub(crate) fn with_last_line(sentence: String, last_line: Option<String>) -> String {
    match last_line {
        Some(line) => format!("{sentence}{LAST_LINE}{line}"),
        None => sentence,
    }
}

/// The sentence with the message of a server's error.
pub(crate) fn with_error_message(sentence: &str, message: &str) -> String {
    format!("{sentence}{ERROR_MESSAGE}{message}")
}

/// The sentence without what the server said: a server may print its secrets, and the audit log holds none.
pub(crate) fn without_quotes(sentence: &str) -> &str {
    let sentence = sentence.split(LAST_LINE).next().unwrap_or_default();
    match sentence.split_once(ERROR_MESSAGE) {
        Some((own, _)) => own,
        None => sentence,
    }
}

/// A name in the form in which errors and audit lines carry it.
pub(crate) fn name(text: &str) -> String {
    bounded(text, MAX_QUOTED_CHARS)
}

fn push_escaped(out: &mut String, c: char) {
    // Quotes stay readable; `escape_debug` would turn every apostrophe of a stderr line into `\'`.
    if matches!(c, '\'' | '"') {
        out.push(c);
    } else {
        out.extend(c.escape_debug());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_direction_overrides_are_escaped() {
        assert_eq!(bounded("a\u{1b}[31mb\nc\u{202e}d", 100), "a\\u{1b}[31mb\\nc\\u{202e}d");
        assert_eq!(bounded("it's \"fine\" é", 100), "it's \"fine\" é");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(bounded("abcdef", 3), "abc…");
        assert_eq!(bounded("abc", 3), "abc");
    }
}
