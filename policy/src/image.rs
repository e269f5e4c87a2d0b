//! Which image runs, and why it is trusted: from the `image` section as written to [`ImagePolicy`].
//!
//! Trust has to be said: there is no default between `signed_by` and `unsigned`.

use std::path::PathBuf;

use crate::error::{Finding, Findings, Rule, quoted};
use crate::node::At;
use crate::policy::{ImagePolicy, ImageTrust, KeySource, Signer};
use crate::written;

/// How an image's name is written, as a regular expression for editors (OCI distribution specification,
/// "Pulling manifests", with the host and port that references have).
pub(crate) const REFERENCE_PATTERN: &str = "^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$";

const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_PUBLIC_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_PUBLIC_END: &str = "-----END PUBLIC KEY-----";
/// OCI distribution specification: a tag has 128 characters at most.
const TAG_MAX: usize = 128;

pub(crate) fn resolve(image: written::Image, at: &At<'_>, findings: &mut Findings) -> Option<ImagePolicy> {
    let written::Image { reference: name, digest, signed_by, unsigned, attestations: None } = image;
    let reference = reference(name, &at.key("reference"), findings);
    let digest = match digest {
        None => Some(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error: crate::DigestError| {
                let place = at.key("digest");
                let message = format!("{} is not a digest: {error}", quoted(&place.path));
                findings.push(
                    Finding::new(Rule::Value, place.span(), message)
                        .label("not a digest")
                        .maybe_hint(error.hint()),
                );
            })
            .ok(),
    };
    let trust = trust(signed_by, unsigned, at, findings);
    Some(ImagePolicy { reference: reference?, digest: digest?, trust: trust? })
}

fn trust(
    signed_by: Option<Vec<written::Signer>>,
    unsigned: Option<String>,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<ImageTrust> {
    match (at.get("signed_by"), at.get("unsigned")) {
        (None, None) => {
            let message = format!("{} does not say why the image is trusted", quoted(&at.path));
            let hint =
                "add `signed_by: [{ key: <public key file>, tlog: optional }]`, or `unsigned: \"<reason>\"`";
            findings.push(
                Finding::new(Rule::MissingKey, at.head_span(), message)
                    .label("needs `signed_by` or `unsigned`")
                    .hint(hint),
            );
            None
        }
        (Some(signed), Some(plain)) => {
            let message = format!("{} has both `signed_by` and `unsigned`", quoted(&at.path));
            findings.push(
                Finding::new(Rule::Conflict, plain.head_span(), message)
                    .label("says that no signature is needed")
                    .related(signed.head_span(), "asks for one")
                    .hint("keep `signed_by` if the image is signed"),
            );
            None
        }
        (Some(place), None) => {
            let signers = signed_by?;
            let signers: Vec<Option<Signer>> =
                (0..).zip(signers).map(|(index, one)| signer(one, &place.item(index), findings)).collect();
            signers.into_iter().collect::<Option<Vec<_>>>().map(ImageTrust::SignedBy)
        }
        (None, Some(place)) => {
            let hint = "say on one line why the image may run without a signature; the audit log keeps it";
            reason(unsigned?, &place, hint, findings).map(|reason| ImageTrust::Unsigned { reason })
        }
    }
}

/// The author's words for why something is acceptable: one line that is not empty.
pub(crate) fn reason(text: String, at: &At<'_>, hint: &str, findings: &mut Findings) -> Option<String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        let message = format!("{} is not one line that gives a reason", quoted(&at.path));
        findings.push(Finding::new(Rule::Value, at.span(), message).label("the reason").hint(hint));
        return None;
    }
    Some(text)
}

fn signer(signer: written::Signer, at: &At<'_>, findings: &mut Findings) -> Option<Signer> {
    let written::Signer { key: text, tlog, keyless: None } = signer;
    // The shape check has refused `keyless` already; one finding about this signer is enough.
    if at.has("keyless") {
        return None;
    }
    if !at.has("key") {
        let message = format!("{} is missing", quoted(&at.path_of("key")));
        let hint = "add `key: <public key file>` and `tlog: optional`";
        findings
            .push(Finding::new(Rule::MissingKey, at.head_span(), message).label("names no key").hint(hint));
        return None;
    }
    let key = key(text?, &at.key("key"), findings);
    if !at.has("tlog") {
        let message = format!(
            "{} asks for a transparency log, and that check is not enforced by this version, \
             so a policy that relies on it is refused",
            quoted(&at.path)
        );
        let hint = "add `tlog: optional` to accept a signature by this key that is in no log";
        findings.push(
            Finding::new(Rule::NotEnforced, at.head_span(), message)
                .label("needs `tlog: optional`")
                .hint(hint),
        );
    }
    Some(Signer::Key { key: key?, tlog: tlog? })
}

fn key(text: String, at: &At<'_>, findings: &mut Findings) -> Option<KeySource> {
    let problem = if text.trim_start().starts_with(PEM_BEGIN) {
        let pem = text.trim();
        if pem.starts_with(PEM_PUBLIC_BEGIN)
            && pem.ends_with(PEM_PUBLIC_END)
            && pem.matches(PEM_BEGIN).count() == 1
        {
            return Some(KeySource::Pem(format!("{pem}\n")));
        }
        if pem.contains("PRIVATE KEY") {
            (
                "holds a private key",
                "put the public key there, and treat the private one as published: make a new one",
            )
        } else {
            (
                "is not one PEM public key",
                "it begins with `-----BEGIN PUBLIC KEY-----` and ends with `-----END PUBLIC KEY-----`",
            )
        }
    } else if text.starts_with('~') {
        ("begins with `~`", "write the path relative to the folder of the policy file, or absolute")
    } else if text.chars().any(char::is_control) {
        (
            "has a control character",
            "write the path of a PEM file on one line, or the PEM text as a block (`key: |`)",
        )
    } else {
        return Some(KeySource::File(PathBuf::from(text)));
    };
    let message = format!("{} {}", quoted(&at.path), problem.0);
    findings.push(Finding::new(Rule::Value, at.span(), message).label("the key").hint(problem.1));
    None
}

fn reference(text: String, at: &At<'_>, findings: &mut Findings) -> Option<String> {
    let Some(hint) = reference_problem(&text) else { return Some(text) };
    let message = format!("{} is not the name of an image: {}", quoted(&at.path), quoted(&text));
    findings.push(Finding::new(Rule::Value, at.span(), message).label("not an image name").hint(hint));
    None
}

/// What is wrong with a reference, as the hint that mends it.
fn reference_problem(text: &str) -> Option<&'static str> {
    if text.contains('@') {
        return Some("leave the digest out, and write it as `image.digest`");
    }
    if text.contains("://") {
        return Some("leave the scheme out: `ghcr.io/owner/name:tag`");
    }
    let (name, tag) = match text.rsplit_once(':') {
        // A colon before a slash is a port's.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        Some(_) | None => (text, None),
    };
    if !tag.is_none_or(is_tag) {
        return Some("a tag has letters, digits, `_`, `.`, `-`, and 128 characters at most");
    }
    let mut parts = name.split('/').peekable();
    if let Some(host) = parts.next_if(|first| is_host(first))
        && parts.peek().is_none()
    {
        // `localhost:5000` alone was split at the colon before; a single part is a name.
        return (!is_component(host)).then_some(NAME_FORM);
    }
    (!parts.all(is_component)).then_some(NAME_FORM)
}

const NAME_FORM: &str = "write it as `name:tag`, in lower case, such as `ghcr.io/owner/name:v1`";

fn is_tag(tag: &str) -> bool {
    tag.len() <= TAG_MAX
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    !host.is_empty()
        && !host.starts_with(['-', '.'])
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        && port.is_none_or(|port| {
            !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
        })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the OCI distribution specification.
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    text.starts_with(word)
        && text.ends_with(word)
        && text.split(word).filter(|between| !between.is_empty()).all(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for good in [
            "everything",
            "everything:1",
            "ghcr.io/github/github-mcp-server:v0.19.1",
            "localhost:5000/a/b:c",
            "localhost:5000/a",
            "a__b/c--d/e.f:_X",
            "LOCALHOST/a",
        ] {
            assert_eq!(reference_problem(good), None, "{good}");
        }
        for bad in [
            "",
            ":",
            "a:",
            ":a",
            "A",
            "a/",
            "/a",
            "a//b",
            "a..b",
            "a___b",
            "-a",
            "a b",
            "a@sha256:00",
            "https://a/b",
            "a:b:c",
            "a/B",
            "a:-x",
            "é",
            "../a",
            "a/../b",
            &format!("a:{}", "x".repeat(129)),
        ] {
            assert!(reference_problem(bad).is_some(), "{bad:?}");
        }
    }
}
