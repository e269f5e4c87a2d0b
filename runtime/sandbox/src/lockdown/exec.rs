//! `execve`: the only place where a program of an image is started.

use std::convert::Infallible;
use std::ffi::CString;
use std::path::Path;

use nix::sys::signal::SigSet;
use nix::unistd::execve;
use palisade_sys::process::{Fork, exit_now, fork_single_threaded};

use super::readback::Locked;
use super::{Outcome, Plan, reaper, say};
use crate::protocol::{Failure, FailureKind};

const STEP: &str = "executing the server";

/// Forks into reaper and server. Takes the proof of the whole lock-down.
///
/// # Errors
/// When the image has no such program, or it cannot be executed.
pub fn run(_locked: Locked, plan: &Plan, environment: Vec<CString>) -> Result<Infallible, Failure> {
    let failed = |message: String| Failure { step: STEP.into(), message, kind: FailureKind::Host };
    // Before the fork, so that the child's end cannot be missed.
    reaper::signals().thread_block().map_err(|error| failed(error.to_string()))?;
    match fork_single_threaded().map_err(|error| failed(error.to_string()))? {
        Fork::Parent(server) => {
            drop(environment);
            exit_now(reaper::run(server))
        }
        Fork::Child => {
            let failure = match become_server(plan, &environment) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            say(&plan.status, &Outcome::Failed(failure));
            exit_now(127)
        }
    }
}

fn become_server(plan: &Plan, environment: &[CString]) -> Result<Infallible, Failure> {
    let failed = |kind, message: String| Failure { step: STEP.into(), message, kind };
    let host = |message: String| failed(FailureKind::Host, message);
    SigSet::empty().thread_set_mask().map_err(|error| host(error.to_string()))?;
    let arguments: Vec<CString> = plan
        .spec
        .command
        .iter()
        .map(|argument| CString::new(argument.as_str()))
        .collect::<Result<_, _>>()
        .map_err(|_nul| host("an argument holds a NUL byte".into()))?;
    let program = plan.spec.command.first().map(String::as_str).unwrap_or_default();

    // As execvp(3): a name with a slash is a path, any other is looked for along PATH.
    let mut last = nix::Error::ENOENT;
    for candidate in candidates(program, &plan.spec.environment) {
        let Ok(path) = CString::new(candidate) else { continue };
        let Err(error) = execve(&path, &arguments, environment);
        if error != nix::Error::ENOENT && error != nix::Error::ENOTDIR {
            last = error;
            break;
        }
    }
    let kind = if last == nix::Error::ENOENT { FailureKind::NotFound } else { FailureKind::NotExecutable };
    Err(failed(kind, format!("`{}`: {}", program.escape_debug(), last.desc())))
}

fn candidates(program: &str, environment: &[(String, String)]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = environment.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    path.split(':')
        .filter(|directory| Path::new(directory).is_absolute())
        .map(|directory| format!("{directory}/{program}"))
        .collect()
}
