//! The cgroup of one sandbox: made, filled, read back and removed by us.
//!
//! libcontainer would do it from inside the user namespace, where root has given up the right to.
//! The keeper makes the directories and writes the limits; the supervisor moves itself in through
//! descriptors that the keeper opened, lets libcontainer clone the sandbox, and moves out again, so
//! that only the sandbox is counted. (The kernel checks the opener's rights on that write, not the
//! writer's: cgroups(7), CVE-2021-4197.) Then it reads back who is in there and what the limits are.
//!
//! Reading order: [`files`] (what is written), [`place`] (where), [`disks`] (for `limits.io`).

mod disks;
mod files;
mod place;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpid};
use palisade_sys::dir::{Dir, read_all_bounded, read_ambient_bounded};

use self::files::{LimitFile, Plan};
use self::place::PARENT;
use super::{During, StepError};
use crate::host::CgroupPlace;
use crate::host::cgroups::{CGROUP_ROOT, FILE_MAX, group_in, pids};
use crate::spec::{CgroupKind, CgroupLimits, FoundLimit, IN_CGROUP};

/// Directories of one sandbox, one for each hierarchy; none where there is no cgroup to be had.
#[derive(Debug)]
pub(super) struct Cgroup {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    hierarchy: &'static str,
    /// What `palisade` is in.
    base: Dir,
    /// `palisade`, which holds one directory for each sandbox.
    parent: Dir,
    name: String,
    /// The controllers of a delegated cgroup that were enabled for it.
    handed_down: Vec<&'static str>,
    seat: Seat,
}

/// The ways into the sandbox's cgroup and out again, and what is read back there.
#[derive(Debug)]
pub(super) struct Seats(Vec<Seat>);

#[derive(Debug)]
struct Seat {
    /// `cgroup.procs` of the sandbox.
    inside: File,
    /// `cgroup.procs` of where the keeper is.
    outside: File,
    /// The limits, for reading.
    limits: Vec<(LimitFile, File)>,
}

const READ_BACK: &str = "reading the cgroup back";

impl Seats {
    /// Runs `launch` with this process inside, so that what it starts stays inside.
    pub(super) fn around<T>(&self, launch: impl FnOnce() -> Result<T, StepError>) -> Result<T, StepError> {
        for Seat { inside, .. } in &self.0 {
            let mut inside = inside;
            inside.write_all(b"0").during("moving into the cgroup")?;
        }
        let launched = launch();
        for Seat { outside, .. } in &self.0 {
            let mut outside = outside;
            outside.write_all(b"0").during("moving out of the cgroup")?;
        }
        launched
    }

    /// What the kernel has made of it, now that `init` stands: pid 1 of the sandbox is inside, this process is not,
    /// and the limits are what they were set to.
    pub(super) fn read_back(self, init: Pid) -> Result<Vec<FoundLimit>, StepError> {
        let mut found = Vec::new();
        for Seat { inside, outside: _, limits } in self.0 {
            let members = pids(&again(&inside).during(READ_BACK)?);
            check_members(&members, init, getpid())?;
            for (limit, file) in limits {
                let text = again(&file).during(READ_BACK)?;
                let text = compare(&limit, &String::from_utf8_lossy(&text))?;
                found.push(FoundLimit { what: limit.what.into(), found: format!("{} {text}", limit.name) });
            }
            found.push(FoundLimit { what: IN_CGROUP.into(), found: format!("{} inside", members.len()) });
        }
        Ok(found)
    }
}

fn check_members(members: &[u32], init: Pid, supervisor: Pid) -> Result<(), StepError> {
    let has = |pid: Pid| u32::try_from(pid.as_raw()).is_ok_and(|pid| members.contains(&pid));
    if !has(init) {
        return Err(StepError::new(READ_BACK, "pid 1 of the sandbox is not in it"));
    }
    if has(supervisor) {
        return Err(StepError::new(READ_BACK, "the supervisor is still in it"));
    }
    Ok(())
}

/// The text of a limit file, if it says what was written.
fn compare(limit: &LimitFile, found: &str) -> Result<String, StepError> {
    let found = found.trim();
    if files::took_effect(&limit.value, found) {
        return Ok(found.replace('\n', ", "));
    }
    let LimitFile { name, value, .. } = limit;
    Err(StepError::new(
        READ_BACK,
        format!("{name} is `{}` after `{value}` was written", found.escape_debug()),
    ))
}

/// The whole file from its beginning; control files give their content anew each time.
fn again(mut file: &File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    read_all_bounded(file, FILE_MAX)
}

impl Cgroup {
    /// Makes the cgroup with its limits, and removes those that a killed run has left. `sources` are the layers
    /// and mounts whose disks are limited.
    pub(super) fn create<'a>(
        limits: &CgroupLimits,
        sources: impl IntoIterator<Item = &'a OwnedFd>,
    ) -> Result<Self, StepError> {
        let disks = limits.io.map_or(Ok(Vec::new()), |io| disks::behind(io, sources))?;
        let mut cgroup = Self { groups: Vec::new() };
        for plan in files::plans(limits, &disks) {
            let added = Group::create(&plan, limits).and_then(|group| {
                cgroup.groups.push(group);
                cgroup.groups.last_mut().map_or(Ok(()), |group| group.write_limits(&plan))
            });
            if let Err(error) = added {
                cgroup.remove().during("removing a cgroup that could not be used")?;
                return Err(error);
            }
        }
        Ok(cgroup)
    }

    /// What the supervisor takes along: `cgroup.procs` twice and the limits of each hierarchy, and no directory,
    /// which would be a way back into the host's mounts.
    pub(super) fn into_seats(self) -> Seats {
        Seats(self.groups.into_iter().map(|group| group.seat).collect())
    }

    /// Whether the kernel has killed something in it for lack of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.groups.iter().any(|group| {
            ["memory.events", "memory.oom_control"].into_iter().any(|file| {
                let path = Path::new(&group.name).join(file);
                group
                    .parent
                    .read_bounded(&path, FILE_MAX)
                    .is_ok_and(|text| counts_a_kill(&String::from_utf8_lossy(&text)))
            })
        })
    }

    /// Removes the directories; waits for the kernel to reap the last task.
    pub(super) fn remove(&self) -> io::Result<()> {
        for group in &self.groups {
            remove_when_empty(&group.parent, Path::new(&group.name))?;
            // Another sandbox may be below it; the last one removes it.
            if group.base.remove_dir(Path::new(PARENT)).is_ok() {
                place::take_back(&group.base, &group.handed_down);
            }
        }
        Ok(())
    }
}

/// `oom_kill N`, in `memory.events` of v2 and, since Linux 4.13, in `memory.oom_control` of v1.
fn counts_a_kill(text: &str) -> bool {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count.trim() != "0")
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
    for pid in pids(&procs).into_iter().filter_map(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0) {
        match nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Group {
    fn create(plan: &Plan, limits: &CgroupLimits) -> Result<Self, StepError> {
        const STEP: &str = "making the cgroup";
        let place = match limits.kind {
            CgroupKind::V2 { place } => Some(place),
            CgroupKind::V1 | CgroupKind::None { .. } => None,
        };
        let base = place::base(place, plan)?;
        let name = format!("{}-{}", std::process::id(), start_time(std::process::id()).during(STEP)?);
        let made = make_dirs(&base, &name, plan).and_then(|(parent, dir)| {
            let inside = dir.open_file_rw(Path::new("cgroup.procs"))?;
            // Read after `place::base`, which may have moved this process.
            let outside = open_own_procs(plan.hierarchy)?;
            Ok((parent, Seat { inside, outside, limits: Vec::new() }))
        });
        match made {
            Ok((parent, seat)) => {
                let own = place == Some(CgroupPlace::Own);
                let handed_down = if own { plan.controllers.clone() } else { Vec::new() };
                Ok(Self { hierarchy: plan.hierarchy, base, parent, name, handed_down, seat })
            }
            Err(error) => {
                unmake(&base, &name);
                Err(StepError::new(STEP, error))
            }
        }
    }

    /// Writes each limit, reads it back, and keeps it open for another look once the sandbox stands.
    fn write_limits(&mut self, plan: &Plan) -> Result<(), StepError> {
        const STEP: &str = "setting a cgroup limit";
        let dir = self.parent.open_dir(Path::new(&self.name)).during(STEP)?;
        for limit in &plan.files {
            let failed = |error: io::Error| {
                StepError::new(STEP, format!("{}: {error}", files::shown(self.hierarchy, limit.name)))
            };
            place::write_file(&dir, limit.name, &limit.value).map_err(failed)?;
            let file = dir.open_file(Path::new(limit.name)).map_err(failed)?;
            compare(limit, &String::from_utf8_lossy(&again(&file).map_err(failed)?))?;
            self.seat.limits.push((limit.clone(), file));
        }
        Ok(())
    }
}

/// Between our making of `palisade` and of the directory in it, the last sandbox of another run may
/// remove the first again. That needs another run to end each time, so a few tries are many.
const MAKE_TRIES: u32 = 16;

fn make_dirs(base: &Dir, name: &str, plan: &Plan) -> io::Result<(Dir, Dir)> {
    let mut tries = MAKE_TRIES;
    loop {
        tries = tries.saturating_sub(1);
        let made = make_dirs_once(base, name, plan);
        match made {
            Err(error) if tries > 0 && is_gone(&error) => {}
            made => return made,
        }
    }
}

/// What a directory that was removed answers: to a look into it, and to a write into a file of it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// After a failure half-way.
fn unmake(base: &Dir, name: &str) {
    for dir in [Path::new(PARENT).join(name).as_path(), Path::new(PARENT)] {
        if base.remove_dir(dir).is_err() {
            // It was not made, or other sandboxes are in it.
        }
    }
}

fn make_dirs_once(base: &Dir, name: &str, plan: &Plan) -> io::Result<(Dir, Dir)> {
    let parent = base.ensure_dir(Path::new(PARENT), 0o755)?;
    place::hand_down(base, plan)?;
    place::hand_down(&parent, plan)?;
    sweep(&parent);
    let dir = parent.create_dir(Path::new(name), 0o755)?;
    Ok((parent, dir))
}

/// `cgroup.procs` of where this process is.
fn open_own_procs(hierarchy: &str) -> io::Result<File> {
    let text = read_ambient_bounded(Path::new("/proc/self/cgroup"), FILE_MAX)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let group = group_in(&text, hierarchy).ok_or(io::ErrorKind::NotFound)?;
    let path = Path::new(CGROUP_ROOT).join(hierarchy).join(group);
    Dir::open_ambient(&path)?.open_file_rw(Path::new("cgroup.procs"))
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
    let stat = read_ambient_bounded(Path::new(&format!("/proc/{pid}/stat")), FILE_MAX)?;
    let text = String::from_utf8_lossy(&stat).into_owned();
    // The name in field 2 may hold blanks and parentheses; the last one ends it.
    let after_name = text.rsplit_once(')').map(|(_, rest)| rest).ok_or(io::ErrorKind::InvalidData)?;
    after_name.split_whitespace().nth(19).map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sandbox_may_be_in_its_cgroup() {
        let (init, supervisor) = (Pid::from_raw(7), Pid::from_raw(5));
        check_members(&[7], init, supervisor).unwrap();
        let nobody = check_members(&[], init, supervisor).unwrap_err();
        assert_eq!(nobody.to_string(), "reading the cgroup back: pid 1 of the sandbox is not in it");
        assert!(check_members(&[5, 7], init, supervisor).is_err());
        assert!(check_members(&[0], init, supervisor).is_err());
    }

    #[test]
    fn a_limit_that_is_not_there_is_an_error_that_names_it() {
        let limit = LimitFile { what: "limit on memory", name: "memory.max", value: "1048576".into() };
        assert_eq!(compare(&limit, "1048576\n").unwrap(), "1048576");
        let error = compare(&limit, "max\n").unwrap_err().to_string();
        assert_eq!(error, "reading the cgroup back: memory.max is `max` after `1048576` was written");
    }

    #[test]
    fn a_kill_for_lack_of_memory_is_seen_on_v1_and_v2() {
        assert!(counts_a_kill("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n"));
        assert!(counts_a_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"));
        assert!(!counts_a_kill("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n"));
        assert!(!counts_a_kill(""));
    }
}
