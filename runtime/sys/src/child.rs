//! The one place that starts a process: this same binary in another role, and two programs of the host.
//!
//! The new process is started from `/proc/self/exe`, so an upgrade that replaces the file while
//! we run cannot mix two versions. It gets no argument but its role, an empty environment (no
//! `LD_*`, no token of the caller), and one control socket as standard input, over which
//! everything else travels as messages and descriptors ([`crate::socket`]).
//!
//! The programs of the host are `newuidmap` and `newgidmap`, where there are subordinate ids. They are
//! set-id programs, so they run with nothing of ours: [`run_host_program`].

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::socket::packet_pair;

/// A process of our own in another role, and the socket to talk to it.
#[derive(Debug)]
pub struct RoleProcess {
    /// The process; it must be waited for.
    pub child: Child,
    /// Our end of the control socket; the child has the other one as descriptor 0.
    pub control: OwnedFd,
}

/// Starts this binary in `role` (the first argument, for example `__supervise`).
///
/// Its standard output is closed off; its standard error is ours, since log lines are for people.
///
/// # Errors
/// As `fork(2)` and `execve(2)`.
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub fn spawn_self(role: &str) -> io::Result<RoleProcess> {
    let (ours, theirs) = packet_pair()?;
    let child = Command::new("/proc/self/exe")
        .arg(role)
        .env_clear()
        // Ctrl-C is for the gateway, which then ends its servers in order.
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok(RoleProcess { child, control: ours })
}

/// How a program of the host ended.
#[derive(Debug)]
pub struct HostProgram {
    /// Its status.
    pub status: ExitStatus,
    /// The beginning of what it said on standard error.
    pub said: String,
}

/// An error message is a line.
const SAID_MAX: u64 = 4096;

/// Runs a program of the host to its end: by absolute path, so that no search decides which; with an
/// empty environment, in `/`, and with no descriptor but a pipe for its error message (all of ours are
/// close-on-exec).
///
/// # Errors
/// `InvalidInput` for a path that is not absolute; otherwise as `fork(2)` and `execve(2)`.
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub fn run_host_program(program: &Path, arguments: &[String]) -> io::Result<HostProgram> {
    if !program.is_absolute() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = Vec::new();
    let heard = match child.stderr.take() {
        #[expect(clippy::disallowed_methods, reason = "bounded by take")]
        Some(pipe) => pipe.take(SAID_MAX).read_to_end(&mut said),
        None => Ok(0),
    };
    // Waited for in any case, so that no zombie stays.
    let status = child.wait()?;
    heard?;
    Ok(HostProgram { status, said: String::from_utf8_lossy(&said).trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_host_gets_nothing_of_ours() {
        // What every role does first; whoever runs the tests may have left some open.
        crate::process::close_on_exec_from(3).unwrap();
        let script = "env >&2; ls /proc/self/fd | wc -l >&2; pwd >&2; exit 3";
        let done = run_host_program(Path::new("/bin/sh"), &["-c".into(), script.into()]).unwrap();
        assert_eq!(done.status.code(), Some(3));
        // PWD and `_` are the shell's own; 0, 1, 2 and what `ls` opens.
        let lines: Vec<&str> = done
            .said
            .lines()
            .filter(|line| !["PWD=", "_=", "OLDPWD=", "SHLVL="].iter().any(|own| line.starts_with(own)))
            .collect();
        assert_eq!(lines, ["4", "/"], "{}", done.said);
        assert_eq!(run_host_program(Path::new("sh"), &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
