//! `syscalls`: the baseline, what is done with other calls, and the calls that are added or removed.
//!
//! Which calls there are is not known here. Whoever has the lists says what is wrong with a change, with
//! [`PolicyError::about`](crate::PolicyError::about).

use crate::error::{Finding, Findings, Rule, quoted};
use crate::image::reason;
use crate::node::At;
use crate::policy::{CallChange, Degradation, SeccompMode, Syscalls, defaults};
use crate::resolve::{bad_value, each};
use crate::written;

pub(crate) fn resolve(syscalls: written::Syscalls, at: &At<'_>, findings: &mut Findings) -> Option<Syscalls> {
    let written::Syscalls { baseline, seccomp, add, remove } = syscalls;
    let [add, remove] = [("add", add), ("remove", remove)]
        .map(|(key, changes)| each(changes.unwrap_or_default(), &at.key(key), findings, change));
    let (add, remove) = (add?, remove?);
    once_each(&add, &remove, at, findings)?;
    Some(Syscalls {
        baseline: baseline.unwrap_or(defaults::BASELINE),
        seccomp: seccomp.unwrap_or(defaults::SECCOMP),
        add,
        remove,
    })
}

/// With `log` the filter is no wall any more, so the policy has to say twice that it wants that.
pub(crate) fn log_is_accepted(
    syscalls: &Syscalls,
    accepted: &std::collections::BTreeSet<Degradation>,
    at: &At<'_>,
    findings: &mut Findings,
) {
    if syscalls.seccomp != SeccompMode::Log || accepted.contains(&Degradation::Seccomp) {
        return;
    }
    let place = at.key("seccomp");
    let message = format!("{} is `log`, and `accept_degraded` does not name `seccomp`", quoted(&place.path));
    findings.push(
        Finding::new(Rule::Conflict, place.span(), message)
            .label("calls outside the baseline are carried out")
            .hint("write `accept_degraded: [seccomp]` while the calls of a server are being found out, or remove the key"),
    );
}

fn change(change: written::CallChange, at: &At<'_>, findings: &mut Findings) -> Option<CallChange> {
    let written::CallChange { call, reason: why } = change;
    let hint = "say on one line why the server needs it, or can do without it";
    let why = reason(why, &at.key("reason"), hint, findings);
    if call.is_empty() || !call.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        let hint =
            "a call has the name that the manual and `strace` give it: lower-case letters, digits, `_`";
        bad_value(&at.key("call"), "is not the name of a system call", Some(hint.into()), findings);
        return None;
    }
    Some(CallChange { call, reason: why? })
}

/// A call that is named twice was meant differently once.
fn once_each(add: &[CallChange], remove: &[CallChange], at: &At<'_>, findings: &mut Findings) -> Option<()> {
    let places = |key: &'static str, changes: &[CallChange]| -> Vec<(String, At<'_>)> {
        let place = |index| at.key(key).item(index).key("call");
        (0..).zip(changes).map(|(index, change)| (change.call.clone(), place(index))).collect()
    };
    let mut seen: Vec<(String, At<'_>)> = Vec::new();
    let mut complete = Some(());
    for (call, place) in places("add", add).into_iter().chain(places("remove", remove)) {
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == call) {
            let message = format!("{} names {} again", quoted(&place.path), quoted(&call));
            findings.push(
                Finding::new(Rule::Conflict, place.span(), message)
                    .label("again")
                    .related(first.span(), "named here before")
                    .hint("keep one of them"),
            );
            complete = None;
        }
        seen.push((call, place));
    }
    complete
}
