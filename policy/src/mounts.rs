//! Mounts: from the host's paths to the sandbox's, as far as that can be said without looking at either.
//!
//! The attacker considered: a target that covers something of the sandbox's own (its `/proc`, a secret), and
//! two mounts whose order decides what the server sees. Whether the source exists and what it is, the sandbox
//! finds out by opening it.

use std::path::PathBuf;

use crate::error::{Finding, Findings, Rule, quoted};
use crate::node::At;
use crate::policy::{MountGrant, defaults};
use crate::resolve::each;
use crate::written;

/// Directories that the sandbox makes for itself. A mount at, in or above one of them would replace what the
/// sandbox put there.
const RESERVED: [&str; 5] = ["/proc", "/dev", "/sys", "/tmp", "/run/secrets"];

/// Directories of the host that no policy can hand out: through the first three, a read-only mount still acts
/// on other processes and on the kernel (`/proc/sysrq-trigger`, device nodes, `/sys/fs/cgroup`).
const NEVER_SHARED: [&str; 3] = ["/proc", "/dev", "/sys"];

pub(crate) fn resolve(
    mounts: Vec<written::Mount>,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<Vec<MountGrant>> {
    let targets: Vec<String> = mounts.iter().map(|mount| mount.target.clone()).collect();
    let apart = are_apart(&targets, at, findings);
    let mounts = each(mounts, at, findings, mount);
    mounts.filter(|_| apart)
}

fn mount(mount: written::Mount, at: &At<'_>, findings: &mut Findings) -> Option<MountGrant> {
    let written::Mount { source, target, access } = mount;
    let source_is_fine = refuse(&source, source_problem(&source), &at.key("source"), findings);
    let target_is_fine = refuse(&target, target_problem(&target), &at.key("target"), findings);
    (source_is_fine && target_is_fine).then(|| MountGrant {
        source: PathBuf::from(source),
        target: PathBuf::from(target),
        access: access.unwrap_or(defaults::ACCESS),
    })
}

fn refuse(text: &str, problem: Option<(String, &str)>, at: &At<'_>, findings: &mut Findings) -> bool {
    let Some((problem, hint)) = problem else { return true };
    let message = format!("{} is {}: {problem}", quoted(&at.path), quoted(text));
    findings.push(Finding::new(Rule::Value, at.span(), message).label("this path").hint(hint));
    false
}

/// What is wrong with a source, and the way out.
fn source_problem(text: &str) -> Option<(String, &'static str)> {
    let home = text.strip_prefix("~/");
    if home.is_none() && !text.starts_with('/') {
        return Some(("it is not absolute".into(), "begin it with `/`, or with `~/` for the home directory"));
    }
    if text.chars().any(char::is_control) {
        return Some(("it has a control character".into(), "rename the directory on the host"));
    }
    if text.split('/').any(|part| part == "..") {
        return Some(("it goes up with `..`".into(), "write the path that is meant"));
    }
    if home.is_some() {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let plain = format!("/{}", parts.join("/"));
    if plain == "/" {
        return Some(("it is the whole host".into(), "name the directory that the server needs"));
    }
    let system = NEVER_SHARED.into_iter().find(|reserved| is_in(&plain, reserved))?;
    Some((
        format!("{system} of the host acts on the host even when it is read-only"),
        "the sandbox has its own",
    ))
}

/// What is wrong with a target, and the way out.
fn target_problem(text: &str) -> Option<(String, &'static str)> {
    let Some(relative) = text.strip_prefix('/') else {
        return Some(("it is not absolute".into(), "begin it with `/`"));
    };
    if text.chars().any(char::is_control) {
        return Some(("it has a control character".into(), "choose a plain name"));
    }
    if relative.is_empty() {
        return Some((
            "it is the root of the sandbox, which is the image".into(),
            "mount below it, such as at `/data`",
        ));
    }
    if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let hint = "write it without `.`, `..`, and doubled or trailing `/`";
        return Some(("it can be written more simply".into(), hint));
    }
    let reserved = RESERVED.into_iter().find(|reserved| is_in(text, reserved) || is_in(reserved, text))?;
    Some((
        format!("{reserved} belongs to the sandbox"),
        "choose another place, such as `/data` or `/workspace`",
    ))
}

/// No target is equal to or inside another one.
fn are_apart(targets: &[String], at: &At<'_>, findings: &mut Findings) -> bool {
    let mut apart = true;
    for (index, target) in targets.iter().enumerate() {
        let before =
            targets.iter().take(index).position(|other| is_in(target, other) || is_in(other, target));
        let Some(other) = before else { continue };
        apart = false;
        let (here, there) = (at.item(index).key("target"), at.item(other).key("target"));
        let message = format!("{} overlaps with {}", quoted(&here.path), quoted(&there.path));
        findings.push(
            Finding::new(Rule::Conflict, here.span(), message)
                .label("overlaps")
                .related(there.span(), "with this one")
                .hint("give each mount a place of its own, such as `/data/a` and `/data/b`"),
        );
    }
    apart
}

/// Whether a normalised path is a directory or something in it.
fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for good in ["/srv/data", "~/work/site", "/a/./b/", "/procedure", "/home/x/proc", "~/..x"] {
            assert_eq!(source_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "a",
            "./a",
            "~",
            "~root/x",
            "/",
            "//",
            "/.",
            "/a/../b",
            "~/..",
            "~/a/..",
            "/proc",
            "/proc/",
            "//proc/1",
            "/./sys/fs",
            "/dev/shm",
            "/a\nb",
        ] {
            assert!(source_problem(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn targets() {
        for good in ["/data", "/workspace/a b", "/run/x", "/tmpfiles", "/a/proc", "/var/tmp"] {
            assert_eq!(target_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "data",
            "~/x",
            "/",
            "//data",
            "/data/",
            "/a//b",
            "/a/./b",
            "/a/..",
            "/proc",
            "/proc/1",
            "/dev/shm",
            "/sys",
            "/tmp",
            "/tmp/x",
            "/run",
            "/run/secrets",
            "/run/secrets/x",
            "/a\0",
        ] {
            assert!(target_problem(bad).is_some(), "{bad:?}");
        }
    }
}
