//! Which descriptors the server will have: 0, 1 and 2, each a pipe, and no other.
//!
//! At this point the process still holds some (secrets, status); what counts is that `execve` closes
//! them, so each above 2 must be close-on-exec (CVE-2024-21626 was one that was not).

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use palisade_sys::dir::read_ambient_bounded;

const FDINFO: &str = "/proc/self/fdinfo";

/// Four lines of numbers.
const FDINFO_MAX: u64 = 4096;

/// `O_CLOEXEC` as `/proc/PID/fdinfo` shows it, in octal (`proc_pid_fdinfo(5)`).
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Returns how many there will be.
pub(super) fn verify() -> io::Result<usize> {
    let stdin = io::stdin();
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let standard = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    for (number, fd) in standard.iter().enumerate() {
        let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFIFO {
            return Err(io::Error::other(format!("descriptor {number} is not a pipe")));
        }
    }
    // By path: openat2, which `Dir` uses, is on no server's list of calls, and the filters are installed.
    for entry in std::fs::read_dir(FDINFO)? {
        let entry = entry?;
        let number: usize =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(usize::MAX);
        if number < standard.len() {
            continue;
        }
        match read_ambient_bounded(&entry.path(), FDINFO_MAX) {
            Ok(text) if closes_on_exec(&String::from_utf8_lossy(&text)) => {}
            // The one that listed them is closed by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::Error::other(format!("descriptor {number} would stay open"))),
        }
    }
    Ok(standard.len())
}

fn closes_on_exec(fdinfo: &str) -> bool {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & CLOSE_ON_EXEC != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_read() {
        assert!(closes_on_exec("pos:\t0\nflags:\t02100000\nmnt_id:\t15\nino:\t9\n"));
        assert!(!closes_on_exec("pos:\t0\nflags:\t0100000\nmnt_id:\t15\nino:\t9\n"));
        assert!(!closes_on_exec("nothing of the kind"));
    }

    #[test]
    fn the_kernel_shows_it_as_expected() {
        let (kept, _other) = nix::unistd::pipe().unwrap();
        let (closed, _other) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let of = |fd: &std::os::fd::OwnedFd| {
            let path = format!("{FDINFO}/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
            String::from_utf8(read_ambient_bounded(path.as_ref(), FDINFO_MAX).unwrap()).unwrap()
        };
        assert!(!closes_on_exec(&of(&kept)));
        assert!(closes_on_exec(&of(&closed)));
    }
}
