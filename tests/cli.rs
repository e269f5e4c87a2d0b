//! The command line as people see it: help, errors, `explain`, `doctor`, and the documents that it generates.
//!
//! What is shown is compared with the files in `tests/snapshots` and `docs`. After a change that is meant,
//! `PALISADE_BLESS=1 cargo test --test cli` writes them again; look at the difference before it is committed.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests work on files of their own")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use serde_json::Value;
use support::{DEMO_SERVER, Place, User, assert_plain, one_error, stderr};

fn file_of_the_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with a file of the repository, or writes it when the caller says so.
#[track_caller]
fn matches_file(path: &str, shown: &str) {
    let file = file_of_the_repository(path);
    if std::env::var_os("PALISADE_BLESS").is_some() {
        fs::write(&file, shown).unwrap();
        return;
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if let Some((number, (is, was))) = shown
        .lines()
        .chain(["(end)"])
        .zip(expected.lines().chain(["(end)"]))
        .enumerate()
        .find(|(_, (is, was))| is != was)
    {
        panic!(
            "{path} differs after {number} lines; PALISADE_BLESS=1 writes it again\n  was: {was}\n  is:  {is}"
        );
    }
    assert_eq!(shown, expected, "{path} differs");
}

/// The text without what is this machine's or this run's.
fn normalised(place: &Place, text: &str) -> String {
    let text = text.replace(place.root.to_str().unwrap(), "[PLACE]");
    let mut parts = text.split("sha256:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        let is_digest = part.len().checked_sub(rest.len()) == Some(64);
        out.push_str("sha256:");
        out.push_str(if is_digest { "[DIGEST]" } else { part });
        out.push_str(if is_digest { rest } else { "" });
    }
    out
}

/// One run as a snapshot shows it.
fn transcript(place: &Place, arguments: &[&str], output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let status = output.status.code().unwrap();
    normalised(place, &format!("$ palisade {}\n{stdout}{stderr}[status {status}]\n", arguments.join(" ")))
}

// ---- help

/// `--help` of a command and of everything below it.
fn help_of(place: &Place, command: &[&str], out: &mut String) {
    let arguments = [command, &["--help"]].concat();
    let output = place.run(&arguments);
    assert!(output.status.success() && output.stderr.is_empty());
    out.push_str(&transcript(place, &arguments, &output));
    out.push('\n');
    let text = String::from_utf8(output.stdout).unwrap();
    assert_plain(&text);
    let Some((_, commands)) = text.split_once("Commands:\n") else { return };
    let lines = commands.lines().take_while(|line| line.starts_with("  "));
    for name in lines.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        help_of(place, &[command, &[name]].concat(), out);
    }
}

#[test]
fn help_of_every_command() {
    let place = Place::new(User::all()[0]);
    let mut shown = String::new();
    help_of(&place, &[], &mut shown);
    for command in
        ["demo", "run", "gateway run", "image import", "image keygen", "policy check", "explain", "doctor"]
    {
        assert!(shown.contains(&format!("$ palisade {command} --help\n")), "`{command}` has no help");
    }
    matches_file("tests/snapshots/help.txt", &shown);
}

// ---- errors

/// A command line that is no command line: clap says what is wrong, with the usage as the way out; so there is no
/// hint of ours.
#[test]
fn wrong_command_lines() {
    let place = Place::new(User::all()[0]);
    let mut shown = String::new();
    for arguments in [
        &["--nope"][..],
        &["rum"],
        &["run"],
        &["image", "lst"],
        &["run", "demo.yaml", "--secret-file", "token"],
        &["run", "demo.yaml", "--secret-env", "=value"],
        &["gateway", "run"],
        &["gateway", "run", "--policy", "demo.yaml", "--transport", "carrier-pigeon"],
        &["gateway", "run", "--policy", "demo.yaml", "--listen", "everywhere"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = stderr(&output);
        assert_plain(&said);
        assert!(said.starts_with("error: ") && said.contains("try '--help'"), "{said}");
        shown.push_str(&transcript(&place, arguments, &output));
        shown.push('\n');
    }
    matches_file("tests/snapshots/command-lines.txt", &shown);
}

/// Makes what the error cases need.
fn a_place_with_images() -> Place {
    let place = Place::new(User::all()[0]);
    place.demo_policy("");
    for key in ["key", "stranger"] {
        place.must(["image", "keygen", key]);
    }
    place.policy("absent", "absent:1", "");
    place.policy("named-badly", "Demo:1", "");
    place.policy(
        "mount",
        "demo:1",
        "filesystem: { mounts: [ { source: /no/such/place, target: /work, access: read-only } ] }",
    );
    place.policy("secret", "demo:1", "secrets: [ { name: token, env: TOKEN } ]");
    place.write(
        "signed.yaml",
        "palisade: 1\nserver: demo\naccept_degraded: [memory, cpus]\nimage:\n  reference: \"demo:1\"\n  \
         signed_by: [ { key: key.pub, tlog: optional } ]\n",
    );
    place.write(
        "no-key.yaml",
        "palisade: 1\nserver: demo\nimage: { reference: \"demo:1\", signed_by: [ { key: nowhere.pub, tlog: optional } ] }\n",
    );
    let pinned = format!("sha256:{}", "0".repeat(64));
    place.write(
        "pinned.yaml",
        format!(
            "palisade: 1\nserver: demo\nimage: {{ reference: \"demo:1\", digest: \"{pinned}\", unsigned: \"a test\" }}\n\
             accept_degraded: [memory, cpus]\n"
        ),
    );
    let open = place.write("open-secret", "value");
    fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let short = place.write("short-token", "abc");
    let empty = place.write("empty-secret", "");
    for file in [short, empty] {
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    }
    place.write("text", "this is no archive");
    place.dir("empty");
    image_with_another_program(&place);
    let corrupt = place.root.join("corrupt");
    Builder::new(Runtime::default())
        .layer(LayerFiles::new().file("a", 0o644, b"a").unwrap())
        .unwrap()
        .write(&corrupt)
        .unwrap();
    place.give_tree(&corrupt);
    for blob in fs::read_dir(corrupt.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        let bytes = fs::read(&blob).unwrap();
        fs::write(&blob, vec![b'x'; bytes.len()]).unwrap();
    }
    place
}

/// Its ENTRYPOINT is not in it.
fn image_with_another_program(place: &Place) {
    let layout = place.root.join("layout-other");
    let files = LayerFiles::new().file("bin/another", 0o755, DEMO_SERVER).unwrap();
    let runtime = Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() };
    Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
    place.give_tree(&layout);
    place.must(["image", "import", layout.to_str().unwrap(), "--as", "other:1"]);
    place.policy("other", "other:1", "");
}

/// Errors that are ours: each with its status.
const ERRORS: &[(i32, &[&str])] = &[
    // policies
    (2, &["run", "nowhere.yaml"]),
    (2, &["explain", "nowhere.yaml"]),
    (2, &["policy", "check", "empty"]),
    (2, &["gateway", "run", "--policy", "demo.yaml", "demo.yaml"]),
    // images
    (125, &["image", "import", "nowhere", "--as", "demo:2"]),
    (125, &["image", "import", "text", "--as", "demo:2"]),
    (125, &["image", "import", "empty", "--as", "demo:2"]),
    (125, &["image", "import", "corrupt", "--as", "demo:2"]),
    (2, &["image", "import", "layout-demo-1", "--as", "Not A Name"]),
    (2, &["image", "rm", "absent:1"]),
    (2, &["image", "sign", "absent:1", "--key", "key"]),
    (2, &["image", "sign", "demo:1", "--key", "nowhere"]),
    (2, &["image", "sign", "demo:1", "--key", "text"]),
    (125, &["image", "keygen", "key"]),
    // trust
    (2, &["image", "verify", "absent.yaml"]),
    (3, &["image", "verify", "named-badly.yaml"]),
    (2, &["image", "verify", "no-key.yaml"]),
    (3, &["image", "verify", "signed.yaml"]),
    (3, &["image", "prepare", "pinned.yaml"]),
    // secrets
    (2, &["run", "secret.yaml"]),
    (2, &["run", "secret.yaml", "--secret-file", "token=nowhere"]),
    (2, &["run", "secret.yaml", "--secret-file", "token=open-secret"]),
    (2, &["run", "secret.yaml", "--secret-env", "token=NOT_SET"]),
    (2, &["run", "secret.yaml", "--secret-env", "token=HOME", "--secret-file", "token=open-secret"]),
    // starting
    (125, &["run", "mount.yaml"]),
    (125, &["run", "demo.yaml", "--audit-log", "text/audit.jsonl"]),
    (127, &["run", "other.yaml"]),
    (2, &["gateway", "run", "--policy", "demo.yaml", "--transport", "http", "--token-file", "short-token"]),
    (2, &["gateway", "run", "--policy", "demo.yaml", "--transport", "http", "--listen", "192.0.2.1:1"]),
    (2, &["run", "demo.yaml", "--secret-env", "tokne=HOME"]),
    (2, &["run", "secret.yaml", "--secret-env", "token=HOME", "--secret-env", "token=PATH"]),
    // the store
    (125, &["image", "ls", "--store", "text"]),
    (125, &["image", "ls", "--store", "open-store"]),
];

#[test]
fn every_class_of_error() {
    let place = a_place_with_images();
    let open = place.dir("open-store");
    fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let mut shown = String::new();
    for (status, arguments) in ERRORS {
        let own_store = arguments.contains(&"--store");
        let output = if own_store { place.elsewhere(arguments) } else { place.run(*arguments) };
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(*status), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        // What a gateway says before it fails is no part of the error.
        let error = said.split_once("error: ").map_or(said.clone(), |(_, rest)| format!("error: {rest}"));
        one_error(&error);
        assert_plain(&said);
        shown.push_str(&transcript(&place, arguments, &Output { stderr: error.into_bytes(), ..output }));
        shown.push('\n');
    }
    matches_file("tests/snapshots/errors.txt", &shown);
}

/// The start of a policy that is right so far.
const HEAD: &str = "palisade: 1\nserver: demo\nimage: { reference: \"demo:1\", unsigned: \"a test\" }\n";

/// Policies that are wrong in one way each; `{HEAD}` is the right start.
const BROKEN: &[(&str, &str)] = &[
    ("empty", ""),
    ("not a mapping", "- a\n- b\n"),
    ("not YAML", "palisade: 1\nserver: [demo\n"),
    (
        "another version",
        "palisade: 2\nserver: demo\nimage: { reference: \"demo:1\", unsigned: \"a test\" }\n",
    ),
    ("nothing of the image", "palisade: 1\nserver: demo\n"),
    ("unknown key", "{HEAD}limit: { memory: 64MiB }\n"),
    ("unknown key, nested", "{HEAD}limits: { memmory: 64MiB }\n"),
    ("the same key twice", "{HEAD}tools: { allow: [a] }\ntools: { allow: [b] }\n"),
    ("an anchor", "{HEAD}tools: { allow: &a [a], deny: *a }\n"),
    ("a tag", "{HEAD}args: !!str [a]\n"),
    ("a wrong type", "{HEAD}limits: { pids: many }\n"),
    ("a number with no unit", "{HEAD}limits: { memory: 64 }\n"),
    (
        "a bad server name",
        "palisade: 1\nserver: My Server\nimage: { reference: \"demo:1\", unsigned: \"a test\" }\n",
    ),
    (
        "signed and unsigned",
        "palisade: 1\nserver: demo\nimage: { reference: \"demo:1\", unsigned: \"a\", signed_by: [ { key: k.pub, tlog: optional } ] }\n",
    ),
    (
        "a mount over /proc",
        "{HEAD}filesystem: { mounts: [ { source: /srv, target: /proc, access: read-only } ] }\n",
    ),
    (
        "a relative mount",
        "{HEAD}filesystem: { mounts: [ { source: srv, target: /srv, access: read-only } ] }\n",
    ),
    ("a loader variable", "{HEAD}environment: { LD_PRELOAD: /lib/evil.so }\n"),
    ("not enforced yet: egress", "{HEAD}network: { egress: [ { host: example.com, ports: [443] } ] }\n"),
    ("not enforced yet: a pin", "{HEAD}tools: { pin: required }\n"),
    (
        "calls that cannot be added or removed",
        "{HEAD}syscalls:\n  add:\n    - { call: ptrace, reason: to debug }\n    - { call: opnat, reason: to open }\n    - { call: socket, reason: to connect }\n  remove:\n    - { call: execve, reason: not needed }\n    - { call: bpf, reason: not needed }\n",
    ),
    ("a list that is only logged", "{HEAD}syscalls: { seccomp: log }\n"),
    ("two mistakes", "{HEAD}netwrok: { egress: [] }\nlimits: { pids: many }\n"),
];

#[test]
fn broken_policies_are_shown_where_they_are_broken() {
    let place = Place::new(User::all()[0]);
    let mut shown = String::new();
    for (what, text) in BROKEN {
        place.write("policy.yaml", text.replace("{HEAD}", HEAD));
        let output = place.run(["policy", "check", "policy.yaml"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{what}: {said}");
        assert!(output.stdout.is_empty(), "{what}");
        assert_plain(&said);
        let count = |prefix: &str| said.lines().filter(|line| line.starts_with(prefix)).count();
        assert!(count("error: ") >= 1 && count("error: ") == count("hint: "), "{what}: {said}");
        assert!(said.contains("--> policy.yaml:"), "{what}: {said}");
        assert!(said.lines().all(|line| !line.ends_with('.')), "{what}: {said}");
        shown.extend(["# ", what, "\n", &said, "\n"]);
    }
    matches_file("tests/snapshots/policies.txt", &shown);
    place.write("policy.yaml", HEAD.to_owned() + "accept_degraded: [memory, cpus]\n");
    assert_eq!(place.must(["policy", "check", "policy.yaml"]), "policy.yaml: ok (server `demo`)\n");
}

// ---- data

#[test]
fn generated_documents_are_current() {
    let place = Place::new(User::all()[0]);
    let schema = place.must(["policy", "schema"]);
    let parsed: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(parsed["$schema"], "https://json-schema.org/draft/2020-12/schema");
    matches_file("docs/policy.schema.json", &schema);
    matches_file("docs/policy.md", &place.must(["policy", "reference"]));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = Place::new(User::all()[0]);
    let policy = place.demo_policy("");
    for arguments in [
        &["policy", "schema"][..],
        &["policy", "reference"],
        &["doctor"],
        &["doctor", "--json"],
        &["image", "ls"],
        &["explain", policy.to_str().unwrap()],
        &["--help"],
        &["policy", "check", policy.to_str().unwrap()],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.palisade(arguments).stdout(writer).spawn().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
    // A disk without room is another matter.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.palisade(["policy", "schema"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    one_error(&stderr(&output));
}

#[test]
fn doctor_says_the_same_to_people_and_to_programs() {
    for user in User::all() {
        let place = Place::new(user);
        let text = place.must(["doctor"]);
        assert_plain(&text);
        let json: Value = serde_json::from_str(&place.must(["doctor", "--json"])).unwrap();
        assert_eq!(json["version"], 1);
        assert!(json["host"].is_object());
        let findings = json["findings"].as_array().unwrap();
        let features: Vec<&str> =
            findings.iter().map(|finding| finding["feature"].as_str().unwrap()).collect();
        assert_eq!(
            features,
            [
                "user namespaces",
                "a sandbox",
                "Landlock",
                "seccomp",
                "mounts",
                "overlayfs",
                "cgroups",
                "subordinate ids",
                "security labels"
            ]
        );
        for finding in findings {
            let (feature, found) = (finding["feature"].as_str().unwrap(), finding["found"].as_str().unwrap());
            let mark = match finding["state"].as_str().unwrap() {
                "good" => "ok ",
                "degraded" => "degraded ",
                "missing" => "MISSING ",
                other => panic!("{other}"),
            };
            let line = text.lines().find(|line| line.contains(feature) && line.contains(found));
            assert!(line.is_some_and(|line| line.starts_with(mark)), "{finding:#}\n{text}");
            let parts: &[&str] = if mark == "ok " { &[] } else { &["means", "remedy"] };
            for part in parts {
                let said = finding[part].as_str().unwrap_or_default();
                assert!(!said.is_empty() && text.contains(said), "{part} of {finding:#}");
            }
        }
    }
}

/// A policy with everything that can be said.
const FULL: &str = r#"palisade: 1
server: full
image:
  reference: demo:1
  unsigned: "made by this test"
args: ["--one", "two words"]
environment: { LANG: C.UTF-8, MODE: "quiet\nplease" }
filesystem:
  mounts:
    - { source: ~/work, target: /workspace, access: read-only }
    - { source: ~/notes, target: /notes, access: read-write }
secrets:
  - { name: token, env: TOKEN }
  - { name: key, file: /run/secrets/key }
limits: { memory: 256MiB, cpus: 1.5, pids: 20, open_files: 100, file_size: 1MiB, tmp: 8MiB }
tools: { allow: [ "get_*", add ], deny: [ get_secret ] }
lifecycle: { start: on-demand, start_timeout: 10s, stop_timeout: 2s }
syscalls:
  baseline: static
  seccomp: kill
  add: [ { call: inotify_init1, reason: "watches its workspace" } ]
  remove: [ { call: listen, reason: "serves nobody" }, { call: accept, reason: "serves nobody" } ]
accept_degraded: [memory, cpus, pids]
"#;

/// What this host decides, replaced: ids, the Landlock ABI and what follows from it, cgroups, enforcement.
fn without_the_host(text: &str) -> String {
    let mut out = String::new();
    let mut section = "";
    for line in text.lines() {
        if !line.starts_with(' ') {
            section = line.split_whitespace().next().unwrap_or_default();
        }
        let is_hosts = match section {
            "identity" => {
                ["uid ", "label: ", "no label: "].iter().any(|word| line.trim_start().starts_with(word))
            }
            "limits" => [
                "cgroup",
                "no cgroup",
                "memory",
                "swap",
                "cpus",
                "pids",
                "rlimit         Processes",
                "rlimit         Data",
            ]
            .iter()
            .any(|word| line.trim_start().starts_with(word)),
            "enforcement" => line.starts_with("  "),
            _ => false,
        };
        if section == "landlock" && line.starts_with("landlock") {
            out.push_str("landlock (ABI [HOST])\n");
        } else if !is_hosts {
            out.push_str(line);
            out.push('\n');
        } else if !out.ends_with("  [HOST]\n") {
            out.push_str("  [HOST]\n");
        }
    }
    out
}

#[test]
fn explain_of_a_full_policy() {
    for user in User::all() {
        let place = Place::new(user);
        place.demo_policy("");
        for name in ["work", "notes"] {
            place.dir(name);
        }
        let policy = place.write("full.yaml", FULL);
        let output = place.run(["explain", policy.to_str().unwrap()]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_plain(&text);
        // Not normalised: the limits are there in one form or the other.
        for line in ["enforcement on this host", "no_new_privs", "READ AND WRITE", "UNSIGNED"] {
            assert!(text.contains(line), "`{line}` is missing: {text}");
        }
        matches_file("tests/snapshots/explain.txt", &without_the_host(&normalised(&place, &text)));

        let json: Value =
            serde_json::from_str(&place.must(["explain", policy.to_str().unwrap(), "--json"])).unwrap();
        assert_eq!(json["version"], 1);
        assert!(text.contains(json["digest"].as_str().unwrap()), "both name the same spec");
    }
}

#[test]
fn explain_without_the_image() {
    let place = Place::new(User::all()[0]);
    let policy = place.policy("demo", "absent:1", "");
    let text = place.must(["explain", policy.to_str().unwrap()]);
    assert!(text.contains("`absent:1` is not in the store"), "{text}");
}
