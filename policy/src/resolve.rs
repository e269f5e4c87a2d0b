//! From the file as written to the [`Policy`]: defaults filled in, texts understood, values checked against
//! each other.
//!
//! Every section is looked at even when an earlier one was refused, so that one run shows all that is wrong.

use std::collections::BTreeSet;

use crate::error::{Finding, Findings, Rule, quoted};
use crate::node::At;
use crate::policy::{Degradation, Filesystem, Landlock, Policy, defaults};
use crate::tools::{ToolPattern, Tools};
use crate::written::{self, Network, PolicyFile};
use crate::{amounts, environment, image, mounts, syscalls};

/// Resolves a file; `None` only together with a finding.
pub(crate) fn resolve(file: PolicyFile, root: &At<'_>, findings: &mut Findings) -> Option<Policy> {
    // Every key by name: one that is forgotten here does not compile.
    let PolicyFile {
        palisade: _checked_before_the_shape,
        server: name,
        image,
        args,
        environment,
        network: None | Some(Network { egress: [] }),
        filesystem,
        secrets,
        syscalls: calls,
        landlock,
        limits,
        tools: tool_patterns,
        lifecycle,
        accept_degraded,
    } = file;
    let server = server(&name, &root.key("server"), findings);
    let image = image::resolve(image, &root.key("image"), findings);
    let environment =
        environment::variables(environment.unwrap_or_default(), root.get("environment"), findings);
    let secrets = environment::secrets(secrets.unwrap_or_default(), root, findings);
    let mounts = filesystem.and_then(|written::Filesystem { mounts }| mounts).unwrap_or_default();
    let mounts = mounts::resolve(mounts, &root.key("filesystem").key("mounts"), findings);
    let calls = syscalls::resolve(calls.unwrap_or_default(), &root.key("syscalls"), findings);
    let minimum_abi =
        landlock.and_then(|written::Landlock { minimum_abi }| minimum_abi).unwrap_or(defaults::LANDLOCK_ABI);
    let limits = amounts::limits(limits.unwrap_or_default(), &root.key("limits"), findings);
    let tools = tools(tool_patterns.unwrap_or_default(), &root.key("tools"), findings);
    let lifecycle = amounts::lifecycle(lifecycle.unwrap_or_default(), &root.key("lifecycle"), findings);
    let accepted = degradations(&accept_degraded.unwrap_or_default(), &root.key("accept_degraded"), findings);
    if let (Some(calls), Some(accepted)) = (&calls, &accepted) {
        syscalls::log_is_accepted(calls, accepted, &root.key("syscalls"), findings);
    }
    Some(Policy {
        server: server?,
        image: image?,
        args,
        environment: environment?,
        filesystem: Filesystem { mounts: mounts? },
        secrets: secrets?,
        syscalls: calls?,
        landlock: Landlock { minimum_abi },
        limits: limits?,
        tools: tools?,
        lifecycle: lifecycle?,
        accept_degraded: accepted?,
    })
}

/// Resolves every item of a list, also after one that was refused.
pub(crate) fn each<T, U>(
    items: Vec<T>,
    at: &At<'_>,
    findings: &mut Findings,
    mut one: impl FnMut(T, &At<'_>, &mut Findings) -> Option<U>,
) -> Option<Vec<U>> {
    let results: Vec<Option<U>> =
        (0..).zip(items).map(|(index, item)| one(item, &at.item(index), findings)).collect();
    results.into_iter().collect()
}

/// Reports a value that could not be understood.
pub(crate) fn bad_value(at: &At<'_>, problem: &str, hint: Option<String>, findings: &mut Findings) {
    let message = format!("{} {problem}", quoted(&at.path));
    findings.push(Finding::new(Rule::Value, at.span(), message).label("this value").maybe_hint(hint));
}

fn server(text: &str, at: &At<'_>, findings: &mut Findings) -> Option<crate::ServerName> {
    text.parse()
        .map_err(|error: crate::NameError| {
            bad_value(at, &format!("is {}: {error}", quoted(text)), error.hint(), findings);
        })
        .ok()
}

fn tools(tools: written::Tools, at: &At<'_>, findings: &mut Findings) -> Option<Tools> {
    let written::Tools { allow, deny, pin: None } = tools;
    let allow = allow.map(|patterns| {
        each(patterns, &at.key("allow"), findings, |text, at, findings| tool_pattern(&text, at, findings))
    });
    let deny = each(deny.unwrap_or_default(), &at.key("deny"), findings, |text, at, findings| {
        tool_pattern(&text, at, findings)
    });
    Some(Tools { allow: allow.map_or(Some(None), |patterns| patterns.map(Some))?, deny: deny? })
}

fn tool_pattern(text: &str, at: &At<'_>, findings: &mut Findings) -> Option<ToolPattern> {
    text.parse()
        .map_err(|error: crate::ToolPatternError| {
            bad_value(at, &format!("is {}: {error}", quoted(text)), error.hint(), findings);
        })
        .ok()
}

fn degradations(list: &[Degradation], at: &At<'_>, findings: &mut Findings) -> Option<BTreeSet<Degradation>> {
    let mut accepted = BTreeSet::new();
    for (index, &one) in list.iter().enumerate() {
        if !accepted.insert(one) {
            let place = at.item(index);
            let message = format!("{} is in the list already", quoted(&place.path));
            findings.push(
                Finding::new(Rule::Conflict, place.span(), message).label("again").hint("keep one of them"),
            );
        }
    }
    (accepted.len() == list.len()).then_some(accepted)
}
