//! palisade inside a container, as a CI agent runs it: what works there works, and what does not is refused
//! with the reason.
//!
//! The containers are made with bubblewrap, which makes any kind without a daemon and without leaving
//! anything behind.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests act as a person would, on paths")]

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::{Value, json};
use support::{Place, Session, User, need, one_error, stderr};

/// A container around `palisade`: everything of this machine read-only, its own /proc, /dev and /tmp, no
/// network, and the test's directory.
struct Container {
    place: Place,
    arguments: Vec<String>,
}

impl Container {
    fn new(user: User) -> Option<Self> {
        if !need("bwrap, of the Debian package bubblewrap", Path::new("/usr/bin/bwrap").exists()) {
            return None;
        }
        let place = Place::new(user);
        let arguments =
            ["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"];
        let mut container = Self { place, arguments: arguments.map(str::to_owned).to_vec() };
        container.add(&["--tmpfs", "/tmp"]);
        let root = container.place.root.to_str().unwrap().to_owned();
        container.add(&["--bind", &root, &root]);
        Some(container)
    }

    fn add(&mut self, more: &[&str]) {
        self.arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    }

    fn palisade(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/bwrap");
        command.args(&self.arguments).arg("--").arg(self.place.program());
        command.arg("--store").arg(self.place.store()).args(arguments);
        command.env_clear().env("HOME", &self.place.root).env("PATH", "/usr/bin:/bin");
        command.current_dir("/").stdin(std::process::Stdio::null());
        if nix::unistd::Uid::effective().is_root() && self.place.user == User::Ordinary {
            command.uid(self.place.user.id()).gid(self.place.user.id());
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.palisade(arguments).output().unwrap()
    }

    /// The findings of `palisade doctor`, by feature.
    fn doctor(&self) -> Value {
        let output = self.run(&["doctor", "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap();
        findings
            .iter()
            .map(|finding| (finding["feature"].as_str().unwrap().to_owned(), finding.clone()))
            .collect()
    }

    /// A server in the container answers, and its sandbox holds what the claims say.
    #[track_caller]
    fn serves(&self, policy: &Path) {
        let mut session = Session::start(&mut self.palisade(&["run", policy.to_str().unwrap()]));
        session.initialize();
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let root = session.attack("become_root", json!({}));
        for (attempt, errno) in [("unshare_user", "EPERM"), ("mount", "EPERM"), ("ptrace", "EPERM")] {
            root.refused(attempt, &[errno]);
        }
        let written = session.attack("write_outside", json!({}));
        written.refused("create_root", &["EROFS", "EACCES"]);
        let (ended, said) = session.end();
        assert!(ended.success(), "{said}");
    }

    /// A start is refused with this status, and the sentence and the hint hold these words.
    #[track_caller]
    fn refuses(&self, policy: &Path, status: i32, sentence: &str, hint: &str) {
        let output = self.run(&["run", policy.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        let error = one_error(&stderr(&output));
        let said = [error.message, error.causes.join(" ")].join(" ");
        assert!(said.contains(sentence), "{said}");
        assert!(error.hint.contains(hint), "{}", error.hint);
    }
}

/// The usual case: an agent without privileges in a container without privileges.
#[test]
fn an_ordinary_user_in_a_container_runs_servers() {
    let Some(container) = Container::new(User::Ordinary) else { return };
    let policy = container.place.demo_policy("");
    container.serves(&policy);
    let doctor = container.doctor();
    assert_eq!(doctor["a sandbox"]["state"], "good", "{doctor:#}");
    assert!(doctor["subordinate ids"]["found"].as_str().unwrap().contains("not used"), "{doctor:#}");
    let mounted = container.place.dir("shared");
    let policy = container.place.demo_policy(&format!(
        "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: read-write }} ] }}",
        mounted.display()
    ));
    container.serves(&policy);
}

/// A container without /sys has no cgroup file system at all: nothing to limit with, so the policy must say
/// that it does without; the rest holds.
#[test]
fn without_a_cgroup_file_system_the_rest_holds() {
    for user in User::all() {
        let Some(mut container) = Container::new(user) else { return };
        if user == User::Root {
            container.add(&["--uid", "1000", "--gid", "1000"]);
        }
        container.add(&["--tmpfs", "/sys"]);
        let doctor = container.doctor();
        assert_eq!(doctor["cgroups"]["state"], "degraded", "{doctor:#}");
        if doctor["a sandbox"]["state"] == "good" {
            container.serves(&container.place.demo_policy(""));
        } else {
            // bubblewrap as root covers parts of /proc.
            assert_eq!(user, User::Root, "{doctor:#}");
        }
    }
}

/// What root's containers do to /proc, made by hand: the kernel refuses a new procfs, and that is said before
/// anything is started, by `run` and by `doctor`.
#[test]
fn a_covered_procfs_is_refused_with_the_reason() {
    let Some(mut container) = Container::new(User::Ordinary) else { return };
    let policy = container.place.demo_policy("");
    // The control: the same container without this.
    container.serves(&policy);
    container.add(&["--tmpfs", "/proc/tty", "--ro-bind", "/dev/null", "/proc/cpuinfo"]);
    container.refuses(&policy, 3, "something is mounted over /proc/tty and 1 more", "unmask=ALL");
    let doctor = container.doctor();
    assert_eq!(doctor["a sandbox"]["state"], "missing", "{doctor:#}");
    let found = doctor["a sandbox"]["found"].as_str().unwrap();
    assert!(found.contains("a procfs: EPERM"), "tried, and not only read: {found}");
    assert!(doctor["a sandbox"]["remedy"].as_str().unwrap().contains("unmask=ALL"));
}

/// Root of a container with nothing but that id, and without its capabilities.
#[test]
fn root_without_capabilities_is_told_what_to_do() {
    if !need("root", nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let Some(container) = Container::new(User::Root) else { return };
    let policy = container.place.demo_policy("");
    let output = container.run(&["run", policy.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    one_error(&stderr(&output));
    let doctor = container.doctor();
    assert_eq!(doctor["a sandbox"]["state"], "missing", "{doctor:#}");
}

/// `unshare --map-root-user`: root with every capability, and one id, which is the user's outside.
#[test]
fn root_of_a_namespace_of_one_id_is_the_user() {
    let place = Place::new(User::Ordinary);
    let policy = place.demo_policy("");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(place.program()).arg("--store").arg(place.store()).args(["run", policy.to_str().unwrap()]);
    command.env("HOME", &place.root).current_dir(&place.root);
    if nix::unistd::Uid::effective().is_root() {
        command.uid(place.user.id()).gid(place.user.id());
    }
    let mut session = Session::start(&mut command);
    session.initialize();
    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    let server = support::descendants(session.child.id()).last().copied().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let outside = format!("Uid:\t{}\t", place.user.id());
    assert!(status.contains(&outside), "{status}");
}

/// Root of a container as docker makes it: without `CAP_SYS_ADMIN`, but allowed to map ids. Its servers are not root.
#[test]
fn root_without_sys_admin_gives_ids_that_belong_to_nobody() {
    if !need("root", nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let Some(mut container) = Container::new(User::Root) else { return };
    let root = container.place.root.to_str().unwrap().to_owned();
    // As root bubblewrap covers parts of a new procfs, so this container has the one of the machine.
    container.arguments.clear();
    container.add(&["--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]);
    container.add(&["--ro-bind", "/", "/", "--dev", "/dev", "--bind", "/proc", "/proc", "--tmpfs", "/tmp"]);
    container.add(&["--bind", &root, &root]);
    container.add(&["--cap-drop", "ALL"]);
    for capability in ["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID", "SETPCAP", "SETFCAP", "KILL"] {
        container.add(&["--cap-add", &format!("CAP_{capability}")]);
    }
    let doctor = container.doctor();
    assert_eq!(doctor["a sandbox"]["state"], "good", "{doctor:#}");
    assert!(doctor["cgroups"]["found"].as_str().unwrap().contains("read-only"), "{doctor:#}");
    let policy = container.place.demo_policy("");
    container.serves(&policy);

    let mut session = Session::start(&mut container.palisade(&["run", policy.to_str().unwrap()]));
    session.initialize();
    session.call("add", json!({ "a": 1, "b": 2 }));
    let server = support::descendants(session.child.id()).last().copied().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
    let uid: u32 = uid.split('\t').next().unwrap().parse().unwrap();
    assert!((0x7000_0000..0x7001_0000).contains(&uid), "{uid}");
    drop(session);

    // With a mount the server would have to be root outside; the kernel counts no processes of root.
    let mounted = container.place.dir("shared");
    let policy = container.place.demo_policy(&format!(
        "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: read-only }} ] }}",
        mounted.display()
    ));
    container.refuses(&policy, 3, "would be root outside its sandbox", "as another user");
}

/// Namespaces are forbidden by a limit, as in a container whose runtime forbids them.
#[test]
fn forbidden_namespaces_are_found_by_trying() {
    let Some(mut container) = Container::new(User::Ordinary) else { return };
    let policy = container.place.demo_policy("");
    container.add(&["--disable-userns", "--unshare-user"]);
    let doctor = container.doctor();
    let worst = [&doctor["user namespaces"], &doctor["a sandbox"]];
    assert!(worst.iter().any(|finding| finding["state"] == "missing"), "{doctor:#}");
    let output = container.run(&["run", policy.to_str().unwrap()]);
    assert!(!output.status.success());
    one_error(&stderr(&output));
}

/// A device that the container does not have is named.
#[test]
fn a_missing_device_is_named() {
    let Some(mut container) = Container::new(User::Ordinary) else { return };
    let policy = container.place.demo_policy("");
    container.add(&["--tmpfs", "/dev", "--dev-bind", "/dev/null", "/dev/null"]);
    container.refuses(&policy, 125, "/dev/zero", "doctor");
}

/// A container without /tmp: the stage is built over another directory.
#[test]
fn no_directory_for_temporary_files_is_needed() {
    let Some(mut container) = Container::new(User::Ordinary) else { return };
    let policy = container.place.demo_policy("");
    let root = container.place.root.to_str().unwrap().to_owned();
    // A root of its own, with what a dynamic program needs and the place under another name.
    container.arguments = ["--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
        .map(str::to_owned)
        .to_vec();
    for dir in ["/usr", "/lib", "/lib64", "/etc"] {
        container.add(&["--ro-bind-try", dir, dir]);
    }
    let parent = Path::new(&root).parent().unwrap();
    if parent == Path::new("/tmp") {
        container.add(&["--perms", "0755", "--dir", "/run", "--bind", &root, "/place"]);
        let mut command = Command::new("/usr/bin/bwrap");
        command.args(&container.arguments).args(["--", "/place/palisade", "--store", "/place/store", "run"]);
        command.arg(Path::new("/place").join(policy.file_name().unwrap()));
        command.env_clear().env("HOME", "/place").current_dir("/");
        if nix::unistd::Uid::effective().is_root() {
            command.uid(container.place.user.id()).gid(container.place.user.id());
        }
        let mut session = Session::start(&mut command);
        session.initialize();
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    }
}

/// Reading is quick, and so is trying.
#[test]
fn doctor_leaves_nothing_behind() {
    for user in User::all() {
        let place = Place::new(user);
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        let started = Instant::now();
        let said = place.must(["doctor"]);
        assert!(said.contains("a sandbox"), "{said}");
        eprintln!("doctor took {:?}", started.elapsed());
        assert_eq!(mounts(), before);
        place.nothing_left(&[]);
    }
}
