//! The mandatory access control of this host: AppArmor and SELinux, as far as a server could be put
//! under a profile or type of ours.

use std::path::Path;

use palisade_sys::dir::{Dir, read_ambient_bounded};
use serde::Serialize;

use super::read;

/// The AppArmor profile for servers, as `packaging/apparmor/palisade-server` names it.
pub const APPARMOR_PROFILE: &str = "palisade-server";

/// The SELinux type for servers, as `packaging/selinux/palisade.cil` names it.
pub const SELINUX_TYPE: &str = "palisade_server_t";

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// AppArmor; `None` when it is not enabled.
    pub apparmor: Option<AppArmor>,
    /// SELinux; `None` when it is not enabled.
    pub selinux: Option<SeLinux>,
}

/// AppArmor, enabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppArmor {
    /// What confines palisade itself: `unconfined`, or a profile and its mode.
    pub own: String,
    /// The mode of the profile for servers (`enforce`, `complain`); `None` when it is not loaded, or
    /// cannot be seen.
    pub server_profile: Option<String>,
    /// Whether user namespaces need a profile that allows them
    /// (`kernel.apparmor_restrict_unprivileged_userns`).
    pub restricts_user_namespaces: bool,
}

impl AppArmor {
    /// Whether palisade runs under no profile, or one whose mode is `unconfined`.
    pub fn is_unconfined(&self) -> bool {
        self.own == "unconfined" || self.own.ends_with("(unconfined)")
    }
}

/// SELinux, enabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeLinux {
    /// Whether it enforces; otherwise it only logs.
    pub enforcing: bool,
    /// The context of palisade itself: `user:role:type:level`.
    pub own: String,
    /// Whether the loaded policy knows the type for servers, in a context with palisade's user and role.
    pub server_type: bool,
}

/// A label is a line.
const LABEL_MAX: u64 = 4096;

impl Labels {
    pub(super) fn probe() -> Self {
        Self { apparmor: apparmor(), selinux: selinux() }
    }
}

fn own_label(path: &str) -> String {
    let bytes = read_ambient_bounded(Path::new(path), LABEL_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches(['\0', '\n']).to_owned()
}

fn apparmor() -> Option<AppArmor> {
    if read("/sys/module/apparmor/parameters/enabled").trim() != "Y" {
        return None;
    }
    Some(AppArmor {
        own: own_label("/proc/self/attr/apparmor/current"),
        server_profile: profile_mode(Path::new("/sys/kernel/security/apparmor/policy/profiles")),
        restricts_user_namespaces: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").trim()
            == "1",
    })
}

/// The directory of a loaded profile is called by its name and a number, and holds a file `mode`.
fn profile_mode(profiles: &Path) -> Option<String> {
    let profiles = Dir::open_ambient(profiles).ok()?;
    let names = profiles.entries().ok()?;
    let name = names.iter().filter_map(|name| name.to_str()).find(|name| is_profile(name))?;
    let mode = profiles.read_bounded(&Path::new(name).join("mode"), LABEL_MAX).ok()?;
    Some(String::from_utf8_lossy(&mode).trim().to_owned())
}

fn is_profile(name: &str) -> bool {
    let number = name.strip_prefix(APPARMOR_PROFILE).and_then(|rest| rest.strip_prefix('.'));
    number.is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

fn selinux() -> Option<SeLinux> {
    let selinuxfs = Dir::open_ambient(Path::new("/sys/fs/selinux")).ok()?;
    let enforce = selinuxfs.read_bounded(Path::new("enforce"), LABEL_MAX).ok()?;
    let own = own_label("/proc/self/attr/current");
    // Writing a context asks whether the policy has it, and changes nothing.
    let server_type = crate::spec::server_context(&own, "check").is_some_and(|context| {
        use std::io::Write;
        selinuxfs
            .open_file_rw(Path::new("context"))
            .and_then(|mut file| file.write_all(context.as_bytes()))
            .is_ok()
    });
    Some(SeLinux { enforcing: enforce.starts_with(b"1"), own, server_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_profile_is_found_with_its_mode() {
        let place = std::env::temp_dir().join(format!("palisade-profiles-{}", std::process::id()));
        let root = Dir::create_ambient(&place, 0o755).unwrap();
        for name in ["unconfined.1", "palisade-server-other.3", "palisade-server.x"] {
            root.create_dir(Path::new(name), 0o755).unwrap();
        }
        assert_eq!(profile_mode(&place), None);
        let dir = root.create_dir(Path::new("palisade-server.27"), 0o755).unwrap();
        std::io::Write::write_all(&mut dir.create_file(Path::new("mode"), 0o644).unwrap(), b"enforce\n")
            .unwrap();
        assert_eq!(profile_mode(&place), Some("enforce".into()));
        let parent = Dir::open_ambient(&std::env::temp_dir()).unwrap();
        parent.remove_tree(Path::new(place.file_name().unwrap())).unwrap();
        assert_eq!(profile_mode(&place), None);
    }

    #[test]
    fn an_unconfined_mode_is_unconfined() {
        let apparmor =
            |own: &str| AppArmor { own: own.into(), server_profile: None, restricts_user_namespaces: false };
        assert!(apparmor("unconfined").is_unconfined());
        assert!(apparmor("palisade (unconfined)").is_unconfined());
        assert!(!apparmor("snap.x (enforce)").is_unconfined());
        assert!(!apparmor("").is_unconfined());
    }
}
