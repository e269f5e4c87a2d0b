//! What a sandboxed MCP server may do, as data.
//!
//! One YAML file describes one server: which image it comes from and who must have signed it, what it sees of
//! the host's files, which secrets reach it, how much it may use, which of its tools may be called. [`parse()`]
//! turns the text into a [`Policy`], or into a [`PolicyError`] with everything that is wrong and where.
//! [`schema()`] describes the file for editors, [`reference_markdown`] for people.
//!
//! Reading order, which is the data flow:
//!
//! ```text
//! bytes ── text ──► no hidden characters ── parse ──► node: plain YAML with the place of everything
//!       ── shape (reads schema, made from written) ──► as-written structures ── resolve ──► Policy
//! ```
//!
//! The attacker considered: the author of a policy that somebody else reviews or runs. A file must not mean
//! something other than what it looks like, must not be half understood, and must not cost more than its size
//! to refuse. So nothing is ignored: an unknown key is refused, and so is a known one that this version does
//! not enforce.
//!
//! Deliberately absent: reading files, the environment or the host; merging of several policies; rendering of
//! errors; and any value of a secret.

#![forbid(unsafe_code)]

mod amounts;
mod environment;
mod error;
mod image;
mod mounts;
mod node;
mod parse;
mod reference;
mod resolve;
mod schema;
mod shape;
mod suggest;
mod syscalls;
mod text;
mod written;

pub mod bounds;
pub mod digest;
pub mod name;
pub mod policy;
pub mod size;
pub mod tools;

#[cfg(test)]
mod tests;

pub use crate::digest::{Digest, DigestError};
pub use crate::error::{Finding, PolicyError, Related, Rule};
pub use crate::name::{NameError, SecretName, ServerName};
pub use crate::policy::{
    Access, Baseline, CallChange, CanonicalJsonError, Degradation, Filesystem, ImagePolicy, ImageTrust,
    KeySource, Landlock, Lifecycle, Limits, MountGrant, Policy, SeccompMode, SecretDelivery, SecretGrant,
    Signer, Start, Syscalls, Tlog, defaults,
};
pub use crate::reference::reference_markdown;
pub use crate::schema::schema;
pub use crate::size::{AmountError, ByteSize, Cpus};
pub use crate::suggest::nearest;
pub use crate::tools::{ToolPattern, ToolPatternError, ToolVerdict, Tools};

use crate::error::Findings;
use crate::node::{At, Kind, Scalar, ScalarKind};

/// The version of the policy language that this version of palisade knows.
pub const LANGUAGE_VERSION: u64 = 1;

/// Reads a policy. `name` is the file's name for messages; nothing is opened.
pub fn parse(name: &str, text: &str) -> Result<Policy, PolicyError> {
    let mut findings = Findings::default();
    let policy = read(text, &mut findings);
    match policy {
        Some(policy) if findings.is_empty() => Ok(policy),
        Some(_) | None => {
            if findings.is_empty() {
                // Unreachable as far as anybody knows; a refusal without a reason would be worse than this
                // one.
                findings.push(Finding::new(
                    Rule::Type,
                    0..0,
                    "the file is refused, and palisade cannot say why",
                ));
            }
            Err(findings.into_error(name, text))
        }
    }
}

/// Reads a policy from bytes, which are refused unless they are UTF-8.
pub fn parse_bytes(name: &str, bytes: &[u8]) -> Result<Policy, PolicyError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(name, text),
        Err(error) => {
            let mut findings = Findings::default();
            findings.push(text::not_utf8(error.valid_up_to()));
            let shown = bytes
                .get(..bounds::MAX_FILE_BYTES.max(error.valid_up_to().saturating_add(4)))
                .unwrap_or(bytes);
            Err(findings.into_error(name, &String::from_utf8_lossy(shown)))
        }
    }
}

/// What is wrong with one value of a policy, found by whoever knows more of it than the language does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The value's place: keys with dots, items in brackets, such as `syscalls.add[0].call`.
    pub path: String,
    /// What is wrong, as in [`Finding::message`].
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

impl PolicyError {
    /// The refusal of a policy that is well-formed and cannot be honoured. `text` is the file as it was parsed; a path
    /// that it does not have is reported at the last part of it that is there.
    pub fn about(name: &str, text: &str, objections: Vec<Objection>) -> Self {
        let mut findings = Findings::default();
        let tree = parse::parse(text, &mut Findings::default());
        for Objection { path, message, hint } in objections {
            let span = tree.as_ref().map_or(0..0, |tree| At::root(tree).follow(&path).span());
            findings.push(Finding::new(Rule::Value, span, message).label("this value").maybe_hint(hint));
        }
        findings.into_error(name, text)
    }
}

impl Policy {
    /// [`parse()`].
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        parse(name, text)
    }
}

/// From text to policy. Nothing is a policy as long as there is a finding; [`parse()`] sees to that.
fn read(text: &str, findings: &mut Findings) -> Option<Policy> {
    text::check(text, findings);
    if !findings.is_empty() {
        return None;
    }
    let tree = parse::parse(text, findings);
    let Some(tree) = tree else {
        if findings.is_empty() {
            findings.push(empty_file());
        }
        return None;
    };
    let root = At::root(&tree);
    if matches!(&tree.kind, Kind::Scalar(Scalar { kind: ScalarKind::Null, .. })) && findings.is_empty() {
        findings.push(empty_file());
        return None;
    }
    if !is_this_version(&root, findings) {
        return None;
    }
    let data = shape::check(&root, schema::shared(), findings)?;
    match serde_json::from_value(data) {
        Ok(written) => resolve::resolve(written, &root, findings),
        Err(error) => {
            // The schema and the structures are one definition, so this is a defect of ours; refused all the
            // same.
            let message =
                format!("the file does not fit the language: {}", error::quoted(&error.to_string()));
            let finding = Finding::new(Rule::Type, root.head_span(), message);
            findings.push(finding.hint("this is a defect of palisade; please report it with the file"));
            None
        }
    }
}

/// A file in another version of the language gets one finding, not one for each key that this version lacks.
fn is_this_version(root: &At<'_>, findings: &mut Findings) -> bool {
    let Some(at) = root.get("palisade") else { return true };
    let Kind::Scalar(Scalar { text, kind: ScalarKind::Integer }) = &at.node.kind else { return true };
    if text.parse() == Ok(LANGUAGE_VERSION) {
        return true;
    }
    let message = format!("version {} of the policy language is not known", error::quoted(text));
    let hint = format!("this palisade knows version {LANGUAGE_VERSION}; for a newer one, update palisade");
    findings.push(Finding::new(Rule::Version, at.span(), message).label("version").hint(hint));
    false
}

fn empty_file() -> Finding {
    Finding::new(Rule::MissingKey, 0..0, "the file is empty")
        .hint("a policy begins with `palisade: 1`, and needs `server` and `image`")
}
