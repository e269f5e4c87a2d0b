//! `write_outside`: files where a server has no business, and code where none may run.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::{Arguments, c_string, errno, in_child, open, own_pid};
use crate::EXEC_CANARY;
use crate::raw::{self, Arg, Call};
use crate::report::{Attempt, ChildEnd, Control, Plan, Report};

/// Where a file is created, under a name that nothing has, and removed again.
const DIRECTORIES: [(&str, &str); 7] = [
    ("create_root", "/"),
    ("create_etc", "/etc"),
    ("create_usr", "/usr"),
    ("create_dev", "/dev"),
    ("create_proc", "/proc"),
    ("create_sys", "/sys"),
    ("create_var", "/var"),
];

/// Existing files that are opened for writing and not written.
const FILES: [(&str, &str, &str); 4] = [
    (
        "core_pattern",
        "/proc/sys/kernel/core_pattern",
        "the host's kernel can be told to run a program (core dumps)",
    ),
    ("hostname", "/proc/sys/kernel/hostname", "kernel settings can be changed"),
    ("sysrq", "/proc/sysrq-trigger", "the host can be rebooted"),
    ("own_binary", "/proc/self/exe", "the image can be changed for every server that shares it"),
];

pub(crate) fn run(_arguments: &Arguments<'_>) -> Report {
    let canary = format!("/tmp/palisade-demo-exec-{}", own_pid());
    let controls = vec![Control::new("create and remove a file in /tmp", create_and_remove("/tmp"))];
    let mut attempts: Vec<Attempt> =
        DIRECTORIES.iter().map(|(id, directory)| create(id, directory)).collect();
    attempts.extend(FILES.iter().map(|(id, path, proves)| open_for_writing(id, path, proves)));
    attempts.extend(run_written(&canary));
    attempts.push(run_from_memory());
    attempts.extend(leave_traps());
    Report { controls, attempts }
}

/// Two things that would act on the host through a mounted directory, done to a file of its own in /tmp: a set-id
/// program that runs as the file's owner, and a lease that stalls whoever opens the file next.
fn leave_traps() -> [Attempt; 3] {
    let path = format!("/tmp/palisade-demo-trap-{}", own_pid());
    let create = Plan::new("set_id_create", "create a set-id program in /tmp")
        .proves("a set-id program can be left in a directory of the host")
        .unconfined("succeeds");
    let change = Plan::new("set_id_change", "make a file in /tmp set-id")
        .proves("a set-id program can be left in a directory of the host")
        .unconfined("succeeds");
    let lease = Plan::new("file_lease", "take a lease on a file in /tmp (fcntl F_SETLEASE)")
        .proves("programs of the host that open the file can be made to wait")
        .unconfined("succeeds");
    let created = make(&path, 0o4755);
    remove(&path);
    let attempts = match make(&path, 0o755) {
        Ok(file) => [
            create.judge(done(created)),
            change.judge(done(set_id(&path))),
            lease.judge(done(take_lease(&file))),
        ],
        Err(errno) => {
            [create, change, lease].map(|plan| plan.not_tried(errno, "could not create a file in /tmp"))
        }
    };
    remove(&path);
    attempts
}

fn make(path: &str, mode: u32) -> Result<std::fs::File, Errno> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).open(path).map_err(|error| errno(&error))
}

/// What an attempt leaves is in a tmpfs of its own, or in the /tmp of whoever runs it unconfined.
fn remove(path: &str) {
    if std::fs::remove_file(path).is_err() {
        // It was not created.
    }
}

fn done<T>(result: Result<T, Errno>) -> Result<String, Errno> {
    result.map(|_value| "done (and removed again)".to_owned())
}

fn set_id(path: &str) -> Result<(), Errno> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o4755)).map_err(|error| errno(&error))
}

fn take_lease(file: &std::fs::File) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let mut arguments =
        [Arg::Value(file.as_raw_fd()), Arg::Value(libc::F_SETLEASE), Arg::Value(libc::F_WRLCK)];
    raw::call(Call::FCNTL, &mut arguments).map(drop)
}

fn create(id: &'static str, directory: &str) -> Attempt {
    Plan::new(id, format!("create a file in {directory}"))
        .proves("the image or the host can be changed")
        .unconfined(
            "succeeds as root, EACCES otherwise; EPERM, ENOENT or EACCES in /proc and /sys for everybody",
        )
        .judge(create_and_remove(directory))
}

fn create_and_remove(directory: &str) -> Result<String, Errno> {
    let path = format!("{}/palisade-demo-write-{}", directory.trim_end_matches('/'), own_pid());
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    created.map_err(|error| errno(&error))?;
    std::fs::remove_file(&path).map_err(|error| errno(&error))?;
    Ok("created it (and removed it again)".to_owned())
}

fn open_for_writing(id: &'static str, path: &str, proves: &'static str) -> Attempt {
    let opened = OpenOptions::new().write(true).open(path);
    Plan::new(id, format!("open {path} for writing"))
        .proves(proves)
        .unconfined("succeeds as root where it is mounted, EACCES otherwise; a running binary: ETXTBSY")
        .reached(&[Errno::ETXTBSY])
        .judge(opened.map(|_file| "opened".to_owned()).map_err(|error| errno(&error)))
}

/// A copy of this binary in /tmp, executed, and mapped as a loader would.
fn run_written(canary: &str) -> [Attempt; 2] {
    let execute = Plan::new("exec_tmp", "execute a program that it wrote to /tmp")
        .proves("a downloaded program can be run")
        .unconfined("succeeds, or EACCES where the host's own /tmp is mounted noexec");
    let map = Plan::new("mmap_exec_tmp", "map a file that it wrote to /tmp as code")
        .proves("a downloaded library can be loaded")
        .unconfined("succeeds, or EPERM where the host's own /tmp is mounted noexec");
    if let Err(errno) = copy_of_self(canary) {
        let why = "could not write the copy to /tmp";
        return [execute.not_tried(errno, why), map.not_tried(errno, why)];
    }
    let attempts =
        [execute.judge_child(in_child(|| exec(canary))), map.judge_child(in_child(|| map_as_code(canary)))];
    match std::fs::remove_file(canary) {
        Ok(()) => attempts,
        Err(error) => {
            attempts.map(|attempt| attempt.with_figures(serde_json::json!({ "left": error.to_string() })))
        }
    }
}

fn copy_of_self(to: &str) -> Result<(), Errno> {
    let mut own = open("/proc/self/exe")?;
    let mut options = OpenOptions::new();
    let mut copy =
        options.write(true).create_new(true).mode(0o700).open(to).map_err(|error| errno(&error))?;
    std::io::copy(&mut own, &mut copy).and_then(|_bytes| copy.flush()).map_err(|error| errno(&error))
}

fn exec(path: &str) -> Result<(), Errno> {
    let (path, canary) = (c_string(path)?, c_string(EXEC_CANARY)?);
    let mut arguments = [Arg::Text(&path), Arg::Strings(&[&path, &canary]), Arg::Strings(&[])];
    raw::call(Call::EXECVE, &mut arguments).map(drop)
}

fn map_as_code(path: &str) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let file = open(path)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    raw::call(
        Call::MMAP,
        &mut [
            Arg::Value(0),
            Arg::Value(4096),
            Arg::Value(protection),
            Arg::Value(libc::MAP_PRIVATE),
            Arg::Value(file.as_raw_fd()),
            Arg::Value(0),
        ],
    )
    .map(drop)
}

/// A file without a name: no mount option and no Landlock rule applies to it.
fn run_from_memory() -> Attempt {
    Plan::new("exec_memfd", "execute a program that it wrote to a nameless file (memfd_create, execveat)")
        .proves("a downloaded program can be run without touching a file system")
        .unconfined("succeeds, or EACCES where the host sets vm.memfd_noexec")
        .judge_child(exec_memfd())
}

fn exec_memfd() -> Result<ChildEnd, Errno> {
    in_child(|| {
        let (name, empty, canary) = (c_string("palisade-demo")?, c_string("")?, c_string(EXEC_CANARY)?);
        let close_on_exec = i32::try_from(libc::MFD_CLOEXEC).map_err(|_too_wide| Errno::EOVERFLOW)?;
        let memory = raw::call(Call::MEMFD_CREATE, &mut [Arg::Text(&name), Arg::Value(close_on_exec)])?;
        let memory = i32::try_from(memory).map_err(|_too_wide| Errno::EOVERFLOW)?;
        let mut own = open("/proc/self/exe")?;
        let mut writer = Descriptor(memory);
        std::io::copy(&mut own, &mut writer).map_err(|error| errno(&error))?;
        let mut arguments = [
            Arg::Value(memory),
            Arg::Text(&empty),
            Arg::Strings(&[&name, &canary]),
            Arg::Strings(&[]),
            Arg::Value(libc::AT_EMPTY_PATH),
        ];
        raw::call(Call::EXECVEAT, &mut arguments).map(drop)
    })
}

/// Writes to a descriptor by number.
struct Descriptor(i32);

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        let mut arguments = [Arg::Value(self.0), Arg::Bytes(bytes), Arg::Value(length)];
        Ok(raw::call(Call::WRITE, &mut arguments)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
