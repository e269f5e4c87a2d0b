//! Vulnerabilities that other runtimes had, tried here (docs/prior-cves.md): images that aim at whoever starts them.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests act as a person would, on paths")]

mod support;

use std::path::Path;
use std::process::Command;

use palisade_image::layout::{LayerFiles, Runtime};
use palisade_probe_binary::PROBE;
use serde_json::{Value, json};
use support::probe::{posture, questions, watch_to_end};
use support::{Place, User, one_error, stderr};

/// Adds an entry to a layer.
type Add = fn(LayerFiles) -> LayerFiles;

fn program() -> LayerFiles {
    LayerFiles::new().file("bin/server", 0o755, PROBE).unwrap()
}

fn server() -> Runtime {
    Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() }
}

/// How the probe is confined in this image; a refusal as what was said.
fn confined(place: &Place, policy: &Path) -> Result<Value, String> {
    let ran = watch_to_end(&mut place.palisade(["run", policy.to_str().unwrap()]), &questions());
    place.nothing_left(&ran.family);
    posture(&ran.output.stdout).ok_or_else(|| stderr(&ran.output))
}

/// An image that prepares the places where a runtime mounts, masks or writes: as links, as files, and as full
/// directories. None changes anything (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2024-45310,
/// CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, CVE-2025-54867, CVE-2025-62161, CVE-2025-62596).
#[test]
fn an_image_cannot_prepare_the_mount_points() {
    const TOP: [&str; 6] = ["proc", "dev", "sys", "tmp", "run", "first"];
    const BELOW: [&str; 8] = [
        "dev/null",
        "dev/console",
        "dev/pts",
        "dev/ptmx",
        "dev/shm",
        "dev/tty",
        "proc/self/attr/exec",
        "proc/sys/kernel/core_pattern",
    ];
    for user in User::all() {
        let place = Place::new(user);
        place.import_image(program(), server(), "probe:1");
        let policy = place.probe_policy("probe", "");
        let normal = confined(&place, &policy).unwrap();
        let with = |names: &[&str], add: &dyn Fn(LayerFiles, &str) -> LayerFiles| {
            names.iter().fold(program(), |files, name| add(files, name))
        };
        let beside = place.write("beside.txt", "beside");
        let target = beside.to_str().unwrap();
        let images = [
            ("links to the host", with(&TOP, &|files, name| files.symlink(name, "/").unwrap())),
            (
                "links that climb",
                with(&TOP, &|files, name| files.symlink(name, "../../../../../../proc/1/root/etc").unwrap()),
            ),
            (
                "links to each other",
                with(&TOP, &|files, name| files.symlink(name, &format!("/{name}")).unwrap()),
            ),
            ("files", with(&TOP, &|files, name| files.file(name, 0o777, b"no directory").unwrap())),
            ("links below", with(&BELOW, &|files, name| files.symlink(name, target).unwrap())),
            (
                "links below to settings",
                with(&BELOW, &|files, name| files.symlink(name, "/proc/sys/kernel/core_pattern").unwrap()),
            ),
            ("files below", with(&BELOW, &|files, name| files.file(name, 0o666, b"decoy").unwrap())),
            (
                "directories below",
                with(&BELOW, &|files, name| files.file(&format!("{name}/decoy"), 0o666, b"decoy").unwrap()),
            ),
        ];
        for (what, files) in images {
            place.import_image(files, server(), "probe:1");
            let mut found =
                confined(&place, &policy).unwrap_or_else(|said| panic!("{user:?} {what}: {said}"));
            // The image's own names may show in its root; nothing else may differ.
            found["root"] = normal["root"].clone();
            assert_eq!(found, normal, "{user:?}: {what}");
            assert_eq!(std::fs::read_to_string(&beside).unwrap(), "beside", "{what}");
        }
    }
}

/// The server overwrites the runtime's binary (CVE-2019-5736), or has it executed in its place.
#[test]
fn the_runtimes_binary_is_out_of_reach() {
    for user in User::all() {
        let place = Place::new(user);
        let before = std::fs::read(place.program()).unwrap();
        let script: &[u8] = b"#!/proc/self/exe\n";
        for (what, files, entry) in [
            ("the entry point is /proc/self/exe", program(), "/proc/self/exe"),
            ("a link to it", program().symlink("bin/trick", "/proc/self/exe").unwrap(), "/bin/trick"),
            ("a script for it", program().file("bin/trick", 0o755, script).unwrap(), "/bin/trick"),
            ("a descriptor", program(), "/proc/self/fd/5"),
            ("pid 1's program", program(), "/proc/1/exe"),
        ] {
            let runtime =
                Runtime { entrypoint: vec![entry.into(), "--version".into()], ..Runtime::default() };
            place.import_image(files, runtime, "probe:1");
            let policy = place.probe_policy("probe", "");
            let ran = watch_to_end(&mut place.palisade(["run", policy.to_str().unwrap()]), &questions());
            let said = stderr(&ran.output);
            let status = ran.output.status.code();
            assert!(matches!(status, Some(125..=127)), "{user:?} {what}: {status:?}: {said}");
            one_error(&said);
            place.nothing_left(&ran.family);
        }
        // From inside, while our program is pid 1.
        place.import_image(program(), server(), "probe:1");
        let mut session = place.session(&place.probe_policy("probe", ""));
        for id in ["overwrite_self", "proc_1_exe"] {
            let group = if id == "overwrite_self" { "execution" } else { "processes" };
            let attempts =
                session.probe(&json!({ "group": group, "first": "/first", "program": "/bin/server" }));
            assert_eq!(attempts[id]["outcome"], "refused", "{:#}", attempts[id]);
        }
        assert_eq!(std::fs::read(place.program()).unwrap(), before, "the binary is as it was");
    }
}

/// Where the server starts: what names a descriptor or leads out of the root is refused, and nothing is made outside
/// (CVE-2024-21626).
#[test]
fn a_working_directory_leads_nowhere() {
    for user in User::all() {
        let place = Place::new(user);
        for (directory, accepted) in [
            ("/proc/self/fd/7", false),
            ("/proc/self/fd/7/../../..", false),
            ("/proc/thread-self/cwd", false),
            ("/proc/1/root", false),
            ("/dev/fd/7", false),
            ("//proc/self/fd/7", false),
            ("/./proc/self/fd/7", false),
            ("..", false),
            ("../../etc", false),
            ("/bin/../../etc", false),
            ("/bin", true),
        ] {
            place.import_image(program(), Runtime { working_dir: directory.into(), ..server() }, "probe:1");
            match (confined(&place, &place.probe_policy("probe", "")), accepted) {
                (Ok(found), true) => assert_eq!(found["directory"], directory),
                (Err(said), false) => drop(one_error(&said)),
                (found, _) => panic!("{user:?} {directory}: {found:?}"),
            }
        }
        // Links and files of the image under that name: a directory of ours, inside, or a refusal.
        let prepared: [(&str, Add); 3] = [
            ("a link to descriptors", |files| files.symlink("work", "/proc/self/fd").unwrap()),
            ("a link out", |files| files.symlink("work", "../../../../..").unwrap()),
            ("a file", |files| files.file("work", 0o644, b"").unwrap()),
        ];
        for (what, add) in prepared {
            for directory in ["/work", "/work/7"] {
                let runtime = Runtime { working_dir: directory.into(), ..server() };
                place.import_image(add(program()), runtime, "probe:1");
                match confined(&place, &place.probe_policy("probe", "")) {
                    Ok(found) => assert_eq!(found["directory"], directory, "{user:?} {what}"),
                    Err(said) => drop(one_error(&said)),
                }
            }
        }
    }
}

/// USER: what overflows, is negative or is nobody is refused; nothing becomes another id than it says
/// (CVE-2024-40635).
#[test]
fn a_user_is_what_it_says_or_refused() {
    let place = Place::new(User::all()[0]);
    for (user, expected) in [
        ("0", Some("uid 0 gid 0")),
        ("1000:1000", Some("uid 1000 gid 1000")),
        ("4294967294:4294967294", Some("uid 4294967294 gid 4294967294")),
        ("4294967295", None),
        ("4294967296", None),
        ("4294967296:1", None),
        ("1:4294967296", None),
        ("18446744073709551616", None),
        ("-1", None),
        ("-1:-1", None),
        ("0x0", None),
        ("1e3", None),
        (" 0", None),
        ("root", None),
        ("nobody:nogroup", None),
        ("1:2:3", None),
        ("root\n0", None),
    ] {
        place.import_image(program(), Runtime { user: user.into(), ..server() }, "probe:1");
        let output = place.run(["explain", place.probe_policy("probe", "").to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(ids) = expected {
            assert!(said.contains(&format!("{ids} inside")), "{user:?}: {said}{}", stderr(&output));
        } else {
            assert_eq!(output.status.code(), Some(3), "{user:?}: {said}");
            one_error(&stderr(&output));
        }
    }
}

/// ENTRYPOINT: nothing, no program, a directory, a script without an end, a set-id program.
#[test]
fn an_entry_point_is_a_program_of_the_image() {
    for user in User::all() {
        let place = Place::new(user);
        let scripts = || {
            (0..10).fold(program().file("bin/s10", 0o755, PROBE).unwrap(), |files, level| {
                let next = format!("#!/bin/s{}\n", level + 1);
                files.file(&format!("bin/s{level}"), 0o755, next.as_bytes()).unwrap()
            })
        };
        for (what, files, entry, statuses) in [
            ("nothing", program(), vec![], &[3, 125][..]),
            ("an empty name", program(), vec![""], &[3, 125, 126, 127]),
            ("no program", program(), vec!["/bin/missing"], &[127]),
            ("a name that is nowhere along PATH", program(), vec!["missing"], &[127]),
            ("a directory", program(), vec!["/bin"], &[126]),
            ("a relative path that climbs", program(), vec!["../../../../bin/sh"], &[126, 127]),
            ("no permission", program().file("bin/x", 0o644, PROBE).unwrap(), vec!["/bin/x"], &[126]),
            ("no format", program().file("bin/x", 0o755, b"text").unwrap(), vec!["/bin/x"], &[126]),
            ("scripts of ten levels", scripts(), vec!["/bin/s0"], &[126]),
        ] {
            let entrypoint = entry.iter().map(|&word| word.to_owned()).collect();
            place.import_image(files, Runtime { entrypoint, ..Runtime::default() }, "probe:1");
            let policy = place.probe_policy("probe", "");
            let ran = watch_to_end(&mut place.palisade(["run", policy.to_str().unwrap()]), "");
            let status = ran.output.status.code().unwrap();
            assert!(statuses.contains(&status), "{user:?} {what}: {status}: {}", stderr(&ran.output));
            one_error(&stderr(&ran.output));
            place.nothing_left(&ran.family);
        }
        // The last of the scripts is a program, and a set-id one runs without its bits.
        for (files, entry) in
            [(scripts(), "/bin/s9"), (program().file("bin/x", 0o6755, PROBE).unwrap(), "/bin/x")]
        {
            let runtime = Runtime { entrypoint: vec![entry.into()], ..Runtime::default() };
            place.import_image(files, runtime, "probe:1");
            if entry == "/bin/x" {
                let found = confined(&place, &place.probe_policy("probe", "")).unwrap();
                assert_eq!(found["status"]["CapEff"], "0000000000000000");
            }
        }
    }
}

/// Of an image's configuration five fields are read; labels, volumes, ports and the rest decide nothing
/// (CVE-2022-23648, CVE-2026-55887).
#[test]
fn labels_and_volumes_decide_nothing() {
    let place = Place::new(User::all()[0]);
    place.import_image(program(), server(), "probe:1");
    let policy = place.probe_policy("probe", "");
    let normal = confined(&place, &policy).unwrap();
    let layout = place.root.join("layout-probe-1");
    rewrite_config(&layout, |config| {
        config["config"]["Labels"] = json!({
            "io.docker.server.metadata": "{\"volumes\":[\"/:/host\"],\"command\":[\"--privileged\"]}",
            "palisade.policy": "filesystem: { mounts: [ { source: /, target: /host } ] }",
        });
        config["config"]["Volumes"] = json!({ "/../../etc": {}, "/host:/etc": {} });
        config["config"]["ExposedPorts"] = json!({ "22/tcp": {} });
        config["config"]["StopSignal"] = json!("SIGKILL");
        config["config"]["Healthcheck"] = json!({ "Test": ["CMD-SHELL", "touch /tmp/healthy"] });
        config["config"]["Shell"] = json!(["/bin/sh", "-c"]);
    });
    place.give_tree(&layout);
    place.must(["image", "import", layout.to_str().unwrap(), "--as", "probe:1"]);
    assert_eq!(confined(&place, &policy).unwrap(), normal);
}

/// Changes the configuration of a layout's only image, and the digests that lead to it.
fn rewrite_config(layout: &Path, change: impl FnOnce(&mut Value)) {
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let blob =
        |digest: &Value| layout.join("blobs/sha256").join(digest.as_str().unwrap().replace("sha256:", ""));
    let write = |value: &Value| -> Value {
        let bytes = serde_json::to_vec(value).unwrap();
        let scratch = layout.join("scratch");
        std::fs::write(&scratch, &bytes).unwrap();
        let sum = Command::new("sha256sum").arg(&scratch).output().unwrap();
        let line = String::from_utf8(sum.stdout).unwrap();
        let hex = line.split_whitespace().next().unwrap();
        std::fs::rename(&scratch, layout.join("blobs/sha256").join(hex)).unwrap();
        json!({ "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let point = |descriptor: &mut Value, to: &Value| {
        for field in ["digest", "size"] {
            descriptor[field] = to[field].clone();
        }
    };
    let mut index = read(&layout.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]["digest"]));
    let mut config = read(&blob(&manifest["config"]["digest"]));
    change(&mut config);
    point(&mut manifest["config"], &write(&config));
    point(&mut index["manifests"][0], &write(&manifest));
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

/// Variables of an image reach its server and none of our processes; those that say nothing are refused.
#[test]
fn an_images_environment_is_the_servers_alone() {
    for user in User::all() {
        let place = Place::new(user);
        let env = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let pairs = [("LD_PRELOAD", "/bin/evil.so"), ("RUST_LOG", "trace"), ("A", "1"), ("A", "2")];
        let files = program().file("bin/evil.so", 0o755, b"no library").unwrap();
        place.import_image(files, Runtime { env: env(&pairs), ..server() }, "probe:1");
        let policy = place.probe_policy("probe", "");
        let mut session = place.session(&policy);
        let facts = session.facts();
        let environment = facts["environment"].as_array().unwrap();
        assert!(environment.contains(&json!("LD_PRELOAD=/bin/evil.so")), "{environment:?}");
        let named_a = environment.iter().filter(|entry| entry.as_str().unwrap().starts_with("A=")).count();
        assert!(named_a <= 2, "{environment:?}");
        let family = support::descendants(session.child.id());
        let (_server, ours) = family.split_last().unwrap();
        for process in ours {
            let environ = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            let text = String::from_utf8_lossy(&environ).into_owned();
            assert!(!text.contains("LD_PRELOAD") && !text.contains("RUST_LOG"), "{process}: {text}");
        }
        drop(session);
        for (what, entries) in [
            ("no `=`", json!(["NOTHING"])),
            ("no name", json!(["=value"])),
            ("a NUL", json!(["A=\u{0}B"])),
            ("huge", json!([format!("A={}", "x".repeat(8 * 1024 * 1024))])),
            ("many", json!(vec!["A=b"; 100_000])),
        ] {
            place.import_image(program(), server(), "probe:1");
            let layout = place.root.join("layout-probe-1");
            rewrite_config(&layout, |config| config["config"]["Env"] = entries);
            place.give_tree(&layout);
            let output = place.run(["image", "import", layout.to_str().unwrap(), "--as", "probe:2"]);
            assert!(!output.status.success(), "{user:?} {what} is refused");
            one_error(&stderr(&output));
        }
    }
}

/// A mount point inside another mount would be a place that its server may write and exchange. No policy may say that,
/// and nothing is made in the mounted directory (CVE-2021-30465, CVE-2024-45310).
#[test]
fn a_mount_inside_a_mount_is_not_led_astray() {
    for user in User::all() {
        let place = Place::new(user);
        place.import_image(program(), server(), "probe:1");
        let (outer, inner) = (place.dir("outer"), place.dir("inner"));
        place.write("inner/file", "inner");
        let elsewhere = place.dir("elsewhere");
        let more = format!(
            "filesystem: {{ mounts: [ {{ source: \"{}\", target: /data, access: read-write }}, \
             {{ source: \"{}\", target: /data/sub/deep, access: read-only }} ] }}",
            outer.display(),
            inner.display()
        );
        let policy = place.policy("probe", "probe:1", &more);
        for prepared in ["nothing", "a link", "a link above"] {
            let _absent = std::fs::remove_dir_all(outer.join("sub"));
            let _absent = std::fs::remove_file(outer.join("sub"));
            match prepared {
                "a link" => {
                    std::fs::create_dir(outer.join("sub")).unwrap();
                    std::os::unix::fs::symlink(&elsewhere, outer.join("sub/deep")).unwrap();
                }
                "a link above" => std::os::unix::fs::symlink(&elsewhere, outer.join("sub")).unwrap(),
                _ => {}
            }
            let said = confined(&place, &policy).expect_err("one mount inside another is no policy");
            assert!(one_error(&said).message.contains("overlaps"), "{user:?} {prepared}: {said}");
            let names = support::names_in(&elsewhere);
            assert!(names.is_empty(), "{user:?} {prepared}: made outside: {names:?}");
        }
    }
}
