//! The memory limit where no cgroup can be had: the keeper looks at what the sandbox uses, and ends it when that is
//! too much. A soft limit: it acts after the fact, and sees only memory that some process has mapped.
//!
//! The keeper does it and not the supervisor, because it is outside: it may read `smaps_rollup` of the sandbox's
//! processes (the owner of a user namespace has every capability in it), and stays able to when the supervisor is
//! under Landlock, which denies that for processes outside of one's own domain.
//!
//! Two looks: the cheap one adds up what each process has (`status`), so that a page that five processes share counts
//! five times; only when that is over the limit, the exact one adds up shares (`Pss`, `SwapPss` of
//! `smaps_rollup`), for which the kernel walks the page tables. Of the reaper, whose memory is a copy of the
//! supervisor's and not dumpable, the kernel shows the first only. Pages of files are left out of both: the kernel takes
//! them back by itself when it needs room.
//!
//! What it cannot see: memory in files without a mapping (memfd, pipes, socket buffers; `/tmp` and `/dev/shm`
//! have limits of their own), and what a process takes between two looks. The latter is bounded for
//! each process by `RLIMIT_DATA`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use palisade_sys::dir::Dir;
use palisade_sys::process::{pidfd_open, pidfd_signal};

use super::{During, StepError};

/// Between two looks. A processor fills some 1 GiB of fresh pages a second (`memset`, 0.6 to 1.1 on two busy
/// processors), so a server gets over its limit by some 100 MiB for each processor that it has; looking takes some
/// 0.2 % of a processor for a server of two processes.
const INTERVAL: Duration = Duration::from_millis(100);

/// `smaps_rollup` has some 25 lines, `status` 60, and `children` of a process at the limit of 32768 tasks 224 KiB.
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
        watchdog.held_by(supervisor).during(STEP)?;
        Ok(watchdog)
    }

    /// How long to wait for something else before the next look.
    pub(super) fn interval() -> Duration {
        INTERVAL
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the supervisor cannot be seen: it has ended, or something hides it.
    pub(super) fn look(&self) -> Result<Verdict, StepError> {
        let processes = self.sandbox().during("watching the sandbox's memory")?;
        let held = sum(&processes, |pid| self.held_by(pid));
        Ok(judge(self.limit_bytes, held, || sum(&processes, |pid| self.share_of(pid))))
    }

    /// Kills pid 1 of the sandbox, which takes the rest along. The supervisor says how it ended.
    pub(super) fn end_sandbox(&self) -> Result<(), StepError> {
        const STEP: &str = "ending a sandbox that uses too much memory";
        for init in self.children_of(self.supervisor).during(STEP)? {
            // It may have ended by itself; its id may have been used again before the descriptor was opened.
            let Ok(pidfd) = pidfd_open(init) else { continue };
            if self.children_of(self.supervisor).during(STEP)?.contains(&init) {
                kill(&pidfd).during(STEP)?;
            }
        }
        Ok(())
    }

    /// Every process below the supervisor. In a pid namespace all are descendants of its pid 1: whoever loses its
    /// parent becomes its child.
    ///
    /// A supervisor that cannot be seen (a `/proc` with `hidepid` does that once it is not dumpable) is an error: what
    /// is not seen is not limited.
    fn sandbox(&self) -> io::Result<Vec<Pid>> {
        let mut found = self.children_of(self.supervisor)?;
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next = next.saturating_add(1);
            if found.len() < TASKS_MAX {
                // One that has ended meanwhile has left its children to pid 1, where the next look finds them.
                found.extend(self.children_of(pid).unwrap_or_default());
            }
        }
        Ok(found)
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

    /// All threads have the same memory, but one that has ended shows none, and the first may end before the others.
    fn most_of_a_thread(&self, pid: Pid, file: &str, of: fn(&str) -> u64) -> io::Result<u64> {
        match self.proc.read_bounded(Path::new(&format!("{pid}/{file}")), FILE_MAX) {
            Ok(text) => match of(&String::from_utf8_lossy(&text)) {
                0 => {}
                own => return Ok(own),
            },
            // ESRCH: so says `smaps_rollup` of a thread that has ended.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) => return Err(error),
        }
        let tasks = self.proc.open_dir(Path::new(&format!("{pid}/task")))?;
        let mut most = 0;
        for task in tasks.entries()? {
            // A thread that has ended meanwhile has no memory of its own.
            let text = tasks.read_bounded(&Path::new(&task).join(file), FILE_MAX).unwrap_or_default();
            most = most.max(of(&String::from_utf8_lossy(&text)));
        }
        Ok(most)
    }

    fn held_by(&self, pid: Pid) -> io::Result<u64> {
        self.most_of_a_thread(pid, "status", held)
    }

    fn page_tables_of(&self, pid: Pid) -> io::Result<u64> {
        self.most_of_a_thread(pid, "status", page_tables)
    }

    fn share_of(&self, pid: Pid) -> io::Result<u64> {
        match self.most_of_a_thread(pid, "smaps_rollup", share) {
            Ok(share) => Ok(share.saturating_add(self.page_tables_of(pid)?)),
            // What cannot be divided counts in full; otherwise it would not count at all.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.held_by(pid),
            Err(error) => Err(error),
        }
    }
}

fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    match pidfd_signal(pidfd, Signal::SIGKILL) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
        killed => killed,
    }
}

/// A process that has ended uses nothing.
fn sum(processes: &[Pid], of: impl Fn(Pid) -> io::Result<u64>) -> u64 {
    processes.iter().map(|pid| of(*pid).unwrap_or(0)).fold(0, u64::saturating_add)
}

/// What the processes have, each for itself, is at least what they have together.
fn judge(limit_bytes: u64, held: u64, exact: impl FnOnce() -> u64) -> Verdict {
    if held > limit_bytes && exact() > limit_bytes { Verdict::Over } else { Verdict::Within }
}

fn parse_children(text: &str) -> Vec<Pid> {
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// Private and shared memory, swap and page tables, in `status`; bytes.
fn held(status: &str) -> u64 {
    kib(status, &["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"]).saturating_mul(1024)
}

/// The kernel's tables of where the memory is, which nobody shares; bytes.
fn page_tables(status: &str) -> u64 {
    kib(status, &["VmPTE:"]).saturating_mul(1024)
}

/// The same in `smaps_rollup`, each page divided by those who have it; bytes.
fn share(rollup: &str) -> u64 {
    kib(rollup, &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]).saturating_mul(1024)
}

/// The sum of lines such as `RssAnon:     40 kB`. (In `status`, a process that names itself after one of them does not
/// get a line of its own: line breaks in its name are escaped.)
fn kib(text: &str, names: &[&str]) -> u64 {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    names.iter().map(|name| value(name)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLUP: &str = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    9000 kB\nPss:    5000 kB\n\
        Pss_Anon:            3000 kB\nPss_File:            1900 kB\nPss_Shmem:            100 kB\n\
        Swap:                 20 kB\nSwapPss:              10 kB\nLocked:                0 kB\n";

    const STATUS: &str = "Name:\tVmSwap:\nVmRSS:\t 9000 kB\nRssAnon:\t     100 kB\nRssFile:\t    8000 kB\n\
        RssShmem:\t      32 kB\nVmSwap:\t      20 kB\n";

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(held(STATUS), 152 * 1024);
        assert_eq!(held(""), 0);
        assert_eq!(share(ROLLUP), 3110 * 1024);
        assert_eq!(share(""), 0);
        assert_eq!(parse_children("12 345 \n"), [Pid::from_raw(12), Pid::from_raw(345)]);
        assert_eq!(parse_children(""), []);
    }

    #[test]
    fn what_is_shared_counts_once() {
        let never = || -> u64 { panic!("the cheap look was enough") };
        assert_eq!(judge(100, 100, never), Verdict::Within);
        assert_eq!(judge(100, 500, || 100), Verdict::Within);
        assert_eq!(judge(100, 500, || 101), Verdict::Over);
        assert_eq!(judge(0, 0, never), Verdict::Within);
    }

    /// The first thread of a process may end before the others; its `status` then shows no memory.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs a process that is not itself")]
    fn memory_of_other_threads_is_seen_when_the_first_has_ended() {
        const SCRIPT: &str = "import ctypes, platform, threading, time\n\
            held = bytearray(b'x') * (64 << 20)\n\
            threading.Thread(target=lambda: time.sleep(60)).start()\n\
            ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)\n";
        let mut child = std::process::Command::new("python3").args(["-c", SCRIPT]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let started = std::time::Instant::now();
        while !status().contains("zombie") && started.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let alone = held(&status());
        let watchdog = Watchdog::new(1, Pid::from_raw(i32::try_from(std::process::id()).unwrap())).unwrap();
        let (found, share) = (watchdog.held_by(pid), watchdog.share_of(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(alone, 0, "the first thread has ended");
        assert!(found.unwrap() > 64 << 20);
        assert!(share.unwrap() > 64 << 20);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs a process that is not itself")]
    fn children_of_a_process_are_seen_with_what_they_use() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap());
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let looks = |limit| Watchdog::new(limit, own).unwrap();
        let watchdog = looks(1);
        let found = watchdog.sandbox().unwrap();
        // It has hardly anything until it has executed its program.
        let started = std::time::Instant::now();
        while watchdog.share_of(pid).is_ok_and(|bytes| bytes <= 4096) && started.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let (used, verdict) = (watchdog.share_of(pid), watchdog.look().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid), "{found:?}");
        assert!(used.unwrap() > 4096);
        assert_eq!(verdict, Verdict::Over);
        assert_eq!(looks(u64::MAX).look().unwrap(), Verdict::Within);
    }
}
