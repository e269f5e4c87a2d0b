//! From a policy file to a server that can be started, as one page.
//!
//! ```text
//! load      text ──► Policy
//! verify    Policy + store ──► VerifiedImage
//! unpack    VerifiedImage ──► UnpackedRootfs
//! resolve   Policy + image + host ──► SandboxSpec
//! launch    SandboxSpec + secrets ──► running server            (each time the gateway asks)
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_gateway::launch::{
    Ending, ExitReport, ExitStatus, Launch, LaunchError, Launched, ServerProcess,
};
use palisade_image::{
    Evidence, ImageName, LandlockNeed, Store, StoreError, Trust, UnpackOptions, UnpackedRootfs,
    VerifiedImage, VerifyError, VerifyRequest,
};
use palisade_policy::{Degradation, Objection, Policy, PolicyError};
use palisade_sandbox::launch::SandboxProcess;
use palisade_sandbox::protocol::{Exit, FailureKind};
use palisade_sandbox::seccomp::{Allowlist, ListError};
use palisade_sandbox::spec::{Enforcement, ImageFacts, ResolveInput};
use palisade_sandbox::{HostSupport, ResolveError, RunningSandbox, SandboxSpec, Secret, Secrets, SpawnError};
use palisade_sys::dir::{open_ambient_file, read_all_bounded, read_ambient_bounded};
use serde_json::json;

use crate::cli::Start;
use crate::environment::Environment;
use crate::failure::{Failure, Status};
use crate::warm::WarmPool;

/// A policy with the folder that its relative paths are in.
#[derive(Debug)]
pub(crate) struct LoadedPolicy {
    pub(crate) policy: Policy,
    folder: PathBuf,
}

/// More than the parser takes, so that it is the parser that says what is wrong with a larger one.
const POLICY_MAX_BYTES: u64 = 1024 * 1024;

/// Reads and checks a policy file.
pub(crate) fn load(file: &Path) -> Result<LoadedPolicy, Failure> {
    let shown = file.display().to_string();
    let bytes = read_ambient_bounded(file, POLICY_MAX_BYTES).map_err(|error| {
        Failure::new(Status::Usage, &error, Some("name a policy file that can be read".into()))
            .because(format!("the policy file `{shown}` cannot be read"))
    })?;
    let policy = palisade_policy::parse_bytes(&shown, &bytes).map_err(Failure::policy)?;
    check_calls(&policy, &shown, &bytes)?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(LoadedPolicy { policy, folder })
}

/// The parser does not know which system calls there are; what is wrong with those of a policy is shown at its place all
/// the same.
fn check_calls(policy: &Policy, shown: &str, bytes: &[u8]) -> Result<(), Failure> {
    let wrong = match Allowlist::of(&policy.syscalls) {
        Ok(_list) => return Ok(()),
        Err(ListError::Changes(wrong)) => wrong,
        Err(error @ ListError::Broken(_)) => return Err(Failure::new(Status::Failed, &error, error.hint())),
    };
    let objections = wrong
        .iter()
        .map(|change| Objection {
            path: change.path.clone(),
            message: change.to_string(),
            hint: Some(change.hint()),
        })
        .collect();
    Err(Failure::policy(PolicyError::about(shown, &String::from_utf8_lossy(bytes), objections)))
}

/// Opens the store that the command line or the environment names.
pub(crate) fn open_store(
    chosen: Option<&Path>,
    environment: &Environment,
) -> Result<(Store, PathBuf), Failure> {
    let path = chosen.map(Path::to_path_buf).or_else(|| environment.default_store()).ok_or_else(|| {
        Failure::say(
            Status::Usage,
            "there is no home directory to keep images in",
            "name a directory with `--store`",
        )
    })?;
    let store = Store::open(&path).map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    Ok((store, path))
}

/// The image's name as the policy writes it.
pub(crate) fn image_name(policy: &Policy) -> Result<ImageName, Failure> {
    policy
        .image
        .reference
        .parse()
        .map_err(|error: palisade_image::NameError| Failure::new(Status::Usage, &error, error.hint()))
}

/// Verifies the image of a policy as the policy asks.
pub(crate) fn verify(store: &Store, loaded: &LoadedPolicy) -> Result<VerifiedImage, Failure> {
    let image = &loaded.policy.image;
    let trust = Trust::of_policy(&image.trust, &loaded.folder)
        .map_err(|error| Failure::new(Status::Usage, &error, error.hint()))?;
    let name = image_name(&loaded.policy)?;
    let request = VerifyRequest { name: &name, expected_digest: image.digest.clone(), trust };
    palisade_image::verify(store, &request).map_err(|error| {
        let status =
            if let VerifyError::Store(error) = &error { store_status(error) } else { Status::Refused };
        Failure::new(status, &error, error.hint())
    })
}

/// A name that the store does not have is the caller's mistake; all else that a store cannot do is not.
pub(crate) fn store_status(error: &StoreError) -> Status {
    if matches!(error, StoreError::UnknownName { .. }) { Status::Usage } else { Status::Failed }
}

/// Verifies and unpacks the image of a policy; starts nothing.
pub(crate) fn unpack(store: &Store, loaded: &LoadedPolicy) -> Result<UnpackedRootfs, Failure> {
    let verified = verify(store, loaded)?;
    let accepted = loaded.policy.accept_degraded.contains(&Degradation::Landlock);
    let landlock = if accepted { LandlockNeed::AcceptedAbsent } else { LandlockNeed::Required };
    palisade_image::unpack_with(store, verified, UnpackOptions { landlock }).map_err(|error| {
        let status = if error.can_be_accepted() { Status::Refused } else { Status::Failed };
        Failure::new(status, &error, error.hint())
    })
}

/// Decides everything about the sandbox.
pub(crate) fn resolve(
    policy: &Policy,
    image: Option<&ImageFacts>,
    host: &HostSupport,
    home: Option<&Path>,
) -> Result<SandboxSpec, Failure> {
    SandboxSpec::resolve(ResolveInput { policy, image, host, home }).map_err(|error| resolve_failure(&error))
}

fn resolve_failure(error: &ResolveError) -> Failure {
    Failure::new(Status::Refused, error, error.hint())
}

/// A server that can be started, any number of times.
pub(crate) struct PreparedServer {
    policy: Arc<Policy>,
    sandboxes: Arc<WarmPool>,
    /// Keeps the layers from being removed while the server may run.
    rootfs: UnpackedRootfs,
    secrets: Secrets,
}

/// Does everything for a server but starting it.
pub(crate) fn prepare(
    store: &Store,
    loaded: LoadedPolicy,
    host: &HostSupport,
    environment: &Environment,
    start: &Start,
) -> Result<PreparedServer, Failure> {
    let secrets = read_secrets(&loaded.policy, start)?;
    let rootfs = unpack(store, &loaded)?;
    let facts =
        ImageFacts::of(&rootfs).map_err(|error| Failure::new(Status::Refused, &error, error.hint()))?;
    let spec = resolve(&loaded.policy, Some(&facts), host, environment.home())?;
    // All that can fail without a process fails here, and what the mounts are is decided here: a later
    // start of the same server takes the same descriptors.
    let sandbox = spec
        .prepare(&loaded.policy.syscalls, &rootfs)
        .map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    let sandboxes = Arc::new(WarmPool::new(sandbox));
    Ok(PreparedServer { policy: Arc::new(loaded.policy), sandboxes, rootfs, secrets })
}

/// What `--secret-file` or `--secret-env` say, each name once.
fn by_name(given: &[(String, String)]) -> Result<BTreeMap<&str, &String>, Failure> {
    let mut found = BTreeMap::new();
    for (name, from) in given {
        if found.insert(name.as_str(), from).is_some() {
            return Err(given_twice(name));
        }
    }
    Ok(found)
}

fn given_twice(name: &str) -> Failure {
    Failure::say(Status::Usage, format!("the secret `{name}` is given twice"), "give it once")
}

/// A secret that no policy declares is a name that was mistyped.
pub(crate) fn no_stranger(policies: &[&Policy], start: &Start) -> Result<(), Failure> {
    let declared = |name: &str| {
        policies.iter().flat_map(|policy| &policy.secrets).any(|grant| grant.name.as_str() == name)
    };
    match start.secret_file.iter().chain(&start.secret_env).find(|(name, _)| !declared(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Failure::say(
            Status::Usage,
            format!("no policy declares the secret `{name}`"),
            "correct the name, or declare it under `secrets` in the policy",
        )),
    }
}

/// Reads the secrets that the policy declares, and no other.
fn read_secrets(policy: &Policy, start: &Start) -> Result<Secrets, Failure> {
    let files = by_name(&start.secret_file)?;
    let variables = by_name(&start.secret_env)?;
    let mut secrets = Secrets::none();
    for grant in &policy.secrets {
        let name = grant.name.as_str();
        let value = match (files.get(name), variables.get(name)) {
            (Some(file), None) => read_secret_file(name, Path::new(file))?,
            (None, Some(variable)) => Environment::secret_variable(variable).ok_or_else(|| {
                Failure::say(
                    Status::Usage,
                    format!("the variable `{variable}` for the secret `{name}` is not set"),
                    "set it, or use `--secret-file`",
                )
            })?,
            (Some(_), Some(_)) => return Err(given_twice(name)),
            (None, None) => return Err(missing_secret(policy, name)),
        };
        let secret = Secret::new(value).map_err(|error| {
            Failure::new(Status::Usage, &error, Some("look at where the value comes from".into()))
                .because(format!("the secret `{name}` cannot be used"))
        })?;
        secrets.insert(name.to_owned(), secret);
    }
    Ok(secrets)
}

fn missing_secret(policy: &Policy, name: &str) -> Failure {
    let error = SpawnError::MissingSecret { server: policy.server.to_string(), secret: name.to_owned() };
    Failure::new(Status::Usage, &error, error.hint())
}

/// A file that others can read holds no secret. One newline at its end is the editor's, not the secret's.
pub(crate) fn read_secret_file(name: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    let failed = |error: std::io::Error| {
        Failure::new(Status::Usage, &error, Some("name a file that can be read, of mode 0600".into()))
            .because(format!("the file `{shown}` of the secret `{name}` cannot be read"))
    };
    let file = open_ambient_file(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Failure::say(
            Status::Usage,
            format!("`{shown}` of the secret `{name}` is not a regular file"),
            "put the value into a file of mode 0600",
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(Failure::say(
            Status::Usage,
            format!(
                "the file `{shown}` of the secret `{name}` can be read by others (mode {:04o})",
                metadata.mode() & 0o7777
            ),
            format!("run `chmod 600 {shown}`"),
        ));
    }
    // Somebody else's file says what somebody else wants.
    if ![0, nix::unistd::Uid::effective().as_raw()].contains(&metadata.uid()) {
        return Err(Failure::say(
            Status::Usage,
            format!(
                "the file `{shown}` of the secret `{name}` belongs to another user (uid {})",
                metadata.uid()
            ),
            "copy it to a file of your own, of mode 0600",
        ));
    }
    let limit = u64::try_from(palisade_sandbox::secret::SECRET_MAX_BYTES).unwrap_or(u64::MAX);
    let mut value = read_all_bounded(file, limit.saturating_add(1)).map_err(failed)?;
    if value.last() == Some(&b'\n') {
        value.truncate(value.len().saturating_sub(1));
    }
    Ok(value)
}

impl PreparedServer {
    /// What the server may do.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// What will be enforced.
    pub(crate) fn spec(&self) -> &SandboxSpec {
        self.sandboxes.spec()
    }

    /// What was proved of the image.
    pub(crate) fn evidence(&self) -> &Evidence {
        self.rootfs.evidence()
    }

    /// Keeps as many sandboxes ready as the policy asks for, from now on.
    pub(crate) fn keep_warm(&self) {
        self.sandboxes.keep(self.policy.lifecycle.warm);
    }

    /// What the audit log says of a start.
    fn facts(&self, running: &RunningSandbox) -> serde_json::Value {
        json!({
            "image": self.spec().image_digest,
            "spec": self.spec().digest(),
            "evidence": self.evidence(),
            "enforcement": Enforcement::with_found(&self.spec().enforcement, &running.found_limits()),
            "seccomp": self.spec().seccomp,
            "lockdown": running.report,
        })
    }
}

impl Launch for PreparedServer {
    fn launch(&self) -> Result<Launched, LaunchError> {
        let running =
            self.sandboxes.start(&self.secrets).map_err(|error| launch_error(error.hint(), error))?;
        let facts = self.facts(&running);
        let (stdin, stdout, stderr, process) = running.into_parts();
        Ok(Launched { stdin, stdout, stderr, process: Box::new(SandboxedServer(process)), facts })
    }
}

fn launch_error(hint: Option<String>, error: impl std::error::Error + Send + Sync + 'static) -> LaunchError {
    let failed = LaunchError::new(error.to_string());
    let failed = match hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    };
    failed.with_source(error)
}

/// The exit status that a failed launch deserves, found in its causes.
pub(crate) fn launch_status(error: &LaunchError) -> Status {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(SpawnError::Setup { failure, .. }) = cause.downcast_ref() {
            return match failure.kind {
                FailureKind::Host => Status::Failed,
                FailureKind::NotFound => Status::NotFound,
                FailureKind::NotExecutable => Status::NotExecutable,
            };
        }
        source = cause.source();
    }
    Status::Failed
}

/// The gateway's view of a running sandbox.
struct SandboxedServer(SandboxProcess);

impl ServerProcess for SandboxedServer {
    fn exit_notice(&self) -> std::io::Result<OwnedFd> {
        self.0.exit_notice().as_fd().try_clone_to_owned()
    }

    fn stop(&mut self) -> ExitReport {
        exit_report(self.0.stop(), Ending::Stopped)
    }

    fn wait(&mut self) -> ExitReport {
        exit_report(self.0.wait(), Ending::Itself)
    }
}

/// A server that was killed while it was short of memory was killed for that; one that lost a process of its own
/// and went on was not.
fn exit_report(report: palisade_sandbox::ExitReport, ending: Ending) -> ExitReport {
    const SIGKILL: i32 = 9;
    let status = status(report.exit);
    let over =
        report.over_memory.is_some() && ending == Ending::Itself && status == ExitStatus::Signal(SIGKILL);
    ExitReport { status, ending: if over { Ending::OverMemory } else { ending } }
}

fn status(exit: Option<Exit>) -> ExitStatus {
    match exit {
        Some(Exit::Status(code)) => ExitStatus::Code(code),
        Some(Exit::Signal(signal)) => ExitStatus::Signal(signal),
        None => ExitStatus::Unknown,
    }
}
