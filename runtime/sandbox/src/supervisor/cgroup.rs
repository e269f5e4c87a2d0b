//! The cgroup of one sandbox: made, filled, read back and removed by us.
//!
//! libcontainer would do it from inside the user namespace, where root has given up the right to.
//! The keeper makes the directories and writes the limits; the supervisor moves itself in through
//! descriptors that the keeper opened, lets libcontainer clone the sandbox, and moves out again, so
//! that only the sandbox is counted. (The kernel checks the opener's rights on that write, not the
//! writer's: cgroups(7), CVE-2021-4197.)

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palisade_sys::dir::Dir;

use super::{During, StepError};
use crate::host::CGROUP_ROOT;
use crate::spec::{CgroupKind, CgroupLimits};

/// Directories of one sandbox, one for each hierarchy; none where there is no cgroup to be had.
#[derive(Debug)]
pub(super) struct Cgroup {
    groups: Vec<Group>,
}

/// The ways into the sandbox's cgroup and out again; gone once they have been used.
#[derive(Debug)]
pub(super) struct Seats(Vec<(File, File)>);

impl Seats {
    /// Runs `launch` with this process inside, so that what it starts stays inside.
    pub(super) fn around<T>(self, launch: impl FnOnce() -> Result<T, StepError>) -> Result<T, StepError> {
        for (inside, _outside) in &self.0 {
            let mut inside = inside;
            inside.write_all(b"0").during("moving into the cgroup")?;
        }
        let launched = launch();
        for (_inside, outside) in &self.0 {
            let mut outside = outside;
            outside.write_all(b"0").during("moving out of the cgroup")?;
        }
        launched
    }
}

#[derive(Debug)]
struct Group {
    /// The root of the hierarchy.
    root: Dir,
    /// `palisade` below it, which holds one directory for each sandbox.
    parent: Dir,
    name: String,
    /// `cgroup.procs` of the sandbox.
    inside: File,
    /// `cgroup.procs` of where the keeper is.
    outside: File,
}

/// The directory that holds ours in each hierarchy.
const PARENT: &str = "palisade";

/// Control files hold a number or a short list; `cgroup.procs` of a sandbox at its pids limit of
/// 32768 is 224 KiB.
const FILE_MAX: u64 = 256 * 1024;

/// The period of the processor limit in microseconds, the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

impl Cgroup {
    /// Makes the cgroup with its limits, and removes those that a killed run has left.
    pub(super) fn create(limits: &CgroupLimits) -> Result<Self, StepError> {
        const STEP: &str = "making the cgroup";
        let plan = match limits.kind {
            CgroupKind::None { .. } => Vec::new(),
            CgroupKind::V2 => vec![("", v2_files(limits))],
            CgroupKind::V1 => v1_files(limits),
        };
        let mut cgroup = Self { groups: Vec::new() };
        for (hierarchy, files) in plan {
            let added = Group::create(hierarchy, limits).during(STEP).and_then(|group| {
                let limited = group.write_limits(&files);
                cgroup.groups.push(group);
                limited
            });
            if let Err(error) = added {
                cgroup.remove().during("removing a cgroup that could not be used")?;
                return Err(error);
            }
        }
        Ok(cgroup)
    }

    /// What the supervisor takes along: the two `cgroup.procs` of each hierarchy and no directory, which
    /// would be a way back into the host's mounts.
    pub(super) fn into_seats(self) -> Seats {
        Seats(self.groups.into_iter().map(|group| (group.inside, group.outside)).collect())
    }

    /// Removes the directories; waits for the kernel to reap the last task.
    pub(super) fn remove(&self) -> io::Result<()> {
        for group in &self.groups {
            remove_when_empty(&group.parent, Path::new(&group.name))?;
            if group.root.remove_dir(Path::new(PARENT)).is_err() {
                // Another sandbox is below it; the last one removes it.
            }
        }
        Ok(())
    }
}

/// What `rmdir` of a cgroup may have to wait for after a SIGKILL: exit of a task in a long system call.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

fn remove_when_empty(parent: &Dir, name: &Path) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match parent.remove_dir(name) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && started.elapsed() < REMOVE_TIMEOUT =>
            {
                kill_all(parent, name)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return removed,
        }
    }
}

/// When the supervisor crashed before its sandbox was told to die with it.
fn kill_all(parent: &Dir, name: &Path) -> io::Result<()> {
    let procs = parent.read_bounded(&name.join("cgroup.procs"), FILE_MAX)?;
    for pid in String::from_utf8_lossy(&procs).lines().filter_map(|line| line.parse().ok()) {
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

type Files = Vec<(&'static str, String)>;

fn v2_files(limits: &CgroupLimits) -> Files {
    let mut files = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        // With no swap, `memory` is all the memory that there is.
        files.extend([("memory.max", bytes.to_string()), ("memory.swap.max", "0".into())]);
        // One process out of memory must not leave half a server behind.
        files.push(("memory.oom.group", "1".into()));
    }
    if let Some(millis) = limits.cpu_millis {
        files.push(("cpu.max", format!("{} {CPU_PERIOD_US}", cpu_quota(millis))));
    }
    if let Some(pids) = limits.pids {
        files.push(("pids.max", pids.to_string()));
    }
    files
}

fn v1_files(limits: &CgroupLimits) -> Vec<(&'static str, Files)> {
    let mut plan: Vec<(&'static str, Files)> = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        let mut files = vec![("memory.limit_in_bytes", bytes.to_string())];
        // Memory and swap together; absent on a kernel that does not account swap.
        if Path::new(CGROUP_ROOT).join("memory/memory.memsw.limit_in_bytes").is_file() {
            files.push(("memory.memsw.limit_in_bytes", bytes.to_string()));
        }
        plan.push(("memory", files));
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = cpu_quota(millis).to_string();
        plan.push((
            "cpu",
            vec![("cpu.cfs_period_us", CPU_PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota)],
        ));
    }
    if let Some(pids) = limits.pids {
        plan.push(("pids", vec![("pids.max", pids.to_string())]));
    }
    plan
}

fn cpu_quota(millis: u64) -> u64 {
    millis.saturating_mul(CPU_PERIOD_US).div_euclid(1000)
}

impl Group {
    fn create(hierarchy: &str, limits: &CgroupLimits) -> io::Result<Self> {
        let root = Dir::open_ambient(&Path::new(CGROUP_ROOT).join(hierarchy))?;
        let name = format!("{}-{}", std::process::id(), start_time(std::process::id())?);
        let (parent, dir) = make_dirs(&root, &name, limits)?;
        let inside = dir.open_file_rw(Path::new("cgroup.procs"))?;
        let outside = Dir::open_ambient(&own_group(hierarchy)?)?.open_file_rw(Path::new("cgroup.procs"))?;
        Ok(Self { root, parent, name, inside, outside })
    }

    /// Writes each limit and reads it back.
    fn write_limits(&self, files: &Files) -> Result<(), StepError> {
        const STEP: &str = "setting a cgroup limit";
        let dir = self.parent.open_dir(Path::new(&self.name)).during(STEP)?;
        for (file, value) in files {
            write_file(&dir, file, value)
                .map_err(|error| StepError::new(STEP, format!("{file}: {error}")))?;
            let found = dir.read_bounded(Path::new(file), FILE_MAX).during(STEP)?;
            let found = String::from_utf8_lossy(&found).trim().to_owned();
            if !took_effect(value, &found) {
                return Err(StepError::new(STEP, format!("{file} is `{found}` after `{value}` was written")));
            }
        }
        Ok(())
    }
}

/// Between our making of `palisade` and of the directory in it, the last sandbox of another run may
/// remove the first again. That needs another run to end each time, so a few tries are many.
const MAKE_TRIES: u32 = 16;

fn make_dirs(root: &Dir, name: &str, limits: &CgroupLimits) -> io::Result<(Dir, Dir)> {
    let mut tries = MAKE_TRIES;
    loop {
        tries = tries.saturating_sub(1);
        let parent = root.ensure_dir(Path::new(PARENT), 0o755)?;
        if limits.kind == CgroupKind::V2 {
            for dir in [root, &parent] {
                write_file(dir, "cgroup.subtree_control", "+memory +cpu +pids")?;
            }
        }
        sweep(&parent);
        match parent.create_dir(Path::new(name), 0o755) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries > 0 => {}
            made => return Ok((parent, made?)),
        }
    }
}

/// The kernel rounds bytes down to whole pages and otherwise repeats what was written.
fn took_effect(written: &str, found: &str) -> bool {
    match (written.parse::<u64>(), found.parse::<u64>()) {
        (Ok(written), Ok(found)) => found <= written && written.saturating_sub(found) < 65_536,
        _ => written == found,
    }
}

fn write_file(dir: &Dir, file: &str, value: &str) -> io::Result<()> {
    dir.open_file_rw(Path::new(file))?.write_all(value.as_bytes())
}

/// Where this process is in a hierarchy (`proc_pid_cgroup(5)`: `id:controllers:path`).
fn own_group(hierarchy: &str) -> io::Result<PathBuf> {
    let bytes = palisade_sys::dir::read_ambient_bounded(Path::new("/proc/self/cgroup"), FILE_MAX)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let path = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers.split(',').any(|name| name == hierarchy).then(|| path.trim_start_matches('/').to_owned())
    });
    let path = path.ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new(CGROUP_ROOT).join(hierarchy).join(path))
}

/// Removes the directories of keepers that are gone; one that cannot be removed is left for later.
fn sweep(parent: &Dir) {
    for name in parent.entries().unwrap_or_default() {
        let alive = name.to_str().and_then(|name| name.split_once('-')).is_none_or(|(pid, start)| {
            pid.parse().is_ok_and(|pid| start_time(pid).is_ok_and(|found| found == start))
        });
        let is_dir = parent.open_dir(Path::new(&name)).is_ok();
        if is_dir && !alive && parent.remove_dir(Path::new(&name)).is_err() {
            // Its last task has not ended yet; the next start finds it.
        }
    }
}

/// Field 22 of `/proc/PID/stat`: a process id may be used again, the pair with this may not.
fn start_time(pid: u32) -> io::Result<String> {
    let stat = palisade_sys::dir::read_ambient_bounded(Path::new(&format!("/proc/{pid}/stat")), FILE_MAX)?;
    let text = String::from_utf8_lossy(&stat).into_owned();
    // The name in field 2 may hold blanks and parentheses; the last one ends it.
    let after_name = text.rsplit_once(')').map(|(_, rest)| rest).ok_or(io::ErrorKind::InvalidData)?;
    after_name.split_whitespace().nth(19).map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
