//! The shim: runs a command for which chosen system calls fail, claim success and do nothing, or are counted.
//!
//! ```text
//! palisade-probe --deny RULE… [--user ID] [--report FILE] [--private] -- COMMAND ARGUMENT…
//!
//! RULE   NAME[,ARGUMENT=VALUE[/MASK]]…[#N]:ANSWER     mount,3=0x1000/0x1000#2:EIO
//! ANSWER an errno name, 0 for "success" without doing anything, or `count`
//! ```
//!
//! A rule without `#N` is answered by the filter alone. One with `#N` (only the Nth such call, in whatever process)
//! or `count` is answered by this process, which the kernel asks (`SECCOMP_RET_USER_NOTIF`); the counts are written to
//! the report. The filter is installed without `no_new_privs` where the shim is privileged, so that the command does
//! not find set what it is about to set: the ids are changed first, with `CAP_SYS_ADMIN` kept until `execve`.
//!
//! `--private` gives the command mount, UTS and IPC namespaces of its own first. Whoever lies to root about `unshare`
//! must use it: what believes that its mounts are its own would mount over the machine's.

mod filter;
mod names;
mod notify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use palisade_attack::raw::{self, Arg, Call};

use filter::Rule;

/// `SECCOMP_SET_MODE_FILTER` and `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const SET_MODE_FILTER: i32 = 1;
const NEW_LISTENER: i32 = 8;

struct Shim {
    rules: Vec<Rule>,
    user: Option<i32>,
    report: Option<OsString>,
    private: bool,
    command: Vec<OsString>,
}

pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let ended = Shim::parse(arguments).and_then(|shim| shim.run());
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(error) => match writeln!(io::stderr(), "palisade-probe --deny: {error}") {
            // Without stderr the status is all that can be said; it is one that palisade does not have.
            Ok(()) | Err(_) => ExitCode::from(124),
        },
    }
}

impl Shim {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let mut shim =
            Self { rules: Vec::new(), user: None, report: None, private: false, command: Vec::new() };
        while let Some(argument) = arguments.next() {
            match argument.to_string_lossy().as_ref() {
                "--" => break,
                "--user" => {
                    let id = arguments.next().and_then(|id| id.to_string_lossy().parse().ok());
                    shim.user = Some(id.ok_or_else(|| io::Error::other("`--user` needs an id"))?);
                }
                "--report" => shim.report = arguments.next(),
                "--private" => shim.private = true,
                rule => shim.rules.push(Rule::parse(rule).map_err(io::Error::other)?),
            }
        }
        shim.command.extend(arguments);
        if shim.command.is_empty() { Err(io::Error::other("there is no command")) } else { Ok(shim) }
    }

    fn run(&self) -> io::Result<u8> {
        if self.private {
            crate::probes::leave_the_machine_alone()?;
        }
        if !self.rules.iter().any(Rule::is_counted) {
            self.become_user()?;
            self.install(0)?;
            return Err(self.execute());
        }
        notify::run(self)
    }

    /// Changes the ids and keeps what installing a filter takes; `execve` drops that.
    fn become_user(&self) -> io::Result<()> {
        let number = |call, arguments: &[i32]| {
            raw::call(call, &mut arguments.iter().map(|&value| Arg::Value(value)).collect::<Vec<_>>())
        };
        if !nix::unistd::geteuid().is_root() {
            number(Call::PRCTL, &[libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0])?;
            return Ok(());
        }
        let Some(id) = self.user.filter(|id| *id != 0) else { return Ok(()) };
        number(Call::PRCTL, &[libc::PR_SET_KEEPCAPS, 1, 0, 0, 0])?;
        number(Call::SETGROUPS, &[0, 0])?;
        number(Call::SETRESGID, &[id, id, id])?;
        number(Call::SETRESUID, &[id, id, id])?;
        let header = [0x2008_0522_u32, 0].map(u32::to_ne_bytes).concat();
        let sys_admin = 1_u32 << 21;
        let data = [sys_admin, sys_admin, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
        raw::call(Call::CAPSET, &mut [Arg::Bytes(&header), Arg::Bytes(&data)])?;
        Ok(())
    }

    /// Installs the filter; with `NEW_LISTENER` the answer is a descriptor.
    fn install(&self, flags: i32) -> Result<usize, Errno> {
        let program = filter::compile(&self.rules);
        raw::call(
            Call::SECCOMP,
            &mut [Arg::Value(SET_MODE_FILTER), Arg::Value(flags), Arg::Program(&program)],
        )
    }

    fn execute(&self) -> io::Error {
        let Some((program, arguments)) = self.command.split_first() else {
            return io::Error::other("there is no command");
        };
        #[expect(clippy::disallowed_methods, reason = "to run a command is what the shim is for")]
        let mut command = Command::new(program);
        command.args(arguments).exec()
    }
}
