//! Secrets, on the last stretch: from the pipe into the environment or a file on a tmpfs.
//!
//! In two moves around the lock-down: the files are made before it, since Landlock lets nobody make them
//! later, and the values come after it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use palisade_sys::dir::{Dir, read_all_bounded};
use zeroize::Zeroizing;

use super::readback::Locked;
use super::{LockdownError, Plan};
use crate::secret::{SECRET_MAX_BYTES, Secrets};
use crate::spec::{SECRETS_DIR, SecretPlace};

const STEP: &str = "delivering secrets";

/// 32 secrets, the most that a policy may declare, with their names.
const PIPE_MAX: usize = 33 * SECRET_MAX_BYTES;

/// The files that secrets will be written to, by the secret's name.
#[derive(Debug)]
pub(super) struct Files(BTreeMap<String, File>);

/// Makes the files, still empty, read-only for whoever opens them later.
pub(super) fn open_files(plan: &Plan) -> Result<Files, LockdownError> {
    let mut files = BTreeMap::new();
    for line in &plan.spec.secrets {
        match &line.delivery {
            SecretPlace::Env(_) => {}
            SecretPlace::File(path) => {
                let file = create_file(path)
                    .map_err(|error| LockdownError::new(STEP, format!("{}: {error}", path.display())))?;
                files.insert(line.name.clone(), file);
            }
        }
    }
    Ok(Files(files))
}

/// Reads the secrets, fills the files, and returns the whole environment.
///
/// Takes the proof that the lock-down holds: no secret enters a process that could still fail it.
pub(super) fn deliver(
    _locked: &Locked,
    plan: &Plan,
    mut files: Files,
) -> Result<Vec<CString>, LockdownError> {
    let failed = |error: std::io::Error| LockdownError::new(STEP, error);
    let pipe = plan.secrets.try_clone().map_err(failed)?;
    let limit = u64::try_from(PIPE_MAX).unwrap_or(u64::MAX);
    let bytes = Zeroizing::new(read_all_bounded(File::from(pipe), limit).map_err(failed)?);
    let secrets = Secrets::decode(&bytes).map_err(|error| LockdownError::new(STEP, error))?;

    let mut environment = Vec::new();
    let delivered = |name: &str| {
        plan.spec
            .secrets
            .iter()
            .any(|line| matches!(&line.delivery, SecretPlace::Env(variable) if variable == name))
    };
    // A placeholder that the image has under the same name would be the one that getenv(3) finds.
    for (name, value) in plan.spec.environment.iter().filter(|(name, _)| !delivered(name)) {
        environment.push(variable(name, value.as_bytes())?);
    }
    for line in &plan.spec.secrets {
        let secret = secrets
            .get(&line.name)
            .ok_or_else(|| LockdownError::new(STEP, format!("`{}` did not arrive", line.name)))?;
        match (&line.delivery, files.0.remove(&line.name)) {
            (SecretPlace::Env(name), _) => {
                environment.push(secret.expose(|value| variable(name, value))?);
            }
            (SecretPlace::File(_), Some(mut file)) => {
                secret.expose(|value| file.write_all(value)).map_err(failed)?;
            }
            (SecretPlace::File(path), None) => {
                return Err(LockdownError::new(STEP, format!("{} was not made", path.display())));
            }
        }
    }
    Ok(environment)
}

fn variable(name: &str, value: &[u8]) -> Result<CString, LockdownError> {
    let pair = [name.as_bytes(), b"=", value].concat();
    CString::new(pair)
        .map_err(|_nul| LockdownError::new(STEP, format!("the variable `{name}` holds a NUL byte")))
}

/// Landlock, which comes after this, gives the server no right to write there.
fn create_file(path: &Path) -> std::io::Result<File> {
    let below = path.strip_prefix(SECRETS_DIR).map_err(std::io::Error::other)?;
    let mut dir = Dir::open_ambient(Path::new(SECRETS_DIR))?;
    if let Some(parent) = below.parent() {
        for part in parent {
            dir = dir.ensure_dir(Path::new(part), 0o700)?;
        }
    }
    let name = below.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    dir.create_file(Path::new(name), 0o400)
}
