//! Security labels: which AppArmor profile or SELinux context a server is executed under.
//!
//! A wall that is used where a host has it and on which no promise rests, so its absence is shown by
//! `explain` and needs no word in the policy. Pure: what is written where, given what the host says.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host::labels::{APPARMOR_PROFILE, SELINUX_TYPE};
use crate::host::{AppArmor, Labels, SeLinux};

/// The labels of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelLine {
    /// What the lock-down writes, in order.
    pub writes: Vec<LabelWrite>,
    /// What is not set, and why; for people.
    pub absent: Vec<String>,
}

/// One label: a file below `/proc/PID`, what is written to it, and what it says afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelWrite {
    /// The layer, in words: `AppArmor profile palisade-server`.
    pub what: String,
    /// `attr/…`, below the directory of the process.
    pub attribute: String,
    /// What is written.
    pub value: String,
    /// What is read back.
    pub read_back: String,
}

/// Decides the labels.
pub(super) fn labels(server: &str, host: &Labels) -> LabelLine {
    let mut line = LabelLine { writes: Vec::new(), absent: Vec::new() };
    let mut add = |decided: Result<LabelWrite, String>| match decided {
        Ok(write) => line.writes.push(write),
        Err(absent) => line.absent.push(absent),
    };
    if let Some(apparmor) = &host.apparmor {
        add(for_apparmor(apparmor));
    }
    if let Some(selinux) = &host.selinux {
        add(for_selinux(server, selinux));
    }
    if host.apparmor.is_none() && host.selinux.is_none() {
        add(Err("this host has neither AppArmor nor SELinux".into()));
    }
    line
}

/// `exec NAME` names the profile for the next `execve`, `stack NAME` adds it to the one that confines
/// already. `no_new_privs` is set, under which only a change that takes rights away is allowed: away from
/// no confinement, or by stacking (`apparmor_bprm_creds_for_exec` in the kernel's
/// `security/apparmor/domain.c`).
fn for_apparmor(host: &AppArmor) -> Result<LabelWrite, String> {
    match host.server_profile.as_deref() {
        None => Err(format!("the AppArmor profile {APPARMOR_PROFILE} is not loaded, or not visible")),
        Some("enforce") => {
            let verb = if host.is_unconfined() { "exec" } else { "stack" };
            Ok(LabelWrite {
                what: format!("AppArmor profile {APPARMOR_PROFILE}"),
                attribute: "attr/apparmor/exec".into(),
                value: format!("{verb} {APPARMOR_PROFILE}"),
                read_back: format!("{APPARMOR_PROFILE} (enforce)"),
            })
        }
        Some(mode) => {
            Err(format!("the AppArmor profile {APPARMOR_PROFILE} is in mode {}", mode.escape_debug()))
        }
    }
}

fn for_selinux(server: &str, host: &SeLinux) -> Result<LabelWrite, String> {
    let context = server_context(&host.own, server).filter(|_| host.server_type);
    let Some(context) = context else {
        return Err(format!("the SELinux policy has no type {SELINUX_TYPE} for palisade's user and role"));
    };
    if !host.enforcing {
        return Err("SELinux is permissive: it logs and forbids nothing".into());
    }
    Ok(LabelWrite {
        what: format!("SELinux context {context}"),
        attribute: "attr/exec".into(),
        value: context.clone(),
        read_back: context,
    })
}

/// Categories of multi-category security: 0 to 1023.
const CATEGORIES: u16 = 1024;

/// palisade's own context with the type for servers and two categories of the server's own, so that one
/// server cannot touch what another has labelled (as the categories of containers and virtual machines).
pub(crate) fn server_context(own: &str, server: &str) -> Option<String> {
    let mut parts = own.splitn(4, ':');
    let (user, role, _type) = (parts.next()?, parts.next()?, parts.next()?);
    let context = format!("{user}:{role}:{SELINUX_TYPE}");
    let Some(range) = parts.next() else { return Some(context) };
    let sensitivity = range.split(['-', ':']).next()?;
    let (low, high) = categories(server)?;
    Some(format!("{context}:{sensitivity}:c{low},c{high}"))
}

/// Two different ones, the smaller first: one in half a million pairs.
fn categories(server: &str) -> Option<(u16, u16)> {
    let digest = Sha256::digest(server.as_bytes());
    let [a, b, c, d, ..] = *digest.as_slice() else { return None };
    let one = u16::from_be_bytes([a, b]).checked_rem(CATEGORIES)?;
    let step = u16::from_be_bytes([c, d]).checked_rem(CATEGORIES.checked_sub(1)?)?.checked_add(1)?;
    let other = one.checked_add(step)?.checked_rem(CATEGORIES)?;
    Some((one.min(other), one.max(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apparmor(own: &str, mode: Option<&str>) -> Labels {
        let apparmor = AppArmor {
            own: own.into(),
            server_profile: mode.map(str::to_owned),
            restricts_user_namespaces: false,
        };
        Labels { apparmor: Some(apparmor), selinux: None }
    }

    const FEDORA: &str = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023";

    fn selinux(own: &str, enforcing: bool, server_type: bool) -> Labels {
        Labels { apparmor: None, selinux: Some(SeLinux { enforcing, own: own.into(), server_type }) }
    }

    #[test]
    fn a_host_without_either_is_said_to_be_one() {
        let line = labels("files", &Labels { apparmor: None, selinux: None });
        assert!(line.writes.is_empty());
        assert_eq!(line.absent, ["this host has neither AppArmor nor SELinux"]);
    }

    #[test]
    fn a_loaded_profile_is_taken_from_no_confinement_and_stacked_on_another() {
        for (own, value) in [
            ("unconfined", "exec palisade-server"),
            ("palisade (unconfined)", "exec palisade-server"),
            ("snap.agent (enforce)", "stack palisade-server"),
        ] {
            let line = labels("files", &apparmor(own, Some("enforce")));
            let [write] = line.writes.as_slice() else { panic!("{line:?}") };
            assert_eq!(write.attribute, "attr/apparmor/exec");
            assert_eq!(write.value, value, "{own}");
            assert_eq!(write.read_back, "palisade-server (enforce)");
            assert!(line.absent.is_empty());
        }
    }

    #[test]
    fn a_profile_that_forbids_nothing_is_no_wall() {
        for (mode, word) in
            [(None, "not loaded"), (Some("complain"), "mode complain"), (Some("x\u{1b}"), "\\u{1b}")]
        {
            let line = labels("files", &apparmor("unconfined", mode));
            assert!(line.writes.is_empty(), "{line:?}");
            assert!(line.absent[0].contains(word), "{line:?}");
        }
    }

    #[test]
    fn a_context_keeps_user_and_role_and_has_categories_of_its_own() {
        let line = labels("files", &selinux(FEDORA, true, true));
        let [write] = line.writes.as_slice() else { panic!("{line:?}") };
        assert_eq!(write.attribute, "attr/exec");
        assert!(
            write.value.starts_with("unconfined_u:unconfined_r:palisade_server_t:s0:c"),
            "{}",
            write.value
        );
        assert_eq!(write.value, write.read_back);
        let other = labels("git", &selinux(FEDORA, true, true));
        assert_ne!(other.writes[0].value, write.value);
        // A policy without levels (Debian's default has them, Android's and small ones do not).
        assert_eq!(server_context("u:r:t", "files").as_deref(), Some("u:r:palisade_server_t"));
        assert_eq!(server_context("kernel", "files"), None);
    }

    #[test]
    fn a_policy_without_the_type_and_a_permissive_one_are_said() {
        assert!(
            labels("f", &selinux(FEDORA, true, false)).absent[0].contains("has no type palisade_server_t")
        );
        assert!(labels("f", &selinux(FEDORA, false, true)).absent[0].contains("permissive"));
        assert!(labels("f", &selinux("", true, true)).absent[0].contains("has no type"));
    }

    #[test]
    fn categories_are_two_and_in_order() {
        for server in 0..500 {
            let (low, high) = categories(&format!("server-{server}")).unwrap();
            assert!(low < high && high < 1024, "{low} {high}");
        }
    }
}
