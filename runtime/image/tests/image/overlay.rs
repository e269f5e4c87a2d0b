//! Deletions, seen through a real overlay mount in a user namespace.
#![expect(clippy::disallowed_methods, reason = "the mount needs a process of its own")]

use std::os::fd::AsRawFd as _;
use std::process::Command;

use palisade_image::UnpackedRootfs;
use palisade_image::layout::{Builder, PackedLayer, Runtime};

use crate::support::{Archive, Fixture, trials};

trials![
    names_are_deleted_and_directories_replaced,
    a_deletion_in_the_lowest_layer_is_dropped,
    an_opaque_root_hides_all_layers_below,
    a_layer_is_kept_in_one_form_for_each_place,
    an_archive_cannot_bring_its_own_markers,
];

fn image(fixture: &Fixture, name: &str, layers: &[Archive]) -> UnpackedRootfs {
    let mut builder = Builder::new(Runtime::default());
    for layer in layers {
        builder = builder.packed_layer(PackedLayer::gzip(&layer.clone().done()).unwrap());
    }
    fixture.import(&builder, name);
    fixture.unpack(name).unwrap()
}

/// What a server would see, as a sorted list of paths.
fn seen(fixture: &Fixture, unpacked: &UnpackedRootfs) -> Vec<String> {
    let path = |layer: &palisade_sys::dir::Dir| {
        use std::os::fd::AsFd as _;
        let link = format!("/proc/self/fd/{}", layer.as_fd().as_raw_fd());
        std::fs::read_link(link).unwrap().to_str().unwrap().to_owned()
    };
    let layers: Vec<String> = unpacked.layers().iter().map(path).collect();
    let target = fixture.path("mnt");
    std::fs::create_dir_all(&target).unwrap();
    let target = target.to_str().unwrap();
    let mount = match layers.as_slice() {
        [only] => format!("mount --bind {only} {target}"),
        several => {
            let lower: Vec<&str> = several.iter().rev().map(String::as_str).collect();
            format!("mount -t overlay overlay -o userxattr,lowerdir={} {target}", lower.join(":"))
        }
    };
    // `ls` of every directory first: a marker that is half visible is listed and cannot be looked at.
    let script = format!("{mount} && cd {target} && ls -lR . >/dev/null && find . -mindepth 1 | sort");
    let output = Command::new("unshare").args(["-Urm", "sh", "-ec", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn base() -> Archive {
    Archive::default()
        .file("top", b"1")
        .file("d/a", b"1")
        .file("d/b", b"1")
        .file("e/old", b"1")
        .file("f/x", b"1")
        .file("g/sub/y", b"1")
}

fn names_are_deleted_and_directories_replaced() {
    let fixture = Fixture::new();
    let control = image(&fixture, "control:1", &[base(), Archive::default().file("new", b"2")]);
    let all = seen(&fixture, &control);
    assert_eq!(all.iter().filter(|path| path.starts_with("./d/")).count(), 2, "{all:?}");

    let deleting = Archive::default()
        .file(".wh.top", b"")
        .file("d/.wh.a", b"")
        .file("e/.wh..wh..opq", b"")
        .file("e/new", b"2")
        .file("e/.wh.old", b"")
        // Deleted and made again, in both orders.
        .file(".wh.f", b"")
        .file("f/z", b"2")
        .file("d/b", b"2")
        .file("d/.wh.b", b"")
        // A deletion where nothing is, and of a whole tree.
        .file("d/.wh.absent", b"")
        .file("g/.wh.sub", b"")
        .file(".wh..wh.plnk", b"");
    let unpacked = image(&fixture, "deleting:1", &[base(), deleting]);
    assert_eq!(unpacked.reports()[0].whiteouts, 9);
    let expected = ["./d", "./d/b", "./e", "./e/new", "./f", "./f/z", "./g"];
    assert_eq!(seen(&fixture, &unpacked), expected);
}

fn a_deletion_in_the_lowest_layer_is_dropped() {
    let fixture = Fixture::new();
    let lowest =
        || Archive::default().file("kept", b"1").file(".wh.gone", b"").file("d/.wh.x", b"").directory("d/");
    let alone = image(&fixture, "alone:1", &[lowest()]);
    assert_eq!(seen(&fixture, &alone), ["./d", "./kept"]);
    let below = image(&fixture, "below:1", &[lowest(), Archive::default().file("d/y", b"2")]);
    assert_eq!(seen(&fixture, &below), ["./d", "./d/y", "./kept"]);
}

fn an_opaque_root_hides_all_layers_below() {
    let fixture = Fixture::new();
    let opaque = Archive::default().file("only", b"2").file(".wh..wh..opq", b"").file(".wh.top", b"");
    let unpacked = image(&fixture, "opaque:1", &[base(), opaque, Archive::default().file("above", b"3")]);
    assert_eq!(unpacked.layers().len(), 2);
    assert_eq!(seen(&fixture, &unpacked), ["./above", "./only"]);
}

fn a_layer_is_kept_in_one_form_for_each_place() {
    let fixture = Fixture::new();
    let deleting = || Archive::default().file("x", b"1").file(".wh.top", b"");
    drop(image(&fixture, "above:1", &[base(), deleting()]));
    let bottom = image(&fixture, "bottom:1", &[deleting()]);
    assert_eq!(bottom.reports().len(), 1, "the form for above does not serve at the bottom");
    assert_eq!(seen(&fixture, &bottom), ["./x"]);
    fixture.assert_published(3);
}

fn an_archive_cannot_bring_its_own_markers() {
    let fixture = Fixture::new();
    let forged = Archive::default()
        .pax(&[("SCHILY.xattr.user.overlay.opaque", b"y")])
        .directory("d/")
        .pax(&[("SCHILY.xattr.user.overlay.whiteout", b"y")])
        .file("top", b"");
    let unpacked = image(&fixture, "forged:1", &[base(), forged]);
    let seen = seen(&fixture, &unpacked);
    assert!(seen.contains(&"./d/a".to_owned()) && seen.contains(&"./top".to_owned()), "{seen:?}");
}
