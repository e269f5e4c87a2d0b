//! Which tools of a server a client may see and call.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::bounds::MAX_TOOL_PATTERN;

/// How a tool pattern is written, as a regular expression for editors.
pub(crate) const PATTERN: &str = "^[A-Za-z0-9_.*/-]{1,128}$";

/// A tool's name in which each `*` stands for any number of characters, none included.
///
/// The other characters are those of a tool's name in MCP (revision 2025-11-25, "Tool Names"): letters,
/// digits, `_`, `-`, `.`; and `/`, which older servers use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolPattern(String);

/// Which tools a client may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tools {
    /// The tools that may be called; `None` when the policy does not say, which is all of them.
    pub allow: Option<Vec<ToolPattern>>,
    /// The tools that may not be called, whatever `allow` says.
    pub deny: Vec<ToolPattern>,
}

/// What the policy says about one tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolVerdict<'policy> {
    /// It may be called.
    Permitted,
    /// The policy has a list of allowed tools, and this one matches nothing on it.
    NotListed,
    /// It matches this pattern of `deny`.
    Denied(&'policy ToolPattern),
}

impl Tools {
    /// What the policy says about the tool with this name (the server's own name for it, without `server__`).
    pub fn verdict(&self, tool: &str) -> ToolVerdict<'_> {
        if let Some(pattern) = self.deny.iter().find(|pattern| pattern.matches(tool)) {
            return ToolVerdict::Denied(pattern);
        }
        match &self.allow {
            Some(allow) if !allow.iter().any(|pattern| pattern.matches(tool)) => ToolVerdict::NotListed,
            Some(_) | None => ToolVerdict::Permitted,
        }
    }
}

impl ToolPattern {
    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a tool's name matches the whole pattern. Time is at most the product of both lengths.
    pub fn matches(&self, tool: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| tool.strip_prefix(first)) else {
            return false;
        };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.split_once(part) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

/// Why a text is not a [`ToolPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolPatternError {
    /// Nothing there.
    #[error("a tool pattern has at least one character")]
    Empty,
    /// More than 128 characters.
    #[error("a tool pattern has {MAX_TOOL_PATTERN} characters at most, this one has {length}")]
    Long {
        /// Characters found.
        length: usize,
    },
    /// A character that no tool name has.
    #[error("a tool pattern may not have the character `{}`", character.escape_debug())]
    Character {
        /// The first such character.
        character: char,
    },
}

impl ToolPatternError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some("write letters, digits, `_`, `-`, `.`, `/`, and `*` for any number of characters".into())
    }
}

impl FromStr for ToolPattern {
    type Err = ToolPatternError;

    fn from_str(text: &str) -> Result<Self, ToolPatternError> {
        let length = text.chars().count();
        if length == 0 {
            return Err(ToolPatternError::Empty);
        }
        if length > MAX_TOOL_PATTERN {
            return Err(ToolPatternError::Long { length });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '*');
        match text.chars().find(|&c| !allowed(c)) {
            Some(character) => Err(ToolPatternError::Character { character }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ToolPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ToolPattern {
        text.parse().unwrap()
    }

    #[test]
    fn matching() {
        for (text, yes, no) in [
            ("get_*", &["get_", "get_me"][..], &["get", "xget_me", ""][..]),
            ("*", &["", "a"], &[]),
            ("echo", &["echo"], &["echo2", "ech", ""]),
            ("*_file", &["read_file", "_file", "a_file_file"], &["file", "read_file2"]),
            ("a*b*c", &["abc", "axbyc", "abbc", "abcbc"], &["ac", "abcx", "acb"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("**x**", &["x", "axb"], &["a"]),
        ] {
            assert!(yes.iter().all(|name| pattern(text).matches(name)), "{text}");
            assert!(!no.iter().any(|name| pattern(text).matches(name)), "{text}");
        }
    }

    #[test]
    fn refused() {
        assert_eq!("".parse::<ToolPattern>(), Err(ToolPatternError::Empty));
        assert_eq!("a?".parse::<ToolPattern>(), Err(ToolPatternError::Character { character: '?' }));
        assert_eq!("[a]".parse::<ToolPattern>(), Err(ToolPatternError::Character { character: '[' }));
        assert_eq!("a".repeat(129).parse::<ToolPattern>(), Err(ToolPatternError::Long { length: 129 }));
    }

    #[test]
    fn verdicts() {
        let deny = vec![pattern("get_secret*")];
        let open = Tools { allow: None, deny: deny.clone() };
        assert_eq!(open.verdict("anything"), ToolVerdict::Permitted);
        assert_eq!(open.verdict("get_secret"), ToolVerdict::Denied(&deny[0]));
        let listed = Tools { allow: Some(vec![pattern("get_*")]), deny: deny.clone() };
        assert_eq!(listed.verdict("get_me"), ToolVerdict::Permitted);
        assert_eq!(listed.verdict("get_secrets"), ToolVerdict::Denied(&deny[0]));
        assert_eq!(listed.verdict("put"), ToolVerdict::NotListed);
        let nothing = Tools { allow: Some(vec![]), deny: vec![] };
        assert_eq!(nothing.verdict("get_me"), ToolVerdict::NotListed);
    }
}
