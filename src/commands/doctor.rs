//! `palisade doctor`: what this host can and cannot promise, and what would change it.

use palisade_sandbox::HostSupport;
use palisade_sandbox::host::{CgroupPlace, Cgroups, Mounts, Powers, Procfs, SubordinateIds, UserNamespaces};
use palisade_sandbox::trial::{self, Refusal, Step};
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
    let findings = findings(&host, &trial::run());
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
        Verdict::Good => {
            "\nThis host enforces everything that a policy asks for by default; `limits.io` and a higher `landlock.minimum_abi` may need more."
        }
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

/// What came of trying to make a sandbox.
type Tried = std::io::Result<Option<Refusal>>;

fn findings(host: &HostSupport, tried: &Tried) -> Vec<Finding> {
    vec![
        user_namespaces(host),
        sandbox(host, tried),
        landlock(host),
        seccomp(host),
        mounts(host),
        overlay(host),
        cgroups(host),
        subordinate_ids(host),
        labels(host),
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

/// Reading is not trying: in a container it is a filter or a profile that refuses, and it is in no file.
fn sandbox(host: &HostSupport, tried: &Tried) -> Finding {
    let (state, found, remedy) = match tried {
        // What a launch asks for before it starts anything.
        Ok(None) if host.procfs != Procfs::Whole => {
            (Verdict::Missing, host.procfs.to_string(), Some(whole_procfs(host)))
        }
        Ok(None) => (Verdict::Good, "namespaces, mounts and a procfs can be made".to_owned(), None),
        Ok(Some(refusal)) => {
            let what = format!("the kernel refused {}: {}", refusal.step.words(), refusal.errno_name());
            (Verdict::Missing, what, Some(remedies_of(host, *refusal)))
        }
        Err(error) => {
            (Verdict::Missing, error.to_string(), Some("allow fork, unshare and mount here".into()))
        }
    };
    Finding { feature: "a sandbox", state, found, means: "no server can be started", remedy }
}

/// The first thing that was refused, and the one that would be next.
fn remedies_of(host: &HostSupport, refusal: Refusal) -> String {
    let first = remedy_of(host, refusal);
    if refusal.step == Step::Procfs || host.procfs == Procfs::Whole {
        return first;
    }
    format!("{first}; besides, {}", whole_procfs(host))
}

fn whole_procfs(host: &HostSupport) -> String {
    format!(
        "{}: start the container with the whole of it (podman: `--security-opt unmask=ALL`, docker: `--security-opt systempaths=unconfined`), or run palisade on the host",
        host.procfs
    )
}

fn remedy_of(host: &HostSupport, refusal: Refusal) -> String {
    const FILTER: &str = "a seccomp filter or security module of this container forbids it, or this is a chroot: allow \
                          unshare, mount and pivot_root (docker, podman: `--security-opt seccomp=FILE`), or run palisade on the host";
    match refusal.step {
        Step::Procfs => whole_procfs(host),
        Step::IdMap if host.ids.powers == Powers::Nothing => {
            "run palisade as another user of this container, or give it CAP_SETFCAP".into()
        }
        Step::UserNamespace if refusal.is_a_limit() => {
            "raise user.max_user_namespaces, or start palisade in fewer namespaces inside each other".into()
        }
        Step::UserNamespace | Step::IdMap | Step::Mount | Step::OtherNamespaces | Step::Fork => FILTER.into(),
    }
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

/// No promise depends on them: they tell servers apart by one more thing.
fn subordinate_ids(host: &HostSupport) -> Finding {
    const ROOTS: &str = "not needed: each server gets an id that belongs to nobody";
    let (found, remedy) = match (host.ids.powers, &host.ids.subordinate) {
        (Powers::All, _) => (ROOTS.to_owned(), None),
        // Idmapped mounts take CAP_SYS_ADMIN.
        (Powers::MapIds, _) => (format!("{ROOTS}; mounts of the host take CAP_SYS_ADMIN"), None),
        (Powers::OwnId | Powers::Nothing, SubordinateIds::Usable { uids, .. }) => (
            format!(
                "used: each server without mounts of the host gets one of the {} from {} on",
                uids.count, uids.first
            ),
            None,
        ),
        (Powers::OwnId | Powers::Nothing, SubordinateIds::Unusable { reason, remedy }) => {
            let found = format!("not used: servers have this user's own id outside, since {reason}");
            (found, (!host.user.is_root()).then(|| remedy.clone()))
        }
    };
    Finding { feature: "subordinate ids", state: Verdict::Good, found, means: "", remedy }
}

/// One more wall where a host has it; no promise rests on it.
fn labels(host: &HostSupport) -> Finding {
    let load = |what: &str| Some(format!("to add one more wall, as root: {what}"));
    let apparmor = host.labels.apparmor.as_ref().map(|apparmor| match apparmor.server_profile.as_deref() {
        Some(mode) => (format!("AppArmor, profile palisade-server in mode {mode}"), None),
        None => (
            "AppArmor, profile palisade-server not loaded".to_owned(),
            load("apparmor_parser -r packaging/apparmor/palisade-server"),
        ),
    });
    let selinux =
        host.labels.selinux.as_ref().map(|selinux| match (selinux.server_type, selinux.enforcing) {
            (true, true) => ("SELinux, type palisade_server_t".to_owned(), None),
            (true, false) => ("SELinux, permissive".to_owned(), None),
            (false, _) => (
                "SELinux, no type palisade_server_t".to_owned(),
                load("semodule -i packaging/selinux/palisade.cil"),
            ),
        });
    let found: Vec<(String, Option<String>)> = apparmor.into_iter().chain(selinux).collect();
    let words: Vec<&str> = found.iter().map(|(words, _)| words.as_str()).collect();
    let remedies: Vec<&str> = found.iter().filter_map(|(_, remedy)| remedy.as_deref()).collect();
    Finding {
        feature: "security labels",
        state: Verdict::Good,
        found: if words.is_empty() { "neither AppArmor nor SELinux".into() } else { words.join("; ") },
        means: "",
        remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use palisade_sandbox::host::labels::{AppArmor, Labels, SeLinux};

    use super::*;

    fn labelled(apparmor: Option<AppArmor>, selinux: Option<SeLinux>) -> Finding {
        let mut host = HostSupport::probe();
        host.labels = Labels { apparmor, selinux };
        labels(&host)
    }

    fn apparmor(mode: Option<&str>) -> AppArmor {
        let server_profile = mode.map(str::to_owned);
        AppArmor { own: "unconfined".into(), server_profile, restricts_user_namespaces: true }
    }

    fn selinux(enforcing: bool, server_type: bool) -> SeLinux {
        SeLinux { enforcing, own: "u:r:t:s0".into(), server_type }
    }

    #[test]
    fn a_profile_that_is_not_loaded_is_named_with_the_command() {
        let found = labelled(Some(apparmor(None)), None);
        assert!(found.found.contains("not loaded"), "{found:?}");
        assert!(found.remedy.unwrap().contains("apparmor_parser -r packaging/apparmor/palisade-server"));
        assert_eq!(labelled(Some(apparmor(Some("enforce"))), None).remedy, None);
        let both = labelled(Some(apparmor(None)), Some(selinux(true, false)));
        assert!(both.found.contains("; SELinux") && both.remedy.unwrap().contains("semodule -i"));
        assert_eq!(labelled(None, Some(selinux(false, true))).found, "SELinux, permissive");
    }

    #[test]
    fn what_the_kernel_refused_is_named_with_a_way_out() {
        let host = HostSupport::probe();
        for (step, errno, words) in [
            (Step::UserNamespace, 1, "seccomp"),
            (Step::UserNamespace, 28, "max_user_namespaces"),
            (Step::Procfs, 1, "unmask=ALL"),
            (Step::Mount, 13, "seccomp"),
        ] {
            let finding = sandbox(&host, &Ok(Some(Refusal { step, errno })));
            assert_eq!(finding.state, Verdict::Missing);
            assert!(finding.remedy.as_ref().unwrap().contains(words), "{finding:?}");
        }
        assert_eq!(sandbox(&host, &Ok(None)).state, Verdict::Good);
        let killed = sandbox(&host, &Err(std::io::Error::other("the process that tried was killed")));
        assert!(killed.remedy.is_some() && killed.found.contains("killed"));
    }
}
