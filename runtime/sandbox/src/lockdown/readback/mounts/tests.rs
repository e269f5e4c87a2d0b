use super::*;

/// What a sandbox of root sees, one mount a line.
const SEEN: &str = "\
70 56 0:40 / / ro,nosuid,nodev,relatime - overlay overlay ro,lowerdir=skeleton:layers/0,userxattr
71 70 0:46 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw,hidepid=invisible,subset=pid
72 70 0:47 / /dev rw,nosuid,nodev,noexec,relatime - tmpfs dev rw,size=64k,mode=755
73 72 0:48 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=16384k
76 70 0:49 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=16384k
77 70 254:0 /a\\040b /work\\040space ro,nosuid,nodev,noexec,relatime,idmapped - ext4 /dev/vda rw
78 72 0:6 /null /dev/null rw,relatime - devtmpfs devtmpfs rw
57 72 0:47 / /dev ro,nosuid,nodev,noexec,relatime - tmpfs dev rw,size=64k,mode=755
58 57 0:48 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=16384k
59 57 0:6 /null /dev/null rw,nosuid,noexec,relatime - devtmpfs devtmpfs rw
";

fn promised() -> Vec<Mount> {
    let mount = |target: &str, kind: MountKind, flags: &[&str]| Mount {
        target: target.into(),
        kind,
        flags: ["nosuid", "nodev"].iter().chain(flags).map(|&flag| flag.to_owned()).collect(),
    };
    vec![
        mount("/", MountKind::Layers, &["ro"]),
        mount("/proc", MountKind::Proc, &["noexec", "subset=pid", "hidepid=invisible"]),
        mount("/dev", MountKind::Devices, &["ro", "noexec"]),
        mount("/dev/shm", MountKind::Tmpfs { bytes: 1, files: 1 }, &["noexec"]),
        mount("/tmp", MountKind::Tmpfs { bytes: 1, files: 1 }, &["noexec"]),
        mount("/work space", MountKind::Host { source: "/a b".into(), write: false }, &["ro", "noexec"]),
    ]
}

fn refused(mountinfo: &str) -> String {
    verify(mountinfo, &promised()).unwrap_err()
}

#[test]
fn what_was_promised_is_there() {
    // The first /dev and what hangs on it lie under the second.
    assert_eq!(verify(SEEN, &promised()), Ok(7));
}

#[test]
fn each_missing_flag_is_noticed() {
    for (line, flag) in [
        ("/ / ro,nosuid", "nosuid"),
        ("/ / ro,nosuid,nodev", "nodev"),
        ("/ / ro", "ro"),
        ("/proc rw,nosuid,nodev,noexec", "noexec"),
        ("hidepid=invisible,subset=pid", "subset=pid"),
        ("hidepid=invisible", "hidepid=invisible"),
        ("57 72 0:47 / /dev ro", "ro"),
        ("/dev/null rw,nosuid,noexec", "noexec"),
        ("/work\\040space ro", "ro"),
    ] {
        let without = line.replace(flag, "rw");
        let seen = SEEN.replacen(line, &without, 1);
        assert_ne!(seen, SEEN, "{line}");
        assert!(refused(&seen).contains(&format!("without {flag}")), "{line}: {}", refused(&seen));
    }
}

#[test]
fn a_missing_mount_is_noticed() {
    let seen = SEEN.split_inclusive('\n').filter(|line| !line.contains("/tmp")).collect::<String>();
    assert_eq!(refused(&seen), "nothing is mounted on /tmp");
}

#[test]
fn a_mount_that_nobody_promised_is_noticed() {
    for extra in [
        "90 70 0:9 / /sys ro,nosuid,nodev,noexec - sysfs sysfs ro",
        "90 71 0:9 / /proc/sys ro,nosuid,nodev,noexec - proc proc ro",
        "90 57 0:6 /sda /dev/sda rw,nosuid,noexec - devtmpfs devtmpfs rw",
        "90 76 0:9 / /tmp/x ro,nosuid,nodev,noexec - tmpfs tmpfs ro",
    ] {
        assert!(refused(&format!("{SEEN}{extra}\n")).contains("does not know it"), "{extra}");
    }
}

#[test]
fn what_came_along_below_a_source_has_its_flags() {
    let below = "90 77 0:9 / /work\\040space/sub ro,nosuid,nodev,noexec - tmpfs tmpfs rw";
    assert_eq!(verify(&format!("{SEEN}{below}\n"), &promised()), Ok(8));
    let procfs = below.replace("- tmpfs tmpfs rw", "- proc proc rw");
    assert!(refused(&format!("{SEEN}{procfs}\n")).contains("procfs of the host"));
    let writable = below.replace(" ro,", " rw,");
    assert!(refused(&format!("{SEEN}{writable}\n")).contains("without ro"));
}

#[test]
fn what_is_covered_does_not_count_and_what_covers_does() {
    // Mounted in the root's /tmp before a tmpfs was mounted over that.
    let under = format!("91 70 0:9 / /tmp/x rw - tmpfs tmpfs rw\n{SEEN}");
    assert_eq!(verify(&under, &promised()), Ok(7));
    let over = format!("{SEEN}91 76 0:9 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw\n");
    assert!(refused(&over).contains("/tmp is mounted without noexec"));
}

#[test]
fn garbage_is_an_error() {
    assert!(verify("no mountinfo at all", &promised()).is_err());
}
