//! `palisade explain`: everything that a policy means on this host, as it will be enforced.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use palisade_egress::EgressPolicy;
use palisade_policy::{ImageTrust, KeySource, Policy, Signer};
use palisade_sandbox::host::CgroupPlace;
use palisade_sandbox::spec::{
    CgroupKind, Identity, ImageFacts, LandlockAccess, MountKind, Outside, SandboxSpec, SecretPlace, State,
};
use palisade_sandbox::{HostSupport, seccomp};
use serde_json::json;

use super::Done;
use crate::assemble::{self, LoadedPolicy, load, open_store};
use crate::cli::Explain;
use crate::environment::Environment;
use crate::failure::{Failure, Status};
use crate::output;

pub(super) fn run(options: &Explain, store: Option<&Path>, environment: &Environment) -> Done {
    let loaded = load(&options.policy)?;
    let image = image_facts(&loaded, store, environment)?;
    let host = HostSupport::probe();
    let spec = assemble::resolve(&loaded.policy, image.as_ref().ok(), &host, environment.home())?;
    if options.json {
        return output::json(
            &json!({ "version": 1, "digest": spec.digest(), "policy": loaded.policy, "spec": spec }),
        );
    }
    let missing = image.err();
    output::line(
        render(&loaded.policy, &spec, missing.as_deref())
            .map_err(|error| Failure::new(Status::Failed, &error, None))?
            .trim_end(),
    )
}

/// The facts of an image that verifies; otherwise the words that say why they are not known. Explaining
/// a policy whose image is not here yet is what a reviewer does.
fn image_facts(
    loaded: &LoadedPolicy,
    store: Option<&Path>,
    environment: &Environment,
) -> Result<Result<ImageFacts, String>, Failure> {
    let (store, _path) = open_store(store, environment)?;
    let name = assemble::image_name(&loaded.policy)?;
    let known = store.ls().map_err(|error| Failure::new(Status::Failed, &error, error.hint()))?;
    if !known.iter().any(|image| image.name == name.to_string()) {
        return Ok(Err(format!("`{name}` is not in the store")));
    }
    let rootfs = assemble::unpack(&store, loaded)?;
    ImageFacts::of(&rootfs).map(Ok).map_err(|error| Failure::new(Status::Refused, &error, error.hint()))
}

fn render(policy: &Policy, spec: &SandboxSpec, missing: Option<&str>) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "server {}  (spec {})", spec.server, spec.digest())?;
    image_section(out, policy, spec, missing)?;
    identity_section(out, spec)?;
    mounts_section(out, policy, spec)?;
    network_section(out, policy, spec)?;
    secrets_section(out, spec)?;
    calls_section(out, policy, spec)?;
    limits_section(out, policy, spec)?;
    tools_section(out, policy)?;
    enforcement_section(out, spec)?;
    Ok(text)
}

fn image_section(
    out: &mut String,
    policy: &Policy,
    spec: &SandboxSpec,
    missing: Option<&str>,
) -> std::fmt::Result {
    writeln!(out, "\nimage")?;
    writeln!(
        out,
        "  {}  {}",
        policy.image.reference,
        spec.image_digest.as_deref().unwrap_or("(digest not known)")
    )?;
    match &policy.image.trust {
        ImageTrust::Unsigned { reason } => {
            writeln!(out, "  runs UNSIGNED, because: {}", reason.escape_debug())?;
        }
        ImageTrust::SignedBy(signers) => {
            for signer in signers {
                let Signer::Key { key, .. } = signer;
                match key {
                    KeySource::File(path) => {
                        writeln!(out, "  must be signed by the key in {}", path.display())?;
                    }
                    KeySource::Pem(_) => writeln!(out, "  must be signed by the key in the policy itself")?,
                }
            }
        }
    }
    if let Some(missing) = missing {
        return writeln!(out, "  {missing}: command, environment and user are not known");
    }
    writeln!(
        out,
        "  runs {}",
        spec.command.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
    )?;
    writeln!(out, "  in   {}", spec.working_directory.display())?;
    writeln!(out, "  with {} environment variables, and no other:", spec.environment.len())?;
    for (name, value) in &spec.environment {
        writeln!(out, "    {name}={}", value.escape_debug())?;
    }
    Ok(())
}

fn identity_section(out: &mut String, spec: &SandboxSpec) -> std::fmt::Result {
    let id = &spec.identity;
    writeln!(out, "\nidentity")?;
    writeln!(
        out,
        "  uid {} gid {} inside, {}:{} outside, {}",
        id.inside_uid,
        id.inside_gid,
        id.outside_uid,
        id.outside_gid,
        owner(id)
    )?;
    for label in &spec.labels.writes {
        writeln!(out, "  label: {}", label.what)?;
    }
    for absent in &spec.labels.absent {
        writeln!(out, "  no label: {absent}")?;
    }
    writeln!(out, "  no capability in any set, securebits locked, no_new_privs")?;
    writeln!(out, "  namespaces of its own: {}", spec.namespaces.join(", "))
}

/// Whose the id outside is, and why it is not a better one.
fn owner(id: &Identity) -> String {
    match &id.outside {
        Outside::Unowned => "which belongs to nobody".into(),
        Outside::Subordinate => format!("subordinate ids of user {}", id.user_uid),
        Outside::Own { because } => format!("the user who starts it, with that user's groups ({because})"),
    }
}

/// The ABI that handles TCP (Linux 6.7), and the one that handles ioctl on devices (6.10).
const LANDLOCK_TCP: u32 = 4;
const LANDLOCK_IOCTL: u32 = 5;

fn mounts_section(out: &mut String, policy: &Policy, spec: &SandboxSpec) -> std::fmt::Result {
    let minimum_abi = policy.landlock.minimum_abi;
    writeln!(out, "\nmounts ({})", spec.mounts.len())?;
    for mount in &spec.mounts {
        let what = match &mount.kind {
            MountKind::Layers => "the image".to_owned(),
            MountKind::Proc => "procfs, own processes only".to_owned(),
            MountKind::Devices => "null zero full random urandom tty".to_owned(),
            MountKind::Tmpfs { bytes, files } => format!("tmpfs, {bytes} bytes, {files} files"),
            MountKind::Host { source, write: true } => {
                format!("{} of the host, READ AND WRITE", source.display())
            }
            MountKind::Host { source, write: false } => {
                format!("{} of the host, read only", source.display())
            }
        };
        writeln!(out, "  {:<14} {what}  [{}]", mount.target.display(), mount.flags.join(","))?;
    }
    writeln!(out, "\nlandlock (ABI {}, at least {minimum_abi})", spec.landlock.abi)?;
    for rule in &spec.landlock.rules {
        let access = match rule.access {
            LandlockAccess::ReadExecute => "read, execute",
            LandlockAccess::ReadWrite => "read, write, make, remove",
            LandlockAccess::Device if spec.landlock.abi < LANDLOCK_IOCTL => "read, write",
            LandlockAccess::Device => "read, write, no ioctl",
        };
        writeln!(out, "  {:<14} {access}", rule.path.display())?;
    }
    Ok(())
}

fn network_section(out: &mut String, policy: &Policy, spec: &SandboxSpec) -> std::fmt::Result {
    writeln!(out, "\nnetwork")?;
    let EgressPolicy::Closed = EgressPolicy::of(policy);
    if spec.landlock.abi < LANDLOCK_TCP {
        return writeln!(
            out,
            "  none: an empty network namespace; this kernel's Landlock does not know of TCP"
        );
    }
    writeln!(
        out,
        "  none: an empty network namespace; {} TCP ports allowed by Landlock",
        spec.landlock.tcp_ports.len()
    )
}

fn secrets_section(out: &mut String, spec: &SandboxSpec) -> std::fmt::Result {
    writeln!(out, "\nsecrets ({})", spec.secrets.len())?;
    for secret in &spec.secrets {
        match &secret.delivery {
            SecretPlace::Env(variable) => writeln!(out, "  {} in the variable {variable}", secret.name)?,
            SecretPlace::File(path) => writeln!(out, "  {} in the file {}", secret.name, path.display())?,
        }
    }
    Ok(())
}

fn calls_section(out: &mut String, policy: &Policy, spec: &SandboxSpec) -> std::fmt::Result {
    let line = &spec.seccomp;
    writeln!(out, "\nsystem calls (baseline {}, {})", line.baseline, line.digest)?;
    for (verb, changes) in [("adds", &line.added), ("removes", &line.removed)] {
        for change in changes {
            writeln!(
                out,
                "  the policy {verb} {}, because: {}",
                change.call.escape_debug(),
                change.reason.escape_debug()
            )?;
        }
    }
    writeln!(
        out,
        "  {} allowed, {} of them only with certain arguments (marked *); every other: {}",
        line.allowed_calls, line.with_argument_rules, line.otherwise
    )?;
    let Ok(list) = seccomp::Allowlist::of(&policy.syscalls) else { return Ok(()) };
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for rule in list.rules() {
        let mark = names.entry(rule.syscall.as_str()).or_insert("*");
        if rule.args.is_empty() {
            *mark = "";
        }
    }
    let names: Vec<String> = names.into_iter().map(|(name, mark)| format!("{name}{mark}")).collect();
    for line in names.chunks(10) {
        writeln!(out, "    {}", line.join(" "))?;
    }
    conditions(out, list.rules())
}

/// Every rule on arguments, since no policy can lift one.
fn conditions(out: &mut String, rules: &[seccomp::Rule]) -> std::fmt::Result {
    for rule in rules.iter().filter(|rule| !rule.args.is_empty()) {
        let conditions: Vec<String> = rule
            .args
            .iter()
            .map(|condition| match condition.mask.0 {
                0xffff_ffff => format!("argument {} is {:#x}", condition.index, condition.is.0),
                mask => format!("argument {} & {mask:#x} is {:#x}", condition.index, condition.is.0),
            })
            .collect();
        let means: Vec<&str> = rule.args.iter().map(|condition| condition.comment.as_str()).collect();
        writeln!(
            out,
            "    {:<14} {}: {}",
            format!("{}*", rule.syscall),
            conditions.join(", "),
            means.join(", ")
        )?;
    }
    Ok(())
}

fn limits_section(out: &mut String, policy: &Policy, spec: &SandboxSpec) -> std::fmt::Result {
    writeln!(out, "\nlimits")?;
    let cgroup = &spec.cgroup;
    let kind = match &cgroup.kind {
        CgroupKind::V2 { place: CgroupPlace::Top } => "cgroup v2".to_owned(),
        CgroupKind::V2 { place: CgroupPlace::Own } => "cgroup v2, below palisade's own".to_owned(),
        CgroupKind::V1 => "cgroup v1".to_owned(),
        CgroupKind::None { reason } => format!("no cgroup: {reason}"),
    };
    let shown = |value: Option<u64>, unit: &str| {
        value.map_or("not limited".to_owned(), |value| format!("{value}{unit}"))
    };
    writeln!(out, "  {kind}")?;
    let memory = spec.memory_watch.map_or_else(
        || shown(cgroup.memory_bytes, " bytes"),
        |bytes| format!("ended when it uses more than {bytes} bytes, swap included"),
    );
    writeln!(out, "  memory         {memory}")?;
    writeln!(out, "  swap           {}", shown(cgroup.swap_bytes, " bytes"))?;
    writeln!(out, "  cpus           {}", shown(cgroup.cpu_millis, " thousandths"))?;
    writeln!(out, "  pids           {}", shown(cgroup.pids.or(Some(u64::from(policy.limits.pids))), ""))?;
    let io = cgroup.io.map(|io| io.bytes_per_second);
    writeln!(out, "  io             {}", shown(io, " bytes a second, read and written, on each disk"))?;
    for limit in &spec.rlimits {
        writeln!(out, "  rlimit         {:?} {}", limit.kind, limit.value)?;
    }
    writeln!(
        out,
        "  output         {} bytes a second, of standard output and of standard error",
        policy.limits.output.bytes()
    )?;
    writeln!(out, "  call           within {:?}", policy.limits.call_time)?;
    writeln!(out, "  kept ready     {} behind a gateway", policy.lifecycle.warm)?;
    writeln!(out, "  start          within {:?}", policy.lifecycle.start_timeout)?;
    writeln!(
        out,
        "  stop           end of input, TERM after {0:?}, KILL after {0:?} more",
        policy.lifecycle.stop_timeout
    )
}

fn tools_section(out: &mut String, policy: &Policy) -> std::fmt::Result {
    let join = |patterns: &[palisade_policy::ToolPattern]| {
        patterns.iter().map(palisade_policy::ToolPattern::as_str).collect::<Vec<_>>().join(" ")
    };
    writeln!(out, "\ntools")?;
    match &policy.tools.allow {
        Some(allow) => {
            writeln!(out, "  allowed: {}", if allow.is_empty() { "none".into() } else { join(allow) })?;
        }
        None => writeln!(out, "  allowed: every tool of the server")?,
    }
    if !policy.tools.deny.is_empty() {
        writeln!(out, "  denied:  {}", join(&policy.tools.deny))?;
    }
    Ok(())
}

fn enforcement_section(out: &mut String, spec: &SandboxSpec) -> std::fmt::Result {
    writeln!(out, "\nenforcement on this host")?;
    for line in &spec.enforcement {
        match &line.state {
            State::Enforced => writeln!(out, "  enforced  {} ({:?})", line.what, line.by)?,
            State::Soft { reason } => {
                writeln!(out, "  soft      {} ({:?}): {reason}", line.what, line.by)?;
            }
            State::Degraded { reason } => {
                writeln!(out, "  DEGRADED  {} ({:?}): {reason}", line.what, line.by)?;
            }
        }
    }
    Ok(())
}
