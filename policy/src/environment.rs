//! What is put into the server's environment, and the secrets, some of which are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Finding, Findings, Rule, quoted};
use crate::name::{NameError, check_variable, is_reserved_variable};
use crate::node::At;
use crate::policy::{SecretDelivery, SecretGrant};
use crate::resolve::bad_value;
use crate::written;

/// Where secret files are.
const SECRETS: &str = "/run/secrets/";
/// Longest name of a secret's file: half of `NAME_MAX`, like the longest names of variables.
const FILE_NAME_MAX: usize = 128;

pub(crate) fn variables(
    variables: BTreeMap<String, String>,
    at: Option<At<'_>>,
    findings: &mut Findings,
) -> Option<BTreeMap<String, String>> {
    let mut fine = true;
    if let Some(at) = at {
        for entry in at.entries() {
            fine &= variable(&entry.key, &entry.key_span, &at.path_of(&entry.key), findings);
        }
    }
    fine.then_some(variables)
}

/// Whether a variable may be set by a policy.
fn variable(name: &str, span: &Range<usize>, path: &str, findings: &mut Findings) -> bool {
    if let Err(error) = check_variable(name) {
        let message = format!("{} is not a variable: {error}", quoted(path));
        findings.push(
            Finding::new(Rule::Value, span.clone(), message).label("this name").maybe_hint(error.hint()),
        );
        return false;
    }
    if is_reserved_variable(name) {
        let message = format!("{} sets {}, which no policy may set", quoted(path), quoted(name));
        let hint =
            "the loader and the C library act on it before any program does; set it inside the image instead";
        findings.push(Finding::new(Rule::Value, span.clone(), message).label("this name").hint(hint));
        return false;
    }
    true
}

/// What has been given away already, and where the file says so.
struct Taken(BTreeMap<String, (Range<usize>, String)>);

/// Resolves `secrets`, also against `environment`; `root` is the whole file.
pub(crate) fn secrets(
    secrets: Vec<written::Secret>,
    root: &At<'_>,
    findings: &mut Findings,
) -> Option<Vec<SecretGrant>> {
    let mut taken = Taken(BTreeMap::new());
    if let Some(at) = root.get("environment") {
        let set = at.entries().iter();
        taken
            .0
            .extend(set.map(|entry| (entry.key.clone(), (entry.key_span.clone(), at.path_of(&entry.key)))));
    }
    crate::resolve::each(secrets, &root.key("secrets"), findings, |secret, at, findings| {
        one_secret(secret, at, &mut taken, findings)
    })
}

fn one_secret(
    secret: written::Secret,
    at: &At<'_>,
    taken: &mut Taken,
    findings: &mut Findings,
) -> Option<SecretGrant> {
    let written::Secret { name, env, file, header: None, placeholder_env: None } = secret;
    let name = name.parse().map_err(|error: NameError| {
        bad_value(&at.key("name"), &format!("is {}: {error}", quoted(&name)), error.hint(), findings);
    });
    let delivery = delivery(env, file, (at, taken, findings));
    Some(SecretGrant { name: name.ok()?, delivery: delivery? })
}

fn delivery(
    env: Option<String>,
    file: Option<String>,
    (at, taken, findings): (&At<'_>, &mut Taken, &mut Findings),
) -> Option<SecretDelivery> {
    match (at.get("env"), at.get("file")) {
        (Some(first), Some(second)) => {
            let message = format!("{} has both `env` and `file`", quoted(&at.path));
            let hint = "keep one; to deliver it both ways, list the secret twice";
            findings.push(
                Finding::new(Rule::Conflict, second.head_span(), message)
                    .label("and this")
                    .related(first.head_span(), "this")
                    .hint(hint),
            );
            None
        }
        (Some(place), None) => {
            let variable = env?;
            let allowed = self::variable(&variable, &place.span(), &place.path, findings);
            (allowed && taken.take(&variable, &place, findings)).then_some(SecretDelivery::Env { variable })
        }
        (None, Some(place)) => {
            let path = self::file(file?, &place, findings)?;
            taken.take(&path, &place, findings).then(|| SecretDelivery::File { path: PathBuf::from(path) })
        }
        // The shape check has refused these two already.
        (None, None) if at.has("header") || at.has("placeholder_env") => None,
        (None, None) => {
            let message = format!("{} does not say how the secret reaches the server", quoted(&at.path));
            let hint = "add `env: NAME`, or `file: /run/secrets/name`";
            findings.push(
                Finding::new(Rule::MissingKey, at.head_span(), message)
                    .label("needs `env` or `file`")
                    .hint(hint),
            );
            None
        }
    }
}

fn file(text: String, at: &At<'_>, findings: &mut Findings) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let fine = text.strip_prefix(SECRETS).is_some_and(|name| {
        (1..=FILE_NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
    });
    if fine {
        return Some(text);
    }
    let hint =
        format!("write {SECRETS} and a name of letters, digits, `_`, `.`, `-`, such as `{SECRETS}token`");
    bad_value(
        at,
        &format!("is {}: a secret's file is directly in {SECRETS}", quoted(&text)),
        Some(hint),
        findings,
    );
    None
}

impl Taken {
    /// Gives a variable or file away, unless it has been.
    fn take(&mut self, what: &str, at: &At<'_>, findings: &mut Findings) -> bool {
        if let Some((span, path)) = self.0.get(what) {
            let message =
                format!("{} is {}, which {} has already", quoted(&at.path), quoted(what), quoted(path));
            findings.push(
                Finding::new(Rule::Conflict, at.span(), message)
                    .label("again here")
                    .related(span.clone(), "first here")
                    .hint("choose another name for one of them"),
            );
            return false;
        }
        self.0.insert(what.to_owned(), (at.span(), at.path.clone()));
        true
    }
}
