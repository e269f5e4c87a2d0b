//! The program, its arguments and its environment: what image and policy declare, nothing else.

use std::path::{Component, Path, PathBuf};

use palisade_policy::Policy;

use super::{ImageFacts, ResolveError};

/// For an image that declares none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The only place that every server can write.
const DEFAULT_HOME: &str = "/tmp";

pub(super) fn command(policy: &Policy, image: Option<&ImageFacts>) -> Result<Vec<String>, ResolveError> {
    let Some(image) = image else { return Ok(Vec::new()) };
    let arguments = policy.args.as_ref().unwrap_or(&image.cmd);
    let command: Vec<String> = image.entrypoint.iter().chain(arguments).cloned().collect();
    if command.first().is_none_or(String::is_empty) {
        return Err(ResolveError::NoCommand(policy.server.to_string()));
    }
    Ok(command)
}

/// The policy's value wins over the image's; the image's order is kept.
pub(super) fn variables(policy: &Policy, image: Option<&ImageFacts>) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let declared = image.map(|image| image.environment.as_slice()).unwrap_or_default();
    for (name, value) in declared.iter().chain(policy_variables(policy).iter()) {
        set(&mut variables, name, value);
    }
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", DEFAULT_HOME)] {
        if !variables.iter().any(|(known, _)| known == name) {
            variables.push((name.into(), value.into()));
        }
    }
    variables
}

fn policy_variables(policy: &Policy) -> Vec<(String, String)> {
    policy.environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn set(variables: &mut Vec<(String, String)>, name: &str, value: &str) {
    if let Some((_, known)) = variables.iter_mut().find(|(known, _)| known == name) {
        value.clone_into(known);
    } else {
        variables.push((name.to_owned(), value.to_owned()));
    }
}

pub(super) fn working_directory(image: Option<&ImageFacts>) -> Result<PathBuf, ResolveError> {
    let declared = image.map(|image| image.working_directory.as_str()).unwrap_or_default();
    if declared.is_empty() {
        return Ok(PathBuf::from("/"));
    }
    let path = Path::new(declared);
    // `/proc/self/fd/8` as WORKDIR was CVE-2024-21626; a plain absolute path cannot name a
    // descriptor because /proc/self/fd has none of ours at that time, and `..` is refused.
    let plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // What is mounted on /tmp is empty, so nothing below it can be worked in.
    let below_tmp = path.starts_with("/tmp") && path != Path::new("/tmp");
    if !plain || path.starts_with("/proc") || path.starts_with("/dev") || below_tmp {
        return Err(ResolveError::WorkingDirectory(declared.to_owned()));
    }
    Ok(path.to_owned())
}
