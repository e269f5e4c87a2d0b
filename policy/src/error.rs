//! What is said to the author of a policy that is refused.
//!
//! Errors are data: the sentence, the exact bytes that it is about, and the way out. Rendering belongs to the
//! binary.

use std::fmt;
use std::ops::Range;

/// Why a policy file was refused: at least one finding, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    file_name: String,
    source: String,
    findings: Vec<Finding>,
    omitted: usize,
}

/// One thing that is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule was broken.
    pub rule: Rule,
    /// What is wrong: one line, lower case, no period, what the author wrote in backticks and escaped.
    pub message: String,
    /// The bytes of [`PolicyError::source_text`] that it is about. On character boundaries, within the text,
    /// empty only where there is nothing to point at.
    pub span: Range<usize>,
    /// A few words to print beside the span.
    pub label: String,
    /// A second place that explains the first, such as where a key was written before.
    pub related: Option<Related>,
    /// The way out.
    pub hint: Option<String>,
}

/// A second place that explains a [`Finding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// The bytes of [`PolicyError::source_text`], as in [`Finding::span`].
    pub span: Range<usize>,
    /// A few words to print beside the span.
    pub label: String,
}

/// The rules of a policy file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The text is UTF-8 without characters that hide or reorder what a reviewer sees.
    Text,
    /// The file keeps to the limits on size, depth and number of nodes.
    Bounds,
    /// The file is one well-formed YAML document.
    Syntax,
    /// The file uses no anchor, alias, tag, merge key, directive or second document.
    PlainYaml,
    /// No key is written twice.
    DuplicateKey,
    /// The file says which version of the language it is in, and it is this one.
    Version,
    /// Every key is known.
    UnknownKey,
    /// Every key is enforced.
    NotEnforced,
    /// Every value has the type of its key.
    Type,
    /// Every required key is there.
    MissingKey,
    /// Every value makes sense for its key.
    Value,
    /// The values make sense together.
    Conflict,
}

impl PolicyError {
    /// Puts findings into the order of the file. `omitted` is the number of further ones that were not kept.
    pub(crate) fn new(file_name: &str, source: String, mut findings: Vec<Finding>, omitted: usize) -> Self {
        findings.sort_by_key(|finding| finding.span.start);
        Self { file_name: file_name.to_owned(), source, findings, omitted }
    }

    /// The file's name as it was given to the parser; not escaped.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The text that the spans are about. Not escaped: a renderer must not send control characters to a
    /// terminal.
    pub fn source_text(&self) -> &str {
        &self.source
    }

    /// What is wrong, in the order of the file.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many further findings were left out (more than [`crate::bounds::MAX_FINDINGS`]).
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The hint of the first finding.
    pub fn hint(&self) -> Option<String> {
        self.findings.first().and_then(|finding| finding.hint.clone())
    }

    /// The line and column (both from 1, the column in characters) at which a byte of the source is.
    pub fn line_column(&self, byte: usize) -> (usize, usize) {
        let before = self.source.get(..byte).unwrap_or(&self.source);
        let line = before.bytes().filter(|&b| b == b'\n').count().saturating_add(1);
        let column = before.rsplit('\n').next().unwrap_or("").chars().count().saturating_add(1);
        (line, column)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the policy {} is refused", quoted(&self.file_name))?;
        if let Some(first) = self.findings.first() {
            let (line, column) = self.line_column(first.span.start);
            write!(f, ": line {line}, column {column}: {}", first.message)?;
        }
        match self.findings.len().saturating_sub(1).saturating_add(self.omitted) {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for PolicyError {}

/// Collects findings up to a limit.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    kept: Vec<Finding>,
    omitted: usize,
}

impl Findings {
    pub(crate) fn push(&mut self, finding: Finding) {
        if self.is_full() {
            self.count_only();
        } else {
            self.kept.push(finding);
        }
    }

    /// Whether a further finding would only be counted, so that nothing need be composed for it.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= crate::bounds::MAX_FINDINGS
    }

    pub(crate) fn count_only(&mut self) {
        self.omitted = self.omitted.saturating_add(1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(crate) fn into_error(self, file_name: &str, source: &str) -> PolicyError {
        PolicyError::new(file_name, source.to_owned(), self.kept, self.omitted)
    }
}

impl Finding {
    pub(crate) fn new(rule: Rule, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), span, label: String::new(), related: None, hint: None }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    pub(crate) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some(Related { span, label: label.into() });
        self
    }
}

/// What somebody wrote, in backticks, on one line, harmless to a terminal, and short.
pub(crate) fn quoted(text: &str) -> String {
    /// About half a line of a terminal, so that the sentence around it stays readable.
    const LONGEST: usize = 60;
    let mut out = String::from("`");
    for (at, c) in text.chars().enumerate() {
        if at >= LONGEST {
            out.push('…');
            break;
        }
        match c {
            '`' => out.push_str("\\u{60}"),
            '"' | '\'' => out.push(c),
            c if crate::text::is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.extend(c.escape_debug()),
        }
    }
    out.push('`');
    out
}
