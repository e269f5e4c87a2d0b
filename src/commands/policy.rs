//! `palisade policy`: check, schema, reference.

use palisade_sandbox::HostSupport;

use super::Done;
use crate::assemble::{load, resolve};
use crate::cli::Policy;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(command: Policy, environment: &Environment) -> Done {
    match command {
        Policy::Check { files } => {
            let mut first = None;
            for file in files {
                match check(&file, environment) {
                    Ok(server) => output::line(&format!("{}: ok (server `{server}`)", file.display()))?,
                    // Every file is looked at; the last failure is the command's, the others are shown here.
                    Err(failure) => {
                        if let Some(earlier) = first.replace(failure) {
                            let _shown = Failure::report(&earlier);
                        }
                    }
                }
            }
            first.map_or(Ok(()), Err)
        }
        Policy::Schema => output::json(&palisade_policy::schema()),
        Policy::Reference => output::line(palisade_policy::reference_markdown().trim_end()),
    }
}

/// A policy is good when it can be read and this host can honour it; the image is not looked at.
fn check(file: &std::path::Path, environment: &Environment) -> Result<String, Failure> {
    let loaded = load(file)?;
    drop(resolve(&loaded.policy, None, &HostSupport::probe(), environment.home())?);
    Ok(loaded.policy.server.to_string())
}
