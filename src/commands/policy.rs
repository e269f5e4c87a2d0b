//! `palisade policy`: check, schema, reference.

use std::path::{Path, PathBuf};

use palisade_sandbox::HostSupport;

use super::Done;
use crate::assemble::{load, resolve};
use crate::cli::Policy;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(command: Policy, environment: &Environment) -> Done {
    match command {
        Policy::Check { files } => check_all(&files, environment),
        Policy::Schema => output::json(&palisade_policy::schema()),
        Policy::Reference => output::line(palisade_policy::reference_markdown().trim_end()),
    }
}

/// Looks at every file; all failures are shown, and the first one's status is the command's.
fn check_all(files: &[PathBuf], environment: &Environment) -> Done {
    let mut failures = Vec::new();
    for file in files {
        match check(file, environment) {
            Ok(server) => output::line(&format!("{}: ok (server `{server}`)", file.display()))?,
            Err(failure) => failures.push(failure),
        }
    }
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(()) };
    for failure in failures {
        failure.show();
    }
    Err(first)
}

/// A policy is good when it can be read and this host can honour it; the image is not looked at.
fn check(file: &Path, environment: &Environment) -> Result<String, Failure> {
    let loaded = load(file)?;
    drop(resolve(&loaded.policy, None, &HostSupport::probe(), environment.home())?);
    Ok(loaded.policy.server.to_string())
}
