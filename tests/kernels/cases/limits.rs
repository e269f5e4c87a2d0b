//! Limits on pure cgroup v2, as the kernel has them and as they are felt.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use palisade_image::layout::{Builder, LayerFiles, Runtime};
use serde_json::json;

use super::{accepted, policy, refused, trials};
use crate::scenario::Scenario;
use crate::support::{Place, Session, User, cgroups, stderr, wait_within};

trials![
    limits_are_in_the_kernels_files_while_the_server_runs,
    the_pids_controller_ends_a_fork_bomb,
    memory_without_end_is_the_servers_end,
    a_limit_that_an_ordinary_user_cannot_have_is_refused_by_name,
    a_delegated_cgroup_is_used,
    a_container_without_a_cgroup_of_its_own_to_give_away_is_told_so,
];

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const LIMITS: &str = "limits: { memory: 64MiB, cpus: 0.5, pids: 20 }";

fn limited(place: &Place, scenario: &Scenario) -> Session {
    place.session(&policy(place, &format!("{LIMITS}\n{}", accepted(scenario, place.user))))
}

/// The directory of the one sandbox that runs now.
fn the_cgroup() -> PathBuf {
    let mut found = cgroups();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"))
        .trim()
        .to_owned()
}

/// The number after `key` in a file of lines such as `max 3`.
fn count(dir: &Path, file: &str, key: &str) -> u64 {
    let text = read(dir, file);
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {key} in {file}: {text}"))
}

fn limits_are_in_the_kernels_files_while_the_server_runs(scenario: &Scenario) {
    let place = Place::new(User::Root);
    let mut session = limited(&place, scenario);
    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    let cgroup = the_cgroup();
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("cpu.max", "50000 100000"),
        ("pids.max", "20"),
    ] {
        assert_eq!(read(&cgroup, file), value, "{file}");
    }
    // Reaper and server are in it, keeper and supervisor are not.
    let inside = read(&cgroup, "cgroup.procs");
    assert_eq!(inside.lines().count(), 2, "{inside}");
    for pid in inside.lines() {
        let path = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert_eq!(path.trim(), format!("0::/{}", cgroup.strip_prefix(CGROUP_ROOT).unwrap().display()));
    }
    session.end();
    assert!(!cgroup.exists() && !Path::new(CGROUP_ROOT).join("palisade").exists());
}

fn the_pids_controller_ends_a_fork_bomb(scenario: &Scenario) {
    let place = Place::new(User::Root);
    let mut session = limited(&place, scenario);
    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    let cgroup = the_cgroup();
    // Below the policy's 20, at which the resource limit says no first.
    std::fs::write(cgroup.join("pids.max"), "10").unwrap();
    assert_eq!(count(&cgroup, "pids.events", "max"), 0);
    let report = session.attack("fork_bomb", json!({}));
    report.refused("fork", &["EAGAIN"]);
    assert_eq!(report.attempt("fork")["figures"]["forks"], 8, "with reaper and server it is 10");
    assert!(count(&cgroup, "pids.events", "max") > 0, "it was the cgroup");
    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3, "the server still answers");
    session.end();
}

/// A server that wants all the memory that there is: `tail` keeps everything since the last newline.
fn memory_without_end_is_the_servers_end(scenario: &Scenario) {
    let place = Place::new(User::Root);
    let layout = place.root.join("layout");
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let files = LayerFiles::new().file("bin/tail", 0o755, &busybox).unwrap();
    let entrypoint = vec!["/bin/tail".into(), "/dev/zero".into()];
    Builder::new(Runtime { entrypoint, ..Runtime::default() }).layer(files).unwrap().write(&layout).unwrap();
    place.must(["image", "import", layout.to_str().unwrap(), "--as", "hungry:1"]);
    let file = place.write(
        "hungry.yaml",
        format!(
            "palisade: 1\nserver: hungry\nimage: {{ reference: \"hungry:1\", unsigned: \"a test\" }}\n{LIMITS}\n{}\n",
            accepted(scenario, User::Root)
        ),
    );
    let mut child = place.palisade(["run", file.to_str().unwrap()]).stdin(Stdio::piped()).spawn().unwrap();
    let ended = wait_within(&mut child, Duration::from_secs(90));
    if ended.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(137), "{}", stderr(&output));
    let told = "it used more memory than `limits.memory` allows";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
}

fn a_limit_that_an_ordinary_user_cannot_have_is_refused_by_name(scenario: &Scenario) {
    let place = Place::new(User::Ordinary);
    let landlock = accepted(scenario, User::Root);
    let file = policy(&place, &format!("{LIMITS}\n{landlock}"));
    let output = place.run(["run", file.to_str().unwrap()]);
    refused(&output, &["cannot enforce the limit on memory", "accept_degraded: [memory]"]);
}

/// A cgroup counts a process for a moment after its end.
fn remove_cgroup(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = std::fs::remove_dir(dir) {
        let inside = std::fs::read_to_string(dir.join("cgroup.procs"));
        assert!(Instant::now() < deadline, "{}: {error}, with {inside:?} inside", dir.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A cgroup that belongs to an ordinary user, with a leaf in which the program starts, alone: what systemd makes for a
/// scope with `Delegate=yes`.
struct Delegated {
    slice: PathBuf,
    leaf: PathBuf,
}

impl Delegated {
    fn to(user: User) -> Self {
        let root = Path::new(CGROUP_ROOT);
        let [slice, leaf] = ["user", "user/scope"].map(|name| root.join(name));
        std::fs::write(root.join("cgroup.subtree_control"), "+memory +cpu +pids").unwrap();
        std::fs::create_dir(&slice).unwrap();
        std::fs::write(slice.join("cgroup.subtree_control"), "+memory +cpu +pids").unwrap();
        std::fs::create_dir(&leaf).unwrap();
        // An empty name is the directory itself.
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            std::os::unix::fs::chown(leaf.join(file), Some(user.id()), Some(user.id())).unwrap();
        }
        Self { slice, leaf }
    }

    /// Puts a script in the place of the program that waits until this process, which the child is born beside, has
    /// left the cgroup again; then runs `start`.
    fn alone<T>(&self, place: &Place, start: impl FnOnce() -> T) -> T {
        let [real, go] = [place.dir("real").join("palisade"), place.root.join("go")];
        std::fs::rename(place.program(), &real).unwrap();
        let script = format!(
            "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\nexec {} \"$@\"\n",
            go.display(),
            real.display()
        );
        std::fs::write(place.program(), script).unwrap();
        std::fs::set_permissions(place.program(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(self.leaf.join("cgroup.procs"), "0").unwrap();
        let started = start();
        std::fs::write(Path::new(CGROUP_ROOT).join("cgroup.procs"), "0").unwrap();
        std::fs::write(go, "").unwrap();
        started
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // What the program itself made below it must be gone by now, but for the leaf that it moved itself to.
        let own_leaf = self.leaf.join("palisade-gateway");
        for dir in [&own_leaf, &self.leaf, &self.slice] {
            if dir.is_dir() {
                remove_cgroup(dir);
            }
        }
    }
}

fn a_delegated_cgroup_is_used(scenario: &Scenario) {
    let place = Place::new(User::Ordinary);
    let file = policy(&place, &format!("{LIMITS}\n{}", accepted(scenario, User::Root)));
    let delegated = Delegated::to(User::Ordinary);
    let mut run = place.palisade(["run", file.to_str().unwrap()]);
    let mut session = delegated.alone(&place, || Session::start(&mut run));
    session.initialize();
    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    let sandbox = with_limit(&delegated.leaf, "67108864").unwrap();
    assert_eq!(read(&sandbox, "memory.swap.max"), "0");
    assert_eq!(read(&sandbox, "cpu.max"), "50000 100000");
    assert_eq!(read(&sandbox, "pids.max"), "20");
    assert_eq!(read(&sandbox, "cgroup.procs").lines().count(), 2, "reaper and server");
    session.end();
    assert!(!sandbox.exists());
}

/// The cgroup at or below `dir` whose memory limit this is.
fn with_limit(dir: &Path, bytes: &str) -> Option<PathBuf> {
    if std::fs::read_to_string(dir.join("memory.max")).is_ok_and(|limit| limit.trim() == bytes) {
        return Some(dir.to_path_buf());
    }
    let below = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).find_map(|path| with_limit(&path, bytes))
}

/// Runs `tried` in a thread with a cgroup namespace, whose root is a cgroup that this process is in.
fn in_a_container(tried: impl FnOnce() + Send + 'static) {
    let container = Path::new(CGROUP_ROOT).join("container");
    std::fs::create_dir(&container).unwrap();
    std::fs::write(container.join("cgroup.procs"), "0").unwrap();
    let ended = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        umount(CGROUP_ROOT).unwrap();
        mount(Some("cgroup2"), CGROUP_ROOT, Some("cgroup2"), MsFlags::empty(), nothing).unwrap();
        tried();
    })
    .join();
    std::fs::write(Path::new(CGROUP_ROOT).join("cgroup.procs"), "0").unwrap();
    remove_cgroup(&container);
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

fn a_container_without_a_cgroup_of_its_own_to_give_away_is_told_so(scenario: &Scenario) {
    let scenario = *scenario;
    in_a_container(move || {
        assert_eq!(std::fs::read_to_string("/proc/self/cgroup").unwrap().trim(), "0::/");
        let place = Place::new(User::Root);
        let file = policy(&place, &format!("{LIMITS}\n{}", accepted(&scenario, User::Root)));
        let output = place.run(["run", file.to_str().unwrap()]);
        refused(&output, &["cannot enforce the limit on memory", "accept_degraded: [memory]"]);
    });
}
