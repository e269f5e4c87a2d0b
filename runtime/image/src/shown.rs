//! How bytes of an image are shown to a person.

use std::fmt;

/// Longer names are cut: an error is one line of a terminal, and a name may have 4096 bytes.
const SHOWN_CHARS_MAX: usize = 200;

/// Text that came from outside, in backticks, with everything a terminal could act on escaped.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        let shown: String = characters.by_ref().take(SHOWN_CHARS_MAX).collect();
        let rest = if characters.next().is_some() { "…" } else { "" };
        write!(f, "`{}{rest}`", shown.escape_debug().to_string().replace('`', "\\u{60}"))
    }
}

/// A message that quotes what came from outside, without backticks: it may quote already, so quotes and
/// backslashes stay as they are.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '"' | '\'' | '\\' => write!(f, "{character}"),
            other => write!(f, "{}", other.escape_debug()),
        })
    }
}

/// The beginning of bytes that need not be text. It is not escaped: whatever shows it uses [`Shown`] or
/// [`Escaped`].
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(Shown("a\u{1b}[31m`b\n").to_string(), "`a\\u{1b}[31m\\u{60}b\\n`");
        assert_eq!(Escaped("a\u{1b}[31m\"`b`\"\n\u{202e}").to_string(), "a\\u{1b}[31m\"`b`\"\\n\\u{202e}");
        assert_eq!(Shown(&"x".repeat(300)).to_string(), format!("`{}…`", "x".repeat(200)));
    }
}
