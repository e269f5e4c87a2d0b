//! One test for each claim of `THREAT_MODEL.md`, run as root and as an ordinary user.
//!
//! A denial is only worth something when the same attempt works where it is allowed, so each test
//! runs the attempt without a sandbox first, as the same user, and then inside.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests act as a person would, on paths")]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Attack, Place, Session, User, cgroups, need, stderr, unconfined};

const NONE: Value = Value::Null;

fn no_arguments() -> Value {
    json!({})
}

/// The sample server in its sandbox, with more lines of policy.
fn confined(place: &Place, more: &str) -> Session {
    let policy = place.demo_policy(more);
    place.session(&policy)
}

fn attack(place: &Place, tool: &str, arguments: Value) -> Attack {
    confined(place, "").attack(tool, arguments)
}

/// C1: of the host's files a server sees the policy's mounts and nothing else.
#[test]
fn c1_no_file_of_the_host_but_the_mounts() {
    for user in User::all() {
        let place = Place::new(user);
        let mounted = place.dir("mounted");
        std::fs::write(mounted.join("inside.txt"), "inside").unwrap();
        place.give_tree(&mounted);
        let beside = place.write("beside.txt", "beside");

        let arguments = json!({ "directory": mounted, "host_file": beside });
        let control = unconfined(user, "symlink_escape", &arguments);
        for attempt in ["symlink_absolute", "dot_dot", "mount_climb", "mount_symlink", "proc_self_root"] {
            control.succeeded(attempt);
        }

        let more = format!(
            "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: read-only }} ] }}",
            mounted.display()
        );
        let arguments = json!({ "directory": "/workspace", "host_file": beside });
        let inside = confined(&place, &more).attack("symlink_escape", arguments);
        for attempt in ["symlink_absolute", "symlink_relative", "dot_dot", "mount_climb", "proc_self_root"] {
            inside.refused(attempt, &["ENOENT"]);
        }
        // The mount is read-only, so the link cannot even be made.
        assert_eq!(inside.attempt("mount_symlink")["errno"], "EROFS");
        inside.refused("leaked_descriptors", &["none"]);
    }
}

/// C1: what a mount's source is, is decided once and by the person who wrote it: a symbolic link in its path is
/// refused, since a server that may write the directory could have put it there.
#[test]
fn c1_a_mount_source_is_no_link() {
    for user in User::all() {
        let place = Place::new(user);
        let writable = place.dir("writable");
        let victim = place.dir("victim");
        std::os::unix::fs::symlink(&victim, writable.join("sub")).unwrap();
        let policy = |source: &Path| {
            place.demo_policy(&format!(
                "filesystem: {{ mounts: [ {{ source: \"{}\", target: /sub, access: read-only }} ] }}",
                source.display()
            ))
        };
        let output = place.run(["run", policy(&writable.join("sub")).to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
        assert!(
            stderr(&output).contains(victim.to_str().unwrap()),
            "the real path is named: {}",
            stderr(&output)
        );
        // The control: the real path works.
        place.session(&policy(&victim));
        // A socket leads to whoever listens on it.
        let socket = place.root.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let output = place.run(["run", policy(&socket).to_str().unwrap()]);
        assert!(stderr(&output).contains("neither a directory nor a file"), "{}", stderr(&output));
    }
}

/// C2: a server writes below /tmp, /dev/shm and read-write mounts, and nowhere else; what it writes there
/// cannot be executed.
#[test]
fn c2_no_write_outside_and_no_execution_of_what_is_written() {
    for user in User::all() {
        let place = Place::new(user);
        let control = unconfined(user, "write_outside", &no_arguments());
        for attempt in
            ["exec_tmp", "mmap_exec_tmp", "exec_memfd", "set_id_create", "set_id_change", "file_lease"]
        {
            control.succeeded(attempt);
        }
        let inside = attack(&place, "write_outside", no_arguments());
        for attempt in ["create_root", "create_etc", "create_usr", "create_dev"] {
            inside.refused(attempt, &["EROFS", "EACCES", "ENOENT"]);
        }
        for attempt in ["core_pattern", "sysrq"] {
            // Not masked: a procfs with `subset=pid` has no such file.
            inside.refused(attempt, &["ENOENT"]);
        }
        inside.refused("exec_tmp", &["EACCES"]);
        inside.refused("mmap_exec_tmp", &["EPERM"]);
        for attempt in ["exec_memfd", "set_id_create", "set_id_change", "file_lease"] {
            inside.refused(attempt, &["EPERM"]);
        }
        inside.refused("own_binary", &["EROFS", "EACCES", "ETXTBSY"]);
    }
}

/// C2, the other half: a read-write mount can be written and the host sees it; a read-only one cannot.
#[test]
fn c2_mounts_are_writable_only_where_the_policy_says_so() {
    for user in User::all() {
        let place = Place::new(user);
        for access in ["read-write", "read-only"] {
            let mounted = place.dir(access);
            let more = format!(
                "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: {access} }} ] }}",
                mounted.display()
            );
            let arguments = json!({ "directory": "/workspace", "host_file": "/nowhere" });
            let report = confined(&place, &more).attack("symlink_escape", arguments);
            let attempt = report.attempt("mount_symlink");
            // The link is made and then read: with read-write it leads to a file that is not in the sandbox.
            let expected = if access == "read-write" { "ENOENT" } else { "EROFS" };
            assert_eq!(attempt["errno"], expected, "{access}: {attempt:#}");
        }
    }
}

/// C3: a server sees, signals and traces no process but its own.
#[test]
fn c3_no_other_process() {
    for user in User::all() {
        let place = Place::new(user);
        let pid = std::process::id();
        if user == User::Root {
            let control = unconfined(user, "list_host_processes", &json!({ "pid": pid.to_string() }));
            for attempt in ["list_proc", "process_vm_readv", "proc_mem", "proc_root", "proc_environ"] {
                control.succeeded(attempt);
            }
        }
        let mut session = confined(&place, "");
        for target in [1, pid] {
            let inside = session.attack("list_host_processes", json!({ "pid": target.to_string() }));
            for attempt in ["ptrace_seize", "process_vm_readv", "pidfd_getfd"] {
                inside.refused(attempt, &["EPERM", "ESRCH"]);
            }
            for attempt in ["proc_mem", "proc_root", "proc_environ"] {
                inside.refused(attempt, &["ENOENT", "EACCES", "EPERM"]);
            }
            inside.refused("kill_sweep", &["ESRCH", "none", "EPERM"]);
        }
    }
}

/// C4: a server has no network: no address answers, and no other family of sockets can be opened.
#[test]
fn c4_no_network() {
    for user in User::all() {
        let place = Place::new(user);
        let name = format!("palisade-claim-{}", std::process::id());
        let address =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name)
                .unwrap();
        let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        // The control of the abstract socket: this process reaches it.
        std::os::unix::net::UnixStream::connect_addr(&address).unwrap();

        let mut session = confined(&place, "");
        session.attack("dial_metadata", no_arguments()).refused("metadata_tcp", &["ENETUNREACH", "EACCES"]);
        let inside = session.attack("dial_public", json!({ "abstract_socket": name }));
        inside.refused("public_tcp", &["ENETUNREACH", "EACCES"]);
        inside.refused("public_udp", &["ENETUNREACH"]);
        for family in ["raw_socket", "packet_socket", "netlink_socket", "vsock_socket", "alg_socket"] {
            inside.refused(family, &["EPERM"]);
        }
        inside.refused("abstract_unix", &["ECONNREFUSED", "EPERM"]);
    }
}

/// C4: a server whose list has Unix sockets gets no mount that may hold a socket file, unless its policy accepts that by name.
#[test]
fn c4_unix_sockets_and_mounts_need_a_word() {
    for user in User::all() {
        let place = Place::new(user);
        let mounted = place.dir("mounted");
        let policy = |baseline: &str, mounts: &str, accepted: &str| {
            let text = format!(
                "palisade: 1\nserver: demo\nimage: {{ reference: \"demo:1\", unsigned: \"a test\" }}\n\
                 syscalls: {{ baseline: {baseline} }}\n{mounts}\naccept_degraded: [memory, cpus{accepted}]\n"
            );
            place.run(["policy", "check", place.write("p.yaml", text).to_str().unwrap()])
        };
        let mounts = format!(
            "filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace }} ] }}",
            mounted.display()
        );
        let refused = policy("browser", &mounts, "");
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("accept_degraded: [unix-sockets]"), "{}", stderr(&refused));
        // The controls: without the mount, without the sockets, and with the word.
        for output in [
            policy("browser", "", ""),
            policy("node", &mounts, ""),
            policy("browser", &mounts, ", unix-sockets"),
        ] {
            assert!(output.status.success(), "{}", stderr(&output));
        }
    }
}

/// C5: a server's environment is what image and policy declare, never the gateway's.
#[test]
fn c5_environment_is_declared() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = confined(&place, "environment: { DECLARED: yes-it-is }");
        let report = session.call("read_environment", no_arguments()).to_string();
        assert!(report.contains("DECLARED"), "{report}");
        for foreign in ["GATEWAY_CANARY", "not-for-servers"] {
            assert!(!report.contains(foreign), "{report}");
        }
    }
}

/// C6: a server gets the secrets that its policy declares, where it declares them; one that is missing is an
/// error that names it.
#[test]
fn c6_secrets_are_declared() {
    for user in User::all() {
        let place = Place::new(user);
        let policy = place.demo_policy("secrets: [ { name: token, env: DEMO_TOKEN } ]");
        let missing = place.run(["run", policy.to_str().unwrap()]);
        assert_eq!(missing.status.code(), Some(2));
        assert!(stderr(&missing).contains("`token`"), "{}", stderr(&missing));

        let value = place.write("token", "c6-canary\n");
        std::fs::set_permissions(&value, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let given = format!("token={}", value.display());
        let open = place.run(["run", policy.to_str().unwrap(), "--secret-file", &given]);
        assert_eq!(open.status.code(), Some(2), "a file that others can read is refused");
        assert!(stderr(&open).contains("chmod 600"), "{}", stderr(&open));

        std::fs::set_permissions(&value, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut session =
            Session::start(&mut place.palisade(["run", policy.to_str().unwrap(), "--secret-file", &given]));
        session.initialize();
        let report = session.call("read_environment", no_arguments()).to_string();
        assert!(report.contains("DEMO_TOKEN"), "{report}");
    }
}

/// C6: secrets as files that do not fit into the limits are refused by name, before anything starts.
#[test]
fn c6_secret_files_fit_into_the_limits_or_are_refused() {
    for user in User::all() {
        let place = Place::new(user);
        let value = place.write("value", "x");
        std::fs::set_permissions(&value, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let files: Vec<String> =
            (0..8).map(|n| format!("{{ name: s{n}, file: /run/secrets/s{n} }}")).collect();
        let given: Vec<String> = (0..8).map(|n| format!("s{n}={}", value.display())).collect();
        let run = |limits: &str| {
            let policy =
                place.demo_policy(&format!("secrets: [ {} ]\nlimits: {{ {limits} }}", files.join(", ")));
            let mut arguments = vec!["run", policy.to_str().unwrap()];
            for one in &given {
                arguments.extend(["--secret-file", one.as_str()]);
            }
            place.run(arguments)
        };
        for (limits, key) in
            [("open_files: 16", "limits.open_files"), ("file_size: 4KiB", "limits.file_size")]
        {
            let refused = run(limits);
            assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
            assert!(stderr(&refused).contains(key), "{}", stderr(&refused));
        }
        // The control: the least that is accepted is enough.
        let least = run("open_files: 18, file_size: 32KiB");
        assert!(least.status.success(), "{}", stderr(&least));
    }
}

/// C6: a variable of the image does not stand in front of the secret of the same name.
#[test]
fn c6_a_placeholder_gives_way() {
    use palisade_image::layout::{Builder, LayerFiles, Runtime};
    for user in User::all() {
        let place = Place::new(user);
        let layout = place.root.join("layout-demo-1");
        let runtime = Runtime {
            entrypoint: vec!["/bin/server".into()],
            env: vec![("DEMO_TOKEN".into(), "placeholder".into())],
            ..Runtime::default()
        };
        let files = LayerFiles::new().file("bin/server", 0o755, support::DEMO_SERVER).unwrap();
        Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
        place.give_tree(&layout);
        place.must(["image", "import", layout.to_str().unwrap(), "--as", "demo:1"]);
        let policy = place.demo_policy("secrets: [ { name: token, env: DEMO_TOKEN } ]");
        let value = place.write("token", "the-secret");
        std::fs::set_permissions(&value, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let given = format!("token={}", value.display());
        let mut session =
            Session::start(&mut place.palisade(["run", policy.to_str().unwrap(), "--secret-file", &given]));
        session.initialize();
        let server = support::descendants(session.child.id()).last().copied().unwrap();
        let environ = std::fs::read(format!("/proc/{server}/environ")).unwrap_or_default();
        let entries: Vec<&[u8]> =
            environ.split(|byte| *byte == 0).filter(|entry| entry.starts_with(b"DEMO_TOKEN=")).collect();
        assert_eq!(entries, [&b"DEMO_TOKEN=the-secret"[..]]);
    }
}

/// C7: a server holds no capability, and cannot gain one or another identity.
#[test]
fn c7_no_privilege() {
    for user in User::all() {
        let place = Place::new(user);
        if user == User::Root {
            let control = unconfined(user, "become_root", &no_arguments());
            for attempt in ["setuid", "unshare_user", "unshare_mount", "chroot", "mknod", "clone_user"] {
                control.succeeded(attempt);
            }
        }
        let inside = attack(&place, "become_root", no_arguments());
        for attempt in
            ["setuid", "unshare_user", "unshare_mount", "chroot", "clone_user", "mount", "pivot_root"]
        {
            inside.refused(attempt, &["EPERM"]);
        }
        inside.refused("clone3_user", &["ENOSYS"]);
        inside.refused("capset", &["EPERM"]);
    }
}

/// C7, as the host sees it: what the kernel says of the running server.
#[test]
fn c7_the_kernel_says_so() {
    for user in User::all() {
        let place = Place::new(user);
        let session = confined(&place, "");
        let below = support::descendants(session.child.id());
        let server = below.last().copied().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {status}");
        }
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t1"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        if user == User::Root {
            // Outside, the server is somebody who owns nothing.
            assert!(!status.contains("Uid:\t0"), "{status}");
        }
        // The control: this very process has more than that.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(own.contains("Seccomp_filters:\t0") || !own.contains("NoNewPrivs:\t1"), "{own}");
        for namespace in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
            // A server's links can only be read by root; its namespaces then differ from ours.
            if let (Ok(theirs), Ok(ours)) = (of(&server.to_string()), of("self")) {
                assert_ne!(theirs, ours, "{namespace}");
            }
        }
    }
}

/// C8: calls that are not in the baseline get EPERM and reach no kernel code.
#[test]
fn c8_only_listed_system_calls() {
    for user in User::all() {
        let place = Place::new(user);
        let inside = attack(&place, "become_root", no_arguments());
        for attempt in [
            "ptrace",
            "fsopen",
            "open_by_handle_at",
            "bpf",
            "perf_event_open",
            "io_uring_setup",
            "keyctl",
            "userfaultfd",
            "kexec_load",
            "init_module",
            "clock_settime",
            "reboot",
            "syslog",
            "personality",
            "setns",
            "tiocsti",
        ] {
            inside.refused(attempt, &["EPERM"]);
        }
        // Open to everybody outside; their refusal inside is the filter's.
        let control = unconfined(user, "become_root", &no_arguments());
        for attempt in ["ptrace", "userfaultfd", "personality", "io_uring_setup"] {
            assert_ne!(control.attempt(attempt)["errno"], "EPERM", "{:#}", control.attempt(attempt));
        }
    }
}

/// C8: with `kill`, a call outside the list ends the process, and what runtimes only try gets its errno.
#[test]
fn c8_kill_ends_the_process() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = confined(&place, "syscalls: { seccomp: kill }");
        // The control: what is on the list works, and the same attempts are refused, not killed, without `kill`.
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let refused = attack(&place, "become_root", no_arguments());
        let killed = session.attack("become_root", no_arguments());
        for attempt in ["setuid", "ptrace", "bpf", "keyctl", "unshare_user", "mount", "userfaultfd", "reboot"]
        {
            refused.refused(attempt, &["EPERM"]);
            let detail = killed.attempt(attempt);
            assert_eq!(detail["detail"], "killed by signal 31", "SIGSYS: {detail:#}");
        }
        for attempt in ["io_uring_setup", "clone_user", "mknod", "tiocsti"] {
            killed.refused(attempt, &["EPERM"]);
        }
        killed.refused("clone3_user", &["ENOSYS"]);
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3, "the server itself goes on");
    }
}

/// C8: `log` carries calls out, but not the worst, and is a degradation that policy, `explain` and audit log name.
#[test]
fn c8_log_is_named_and_holds_back_the_worst() {
    for user in User::all() {
        let place = Place::new(user);
        place.import_program("demo:1", support::DEMO_SERVER, &[]);
        let file = |name: &str, accepted: &str| {
            place.write(
                &format!("{name}.yaml"),
                format!(
                    "palisade: 1\nserver: demo\nimage: {{ reference: \"demo:1\", unsigned: \"a test\" }}\n\
                     syscalls: {{ seccomp: log }}\naccept_degraded: [memory, cpus{accepted}]\n"
                ),
            )
        };
        let silent = place.run(["run", file("silent", "").to_str().unwrap()]);
        assert_eq!(silent.status.code(), Some(3), "{}", stderr(&silent));

        let policy = file("logged", ", seccomp");
        let explained = place.must(["explain", policy.to_str().unwrap()]);
        assert!(explained.contains("every other: CARRIED OUT and logged"), "{explained}");
        assert!(
            explained.contains("DEGRADED  makes only the system calls of its list (Seccomp)"),
            "{explained}"
        );
        let mut session = place.session(&policy);
        // A call that is on no list: refused with `enforce`, carried out here.
        attack(&place, "become_root", no_arguments()).refused("setuid", &["EPERM"]);
        session.attack("become_root", no_arguments()).succeeded("setuid");
        // Memory that can be executed stays out of reach: conditions of any list hold.
        session.attack("write_outside", no_arguments()).refused("exec_memfd", &["EPERM"]);
        let inside = session.attack("become_root", no_arguments());
        for attempt in [
            "ptrace",
            "unshare_user",
            "unshare_mount",
            "mount",
            "fsopen",
            "pivot_root",
            "chroot",
            "open_by_handle_at",
            "bpf",
            "perf_event_open",
            "io_uring_setup",
            "keyctl",
            "userfaultfd",
            "kexec_load",
            "init_module",
            "clock_settime",
            "reboot",
            "syslog",
            "setns",
            "clone_user",
            "tiocsti",
        ] {
            inside.refused(attempt, &["EPERM"]);
        }
        inside.refused("clone3_user", &["ENOSYS"]);
        session.end();
        let events = place.audit();
        let is_logged = |event: &&Value| event["facts"]["seccomp"]["mode"] == "log";
        let start = events.iter().filter(|event| event["event"] == "server_start").find(is_logged).unwrap();
        let lines = start["facts"]["enforcement"].as_array().unwrap();
        assert!(
            lines.iter().any(|line| line["by"] == "seccomp" && line["state"]["state"] == "degraded"),
            "{lines:?}"
        );
    }
}

/// C8: what a policy removes from its list is refused, what it adds is allowed, and the audit log has both with their reasons.
#[test]
fn c8_a_policy_changes_the_list() {
    for user in User::all() {
        let place = Place::new(user);
        let before = attack(&place, "dial_public", no_arguments());
        before.refused("public_tcp", &["ENETUNREACH", "EACCES"]);
        attack(&place, "become_root", no_arguments()).refused("setuid", &["EPERM"]);

        let policy = place.demo_policy(
            "syscalls:\n  remove: [ { call: socket, reason: \"has no network anyway\" } ]\n  \
             add: [ { call: setuid, reason: \"is said to need it\" } ]",
        );
        let mut session = place.session(&policy);
        session.attack("dial_public", no_arguments()).refused("public_tcp", &["EPERM"]);
        // There is one id in the sandbox, and it is this one: the call does nothing, and gives nothing.
        session.attack("become_root", no_arguments()).succeeded("setuid");
        session.end();
        let events = place.audit();
        let start = events.iter().rfind(|event| event["event"] == "server_start").unwrap();
        assert_eq!(start["facts"]["seccomp"]["removed"][0]["reason"], "has no network anyway");
        assert_eq!(start["facts"]["seccomp"]["added"][0]["call"], "setuid");
    }
}

/// C9: processes and threads are limited, with or without a cgroup; other servers do not notice.
#[test]
fn c9_fork_bomb_ends_at_the_limit() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = confined(&place, "limits: { pids: 20 }");
        let report = session.attack("fork_bomb", no_arguments());
        report.refused("fork", &["EAGAIN"]);
        let forks = report.attempt("fork")["figures"]["forks"].as_u64().unwrap();
        assert!(forks < 20, "{forks} forks with a limit of 20");
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3, "the server still answers");
    }
}

/// C10: where cgroups can be written, memory and processor limits are set and read back; where they cannot,
/// the server only runs when its policy accepts that.
#[test]
fn c10_limits_are_enforced_or_refused() {
    for user in User::all() {
        let place = Place::new(user);
        place.import_program("demo:1", support::DEMO_SERVER, &[]);
        let strict = place.write(
            "strict.yaml",
            "palisade: 1\nserver: demo\nimage: { reference: \"demo:1\", unsigned: \"a test\" }\nlimits: { memory: 64MiB }\n",
        );
        if user == User::Ordinary {
            let output = place.run(["run", strict.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
            assert!(stderr(&output).contains("accept_degraded: [memory]"), "{}", stderr(&output));
            continue;
        }
        let explained = place.must(["explain", strict.to_str().unwrap(), "--json"]);
        let explained: Value = serde_json::from_str(&explained).unwrap();
        if !need("a writable memory cgroup", explained["spec"]["cgroup"]["memory_bytes"] != NONE) {
            continue;
        }
        let mut session = place.session(&strict);
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let limits: Vec<String> = cgroups()
            .iter()
            .flat_map(|dir| ["memory.limit_in_bytes", "memory.max"].map(|file| dir.join(file)))
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        assert!(limits.iter().any(|limit| limit.trim() == (64 * 1024 * 1024).to_string()), "{limits:?}");
    }
}

/// C11: a server starts with descriptors 0, 1 and 2 and no other.
#[test]
fn c11_three_descriptors() {
    for user in User::all() {
        let place = Place::new(user);
        attack(&place, "symlink_escape", json!({ "host_file": "/etc/hostname" }))
            .refused("leaked_descriptors", &["none"]);
    }
}

/// C12: only an image that its policy trusts is unpacked, let alone run.
#[test]
fn c12_only_a_trusted_image_is_unpacked() {
    for user in User::all() {
        let place = Place::new(user);
        place.import_program("demo:1", support::DEMO_SERVER, &[]);
        place.import_program("other:1", support::DEMO_SERVER, &["--another-image"]);
        let [key, stranger] = ["key", "stranger"].map(|name| place.root.join(name));
        for key in [&key, &stranger] {
            place.must(["image", "keygen", key.to_str().unwrap()]);
        }
        let policy = |server: &str, image: &str, key: &Path| {
            place.write(
                &format!("{server}.yaml"),
                format!(
                    "palisade: 1\nserver: {server}\naccept_degraded: [memory, cpus]\nimage:\n  reference: \"{image}\"\n  \
                     signed_by: [ {{ key: \"{}.pub\", tlog: optional }} ]\n",
                    key.display()
                ),
            )
        };
        let signed = policy("signed", "demo:1", &key);
        let refused = |file: &Path, what: &str| {
            let output = place.run(["image", "prepare", file.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(&output));
            let unpacked = std::fs::read_dir(place.store().join("rootfs")).map_or(0, Iterator::count);
            assert_eq!(unpacked, 0, "{what}: something was unpacked");
            stderr(&output)
        };
        refused(&signed, "no signature");
        place.must(["image", "sign", "demo:1", "--key", stranger.to_str().unwrap()]);
        refused(&signed, "a stranger's signature");
        place.must(["image", "sign", "other:1", "--key", key.to_str().unwrap()]);
        refused(&signed, "the right key, but for another image");
        // The positive control.
        place.must(["image", "sign", "demo:1", "--key", key.to_str().unwrap()]);
        place.must(["image", "prepare", signed.to_str().unwrap()]);
    }
}

/// C13: a policy that cannot be honoured in full is refused, never run in part.
#[test]
fn c13_no_key_is_ignored() {
    let place = Place::new(User::all()[0]);
    for (line, said) in [
        ("netwrok: { egress: [] }", "netwrok"),
        ("network: { egress: [ { host: example.com, ports: [443] } ] }", "egress"),
        ("tools: { pin: required }", "pin"),
        ("secrets: [ { name: t, header: { host: a.b, name: X, value: \"{secret}\" } } ]", "header"),
        ("syscalls: { add: [ { call: ptrace, reason: \"to debug\" } ] }", "can be added by no policy"),
        ("syscalls: { add: [ { call: opnat, reason: x } ] }", "did you mean `openat`?"),
        ("syscalls: { add: [ { call: socket, reason: x } ] }", "conditions on its arguments"),
        ("syscalls: { remove: [ { call: read, reason: x } ] }", "cannot be removed"),
        ("syscalls: { remove: [ { call: bpf, reason: x } ] }", "not in the baseline"),
        ("syscalls: { seccomp: log }", "accept_degraded: [seccomp]"),
    ] {
        let file = place.policy("demo", "demo:1", line);
        let output = place.run(["policy", "check", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{line}");
        assert!(stderr(&output).contains(said), "{line}: {}", stderr(&output));
    }
    let file = place.policy("demo", "demo:1", "");
    place.must(["policy", "check", file.to_str().unwrap()]);
}

/// C14: a tool that the policy does not allow is not listed, and a call of it never reaches the server.
#[test]
fn c14_tools_are_permitted_one_by_one() {
    for user in User::all() {
        let place = Place::new(user);
        let mut session = confined(&place, "tools: { allow: [\"e*\", add], deny: [echo_secret] }");
        let listed = session.request("tools/list", json!({}));
        let names: Vec<&str> = listed["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        assert_eq!(names, ["echo", "add"]);
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let refused = session.call("fork_bomb", json!({}));
        assert!(refused["error"]["message"].as_str().unwrap().contains("does not allow"), "{refused}");
        // Two names in one call: whichever a parser picks, it must not be another one than ours.
        session.send_line(
            r#"{"jsonrpc":"2.0","id":900,"method":"tools/call","params":{"name":"add","name":"fork_bomb","arguments":{"a":1,"b":2}}}"#,
        );
        let twice = session.answer(900);
        assert!(twice["error"].is_object(), "{twice}");
        drop(session);
        let calls: Vec<Value> =
            place.audit().into_iter().filter(|event| event["event"] == "tool_call").collect();
        assert!(
            calls.iter().any(|call| call["tool"] == "fork_bomb" && call["decision"] == "refused"),
            "{calls:?}"
        );
        assert!(
            calls.iter().any(|call| call["tool"] == "add" && call["decision"] == "permitted"),
            "{calls:?}"
        );
    }
}

/// C16: a secret's value is in no file of ours, no argument and no log.
#[test]
fn c16_secrets_leave_no_trace() {
    for user in User::all() {
        let place = Place::new(user);
        let canary = format!("canary-{}-{}", std::process::id(), user.id());
        let value = place.write("value", &canary);
        std::fs::set_permissions(&value, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let policy =
            place.demo_policy("secrets: [ { name: t, env: TOKEN }, { name: f, file: /run/secrets/f } ]");
        let (t, f) = (format!("t={}", value.display()), format!("f={}", value.display()));
        let mut session = Session::start(&mut place.palisade([
            "--verbose",
            "run",
            policy.to_str().unwrap(),
            "--secret-file",
            &t,
            "--secret-file",
            &f,
        ]));
        session.initialize();
        let report = session.call("read_environment", no_arguments()).to_string();
        assert!(report.contains("TOKEN"), "the positive control: the server has it");
        for process in support::processes() {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            assert!(!contains(&line, canary.as_bytes()), "in the arguments of process {}", process.pid);
        }
        let (_status, said) = session.end();
        assert!(!said.contains(&canary), "on standard error: {said}");
        std::fs::remove_file(&value).unwrap();
        for file in files_below(&place.root) {
            let content = std::fs::read(&file).unwrap_or_default();
            assert!(!contains(&content, canary.as_bytes()), "in {}", file.display());
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// C20: the audit log tells which image ran, why it was trusted, under which spec, and what was called.
#[test]
fn c20_the_audit_log_tells() {
    let place = Place::new(User::all()[0]);
    let policy = place.demo_policy("");
    let mut session = place.session(&policy);
    session.call("add", json!({ "a": 1, "b": 2 }));
    session.end();
    let explained: Value =
        serde_json::from_str(&place.must(["explain", policy.to_str().unwrap(), "--json"])).unwrap();
    let events = place.audit();
    let start = events.iter().find(|event| event["event"] == "server_start").unwrap();
    assert_eq!(start["facts"]["spec"], explained["digest"], "what explain prints is what ran");
    assert_eq!(start["facts"]["evidence"]["proof"]["unsigned"]["reason"], "made by this test");
    assert!(start["facts"]["enforcement"].as_array().is_some_and(|lines| lines.len() > 5));
    assert!(events.iter().any(|event| event["event"] == "tool_call" && event["tool"] == "add"));
    assert!(events.iter().any(|event| event["event"] == "server_stop"));
}
