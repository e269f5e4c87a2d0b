//! `palisade doctor`: what this host can and cannot promise, and what would change it.

use palisade_sandbox::HostSupport;
use palisade_sandbox::host::{CgroupPlace, Cgroups, Mounts, UserNamespaces};
use serde::Serialize;
use serde_json::json;

use super::Done;
use crate::cli::Doctor;
use crate::output;

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Finding {
    feature: &'static str,
    state: Verdict,
    found: String,
    /// What it means for servers.
    means: &'static str,
    /// What would change it.
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// Everything is enforced.
    Good,
    /// Something is weaker; a policy must accept that by name.
    Degraded,
    /// No server can run.
    Missing,
}

pub(super) fn run(options: &Doctor) -> Done {
    let host = HostSupport::probe();
    let findings = findings(&host);
    if options.json {
        return output::json(&json!({ "version": 1, "host": host, "findings": findings }));
    }
    let who = if host.user.is_root() { "root".to_owned() } else { format!("user {}", host.user.uid) };
    output::line(&format!("palisade on Linux {}, as {who}\n", host.kernel))?;
    for finding in &findings {
        let mark = match finding.state {
            Verdict::Good => "ok      ",
            Verdict::Degraded => "degraded",
            Verdict::Missing => "MISSING ",
        };
        output::line(&format!("{mark}  {:<18} {}", finding.feature, finding.found))?;
        if finding.state != Verdict::Good {
            output::line(&format!("          {:<18} means: {}", "", finding.means))?;
        }
        if let Some(remedy) = &finding.remedy {
            output::line(&format!("          {:<18} remedy: {remedy}", ""))?;
        }
    }
    output::line(match worst(&findings) {
        Verdict::Good => "\nThis host enforces everything that a policy can ask for.",
        Verdict::Degraded => {
            "\nServers run here; what is degraded must be named in the policy's `accept_degraded`."
        }
        Verdict::Missing => "\nNo server can run here.",
    })
}

fn worst(findings: &[Finding]) -> Verdict {
    if findings.iter().any(|finding| finding.state == Verdict::Missing) {
        Verdict::Missing
    } else if findings.iter().any(|finding| finding.state == Verdict::Degraded) {
        Verdict::Degraded
    } else {
        Verdict::Good
    }
}

fn findings(host: &HostSupport) -> Vec<Finding> {
    vec![
        user_namespaces(host),
        landlock(host),
        seccomp(host),
        mounts(host),
        overlay(host),
        cgroups(host),
        subordinate_ids(host),
    ]
}

fn user_namespaces(host: &HostSupport) -> Finding {
    let (state, found, remedy) = match &host.user_namespaces {
        UserNamespaces::Available => (Verdict::Good, "available".to_owned(), None),
        UserNamespaces::Blocked { by, remedy } => {
            (Verdict::Missing, format!("blocked by {by}"), Some(remedy.clone()))
        }
    };
    Finding { feature: "user namespaces", state, found, means: "no sandbox can be made", remedy }
}

fn landlock(host: &HostSupport) -> Finding {
    let (state, remedy) = match host.landlock_abi {
        0..3 => (Verdict::Degraded, Some("Linux 6.2 or later, booted with landlock in `lsm=`".to_owned())),
        3..6 => (Verdict::Good, Some("Linux 6.12 adds scopes for signals and abstract sockets".to_owned())),
        _ => (Verdict::Good, None),
    };
    Finding {
        feature: "Landlock",
        state,
        found: format!("ABI {}", host.landlock_abi),
        means: "the second wall inside the mount namespace is missing (`accept_degraded: [landlock]`)",
        remedy,
    }
}

fn seccomp(host: &HostSupport) -> Finding {
    let state = if host.seccomp_filters { Verdict::Good } else { Verdict::Missing };
    Finding {
        feature: "seccomp",
        state,
        found: if host.seccomp_filters { "filters with errno".into() } else { "no filters".into() },
        means: "system calls cannot be limited",
        remedy: (state != Verdict::Good).then(|| "a kernel with CONFIG_SECCOMP_FILTER=y".into()),
    }
}

fn mounts(host: &HostSupport) -> Finding {
    let (state, found, remedy) = match host.mounts {
        Mounts::ByDescriptor => (Verdict::Good, "by descriptor", None),
        Mounts::TooOld => (Verdict::Missing, "no mount_setattr", Some("Linux 6.2 or later".to_owned())),
    };
    Finding {
        feature: "mounts",
        state,
        found: found.into(),
        means: "a sandbox cannot be given its files",
        remedy,
    }
}

fn overlay(host: &HostSupport) -> Finding {
    let state = if host.overlayfs { Verdict::Good } else { Verdict::Missing };
    Finding {
        feature: "overlayfs",
        state,
        found: if host.overlayfs { "available".into() } else { "absent".into() },
        means: "layers cannot be stacked into a root file system",
        remedy: (state != Verdict::Good).then(|| "modprobe overlay".into()),
    }
}

fn cgroups(host: &HostSupport) -> Finding {
    const ABSENT: &str = "memory is only watched and cpus are not limited (`accept_degraded: [memory, cpus]`); pids are, by RLIMIT_NPROC";
    const PARTLY: &str = "what lacks its controller must be accepted: memory (then only watched), cpus, io; pids are limited all the same";
    let finding = |state, found, means, remedy| Finding { feature: "cgroups", state, found, means, remedy };
    let (version, controllers) = match &host.cgroups {
        Cgroups::V2 { place: CgroupPlace::Top, controllers, .. } => ("v2", controllers),
        Cgroups::V2 { place: CgroupPlace::Own, controllers, .. } => ("v2, delegated", controllers),
        Cgroups::V1 { controllers, .. } => ("v1", controllers),
        Cgroups::Unusable { reason, remedy } => {
            return finding(Verdict::Degraded, reason.clone(), ABSENT, Some(remedy.clone()));
        }
    };
    let found = format!("{version} ({}), writable", controllers.join(", "));
    let missing: Vec<&str> = ["memory", "cpu", "pids"]
        .into_iter()
        .filter(|name| !controllers.iter().any(|offered| offered == name))
        .collect();
    if missing.is_empty() {
        return finding(Verdict::Good, found, "", None);
    }
    let remedy = format!(
        "offer {} to this cgroup: `Delegate=memory pids cpu io` in the unit, and in `user@.service` for users",
        missing.join(", ")
    );
    finding(Verdict::Degraded, found, PARTLY, Some(remedy))
}

/// Nothing depends on them; a sandbox has exactly one id.
fn subordinate_ids(host: &HostSupport) -> Finding {
    Finding {
        feature: "subordinate ids",
        state: Verdict::Good,
        found: if host.subordinate_ids { "present, not needed".into() } else { "absent, not needed".into() },
        means: "",
        remedy: None,
    }
}
