//! What this process is, as the kernel tells it: for assertions that need no attempt.

use std::os::unix::fs::MetadataExt;

use palisade_attack::raw::{self, Arg, Call};
use palisade_attack::steps::{list, read};
use serde_json::{Map, Value, json};

const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Every fact at once.
pub(crate) fn all() -> Value {
    json!({
        "status": status(),
        "uid_map": text("/proc/self/uid_map"),
        "gid_map": text("/proc/self/gid_map"),
        "setgroups": text("/proc/self/setgroups"),
        "namespaces": namespaces(),
        "securebits": raw::call(Call::PRCTL, &mut [Arg::Value(libc::PR_GET_SECUREBITS)]).ok(),
        "mounts": text("/proc/self/mountinfo"),
        "limits": text("/proc/self/limits"),
        "cgroup": text("/proc/self/cgroup"),
        "processes": processes(),
        "directory": std::env::current_dir().ok().map(|path| path.to_string_lossy().into_owned()),
        "environment": environment(),
        "descriptors": descriptors(),
        "root": list("/").unwrap_or_default(),
        "dev": list("/dev").unwrap_or_default(),
        "tmp": list("/tmp").unwrap_or_default(),
        "program_mode": std::fs::metadata("/proc/self/exe").ok().map(|file| file.mode()),
        "setid_mode": std::fs::metadata("/bin/setid").ok().map(|file| file.mode()),
        "links": links(),
    })
}

/// The fields of /proc/self/status, by name.
fn status() -> Map<String, Value> {
    let status = text("/proc/self/status");
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), Value::from(value.trim()))).collect()
}

fn text(path: &str) -> String {
    read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn namespaces() -> Map<String, Value> {
    let name = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
        link.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
    };
    NAMESPACES.iter().map(|kind| ((*kind).to_owned(), Value::from(name(kind)))).collect()
}

fn processes() -> Vec<String> {
    let is_number = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    list("/proc").unwrap_or_default().into_iter().filter(is_number).collect()
}

fn environment() -> Vec<String> {
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        format!("{}={}", name.to_string_lossy(), value.to_string_lossy())
    };
    std::env::vars_os().map(pair).collect()
}

/// What is open; the descriptor of the listing itself is closed by then, and so has no target.
fn descriptors() -> Map<String, Value> {
    let target = |name: &String| {
        let link = std::fs::read_link(format!("/proc/self/fd/{name}")).ok()?;
        Some((name.clone(), Value::from(link.to_string_lossy().into_owned())))
    };
    list("/proc/self/fd").unwrap_or_default().iter().filter_map(target).collect()
}

/// Names at which an image may have put a link, and what is there.
fn links() -> Map<String, Value> {
    let kind = |path: &str| match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_symlink() => "link",
        Ok(found) if found.is_dir() => "directory",
        Ok(_) => "other",
        Err(_) => "nothing",
    };
    [
        "/proc",
        "/dev",
        "/sys",
        "/tmp",
        "/run",
        "/dev/null",
        "/dev/shm",
        "/dev/pts",
        "/dev/console",
        "/dev/ptmx",
    ]
    .iter()
    .map(|path| ((*path).to_owned(), Value::from(kind(path))))
    .collect()
}
