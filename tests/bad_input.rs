//! Bad input, row by row: each ends in one clear error with a hint and an exact status, and
//! leaves nothing half-made.
//!
//! Every test has its positive control: the same flow without the defect works.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests work on files of their own")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use palisade_image::layout::{Builder, LayerFiles, PackedLayer, Runtime};
use palisade_image::verify::{PrivateKey, signature_artifact};
use serde_json::{Value, json};
use support::{
    DEMO_SERVER, PATIENCE, Place, Session, Shown, User, Watched, need, one_error, remember, stderr,
    wait_within, watch,
};

/// The statuses of src/failure.rs.
const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const FAILED: i32 = 125;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Runs `palisade ARGUMENTS`, which must fail with one error and `status`, say nothing else and leave nothing.
#[track_caller]
fn refused(place: &Place, arguments: &[&str], status: i32) -> Shown {
    let Watched { output, family, .. } = watch(&mut place.palisade(arguments), "");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
    place.nothing_left(&family);
    one_error(&said)
}

/// The same through every command that would use the image: none of them unpacks it.
#[track_caller]
fn refused_everywhere(place: &Place, policy: &Path, status: i32) -> Shown {
    let policy = policy.to_str().unwrap();
    let before = place.unpacked();
    let [prepare, run, gateway] =
        [&["image", "prepare", policy][..], &["run", policy], &["gateway", "run", "--policy", policy]]
            .map(|arguments| refused(place, arguments, status));
    assert_eq!(prepare, run);
    assert_eq!(run, gateway);
    assert_eq!(place.unpacked(), before, "something was unpacked");
    run
}

/// The positive control: with this policy the server answers.
#[track_caller]
fn works(place: &Place, policy: &Path) {
    let mut session = place.session(policy);
    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    let mut family = Vec::new();
    remember(&mut family, session.child.id());
    let (status, said) = session.end();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(said, "", "a run without a defect says nothing");
    place.nothing_left(&family);
}

/// The layout of an image with the sample server and one more file.
fn image(more: &[u8]) -> Builder {
    let files =
        LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap().file("more", 0o644, more).unwrap();
    runtime().layer(files).unwrap()
}

fn runtime() -> Builder {
    Builder::new(Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() })
}

fn write_layout(place: &Place, name: &str, image: &Builder) -> PathBuf {
    let layout = place.root.join(name);
    image.write(&layout).unwrap();
    place.give_tree(&layout);
    layout
}

fn import(place: &Place, layout: &Path, name: &str) {
    place.must(["image", "import", layout.to_str().unwrap(), "--as", name]);
}

/// The largest blob below `dir`: the layer.
fn layer_blob(dir: &Path) -> PathBuf {
    let blobs = fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    blobs.max_by_key(|blob| fs::metadata(blob).unwrap().len()).unwrap()
}

fn flip_a_byte(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn corrupt_layer_in_the_layout() {
    for user in User::all() {
        let place = Place::new(user);
        let layout = write_layout(&place, "layout", &image(b""));
        flip_a_byte(&layer_blob(&layout));
        let layout = layout.to_str().unwrap();
        let shown = refused(&place, &["image", "import", layout, "--as", "demo:1"], FAILED);
        assert!(shown.message.contains("is corrupt: its digest is"), "{shown:?}");
        assert!(shown.hint.contains("copy it again"), "{shown:?}");
        assert_eq!(place.must(["image", "ls"]).trim(), "", "no image has got a name");

        let whole = write_layout(&place, "whole", &image(b""));
        import(&place, &whole, "demo:1");
        works(&place, &place.policy("demo", "demo:1", ""));
    }
}

#[test]
fn corrupt_layer_in_the_store() {
    for user in User::all() {
        let place = Place::new(user);
        let layout = write_layout(&place, "layout", &image(b""));
        import(&place, &layout, "demo:1");
        let policy = place.policy("demo", "demo:1", "");
        flip_a_byte(&layer_blob(&place.store()));
        let shown = refused_everywhere(&place, &policy, FAILED);
        assert!(shown.message.contains("cannot be unpacked: the digest of its bytes is"), "{shown:?}");
        assert!(shown.hint.contains("palisade image rm"), "{shown:?}");

        // The way out that the hint names.
        place.must(["image", "rm", "demo:1"]);
        import(&place, &layout, "demo:1");
        works(&place, &policy);
    }
}

#[test]
fn corrupt_layer_as_published() {
    for user in User::all() {
        let place = Place::new(user);
        let files = LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap();
        let mut layer = PackedLayer::gzip(&files.into_archive().unwrap()).unwrap();
        let whole = layer.clone();
        // Cut short by whoever published it: every digest is right.
        layer.blob.truncate(layer.blob.len() / 2);
        import(&place, &write_layout(&place, "cut", &runtime().packed_layer(layer)), "demo:1");
        let policy = place.policy("demo", "demo:1", "");
        let shown = refused_everywhere(&place, &policy, FAILED);
        assert!(shown.message.contains("its compressed bytes are damaged"), "{shown:?}");

        import(&place, &write_layout(&place, "whole", &runtime().packed_layer(whole)), "demo:1");
        works(&place, &policy);
    }
}

#[test]
fn wrong_digest() {
    for user in User::all() {
        let place = Place::new(user);
        let layout = write_layout(&place, "layout", &image(b""));
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let manifest = layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
        let original = fs::read(&manifest).unwrap();
        // Another manifest of the same size under the name of the first.
        fs::write(
            &manifest,
            String::from_utf8(original.clone()).unwrap().replacen("\"size\":", "\"siZe\":", 1),
        )
        .unwrap();
        let arguments = ["image", "import", layout.to_str().unwrap(), "--as", "demo:1"];
        let shown = refused(&place, &arguments, FAILED);
        assert!(shown.message.contains(digest), "{shown:?}");
        assert_eq!(place.must(["image", "ls"]).trim(), "");

        fs::write(&manifest, original).unwrap();
        place.must(arguments);
        works(&place, &place.policy("demo", "demo:1", ""));
    }
}

/// A policy for an image that must be signed by `key`.
fn signed_policy(place: &Place, key: &Path) -> PathBuf {
    let text = format!(
        "palisade: 1\nserver: demo\naccept_degraded: [memory, cpus]\nimage:\n  reference: \"demo:1\"\n  \
         signed_by: [ {{ key: \"{}.pub\", tlog: optional }} ]\n",
        key.display()
    );
    place.write("signed.yaml", text)
}

fn keys(place: &Place) -> [PathBuf; 2] {
    ["key", "stranger"].map(|name| {
        let key = place.root.join(name);
        place.must(["image", "keygen", key.to_str().unwrap()]);
        key
    })
}

#[test]
fn missing_signature_and_wrong_key() {
    for user in User::all() {
        let place = Place::new(user);
        let [key, stranger] = keys(&place);
        let policy = signed_policy(&place, &key);
        import(&place, &write_layout(&place, "layout", &image(b"")), "demo:1");
        let shown = refused_everywhere(&place, &policy, REFUSED);
        assert!(shown.message.contains("is not signed"), "{shown:?}");
        assert!(shown.hint.contains("palisade image sign"), "{shown:?}");

        place.must(["image", "sign", "demo:1", "--key", stranger.to_str().unwrap()]);
        let shown = refused_everywhere(&place, &policy, REFUSED);
        assert!(shown.message.contains("by a key that the policy trusts"), "{shown:?}");
        assert!(shown.hint.contains("sha256:"), "the trusted fingerprint: {shown:?}");
        assert!(place.unpacked().is_empty());

        place.must(["image", "sign", "demo:1", "--key", key.to_str().unwrap()]);
        works(&place, &policy);
    }
}

#[test]
fn signature_of_another_image() {
    for user in User::all() {
        let place = Place::new(user);
        let [key, _stranger] = keys(&place);
        let policy = signed_policy(&place, &key);
        let private = PrivateKey::read(&key).unwrap();
        let (honest, other) = (image(b""), image(b"another image"));
        let honest_digest = honest.manifest_digest().unwrap();
        let signature = signature_artifact("demo", &honest_digest, &private).unwrap();
        // A true signature by the trusted key, put where the other image's signature would be.
        let mut moved = signature.clone();
        moved.tag = format!("sha256-{}.sig", other.manifest_digest().unwrap().hex());
        import(&place, &write_layout(&place, "moved", &other.signature(moved)), "demo:1");
        let shown = refused_everywhere(&place, &policy, REFUSED);
        assert!(shown.message.contains("was made for another image"), "{shown:?}");
        assert!(shown.message.contains(&honest_digest.to_string()), "{shown:?}");
        assert!(shown.hint.contains("do not run it"), "{shown:?}");
        assert!(place.unpacked().is_empty());

        import(&place, &write_layout(&place, "honest", &honest.signature(signature)), "demo:1");
        works(&place, &policy);
    }
}

#[test]
fn policy_with_an_unknown_key() {
    for user in User::all() {
        let place = Place::new(user);
        import(&place, &write_layout(&place, "layout", &image(b"")), "demo:1");
        let policy = place.policy("demo", "demo:1", "limit: { memory: 64MiB }");
        let shown = refused_everywhere(&place, &policy, REFUSED);
        assert!(shown.message.contains("`limit`"), "{shown:?}");
        assert!(shown.hint.contains("limits"), "{shown:?}");
        assert!(place.unpacked().is_empty());

        works(&place, &place.policy("demo", "demo:1", "limits: { memory: 64MiB }"));
    }
}

#[test]
fn policy_for_another_image() {
    for user in User::all() {
        let place = Place::new(user);
        let (stored, pinned) = (image(b""), image(b"another image").manifest_digest().unwrap());
        let digest = stored.manifest_digest().unwrap();
        import(&place, &write_layout(&place, "layout", &stored), "demo:1");
        let policy = |digest: &str| {
            let text = format!(
                "palisade: 1\nserver: demo\naccept_degraded: [memory, cpus]\nimage:\n  reference: \"demo:1\"\n  \
                 digest: {digest}\n  unsigned: \"made by this test\"\n"
            );
            place.write("pinned.yaml", text)
        };
        let shown = refused_everywhere(&place, &policy(&pinned.to_string()), REFUSED);
        for part in [&digest, &pinned] {
            assert!(shown.message.contains(&part.to_string()), "{shown:?}");
        }
        assert!(place.unpacked().is_empty());
        // A name that the store does not have.
        let absent = place.policy("absent", "absent:1", "");
        let shown = refused_everywhere(&place, &absent, USAGE);
        assert!(shown.message.contains("absent:1") && shown.hint.contains("demo:1"), "{shown:?}");

        works(&place, &policy(&digest.to_string()));
    }
}

#[test]
fn missing_secret() {
    for user in User::all() {
        let place = Place::new(user);
        import(&place, &write_layout(&place, "layout", &image(b"")), "demo:1");
        let policy = place.policy("demo", "demo:1", "secrets: [ { name: token, env: DEMO_TOKEN } ]");
        let policy = policy.to_str().unwrap();
        for command in [&["run", policy][..], &["gateway", "run", "--policy", policy]] {
            let shown = refused(&place, command, USAGE);
            assert!(shown.message.contains("`token`"), "{shown:?}");
            assert!(shown.hint.contains("--secret-file token=PATH"), "{shown:?}");
            let unset = [command, &["--secret-env", "token=NOT_SET_ANYWHERE"]].concat();
            let shown = refused(&place, &unset, USAGE);
            assert!(shown.message.contains("`NOT_SET_ANYWHERE`"), "{shown:?}");
        }
        assert!(place.unpacked().is_empty(), "secrets are looked at first");

        let mut given = place.palisade(["run", policy, "--secret-env", "token=GIVEN"]);
        let mut session = Session::start(given.env("GIVEN", "value"));
        session.initialize();
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
    }
}

#[test]
fn mount_source_that_does_not_exist() {
    for user in User::all() {
        let place = Place::new(user);
        import(&place, &write_layout(&place, "layout", &image(b"")), "demo:1");
        let source = place.root.join("work");
        let more = format!(
            "filesystem: {{ mounts: [ {{ source: \"{}\", target: /work, access: read-only }} ] }}",
            source.display()
        );
        let policy = place.policy("demo", "demo:1", &more);
        for command in [
            &["run", policy.to_str().unwrap()][..],
            &["gateway", "run", "--policy", policy.to_str().unwrap()],
        ] {
            let shown = refused(&place, command, FAILED);
            for sentence in [&shown.message, &shown.hint] {
                assert!(sentence.contains(source.to_str().unwrap()), "{shown:?}");
            }
            assert_eq!(shown.causes.len(), 1, "{shown:?}");
        }
        assert!(!source.is_dir(), "it is not made for them");

        place.dir("work");
        works(&place, &policy);
    }
}

#[test]
fn programs_that_cannot_be_executed() {
    for user in User::all() {
        let place = Place::new(user);
        let program = |name: &str, path: &str, mode: u32, bytes: &[u8]| {
            let files = LayerFiles::new().file(path, mode, bytes).unwrap();
            import(
                &place,
                &write_layout(&place, name, &runtime().layer(files).unwrap()),
                &format!("{name}:1"),
            );
            place.policy(name, &format!("{name}:1"), "")
        };
        for (policy, status) in [
            (program("absent", "bin/another", 0o755, DEMO_SERVER), NOT_FOUND),
            (program("plain", "bin/server", 0o644, DEMO_SERVER), NOT_EXECUTABLE),
            (program("text", "bin/server", 0o755, b"this is no program"), NOT_EXECUTABLE),
        ] {
            let Watched { output, family, .. } =
                watch(&mut place.palisade(["run", policy.to_str().unwrap()]), INITIALIZE);
            assert_eq!(output.status.code(), Some(status), "{}: {}", policy.display(), stderr(&output));
            let shown = one_error(&stderr(&output));
            assert!(shown.hint.contains("ENTRYPOINT"), "{shown:?}");
            client_was_told(&output.stdout);
            place.nothing_left(&family);
        }
        works(&place, &program("fine", "bin/server", 0o755, DEMO_SERVER));
    }
}

// ---- servers that are bad partners

/// The first line that a client sends.
const INITIALIZE: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"#,
    r#""clientInfo":{"name":"test","version":"1"}}}"#,
    "\n"
);

/// Short, since some of these servers use all of both.
const PATIENT: &str = "lifecycle: { start_timeout: 3s, stop_timeout: 1s }";

fn misbehaving(place: &Place, how: &str) -> PathBuf {
    place.demo_policy("");
    place.policy(how, "demo:1", &format!("args: [--misbehave, {how}]\n{PATIENT}"))
}

/// The client's one request has got one answer, which is an error.
#[track_caller]
fn client_was_told(stdout: &[u8]) -> String {
    let text = String::from_utf8(stdout.to_vec()).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 1, "{text}");
    assert_eq!(answers[0]["id"], 1, "{text}");
    answers[0]["error"]["message"].as_str().unwrap().to_owned()
}

/// Runs a server that misbehaves from the start: the client is told, then there is one error and nothing else.
#[track_caller]
fn broken_off(place: &Place, how: &str, status: i32, said: &str) -> Watched {
    let policy = misbehaving(place, how);
    let watched = watch(&mut place.palisade(["run", policy.to_str().unwrap()]), INITIALIZE);
    let text = stderr(&watched.output);
    assert_eq!(watched.output.status.code(), Some(status), "{how}: {text}");
    let shown = one_error(&text);
    assert!(shown.message.contains(&format!("server `{how}`")) && shown.message.contains(said), "{shown:?}");
    let told = client_was_told(&watched.output.stdout);
    assert!(told.contains(said), "{told}");
    // Some of these are over before all four of their processes have been seen.
    assert!(!watched.family.is_empty(), "the server did run");
    place.nothing_left(&watched.family);
    let stops = place.audit().into_iter().filter(|event| event["event"] == "server_stop").count();
    assert_eq!(stops, 1, "the audit log has its end");
    works(place, &place.policy("demo", "demo:1", PATIENT));
    watched
}

#[test]
fn server_that_writes_garbage() {
    for user in User::all() {
        broken_off(&Place::new(user), "garbage", FAILED, "64 lines in a row that are no MCP messages");
    }
}

#[test]
fn server_that_writes_a_line_of_one_gib() {
    for user in User::all() {
        let watched =
            broken_off(&Place::new(user), "endless-line", FAILED, "a line over the limit of 16 MiB");
        assert!(watched.peak_kib > 0, "its memory was looked at");
        assert!(watched.peak_kib < 200 * 1024, "{} KiB for a line that is thrown away", watched.peak_kib);
    }
}

#[test]
fn server_that_exits_at_once() {
    for user in User::all() {
        // 7 is the server's own status.
        let watched = broken_off(&Place::new(user), "exit", 7, "exited with status 7");
        let said = stderr(&watched.output);
        assert!(said.contains("this server leaves before it says anything"), "its last words: {said}");
    }
}

#[test]
fn server_that_never_answers_initialize() {
    for user in User::all() {
        broken_off(&Place::new(user), "mute", FAILED, "did not answer `initialize` within 3 s");
    }
}

#[test]
fn server_that_ignores_the_end_of_input_and_term() {
    for user in User::all() {
        let place = Place::new(user);
        let policy = misbehaving(&place, "deaf");
        let mut session = place.session(&policy);
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let mut family = Vec::new();
        remember(&mut family, session.child.id());
        session.close();
        // One second of its own, one after TERM, and what a busy machine adds.
        let status = wait_within(&mut session.child, PATIENCE).expect("it is held up by a deaf server");
        let said = session.stderr_so_far();
        // Killed: 128 + 9.
        assert_eq!(status.code(), Some(137), "{said}");
        let shown = one_error(&said);
        assert!(shown.message.contains("server `deaf`") && shown.message.contains("killed"), "{shown:?}");
        assert!(shown.hint.contains("stop_timeout"), "{shown:?}");
        place.nothing_left(&family);

        works(&place, &place.policy("demo", "demo:1", PATIENT));
    }
}

/// Behind a gateway, each bad server is reported and none of them touches the good one.
#[test]
fn bad_servers_beside_a_good_one() {
    for user in User::all() {
        let place = Place::new(user);
        let good = place.demo_policy(PATIENT);
        let mut arguments =
            vec!["gateway".to_owned(), "run".into(), "--policy".into(), good.display().to_string()];
        let bad = ["garbage", "endless-line", "exit", "mute"];
        for how in bad {
            arguments.extend(["--policy".into(), misbehaving(&place, how).display().to_string()]);
        }
        let mut session = Session::start(&mut place.palisade(&arguments));
        session.initialize();
        let mut family = Vec::new();
        let listed = session.request("tools/list", json!({}));
        let tools = listed["result"]["tools"].as_array().unwrap();
        assert!(!tools.is_empty());
        assert!(tools.iter().all(|tool| tool["name"].as_str().unwrap().starts_with("demo__")), "{tools:?}");
        remember(&mut family, session.child.id());
        assert_eq!(session.call("demo__add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        let peak = support::peak_memory_kib(session.child.id()).unwrap();
        assert!(peak < 200 * 1024, "{peak} KiB");
        // A call to a bad server is answered, with the reason.
        for how in bad {
            let answer =
                session.request("tools/call", json!({ "name": format!("{how}__add"), "arguments": {} }));
            let answer = answer.to_string();
            assert!(answer.contains("error") || answer.contains("isError"), "{how}: {answer}");
        }
        remember(&mut family, session.child.id());
        let (status, said) = session.end();
        assert!(status.success(), "{status}: {said}");
        for how in bad {
            assert!(said.contains(how), "`{how}` is not reported: {said}");
        }
        support::assert_plain(&said);
        place.nothing_left(&family);
    }
}

// ---- a store without room

/// `palisade ARGUMENTS` with the store on a file system of its own, with these options, after `before` ran there.
/// The output ends with what is in the store's tmp and rootfs afterwards.
fn on_a_small_disk(place: &Place, options: &str, before: Option<&str>, arguments: &str) -> (Watched, String) {
    let store = place.dir("store");
    let id = place.user.id();
    let root = nix::unistd::Uid::effective().is_root();
    // In a namespace of its own, so that nothing of it is left on the host.
    let (namespace, owner, user) = if root {
        ("-m", format!(",uid={id},gid={id}"), format!("setpriv --reuid {id} --regid {id} --clear-groups"))
    } else {
        ("-Urm", String::new(), String::new())
    };
    let palisade = format!("{user} {} --store {}", place.program().display(), store.display());
    let prepare = before.map(|before| format!("{palisade} {before} >&2 || exit 99; ")).unwrap_or_default();
    let script = format!(
        "mount -t tmpfs -o mode=700{owner},{options} tmpfs {store} || exit 98; {prepare}{palisade} {arguments}; \
         status=$?; echo LEFT:; ls -A {store}/tmp {store}/rootfs; ls -A {store}; exit $status",
        store = store.display()
    );
    let mut command = Command::new("unshare");
    command.args([namespace, "sh", "-c", &script]).stdin(Stdio::null()).env("HOME", &place.root);
    let watched = watch(&mut command, "");
    let stdout = String::from_utf8_lossy(&watched.output.stdout).into_owned();
    let (data, left) = stdout.split_once("LEFT:\n").unwrap_or_else(|| panic!("{}", stderr(&watched.output)));
    let (data, left) = (data.to_owned(), left.to_owned());
    assert!(data.is_empty() || watched.output.status.success(), "{data}");
    (watched, left)
}

/// Asserts an error about room; nothing half-made is in what `ls` shows.
#[track_caller]
fn no_room(place: &Place, (watched, left): &(Watched, String), what: &str) {
    let said = stderr(&watched.output);
    assert_eq!(watched.output.status.code(), Some(FAILED), "{what}: {said}");
    let shown = one_error(&said);
    assert!(shown.message.contains("no room left in the image store"), "{what}: {shown:?}");
    assert!(shown.hint.contains("--store"), "{what}: {shown:?}");
    let sections: Vec<&str> = left.split("\n\n").collect();
    for dir in ["tmp", "rootfs"] {
        let header = format!("{}/{dir}:", place.store().display());
        for section in sections.iter().filter(|section| section.starts_with(&header)) {
            let inside: Vec<&str> = section
                .lines()
                .skip(1)
                .take_while(|line| *line != "audit.jsonl" && *line != "blobs")
                .collect();
            assert!(inside.is_empty(), "{what}: {dir} holds {inside:?}");
        }
    }
    assert!(!left.lines().any(|line| line.starts_with("format.")), "{what}: {left}");
    place.nothing_left(&watched.family);
}

#[test]
fn store_without_room() {
    let can_mount = |user: User| {
        let place = Place::new(user);
        let (watched, _left) = on_a_small_disk(&place, "size=1m", None, "image ls");
        watched.output.status.success()
    };
    for user in User::all() {
        if !need("a tmpfs in a mount namespace", can_mount(user)) {
            continue;
        }
        let place = Place::new(user);
        // 8 MiB of zeros are some KiB in the archive, so this image fits packed where it does not fit unpacked.
        let layout = write_layout(&place, "layout", &image(&vec![0; 8 * 1024 * 1024]));
        let policy = place.policy("demo", "demo:1", "");
        let import = format!("image import {} --as demo:1", layout.display());
        let prepare = format!("image prepare {}", policy.display());
        let run = format!("run {}", policy.display());

        for options in ["size=4k", "size=64k", "nr_inodes=2", "nr_inodes=9"] {
            no_room(&place, &on_a_small_disk(&place, options, None, &import), options);
        }
        for command in [&prepare, &run] {
            no_room(&place, &on_a_small_disk(&place, "size=4m", Some(&import), command), command);
        }
        // The positive control, as far as no server is started.
        let (enough, left) = on_a_small_disk(&place, "size=64m", Some(&import), &prepare);
        assert!(enough.output.status.success(), "{}", stderr(&enough.output));
        assert!(left.contains("sha256") || left.lines().count() > 8, "{left}");
    }
}

/// The tests above look at what a run leaves; this one makes sure that they would see it.
#[test]
fn what_is_left_is_seen() {
    let place = Place::new(User::all()[0]);
    let policy = place.demo_policy("");
    let session = place.session(&policy);
    let mut family = Vec::new();
    remember(&mut family, session.child.id());
    let seen = |what: &str| {
        let look = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| place.nothing_left(&family)));
        assert!(look.is_err(), "{what} was not seen");
    };
    seen("a running server");
    drop(session);
    place.nothing_left(&family);
    fs::create_dir(place.store().join("tmp/half-made")).unwrap();
    seen("a half-made layer");
    fs::remove_dir(place.store().join("tmp/half-made")).unwrap();
    fs::write(place.store().join("format.1"), "").unwrap();
    seen("a half-made file of the store");
}
