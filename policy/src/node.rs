//! The YAML tree with the place of every key and value, and [`At`], a finger on one place in it.

use std::ops::Range;

/// A value and the bytes that it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// For a block mapping or list: from its first to its last value.
    pub(crate) span: Range<usize>,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// There is a finding about this value already; nothing more is to be said of it.
    Refused,
}

/// One key of a mapping with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: Node,
}

/// A scalar after YAML's escapes, and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) kind: ScalarKind,
}

/// What a scalar is. Only a plain one (without quotes) can be something other than `Text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// Decimal digits, perhaps with a sign, without leading zeros.
    Integer,
    /// Decimal digits with a fraction.
    Decimal,
    /// A word or number that YAML 1.1 and 1.2, or two parsers of either, read differently.
    Ambiguous,
    Text,
}

impl ScalarKind {
    /// What a plain scalar is.
    pub(crate) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" => return Self::Null,
            "true" | "false" => return Self::Bool,
            _ => {}
        }
        if is_ambiguous_word(text) {
            return Self::Ambiguous;
        }
        number(text).unwrap_or(Self::Text)
    }
}

/// The booleans of YAML 1.1 (<https://yaml.org/type/bool.html>) and the capitalised forms of 1.2, `null` and
/// `.inf` likewise: `country: NO` has been `false` often enough.
fn is_ambiguous_word(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_start_matches(['+', '-']);
    matches!(lower, "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | ".inf" | ".nan")
}

fn number(text: &str) -> Option<ScalarKind> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, None), |(w, f)| (w, Some(f)));
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    let signed_plus = text.starts_with('+');
    if digits(whole) && fraction.is_none_or(digits) && !leading_zero && !signed_plus {
        return Some(if fraction.is_some() { ScalarKind::Decimal } else { ScalarKind::Integer });
    }
    // Hexadecimal, octal, binary, digits in groups, exponents, base 60: everything that begins like a number
    // and has only the characters of one. Versions (`1.2.3`) have two dots, and are text to every parser.
    let like_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|b| b.is_ascii_digit());
    let radix = unsigned.get(..2).is_some_and(|p| matches!(p, "0x" | "0o" | "0b" | "0X" | "0O" | "0B"))
        && unsigned.bytes().skip(2).all(|b| b.is_ascii_hexdigit() || b == b'_');
    let chars = unsigned
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'_' | b':' | b'e' | b'E' | b'+' | b'-'));
    let dots = unsigned.bytes().filter(|&b| b == b'.').count();
    let date = unsigned.bytes().filter(|&b| b == b'-').count() > 1;
    (like_number && (radix || chars && dots < 2 && !date)).then_some(ScalarKind::Ambiguous)
}

impl Node {
    /// What the value is, as a noun with its article.
    pub(crate) fn noun(&self) -> &'static str {
        match &self.kind {
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Refused => "something else",
            Kind::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "nothing",
                ScalarKind::Bool => "a boolean",
                ScalarKind::Integer => "an integer",
                ScalarKind::Decimal => "a decimal number",
                ScalarKind::Ambiguous => "a word that parsers disagree about",
                ScalarKind::Text => "a string",
            },
        }
    }
}

/// A place in the tree: the value, its key where it has one, and its path such as
/// `filesystem.mounts[0].target`.
#[derive(Debug, Clone)]
pub(crate) struct At<'n> {
    pub(crate) node: &'n Node,
    pub(crate) path: String,
    pub(crate) key_span: Option<Range<usize>>,
}

impl<'n> At<'n> {
    pub(crate) fn root(node: &'n Node) -> Self {
        Self { node, path: String::new(), key_span: None }
    }

    /// The entry with this key, if the file has it.
    pub(crate) fn get(&self, key: &str) -> Option<Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| self.entry(entry))
    }

    /// The entry with this key; where the file lacks it, the mapping that would hold it.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.get(key).unwrap_or_else(|| Self { path: self.path_of(key), ..self.clone() })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The place that a path such as `filesystem.mounts[0].target` leads to from here; where it leads nowhere, the last
    /// place on the way.
    pub(crate) fn follow(&self, path: &str) -> Self {
        path.split(['.', '[']).filter(|part| !part.is_empty()).fold(self.clone(), |at, part| {
            match part.strip_suffix(']').map(str::parse) {
                Some(Ok(index)) => at.item(index),
                Some(Err(_)) | None => at.key(part),
            }
        })
    }

    /// The item with this index; past the end, the list itself.
    pub(crate) fn item(&self, index: usize) -> Self {
        let path = format!("{}[{index}]", self.path);
        match &self.node.kind {
            Kind::List(items) => match items.get(index) {
                Some(node) => Self { node, path, key_span: None },
                None => Self { path, ..self.clone() },
            },
            Kind::Scalar(_) | Kind::Map(_) | Kind::Refused => Self { path, ..self.clone() },
        }
    }

    pub(crate) fn entries(&self) -> &'n [Entry] {
        match &self.node.kind {
            Kind::Map(entries) => entries,
            Kind::Scalar(_) | Kind::List(_) | Kind::Refused => &[],
        }
    }

    pub(crate) fn entry(&self, entry: &'n Entry) -> Self {
        Self { node: &entry.value, path: self.path_of(&entry.key), key_span: Some(entry.key_span.clone()) }
    }

    /// The bytes to point at when the value is wrong: the value itself, or its key where the value is empty.
    pub(crate) fn span(&self) -> Range<usize> {
        match &self.key_span {
            Some(key_span) if self.node.span.is_empty() => key_span.clone(),
            Some(_) | None => self.node.span.clone(),
        }
    }

    /// The bytes to point at when something is missing inside: the key, or the first key inside.
    pub(crate) fn head_span(&self) -> Range<usize> {
        let first = self.entries().first().map(|entry| entry.key_span.clone());
        self.key_span.clone().or(first).unwrap_or_else(|| self.span())
    }

    /// The path of a key inside of this mapping.
    pub(crate) fn path_of(&self, key: &str) -> String {
        let simple =
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        let key = if simple { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars() {
        for (text, kind) in [
            ("", ScalarKind::Null),
            ("~", ScalarKind::Null),
            ("null", ScalarKind::Null),
            ("true", ScalarKind::Bool),
            ("0", ScalarKind::Integer),
            ("-12", ScalarKind::Integer),
            ("0.5", ScalarKind::Decimal),
            ("512MiB", ScalarKind::Text),
            ("1.2.3", ScalarKind::Text),
            ("2026-01-01", ScalarKind::Text),
            ("30s", ScalarKind::Text),
            ("-", ScalarKind::Text),
            ("--flag", ScalarKind::Text),
            ("0xyz", ScalarKind::Text),
            ("é1", ScalarKind::Text),
        ] {
            assert_eq!(ScalarKind::of_plain(text), kind, "{text:?}");
        }
        for text in [
            "yes", "No", "ON", "off", "y", "N", "True", "FALSE", "Null", "NULL", ".inf", "-.INF", ".nan",
            "0x1f", "0o17", "0b1", "017", "1_000", "1e3", "1.5E-3", "12:30:45", "+1", "1.", ".5",
        ] {
            assert_eq!(ScalarKind::of_plain(text), ScalarKind::Ambiguous, "{text:?}");
        }
    }
}
