//! From what an attempt met to the layer that refused it.
//!
//! A layer is named only where three things agree: the attempt was refused, with an error number that this
//! layer gives for it ([`super::expectations`]), and the resolved sandbox has the layer in the form that the
//! table counts on. Everything else is unexpected, and the demonstration fails.

use std::path::Path;

use palisade_sandbox::SandboxSpec;
use palisade_sandbox::seccomp::Allowlist;
use palisade_sandbox::spec::RlimitKind;

use super::attack::{Attempt, Planted};
use super::expectations::{Layer, Meaning, ROWS, Row};

/// What an attempt shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This layer refused it, for this reason.
    Refused(Layer, &'static str),
    /// It worked, and gave the server nothing.
    Harmless(&'static str),
    /// There was nothing to be had, so that not having it shows nothing.
    Moot(&'static str),
    /// It did not end as it should.
    Unexpected(String),
}

/// What the table is held against.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) spec: &'a SandboxSpec,
    pub(super) allowlist: &'a Allowlist,
    /// Whether what an attempt looks for is there, seen from outside.
    pub(super) planted: &'a dyn Fn(&Attempt) -> Planted,
}

/// Judges one attempt.
pub(super) fn judge(attempt: &Attempt, facts: Facts<'_>) -> Verdict {
    let rows = rows_for(attempt);
    let Some(row) = rows.iter().find(|row| row.ends_like(attempt)) else {
        return Verdict::Unexpected(expected(&rows));
    };
    match row.meaning {
        Meaning::Harmless => Verdict::Harmless(row.why),
        Meaning::Moot => Verdict::Moot(row.why),
        Meaning::RefusedIfPlanted(_layer) if (facts.planted)(attempt) == Planted::No => {
            Verdict::Moot("seen from outside, there is nothing to be found either")
        }
        Meaning::RefusedIfPlanted(layer) | Meaning::Refused(layer) => {
            if is_there(layer, facts) {
                Verdict::Refused(layer, row.why)
            } else {
                Verdict::Unexpected(format!(
                    "by the error number a {}, but the sandbox has none",
                    layer.name()
                ))
            }
        }
    }
}

/// All ends that are known of an attempt.
fn rows_for(attempt: &Attempt) -> Vec<&'static Row> {
    let of_this_id = || ROWS.iter().filter(|row| row.id == attempt.id);
    let special: Vec<_> =
        of_this_id().filter(|row| !row.about.is_empty() && attempt.what.contains(row.about)).collect();
    if special.is_empty() { of_this_id().filter(|row| row.about.is_empty()).collect() } else { special }
}

impl Row {
    fn ends_like(&self, attempt: &Attempt) -> bool {
        self.outcome == attempt.outcome && self.errno == attempt.errno.as_deref()
    }
}

fn expected(rows: &[&Row]) -> String {
    let ends: Vec<String> = rows
        .iter()
        .map(|row| format!("{} ({})", row.outcome.name(), row.errno.unwrap_or("no errno")))
        .collect();
    if ends.is_empty() {
        "nothing is known of this attempt".into()
    } else {
        format!("expected was {}", ends.join(" or "))
    }
}

/// Whether the sandbox, as resolved, has the layer that is about to be named.
fn is_there(layer: Layer, facts: Facts<'_>) -> bool {
    let spec = facts.spec;
    match layer {
        Layer::OwnRoot => has_namespace(spec, "mount") && has_flag(spec, "/", "ro"),
        Layer::PidNamespace => has_namespace(spec, "pid"),
        Layer::NetworkNamespace => has_namespace(spec, "network"),
        Layer::ReadOnly(target) => has_flag(spec, target, "ro"),
        Layer::NoExec(target) => has_flag(spec, target, "noexec"),
        Layer::Procfs(option) => has_flag(spec, "/proc", option),
        Layer::Seccomp(CLONE3) => spec.seccomp.otherwise.contains("clone3: ENOSYS"),
        Layer::Seccomp(call) => !allowed_whatever_the_arguments(facts.allowlist, call),
        Layer::Landlock => spec.landlock.abi > 0 && spec.landlock.tcp_ports.is_empty(),
        Layer::ProcessLimit => has_process_limit(spec),
        Layer::OwnEnvironment => {
            spec.environment.iter().all(|(name, _value)| ["PATH", "HOME"].contains(&name.as_str()))
        }
        // Descriptors are not in the spec; the attempt looks at the whole of /proc/self/fd.
        Layer::Descriptors => true,
    }
}

/// Refused with an errno of its own, whatever the mode.
const CLONE3: &str = "clone3";

fn has_namespace(spec: &SandboxSpec, kind: &str) -> bool {
    spec.namespaces.iter().any(|namespace| namespace == kind)
}

fn has_flag(spec: &SandboxSpec, target: &str, flag: &str) -> bool {
    let mount = spec.mounts.iter().find(|mount| mount.target == Path::new(target));
    mount.is_some_and(|mount| mount.flags.iter().any(|known| known == flag))
}

fn has_process_limit(spec: &SandboxSpec) -> bool {
    spec.cgroup.pids.is_some() || spec.rlimits.iter().any(|limit| limit.kind == RlimitKind::Processes)
}

fn allowed_whatever_the_arguments(list: &Allowlist, call: &str) -> bool {
    list.rules().iter().any(|rule| rule.syscall == call && rule.args.is_empty())
}

#[cfg(test)]
mod tests;
