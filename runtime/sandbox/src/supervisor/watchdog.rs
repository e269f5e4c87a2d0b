//! The memory limit where no cgroup can be had: the keeper looks at what the sandbox uses, and ends it when that is
//! too much. A soft limit: it acts after the fact, and sees only memory that some process has mapped.
//!
//! The keeper does it and not the supervisor, because it is outside: it may read `smaps_rollup` of the sandbox's
//! processes (the owner of a user namespace has every capability in it), and stays able to when the supervisor is
//! under Landlock, which denies that for processes outside of one's own domain.
//!
//! Two looks: the cheap one adds up resident pages (`statm`), in which a page that five processes share counts
//! five times; only when that is over the limit, the exact one adds up shares (`Pss`, `SwapPss` of
//! `smaps_rollup`), for which the kernel walks the page tables.
//!
//! What it cannot see: memory in files without a mapping (memfd, pipes, socket buffers; `/tmp` and `/dev/shm`
//! have limits of their own), and what a process takes between two looks. The latter is bounded for
//! each process by `RLIMIT_DATA`.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use palisade_sys::dir::Dir;
use palisade_sys::process::{pidfd_open, pidfd_signal};

use super::{During, StepError};

/// Between two looks. A processor fills some 1.5 GiB of fresh pages a second (measured with `memset` on the machine
/// of benches/README.md), so a server with one processor is over its limit by some 150 MiB at most; each look
/// takes some 0.1 ms for a server of a dozen threads.
const INTERVAL: Duration = Duration::from_millis(100);

/// `smaps_rollup` has some 25 lines, `statm` one, and `children` of a process at the limit of 32768 tasks 224 KiB.
const FILE_MAX: u64 = 256 * 1024;

/// Most tasks that are visited in one look: twice what `limits.pids` allows at most.
const TASKS_MAX: usize = 65_536;

/// Watches what is below one supervisor.
#[derive(Debug)]
pub(super) struct Watchdog {
    proc: Dir,
    supervisor: Pid,
    limit_bytes: u64,
}

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Within,
    Over,
}

impl Watchdog {
    /// Begins to watch, and makes sure that there is something to be seen.
    pub(super) fn new(limit_bytes: u64, supervisor: Pid) -> Result<Self, StepError> {
        const STEP: &str = "watching the sandbox's memory";
        let proc = Dir::open_ambient(Path::new("/proc")).during(STEP)?;
        let watchdog = Self { proc, supervisor, limit_bytes };
        watchdog.children_of(supervisor).during(STEP)?;
        // Of this process: the supervisor and pid 1 of the sandbox let nobody look at them, the server does.
        watchdog.share_of(nix::unistd::getpid()).during(STEP)?;
        Ok(watchdog)
    }

    /// How long to wait for something else before the next look.
    pub(super) fn interval() -> Duration {
        INTERVAL
    }

    /// Looks once.
    pub(super) fn look(&self) -> Verdict {
        let processes = self.sandbox();
        let resident = sum(&processes, |pid| self.resident_of(pid));
        judge(self.limit_bytes, resident, || sum(&processes, |pid| self.share_of(pid)))
    }

    /// Kills pid 1 of the sandbox, which takes the rest along. The supervisor says how it ended.
    pub(super) fn end_sandbox(&self) -> Result<(), StepError> {
        const STEP: &str = "ending a sandbox that uses too much memory";
        for init in self.children_of(self.supervisor).during(STEP)? {
            let Ok(pidfd) = pidfd_open(init) else { continue };
            // The id may have been used again before the descriptor was opened.
            if self.children_of(self.supervisor).during(STEP)?.contains(&init) {
                match pidfd_signal(&pidfd, Signal::SIGKILL) {
                    Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
                        return Err(StepError::new(STEP, error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Every process below the supervisor. In a pid namespace all are descendants of its pid 1: whoever loses its
    /// parent becomes its child.
    fn sandbox(&self) -> Vec<Pid> {
        let mut found = self.children_of(self.supervisor).unwrap_or_default();
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next = next.saturating_add(1);
            if found.len() < TASKS_MAX {
                // One that has ended meanwhile has left its children to pid 1, where the next look finds them.
                found.extend(self.children_of(pid).unwrap_or_default());
            }
        }
        found
    }

    /// The children of all threads of a process (`proc_pid_task_children(5)`).
    fn children_of(&self, pid: Pid) -> io::Result<Vec<Pid>> {
        let tasks = self.proc.open_dir(Path::new(&format!("{pid}/task")))?;
        let mut children = Vec::new();
        for task in tasks.entries()? {
            match tasks.read_bounded(&Path::new(&task).join("children"), FILE_MAX) {
                Ok(text) => children.extend(parse_children(&String::from_utf8_lossy(&text))),
                // The thread has ended; without the file at all, the process has no thread that has it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && pid != self.supervisor => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    fn resident_of(&self, pid: Pid) -> io::Result<u64> {
        let text = self.proc.read_bounded(Path::new(&format!("{pid}/statm")), FILE_MAX)?;
        resident(&String::from_utf8_lossy(&text)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn share_of(&self, pid: Pid) -> io::Result<u64> {
        let text = self.proc.read_bounded(Path::new(&format!("{pid}/smaps_rollup")), FILE_MAX)?;
        Ok(share(&String::from_utf8_lossy(&text)))
    }
}

/// A process that has ended uses nothing.
fn sum(processes: &[Pid], of: impl Fn(Pid) -> io::Result<u64>) -> u64 {
    processes.iter().map(|pid| of(*pid).unwrap_or(0)).fold(0, u64::saturating_add)
}

/// Resident pages are at least the shares in memory, but not those in swap; where there is swap, the exact look is
/// needed from half of the limit on.
fn judge(limit_bytes: u64, resident: u64, exact: impl FnOnce() -> u64) -> Verdict {
    if resident > limit_bytes.div_euclid(2) && exact() > limit_bytes {
        Verdict::Over
    } else {
        Verdict::Within
    }
}

fn parse_children(text: &str) -> Vec<Pid> {
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// The second number of `statm`, in pages; bytes.
fn resident(statm: &str) -> Option<u64> {
    const PAGE: u64 = 4096;
    statm.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages.saturating_mul(PAGE))
}

/// Private and shared memory and swap, each page divided by those who share it; bytes. Pages of files are left
/// out: the kernel takes them back by itself when it needs room.
fn share(rollup: &str) -> u64 {
    let kib = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    ["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]
        .into_iter()
        .map(kib)
        .fold(0, u64::saturating_add)
        .saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLUP: &str = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    9000 kB\nPss:    5000 kB\n\
        Pss_Anon:            3000 kB\nPss_File:            1900 kB\nPss_Shmem:            100 kB\n\
        Swap:                 20 kB\nSwapPss:              10 kB\nLocked:                0 kB\n";

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(resident("1000 25 3 1 0 99 0\n"), Some(25 * 4096));
        assert_eq!(resident(""), None);
        assert_eq!(share(ROLLUP), 3110 * 1024);
        assert_eq!(share(""), 0);
        assert_eq!(parse_children("12 345 \n"), [Pid::from_raw(12), Pid::from_raw(345)]);
        assert_eq!(parse_children(""), []);
    }

    #[test]
    fn what_is_shared_counts_once() {
        let never = || -> u64 { panic!("the cheap look was enough") };
        assert_eq!(judge(100, 50, never), Verdict::Within);
        assert_eq!(judge(100, 500, || 100), Verdict::Within);
        assert_eq!(judge(100, 500, || 101), Verdict::Over);
        assert_eq!(judge(100, 60, || 101), Verdict::Over, "the rest is in swap");
        assert_eq!(judge(0, 0, never), Verdict::Within);
    }

    #[test]
    fn children_of_a_process_are_seen_with_what_they_use() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap());
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let looks = |limit| Watchdog::new(limit, own).unwrap();
        let watchdog = looks(1);
        let found = watchdog.sandbox();
        // It has hardly anything until it has executed its program.
        let started = std::time::Instant::now();
        while watchdog.share_of(pid).is_ok_and(|bytes| bytes <= 4096) && started.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let (used, verdict) = (watchdog.share_of(pid), watchdog.look());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid), "{found:?}");
        assert!(used.unwrap() > 4096);
        assert_eq!(verdict, Verdict::Over);
        assert_eq!(looks(u64::MAX).look(), Verdict::Within);
    }
}
