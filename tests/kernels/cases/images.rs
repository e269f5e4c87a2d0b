//! What an image and a store need of the kernel.

use std::path::PathBuf;
use std::process::Command;

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use serde_json::json;

use super::{accepted, policy, trials};
use crate::scenario::{Images, Scenario};
use crate::support::{DEMO_SERVER, Place, User, one_error, stderr};

trials![
    an_image_with_deleted_files_runs_or_is_refused_with_the_reason,
    a_store_on_a_tmpfs_works_or_is_refused_with_the_reason,
];

/// The policy of an image whose upper layer deletes `data/secret`.
fn deleting(place: &Place, scenario: &Scenario) -> PathBuf {
    let layout = place.root.join("layout-deleting");
    let below = LayerFiles::new().file("bin/server", 0o755, DEMO_SERVER).unwrap();
    let below = below.file("data/secret", 0o644, b"deleted").unwrap();
    let above = LayerFiles::new().file("data/.wh.secret", 0o644, b"").unwrap();
    let runtime = Runtime { entrypoint: vec!["/bin/server".into()], ..Runtime::default() };
    Builder::new(runtime).layer(below).unwrap().layer(above).unwrap().write(&layout).unwrap();
    place.give_tree(&layout);
    place.must(["image", "import", layout.to_str().unwrap(), "--as", "deleting:1"]);
    let accepted = accepted(scenario, place.user);
    place.write(
        "deleting.yaml",
        format!(
            "palisade: 1\nserver: deleting\nimage: {{ reference: \"deleting:1\", unsigned: \"a test\" }}\n{accepted}\n"
        ),
    )
}

fn an_image_with_deleted_files_runs_or_is_refused_with_the_reason(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let file = deleting(&place, scenario);
        if scenario.images == Images::Plain {
            let output = place.run(["run", file.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(125));
            let shown = one_error(&stderr(&output));
            assert!(
                shown.message.contains("deletes files of the layer below, which needs Linux 6.8"),
                "{shown:?}"
            );
            assert!(shown.hint.contains("squashed"), "{shown:?}");
            continue;
        }
        let mut session = place.session(&file);
        let report = session.attack("symlink_escape", json!({ "host_file": "/data/secret" }));
        report.refused("symlink_absolute", &["ENOENT"]);
        session.end();
    }
}

/// A tmpfs, mounted where the store of a place will be.
struct TmpfsStore(PathBuf);

impl TmpfsStore {
    fn at(place: &Place) -> Self {
        let store = place.dir("store");
        let id = place.user.id();
        let options = format!("mode=0700,uid={id},gid={id}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&store).status();
        assert!(mounted.unwrap().success());
        Self(store)
    }
}

impl Drop for TmpfsStore {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

/// The marks of deleted files are `user.*` attributes; an image without any can be kept anywhere.
fn a_store_on_a_tmpfs_works_or_is_refused_with_the_reason(scenario: &Scenario) {
    for user in User::all() {
        let place = Place::new(user);
        let _store = TmpfsStore::at(&place);
        let mut session = place.session(&policy(&place, &accepted(scenario, user)));
        assert_eq!(session.call("add", json!({ "a": 1, "b": 2 }))["sum"], 3);
        session.end();

        let output = place.run(["image", "prepare", deleting(&place, scenario).to_str().unwrap()]);
        if scenario.images == Images::All {
            assert!(output.status.success(), "{}", stderr(&output));
            continue;
        }
        assert_eq!(output.status.code(), Some(125));
        let shown = one_error(&stderr(&output));
        assert!(shown.message.contains("has no user extended attributes"), "{shown:?}");
        assert!(shown.hint.contains("keep the store on ext4"), "{shown:?}");
    }
}
