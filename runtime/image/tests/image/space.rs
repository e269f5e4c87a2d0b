//! A store without room: one clear error, and nothing half-made.
#![expect(clippy::disallowed_methods, reason = "the small disk needs a process and a mount of its own")]

use std::path::Path;
use std::process::{Command, ExitCode};

use palisade_image::layout::{Builder, LayerFiles, Runtime};
use palisade_image::unpack::LayerFault;
use palisade_image::{ImportError, Store, StoreError, Trust, UnpackError, VerifyRequest, unpack, verify};

use crate::support::{entries, hello, image_name, trials};

trials![a_full_disk_is_one_clear_error];

/// The role `__starve`: in a file system of 2 MiB.
pub(crate) fn starve(layouts: &str, store: &str) -> ExitCode {
    let (layouts, path) = (Path::new(layouts), Path::new(store).join("store"));
    let store = Store::open(&path).unwrap();
    let empty = |directory: &str| entries(&path.join(directory)).is_empty();

    let error = store.import(&layouts.join("large"), &image_name("large:1")).unwrap_err();
    assert!(matches!(&error, ImportError::Store(StoreError::NoSpace { .. })), "{error}");
    assert!(error.hint().unwrap().contains("image rm"));
    assert!(empty("tmp") && empty("names"));

    let verified = |name: &str| {
        let trust = Trust::Unsigned { reason: "a test".into() };
        verify(&store, &VerifyRequest { name: &image_name(name), expected_digest: None, trust }).unwrap()
    };
    store.import(&layouts.join("inflating"), &image_name("inflating:1")).unwrap();
    let error = unpack(&store, verified("inflating:1")).unwrap_err();
    assert!(matches!(&error, UnpackError::Layer { fault: LayerFault::NoSpace, .. }), "{error}");
    assert!(error.hint().unwrap().contains("image rm"));
    assert!(empty("tmp") && empty("rootfs"));

    // The control: what fits, works.
    store.import(&layouts.join("small"), &image_name("small:1")).unwrap();
    drop(unpack(&store, verified("small:1")).unwrap());
    assert!(empty("tmp") && entries(&path.join("rootfs")).len() == 1);
    ExitCode::SUCCESS
}

fn a_full_disk_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = |contents: &[u8]| {
        let files = LayerFiles::new().file("data", 0o644, contents).unwrap();
        Builder::new(Runtime::default()).layer(files).unwrap()
    };
    let noise: Vec<u8> =
        (0_u64..8 << 20).map(|number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    image(&shuffled(noise)).write(&dir.path().join("large")).unwrap();
    image(&vec![0; 8 << 20]).write(&dir.path().join("inflating")).unwrap();
    hello().write(&dir.path().join("small")).unwrap();
    let mount = dir.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    let exe = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs -o size=2m,mode=700 tmpfs \"$2\" && exec \"$0\" __starve \"$1\" \"$2\"";
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-ec", script])
        .args([exe.as_os_str(), dir.path().as_os_str(), mount.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes that deflate cannot make smaller.
fn shuffled(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def0_u64;
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte ^= (state >> 32) as u8;
    }
    bytes
}
