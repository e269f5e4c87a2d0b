//! Layers that nobody honest makes: each is refused by its rule, and nothing of it remains.

use palisade_image::TarFault;
use palisade_image::layout::PackedLayer;
use palisade_image::unpack::{DigestOf, EntryRule, LayerFault};

use crate::support::{Archive, Fixture, digest, fault, header, pax_records, trials};

trials![
    entries_are_refused_by_rule,
    archives_are_refused,
    control_the_same_shapes_unpack_when_they_are_honest,
    a_bomb_is_stopped,
    contents_must_be_of_the_media_type,
    damaged_streams_are_refused,
    digests_are_checked_after_the_stream,
];

fn a() -> Archive {
    Archive::default()
}

/// Unpacks and checks that nothing is left of it, here or outside.
fn refused(layer: PackedLayer) -> LayerFault {
    let fixture = Fixture::new();
    let canary = fixture.path("canary");
    #[expect(clippy::disallowed_methods, reason = "a file outside of the store")]
    std::fs::write(&canary, "untouched").unwrap();
    let fault = fault(fixture.unpack_layer(layer));
    fixture.assert_published(0);
    #[expect(clippy::disallowed_methods, reason = "a file outside of the store")]
    let left = std::fs::read(&canary).unwrap();
    assert_eq!(left, b"untouched");
    assert!(!fixture.path("escaped").is_symlink() && !fixture.path("escaped").is_file());
    fault
}

fn rule(archive: Archive) -> EntryRule {
    let fault = refused(archive.gzip());
    let LayerFault::Entry { rule, .. } = fault else { panic!("refused for another reason: {fault}") };
    rule
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn entries_are_refused_by_rule() {
    let deep = vec!["d"; 65].join("/");
    let long = [vec![b'n'; 256], vec![0]].concat();
    let cases: Vec<(&str, Archive, EntryRule)> = vec![
        ("dot-dot", a().file("../escaped", b"x"), EntryRule::DotDot),
        ("dot-dot inside", a().file("a/../../escaped", b"x"), EntryRule::DotDot),
        ("absolute dot-dot", a().file("/../../escaped", b"x"), EntryRule::DotDot),
        ("dot-dot directory", a().directory("../escaped/"), EntryRule::DotDot),
        ("dot-dot by pax", a().pax(&[("path", b"../escaped")]).file("fine", b"x"), EntryRule::DotDot),
        ("through a link", a().symlink("l", "../../..").file("l/escaped", b"x"), EntryRule::ThroughLink),
        ("through an absolute link", a().symlink("l", "/tmp").file("l/x", b"x"), EntryRule::ThroughLink),
        (
            "through a chain of links",
            a().symlink("a", "b").symlink("b", "/").file("a/escaped", b"x"),
            EntryRule::ThroughLink,
        ),
        ("through a link to itself", a().symlink("l", "l").file("l/x", b"x"), EntryRule::ThroughLink),
        ("directory through a link", a().symlink("l", "/tmp").directory("l/x/"), EntryRule::ThroughLink),
        ("link through a link", a().symlink("l", "/tmp").symlink("l/x", "y"), EntryRule::ThroughLink),
        (
            "deletion through a link",
            a().symlink("d/l", "/tmp").file("d/l/sub/x", b""),
            EntryRule::ThroughLink,
        ),
        ("through a file", a().file("f", b"x").file("f/g", b"y"), EntryRule::ThroughFile),
        ("hard link out", a().hardlink("h", "../canary"), EntryRule::DotDot),
        ("absolute hard link", a().hardlink("h", "/etc/passwd"), EntryRule::HardlinkTarget),
        (
            "hard link through a link",
            a().symlink("l", "/etc").hardlink("h", "l/passwd"),
            EntryRule::HardlinkTarget,
        ),
        (
            "hard link to a link",
            a().symlink("l", "/etc/passwd").hardlink("h", "l"),
            EntryRule::HardlinkTarget,
        ),
        ("hard link to a directory", a().directory("d/").hardlink("h", "d"), EntryRule::HardlinkTarget),
        ("hard link to a later file", a().hardlink("h", "f").file("f", b"x"), EntryRule::HardlinkTarget),
        (
            "hard link over its own parent",
            a().file("d/f", b"x").hardlink("d", "d/f"),
            EntryRule::HardlinkTarget,
        ),
        ("link without target", a().symlink("l", ""), EntryRule::EmptyTarget),
        ("character device", a().changed(b'3', b"n", |h| h.set_device_minor(3).unwrap()), EntryRule::Device),
        ("block device", a().changed(b'4', b"n", |h| h.set_device_major(8).unwrap()), EntryRule::Device),
        ("fifo", a().changed(b'6', b"n", |_| {}), EntryRule::Fifo),
        ("overlay whiteout", a().changed(b'3', b"n", zero_device), EntryRule::OverlayMarker),
        ("overlay whiteout in dev", a().changed(b'3', b"dev/n", zero_device), EntryRule::OverlayMarker),
        (
            "device in devil",
            a().changed(b'4', b"devil/n", |h| h.set_device_major(8).unwrap()),
            EntryRule::Device,
        ),
        (
            "too deep",
            a().entry(b'L', b"././@LongLink", b"", deep.as_bytes()).file("x", b""),
            EntryRule::TooDeep,
        ),
        (
            "long component",
            a().entry(b'L', b"././@LongLink", b"", &long).file("x", b""),
            EntryRule::LongComponent,
        ),
        ("root as a link", a().symlink(".", "/tmp"), EntryRule::ReplacesRoot),
        ("root as a file", a().file(".", b"x"), EntryRule::ReplacesRoot),
        ("empty deletion", a().file("d/.wh.", b""), EntryRule::Whiteout),
        ("deletion of dot", a().file("d/.wh..", b""), EntryRule::Whiteout),
        ("deletion of dot-dot", a().file("d/.wh...", b""), EntryRule::Whiteout),
        ("deletion in the middle", a().file(".wh.d/f", b""), EntryRule::Whiteout),
        ("no name", a().file("", b"x"), EntryRule::EmptyPath),
    ];
    for (what, archive, expected) in cases {
        assert_eq!(rule(archive), expected, "{what}");
    }
}

fn zero_device(header: &mut tar::Header) {
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn archives_are_refused() {
    let entry = |name: &str| name.to_owned();
    let many =
        (0..5).fold(a(), |archive, _| archive.entry(b'g', b"g", b"", &pax_records(&[("comment", b"x")])));
    let cases: Vec<(&str, Vec<u8>, TarFault)> = vec![
        (
            "pax size differs",
            a().pax(&[("size", b"1024")]).file("f", &[7; 512]).done(),
            TarFault::SizeDisagrees { entry: entry("f") },
        ),
        (
            "a link with contents",
            a().sized(b'2', b"l", b"t", &[7; 512], 512).done(),
            TarFault::SizeDisagrees { entry: entry("l") },
        ),
        (
            "a directory with contents",
            a().sized(b'5', b"d/", b"", &[7; 512], 512).done(),
            TarFault::SizeDisagrees { entry: entry("d/") },
        ),
        ("huge pax header", a().sized(b'x', b"p", b"", b"", 1 << 33).done(), TarFault::ExtensionTooLarge),
        ("huge long name", a().sized(b'L', b"p", b"", b"", 1 << 33).done(), TarFault::ExtensionTooLarge),
        ("too many headers", many.file("f", b"").done(), TarFault::ExtensionTooLarge),
        ("sparse", a().entry(b'S', b"s", b"", b"").done(), TarFault::Sparse { entry: entry("s") }),
        (
            "sparse by pax",
            a().pax(&[("GNU.sparse.major", b"1")]).file("f", b"").done(),
            TarFault::Sparse { entry: entry("") },
        ),
        (
            "unknown type",
            a().entry(b'Z', b"z", b"", b"").done(),
            TarFault::UnknownType { entry: entry("z"), typeflag: b'Z' },
        ),
        (
            "nul in a name",
            a().pax(&[("path", b"a\0b")]).file("f", b"").done(),
            TarFault::Name { entry: entry("a\0b") },
        ),
        (
            "path for everything",
            a().entry(b'g', b"g", b"", &pax_records(&[("path", b"x")])).file("f", b"").done(),
            TarFault::ExtensionRecord { record: entry("path") },
        ),
        (
            "path twice",
            a().pax(&[("path", b"x"), ("path", b"y")]).file("f", b"").done(),
            TarFault::ExtensionRecord { record: entry("path") },
        ),
        (
            "bad pax length",
            a().entry(b'x', b"p", b"", b"99 path=x\n").file("f", b"").done(),
            TarFault::ExtensionRecord { record: entry("99 path=x\n") },
        ),
        ("something after the end", [a().file("f", b"x").done(), vec![1]].concat(), TarFault::Trailing),
        (
            "a second archive",
            [a().file("f", b"x").done(), a().file("evil", b"x").done()].concat(),
            TarFault::Trailing,
        ),
    ];
    for (what, archive, expected) in cases {
        assert_eq!(refused(PackedLayer::gzip(&archive).unwrap()), LayerFault::Tar(expected), "{what}");
    }
    for (what, archive) in [
        ("ends after an extension header", a().pax(&[("path", b"x")]).done()),
        ("not tar", vec![b'x'; 2048]),
        ("cut in a header", header(b'0', b"f", b"", 0, |_| {}).as_bytes()[..300].to_vec()),
        ("bad checksum", {
            let mut archive = a().file("f", b"x").done();
            archive[0] = b'g';
            archive
        }),
    ] {
        let fault = refused(PackedLayer::gzip(&archive).unwrap());
        assert!(matches!(fault, LayerFault::Tar(TarFault::Malformed { .. })), "{what}: {fault}");
    }
    let cut = a().sized(b'0', b"f", b"", b"", 5000).0;
    let fault = refused(PackedLayer::gzip(&cut).unwrap());
    assert_eq!(fault, LayerFault::Entry { entry: "f".into(), rule: EntryRule::CutShort });
}

/// The positive control of this table: what is refused above for one property unpacks without it.
fn control_the_same_shapes_unpack_when_they_are_honest() {
    let long = [vec![b'n'; 255], vec![0]].concat();
    let deep = vec!["d"; 64].join("/");
    let archive = a()
        .entry(b'g', b"g", b"", &pax_records(&[("comment", b"0123abcd")]))
        .directory("./")
        .directory("./d/")
        .file("/d/absolute", b"x")
        .symlink("l", "/etc/passwd")
        .hardlink("d/h", "./d/absolute")
        .file("f", b"old")
        .file("f", b"new")
        .symlink("s", "d")
        .directory("s/")
        .file("s/in", b"x")
        .directory("gone/sub/")
        .file("gone", b"now a file")
        .pax(&[("path", "n\u{e4}me".as_bytes()), ("size", b"3"), ("SCHILY.xattr.user.overlay.opaque", b"y")])
        .file("short", b"abc")
        .entry(b'L', b"././@LongLink", b"", deep.as_bytes())
        .file("x", b"deep")
        .entry(b'L', b"././@LongLink", b"", &long)
        .file("x", b"long")
        .changed(b'3', b"dev/null", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .changed(b'6', b"dev/initctl", |_| {})
        .entry(b'0', b"old-style/", b"", b"");
    let fixture = Fixture::new();
    let unpacked = fixture.unpack_layer(archive.gzip()).unwrap();
    assert_eq!(unpacked.reports()[0].skipped_devices, 2);
    fixture.assert_published(1);
    let root = fixture.only_layer();
    #[expect(clippy::disallowed_methods, reason = "looking at what was unpacked")]
    let read = |name: &str| std::fs::read(root.join(name)).unwrap();
    assert_eq!((read("f"), read("s/in"), read("gone")), (b"new".into(), b"x".into(), b"now a file".into()));
    assert_eq!((read("d/h"), read(&deep), read("n\u{e4}me")), (b"x".into(), b"deep".into(), b"abc".into()));
    assert!(
        root.join("old-style").is_dir() && root.join("l").is_symlink() && !root.join("dev/null").is_file()
    );
}

fn a_bomb_is_stopped() {
    // Zstandard makes some 6 KiB of 66 MiB of zeros, ten thousand to one.
    let bomb = zstd(&a().file("zeros", &vec![0; 66 << 20]).done());
    assert!(bomb.blob.len() < 20_000);
    assert!(matches!(refused(bomb), LayerFault::Limit { .. }));
    // The control: as densely packed, and small enough to do no harm.
    Fixture::new().unpack_layer(zstd(&a().file("zeros", &vec![0; 2 << 20]).done())).unwrap();
}

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// An archive that is stored as it is.
fn packed(archive: Vec<u8>) -> PackedLayer {
    PackedLayer { media_type: PLAIN.into(), diff_id: digest(&archive), blob: archive }
}

fn zstd(archive: &[u8]) -> PackedLayer {
    let blob = zstd::encode_all(archive, 3).unwrap();
    PackedLayer { media_type: ZSTD.into(), diff_id: digest(archive), blob }
}

fn contents_must_be_of_the_media_type() {
    let archive = a().file("f", b"contents").done();
    let layers = [packed(archive.clone()), PackedLayer::gzip(&archive).unwrap(), zstd(&archive)];
    for layer in &layers {
        for media_type in [PLAIN, GZIP, ZSTD] {
            let announced = PackedLayer { media_type: media_type.into(), ..layer.clone() };
            if media_type == layer.media_type {
                let fixture = Fixture::new();
                fixture.unpack_layer(announced).unwrap();
                fixture.assert_published(1);
            } else {
                let fault = refused(announced);
                assert!(
                    matches!(fault, LayerFault::Content { .. }),
                    "{} as {media_type}: {fault}",
                    layer.media_type
                );
            }
        }
    }
}

fn damaged_streams_are_refused() {
    let noise: Vec<u8> =
        (0..200_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let archive = a().file("noise", &noise).done();
    for whole in [PackedLayer::gzip(&archive).unwrap(), zstd(&archive)] {
        let with = |blob: Vec<u8>| PackedLayer { blob, ..whole.clone() };
        let cut = |bytes: usize| whole.blob[..whole.blob.len() - bytes].to_vec();
        let mut flipped = whole.blob.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x40;
        for (what, blob) in [
            ("cut in the last bytes", cut(1)),
            ("cut in the middle", cut(whole.blob.len() / 2)),
            ("something follows", [whole.blob.clone(), b"trailing".to_vec()].concat()),
        ] {
            let fault = refused(with(blob));
            assert!(matches!(fault, LayerFault::Inflate { .. }), "{} {what}: {fault}", whole.media_type);
        }
        // What a flipped bit becomes depends on where it falls; no outcome publishes anything.
        drop(refused(with(flipped)));
        // Several members, one after the other, are one stream, as both formats define it.
        let (first, second) = archive.split_at(1000);
        let pack = |part: &[u8]| match whole.media_type.as_str() {
            ZSTD => zstd(part).blob,
            _ => PackedLayer::gzip(part).unwrap().blob,
        };
        Fixture::new().unpack_layer(with([pack(first), pack(second)].concat())).unwrap();
    }
}

fn digests_are_checked_after_the_stream() {
    let archive = a().file("f", b"x").done();
    let other = digest(b"another archive");
    let fault = refused(PackedLayer { diff_id: other.clone(), ..packed(archive) });
    let LayerFault::Digest { what, expected, .. } = fault else { panic!("{fault}") };
    assert_eq!((what, expected), (DigestOf::Archive, other.to_string()));
}
