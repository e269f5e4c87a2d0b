//! Who is who outside: subordinate ids, ids that belong to nobody, and our own processes, into which nobody
//! looks and which take nothing of the caller's along.
//!
//! Subordinate ids take lines in `/etc/subuid` and `/etc/subgid`. The tests put files of their own over
//! these in a private mount namespace, so the machine stays as it is; that takes root.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests look at /proc by path, and act as another user")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{
    Place, Process, Session, User, descendants, need, one_error, processes, stderr, still_alive, wait_within,
};

/// Ids that nobody has here.
const RANGE: std::ops::Range<u32> = 3_000_000..3_065_536;

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

fn exists(program: &str) -> bool {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

/// An ordinary user with lines in `/etc/subuid` and `/etc/subgid`, in a mount namespace of its own.
struct Subordinate {
    place: Place,
    /// What is put over which file of the host.
    over: Vec<(PathBuf, &'static str)>,
}

impl Subordinate {
    /// `None` where the test cannot make one.
    fn new() -> Option<Self> {
        if !need("root, to put files over /etc/subuid in a mount namespace", is_root())
            || !need("newuidmap, of the Debian package uidmap", exists("newuidmap"))
        {
            return None;
        }
        let place = Place::new(User::Ordinary);
        let id = place.user.id();
        let mut alice = Self { place, over: Vec::new() };
        let others = std::fs::read_to_string("/etc/passwd").unwrap();
        alice.put("/etc/passwd", &format!("{others}alice:x:{id}:{id}::/nonexistent:/bin/false\n"));
        for file in ["/etc/subuid", "/etc/subgid"] {
            alice.put(file, &format!("alice:{}:{}\n", RANGE.start, RANGE.len()));
        }
        Some(alice)
    }

    fn put(&mut self, target: &'static str, content: &str) -> PathBuf {
        let source = self.place.root.join(target.replace('/', "_"));
        std::fs::write(&source, content).unwrap();
        self.over.retain(|(_, known)| *known != target);
        self.over.push((source.clone(), target));
        source
    }

    fn palisade(&self, arguments: &[&str]) -> Command {
        let id = self.place.user.id();
        under_files(&self.place, &self.over, id, arguments)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.palisade(arguments).output().unwrap()
    }

    fn session(&self, policy: &Path) -> (Session, Vec<Process>) {
        let mut session = Session::start(&mut self.palisade(&["run", policy.to_str().unwrap()]));
        session.initialize();
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let family = family(&session);
        (session, family)
    }
}

/// palisade as user `id`, with files put over files of the host where only it sees them.
fn under_files(place: &Place, over: &[(PathBuf, &str)], id: u32, arguments: &[&str]) -> Command {
    const SCRIPT: &str = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 99; shift 2; done; \
                          shift; exec setpriv --reuid \"$0\" --regid \"$0\" --groups \"$0,4\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]).arg(id.to_string());
    for (source, target) in over {
        command.arg(source).arg(target);
    }
    command.arg("--").arg(place.program()).arg("--store").arg(place.store()).args(arguments);
    command
        .env_clear()
        .env("HOME", &place.root)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("GATEWAY_CANARY", "not-for-servers")
        .current_dir(&place.root)
        .stdin(std::process::Stdio::null());
    command
}

/// Keeper, supervisor, reaper and server.
fn family(session: &Session) -> Vec<Process> {
    let below = descendants(session.child.id());
    let found: Vec<_> = processes().into_iter().filter(|process| below.contains(&process.pid)).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    found
}

/// The four user or group ids of a process, as the host sees them.
fn ids(pid: u32, field: &str) -> Vec<u32> {
    let line = status(pid, field);
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

/// Runs a program as a user and says whether it succeeded, and what it said if not.
fn as_user(id: u32, program: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).env("LC_ALL", "C");
    if is_root() {
        command.uid(id).gid(id);
    }
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
}

/// The range's upper half: its beginning is for containers of the same user.
fn is_subordinate(id: u32) -> bool {
    (RANGE.start + 32_768..RANGE.end).contains(&id)
}

#[test]
fn servers_of_an_ordinary_user_have_subordinate_ids() {
    let Some(alice) = Subordinate::new() else { return };
    let user = alice.place.user.id();
    alice.place.demo_policy("");
    let mut seen = Vec::new();
    for server in ["files", "git"] {
        let policy = alice.place.policy(server, "demo:1", "");
        let explained = String::from_utf8(alice.run(&["explain", policy.to_str().unwrap()]).stdout).unwrap();
        assert!(explained.contains(&format!("subordinate ids of user {user}")), "{explained}");

        let (session, family) = alice.session(&policy);
        let [keeper, supervisor, reaper, server] = [0, 1, 2, 3].map(|index| family[index].pid);
        assert_eq!(ids(keeper, "Uid"), [user; 4], "the keeper is the user");
        assert!(status(keeper, "Groups").contains('4'), "and has the user's groups");
        let (uid, gid) = (ids(server, "Uid")[0], ids(server, "Gid")[0]);
        assert!(is_subordinate(uid) && is_subordinate(gid), "{uid}:{gid}");
        for process in [supervisor, reaper, server] {
            assert_eq!(ids(process, "Uid"), [uid; 4], "{process}");
            assert_eq!(ids(process, "Gid"), [gid; 4], "{process}");
            assert_eq!(status(process, "Groups"), "", "{process}");
        }
        // One id exists in there, and nothing else changed.
        let map = std::fs::read_to_string(format!("/proc/{server}/uid_map")).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &uid.to_string(), "1"]);
        for (field, value) in [("CapEff", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
            assert_eq!(status(server, field), value, "{field}");
        }
        assert!(explained.contains(&format!("{uid}:{gid} outside")), "{explained}");

        // Its pipes are its own, so that it can open `/dev/stdout` again by name.
        for fd in ["fd/0", "fd/1", "fd/2"] {
            use std::os::unix::fs::MetadataExt;
            let pipe = std::fs::metadata(path_of(server, fd)).unwrap();
            assert_eq!((pipe.uid(), pipe.gid()), (uid, gid), "{fd}");
        }

        // What such an id is worth outside: it may not signal the user's processes, and the user may.
        let gateway = session.child.id().to_string();
        as_user(user, &["/bin/kill", "-0", &gateway]).unwrap();
        let refused = as_user(uid, &["/bin/kill", "-0", &gateway]).unwrap_err();
        assert!(refused.contains("not permitted"), "{refused}");
        seen.push(uid);
        let (ended, said) = session.end();
        assert!(ended.success(), "{said}");
        alice.place.nothing_left(&family);
    }
    assert_ne!(seen[0], seen[1], "each server has its own");
}

/// The attacks that need an id or a process of the user, with the subordinate one.
#[test]
fn a_subordinate_id_gains_nothing() {
    let Some(alice) = Subordinate::new() else { return };
    let policy = alice.place.demo_policy("");
    let (mut session, _family) = alice.session(&policy);
    let inside = session.attack("become_root", json!({}));
    for attempt in ["setuid", "unshare_user", "clone_user", "mount", "pivot_root", "chroot", "capset"] {
        inside.refused(attempt, &["EPERM"]);
    }
    let written = session.attack("write_outside", json!({}));
    written.refused("create_root", &["EROFS", "EACCES"]);
}

#[test]
fn a_gateway_that_is_killed_takes_a_server_with_a_subordinate_id_along() {
    let Some(alice) = Subordinate::new() else { return };
    let policy = alice.place.demo_policy("");
    for part in 0..5_usize {
        let (mut session, family) = alice.session(&policy);
        let victim = part.checked_sub(1).map_or(session.child.id(), |index| family[index].pid);
        kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).unwrap();
        let started = Instant::now();
        while !still_alive(&family).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(1), "{part}: {:?}", still_alive(&family));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(wait_within(&mut session.child, Duration::from_secs(20)).is_some());
    }
}

#[test]
fn with_mounts_of_the_host_a_server_keeps_the_users_id() {
    let Some(alice) = Subordinate::new() else { return };
    let user = alice.place.user.id();
    let shared = alice.place.dir("shared");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o700)).unwrap();
    let policy = alice.place.demo_policy(&format!(
        "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: read-write }} ] }}",
        shared.display()
    ));
    let explained = String::from_utf8(alice.run(&["explain", policy.to_str().unwrap()]).stdout).unwrap();
    assert!(explained.contains("the policy mounts files that only the user may use"), "{explained}");
    let (mut session, family) = alice.session(&policy);
    assert_eq!(ids(family[3].pid, "Uid"), [user; 4]);
    // The grant works as written: the directory is the user's alone, and the server writes there.
    let arguments = json!({ "directory": "/workspace", "host_file": "/nowhere" });
    assert_eq!(session.attack("symlink_escape", arguments).attempt("mount_symlink")["errno"], "ENOENT");
}

/// The spec said that the id is a subordinate one; when the helper refuses, nothing else is tried.
#[test]
fn a_helper_that_refuses_is_an_error_and_no_other_id() {
    let Some(mut alice) = Subordinate::new() else { return };
    let policy = alice.place.demo_policy("");
    let helper = alice.put("/usr/bin/newuidmap", "#!/bin/sh\necho 'newuidmap: not today' >&2\nexit 1\n");
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o4755)).unwrap();
    let output = alice.run(&["run", policy.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    let error = one_error(&stderr(&output));
    let said = [error.message, error.causes.join(" ")].join(" ");
    assert!(said.contains("mapping a subordinate id") && said.contains("not today"), "{said}");
    assert!(error.hint.contains("/etc/subuid"), "{}", error.hint);
    alice.place.nothing_left(&[]);
}

#[test]
fn what_is_missing_for_subordinate_ids_is_said() {
    let Some(mut alice) = Subordinate::new() else { return };
    let policy = alice.place.demo_policy("");
    let explained = |alice: &Subordinate| {
        String::from_utf8(alice.run(&["explain", policy.to_str().unwrap()]).stdout).unwrap()
    };
    let doctor = |alice: &Subordinate| String::from_utf8(alice.run(&["doctor"]).stdout).unwrap();
    assert!(doctor(&alice).contains("used: each server without mounts of the host"), "{}", doctor(&alice));
    // Without the set-id bit the helper cannot do its work.
    let helper = alice.put("/usr/bin/newgidmap", "#!/bin/sh\n");
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(explained(&alice).contains("neither set-id bit nor capabilities"), "{}", explained(&alice));
    alice.over.retain(|(_, target)| *target != "/usr/bin/newgidmap");
    alice.put("/etc/subgid", "bob:3000000:65536\n");
    assert!(explained(&alice).contains("/etc/subgid has no range for this user"), "{}", explained(&alice));
    assert!(doctor(&alice).contains("usermod --add-subgids"), "{}", doctor(&alice));
    let (_session, family) = alice.session(&policy);
    assert_eq!(ids(family[3].pid, "Uid"), [alice.place.user.id(); 4]);
}

/// Root's servers get ids that belong to nobody: not to a user, and not to the containers of one.
#[test]
fn root_gives_no_id_that_belongs_to_somebody() {
    if !need("root", is_root()) {
        return;
    }
    let place = Place::new(User::Root);
    let policy = place.demo_policy("");
    let explain = |subuid: &str| {
        let source = place.write("subuid", subuid);
        let mut command = under_files(
            &place,
            &[(source, "/etc/subuid")],
            0,
            &["explain", policy.to_str().unwrap(), "--json"],
        );
        command.output().unwrap()
    };
    let id = |output: &Output| -> u64 {
        assert!(output.status.success(), "{}", stderr(output));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        value["spec"]["identity"]["outside_uid"].as_u64().unwrap()
    };
    let first = id(&explain(""));
    assert_eq!(id(&explain("bob:100000:65536\n")), first, "another range does not matter");
    let second = id(&explain(&format!("bob:{first}:1\n")));
    assert_ne!(first, second);
    let refused = explain("bob:1879048192:65536\n");
    assert_eq!(refused.status.code(), Some(3));
    let error = one_error(&stderr(&refused));
    assert!(error.message.contains("`bob` by /etc/subuid"), "{}", error.message);
    // And the server that runs has it.
    let (session, family) = {
        let mut session = place.session(&policy);
        session.call("add", json!({ "a": 1, "b": 2 }));
        let family = family(&session);
        (session, family)
    };
    assert_eq!(ids(family[3].pid, "Uid").first().copied().map(u64::from), Some(first));
    drop(session);
}

/// A process of the same user can look into another one of the user, unless that forbids it; ours do, from
/// the gateway, which has every secret, to the supervisor.
#[test]
fn no_process_of_the_same_user_looks_into_ours() {
    let place = Place::new(User::Ordinary);
    let user = place.user.id();
    let policy = place.demo_policy("");
    let own = {
        let mut session = place.session(&policy);
        session.call("add", json!({ "a": 1, "b": 2 }));
        let family = family(&session);
        (session, family)
    };
    let mut sessions = vec![("own id", own)];
    if let Some(alice) = is_root().then(Subordinate::new).flatten() {
        let policy = alice.place.demo_policy("");
        sessions.push(("subordinate id", alice.session(&policy)));
    }
    let mut command = Command::new("/bin/sleep");
    command.arg("60");
    if is_root() {
        command.uid(user).gid(user);
    }
    let mut control = command.spawn().unwrap();
    for file in ["environ", "maps", "fd/0"] {
        let path = path_of(control.id(), file);
        // `fd/0` may be anything; to look at it is enough.
        let program = if file == "fd/0" { "/usr/bin/readlink" } else { "/bin/cat" };
        as_user(user, &[program, &path]).unwrap_or_else(|said| panic!("the control: {path}: {said}"));
        for (what, (session, family)) in &sessions {
            for (who, pid) in
                [("gateway", session.child.id()), ("keeper", family[0].pid), ("supervisor", family[1].pid)]
            {
                let path = path_of(pid, file);
                let refused = as_user(user, &[program, &path]);
                assert!(refused.is_err(), "{what}: the {who}'s {file} can be read");
                let said = refused.unwrap_err();
                assert!(
                    program.ends_with("readlink") || said.contains("Permission denied"),
                    "{what}, {who}: {said}"
                );
            }
        }
    }
    // Memory: opening is what is refused; reading at address 0 fails for everybody.
    let said = as_user(user, &["/bin/cat", &path_of(control.id(), "mem")]).unwrap_err();
    assert!(said.contains("Input/output error"), "the control: {said}");
    for (what, (session, family)) in &sessions {
        for pid in [session.child.id(), family[0].pid, family[1].pid, family[2].pid] {
            let said = as_user(user, &["/bin/cat", &path_of(pid, "mem")]).unwrap_err();
            assert!(said.contains("Permission denied"), "{what}: {pid}: {said}");
        }
    }
    control.kill().unwrap();
    control.wait().unwrap();
}

fn path_of(pid: u32, file: &str) -> String {
    format!("/proc/{pid}/{file}")
}

/// A core dump would put secrets on the disk.
#[test]
fn the_gateway_dumps_no_core() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new(User::all()[0]);
    let unlimited = |program: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh", program]).current_dir(&place.root);
        command
    };
    let mut control = unlimited("/bin/sleep");
    let mut control = control.arg("60").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    kill(Pid::from_raw(control.id().cast_signed()), Signal::SIGABRT).unwrap();
    if !need("core dumps of programs that allow them", control.wait().unwrap().core_dumped()) {
        return;
    }
    let policy = place.demo_policy("");
    let mut command = unlimited(place.program().to_str().unwrap());
    command
        .env("HOME", &place.root)
        .arg("--store")
        .arg(place.store())
        .args(["run", policy.to_str().unwrap()]);
    let mut session = Session::start(&mut command);
    session.initialize();
    kill(Pid::from_raw(session.child.id().cast_signed()), Signal::SIGABRT).unwrap();
    let ended = wait_within(&mut session.child, Duration::from_secs(10)).unwrap();
    assert_eq!(ended.signal(), Some(nix::libc::SIGABRT), "{ended}");
    assert!(!ended.core_dumped(), "{ended}");
}

/// Keeper and supervisor have nothing of the caller's environment, `LD_*` least of all.
#[test]
fn our_processes_start_with_an_empty_environment() {
    if !need("root, to read the environment of processes that nobody looks into", is_root()) {
        return;
    }
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("");
        let mut command = place.palisade(["run", policy.to_str().unwrap()]);
        command.env("LD_LIBRARY_PATH", "/nonexistent").env("LD_DEBUG_OUTPUT", "/nonexistent");
        let mut session = Session::start(&mut command);
        session.initialize();
        session.call("add", json!({ "a": 1, "b": 2 }));
        let environment = |pid: u32| std::fs::read(path_of(pid, "environ")).unwrap();
        let gateway = String::from_utf8(environment(session.child.id())).unwrap();
        assert!(gateway.contains("GATEWAY_CANARY") && gateway.contains("LD_LIBRARY_PATH"), "the control");
        for process in &family(&session)[..3] {
            assert_eq!(environment(process.pid), b"", "{process:?}");
        }
    }
}

/// The unpacking process: a layer that takes a while, and a look at it meanwhile.
#[test]
fn the_unpacking_process_starts_with_an_empty_environment() {
    if !need("root, to read the environment of processes that nobody looks into", is_root()) {
        return;
    }
    let place = Place::new(User::Root);
    // Some tenths of a second of hashing.
    place.import_program("large:1", &vec![7; 96 * 1024 * 1024], &[]);
    let policy = place.policy("large", "large:1", "");
    let mut child = place.palisade(["image", "prepare", policy.to_str().unwrap()]).spawn().unwrap();
    let mut seen = 0;
    while child.try_wait().unwrap().is_none() {
        for pid in descendants(child.id()) {
            let line = std::fs::read(path_of(pid, "cmdline")).unwrap_or_default();
            if line.ends_with(b"__unpack\0")
                && let Ok(environment) = std::fs::read(path_of(pid, "environ"))
            {
                assert_eq!(environment, b"");
                seen += 1;
            }
        }
    }
    assert!(child.wait().unwrap().success());
    assert!(seen > 0, "it was over before it could be looked at");
}

/// A descriptor that the caller forgot to close reaches the gateway and nobody below it.
#[test]
fn no_descriptor_of_the_caller_goes_further() {
    if !need("root, to read the descriptors of processes that nobody looks into", is_root()) {
        return;
    }
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("");
        let leaked = place.write("leaked", "of the caller");
        let inner = place.palisade(["run", policy.to_str().unwrap()]);
        let mut command = Command::new("sh");
        // Two numbers: right behind standard error, and far away.
        command.args(["-c", "exec 3<\"$0\" 9>>\"$0\"; exec \"$@\""]).arg(&leaked).arg(inner.get_program());
        command.args(inner.get_args()).current_dir(&place.root).env("HOME", &place.root);
        if user == User::Ordinary {
            command.uid(place.user.id()).gid(place.user.id());
        }
        let mut session = Session::start(&mut command);
        session.initialize();
        session.call("add", json!({ "a": 1, "b": 2 }));
        let holds = |pid: u32| {
            let fds = std::fs::read_dir(path_of(pid, "fd")).unwrap().flatten();
            fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == leaked)).count()
        };
        assert_eq!(holds(session.child.id()), 2, "the control: the gateway was given them");
        for process in family(&session) {
            assert_eq!(holds(process.pid), 0, "{process:?}");
        }
    }
}
