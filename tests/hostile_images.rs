//! Images that try to decide where our mounts go, or where the server starts.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests act as a person would, on paths")]

mod support;

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use serde_json::json;
use support::{DEMO_SERVER, Place, User, stderr};

fn import(place: &Place, files: LayerFiles, runtime: Runtime) {
    let layout = place.root.join("layout");
    if layout.exists() {
        std::fs::remove_dir_all(&layout).unwrap();
    }
    Builder::new(runtime).layer(files).unwrap().write(&layout).unwrap();
    place.give_tree(&layout);
    place.must(["image", "import", layout.to_str().unwrap(), "--as", "demo:1"]);
}

fn server() -> Runtime {
    Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() }
}

/// Every mount point is a symbolic link in the image: to places of the image, of the host, and to nothing.
/// (CVE-2019-19921, CVE-2021-30465, CVE-2023-27561 and CVE-2025-31133 are attacks of this shape.)
#[test]
fn mount_points_that_are_links_do_not_move_mounts() {
    for user in User::all() {
        let place = Place::new(user);
        let mounted = place.dir("mounted");
        std::fs::write(mounted.join("seen.txt"), "seen").unwrap();
        let mut files = LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap();
        for (name, target) in [
            ("proc", "/bin"),
            ("dev", "../../../../etc"),
            ("tmp", "/nowhere"),
            ("sys", "/proc/self/root"),
            ("run", "/"),
            ("workspace", "/etc"),
        ] {
            files = files.symlink(name, target).unwrap();
        }
        import(&place, files, server());
        let secret = place.write("secret", "value");
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let policy = place.policy(
            "demo",
            "demo:1",
            &format!(
                "secrets: [ {{ name: s, file: /run/secrets/s }} ]\n\
                 filesystem: {{ mounts: [ {{ source: \"{}\", target: /workspace, access: read-only }} ] }}",
                mounted.display()
            ),
        );
        let given = format!("s={}", secret.display());
        let mut session = support::Session::start(&mut place.palisade([
            "run",
            policy.to_str().unwrap(),
            "--secret-file",
            &given,
        ]));
        session.initialize();
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        // The mount is where the policy says: the sample server finds its way up from it blocked, not missing.
        let report = session
            .attack("symlink_escape", json!({ "directory": "/workspace", "host_file": "/etc/hostname" }));
        assert_eq!(report.attempt("mount_symlink")["errno"], "EROFS", "{:#}", report.0);
        let report = session.attack("write_outside", json!({}));
        report.refused("core_pattern", &["ENOENT"]);
        // /tmp is our tmpfs and not the image's link: it can be written.
        assert_ne!(report.attempt("exec_tmp")["outcome"], "not_tried", "{:#}", report.0);
    }
}

/// A working directory that names a descriptor or leaves the root is refused before anything starts
/// (CVE-2024-21626).
#[test]
fn a_working_directory_is_a_plain_directory() {
    for user in User::all() {
        let place = Place::new(user);
        for (directory, accepted) in [
            ("/proc/self/fd/8", false),
            ("/dev/fd/8", false),
            ("/../x", false),
            ("relative", false),
            ("/made/by/us", true),
        ] {
            let files = LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap();
            import(&place, files, Runtime { working_dir: directory.into(), ..server() });
            let policy = place.policy("demo", "demo:1", "");
            let output = place.run(["run", policy.to_str().unwrap()]);
            let status = if accepted { 0 } else { 3 };
            assert_eq!(output.status.code(), Some(status), "{directory}: {}", stderr(&output));
        }
    }
}

/// USER is a number, a name of the image, or refused; never a name of the host.
#[test]
fn the_user_is_looked_up_in_the_image() {
    for user in User::all() {
        let place = Place::new(user);
        let passwd = b"root:x:0:0::/:/bin/sh\nonly-here:x:4711:4712::/:/bin/sh\n";
        for (name, expected) in [("only-here", Some("4711 4712")), ("12:34", Some("12 34")), ("daemon", None)]
        {
            let files = LayerFiles::new()
                .file("bin/server", 0o755, DEMO_SERVER)
                .and_then(|files| files.file("etc/passwd", 0o644, passwd))
                .unwrap();
            import(&place, files, Runtime { user: name.into(), ..server() });
            let policy = place.policy("demo", "demo:1", "");
            let output = place.run(["explain", policy.to_str().unwrap()]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            match expected {
                Some(ids) => {
                    let (uid, gid) = ids.split_once(' ').unwrap();
                    assert!(
                        said.contains(&format!("uid {uid} gid {gid} inside")),
                        "{name}: {said}{}",
                        stderr(&output)
                    );
                    let mut session = place.session(&policy);
                    assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
                }
                None => assert_eq!(output.status.code(), Some(3), "{name}: {}", stderr(&output)),
            }
        }
    }
}
