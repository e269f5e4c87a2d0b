//! The rules that need counting: the kernel stops the caller and asks this process what to answer.
//!
//! ```text
//! shim ── fork ──► child: ids, filter, listener; tells its number; execve
//!   └─ takes the listener out of the child (pidfd_getfd) and answers until nobody is left who could ask
//! ```

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use palisade_attack::raw::{self, Arg, Call};
use serde_json::json;

use super::filter::Answer;
use super::{NEW_LISTENER, Shim};

/// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND`.
const RECEIVE: i32 = 0xc050_2100_u32.cast_signed();
const SEND: i32 = 0xc018_2101_u32.cast_signed();
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

/// How long processes that the command has left behind may still ask.
const AFTERMATH: Duration = Duration::from_secs(3);

pub(super) fn run(shim: &Shim) -> io::Result<u8> {
    let (mut number_read, mut number_write) = io::pipe()?;
    let (mut go_read, mut go_write) = io::pipe()?;
    let child = raw::fork(0, || {
        let started = shim.become_user().and_then(|()| {
            let listener = u32::try_from(shim.install(NEW_LISTENER)?).map_err(io::Error::other)?;
            number_write.write_all(&listener.to_ne_bytes())?;
            go_read.read_exact(&mut [0])?;
            let listener = i32::try_from(listener).map_err(io::Error::other)?;
            raw::call(Call::CLOSE, &mut [Arg::Value(listener)])?;
            Err::<(), _>(shim.execute())
        });
        match started.map_err(|error| writeln!(io::stderr(), "palisade-probe --deny: {error}")) {
            Ok(()) | Err(_) => 124,
        }
    })?;
    let mut number = [0; 4];
    number_read.read_exact(&mut number)?;
    let pidfd = descriptor(Call::PIDFD_OPEN, [child, 0, 0])?;
    let listener = descriptor(Call::PIDFD_GETFD, [pidfd, i32::from_ne_bytes(number), 0])?;
    go_write.write_all(&[1])?;
    drop((number_read, go_write));
    let mut hits = vec![0_u64; shim.rules.len()];
    let status = answer(shim, listener, child, &mut hits)?;
    if let Some(report) = &shim.report {
        let hits: Vec<_> = shim
            .rules
            .iter()
            .zip(&hits)
            .map(|(rule, hits)| json!({ "rule": rule.text, "hits": hits }))
            .collect();
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(report)?;
        write!(file, "{}", json!(hits))?;
    }
    Ok(status)
}

fn descriptor(call: Call, arguments: [i32; 3]) -> io::Result<i32> {
    let opened = raw::call(call, &mut arguments.map(Arg::Value))?;
    i32::try_from(opened).map_err(io::Error::other)
}

/// Answers until the child has ended and nobody is left below the filter.
fn answer(shim: &Shim, listener: i32, child: i32, hits: &mut [u64]) -> io::Result<u8> {
    let mut ended: Option<(u8, Instant)> = None;
    loop {
        let events = wait(listener)?;
        if events & libc::POLLIN != 0 {
            one_call(shim, listener, hits)?;
        }
        if ended.is_none() {
            ended = reap(child)?.map(|status| (status, Instant::now()));
        }
        match ended {
            Some((status, _when)) if events & libc::POLLHUP != 0 => return Ok(status),
            Some((status, when)) if when.elapsed() > AFTERMATH => return Ok(status),
            Some(_) | None => {}
        }
        if events & libc::POLLHUP != 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn wait(listener: i32) -> io::Result<i16> {
    let mut poll = [listener.to_ne_bytes(), i32::from(libc::POLLIN).to_ne_bytes()].concat();
    let timeout = [0_u64.to_ne_bytes(), 10_000_000_u64.to_ne_bytes()].concat();
    let mut arguments =
        [Arg::Fill(&mut poll), Arg::Value(1), Arg::Bytes(&timeout), Arg::Value(0), Arg::Value(0)];
    match raw::call(Call::PPOLL, &mut arguments) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let events: [u8; 2] = poll.get(6..8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    Ok(i16::from_ne_bytes(events))
}

/// `struct seccomp_notif`: id, pid and flags, then number and architecture, instruction, six arguments.
fn one_call(shim: &Shim, listener: i32, hits: &mut [u64]) -> io::Result<()> {
    let mut notice = [0; 80];
    match raw::call(Call::IOCTL, &mut [Arg::Value(listener), Arg::Value(RECEIVE), Arg::Fill(&mut notice)]) {
        Ok(_) => {}
        // The caller was killed before it was asked about.
        Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let words: Vec<u64> =
        notice.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes).collect();
    let (id, arguments) = (words.first().copied().unwrap_or_default(), words.get(4..).unwrap_or_default());
    let number = words.get(2).map(|word| word & u64::from(u32::MAX)).and_then(|low| u32::try_from(low).ok());
    let mut error = None;
    for (rule, hits) in shim.rules.iter().zip(hits) {
        if !rule.matches(number.unwrap_or(u32::MAX), arguments) {
            continue;
        }
        *hits = hits.saturating_add(1);
        if let Answer::Errno(errno) = rule.answer
            && rule.only.is_none_or(|only| only == *hits)
        {
            error = Some(errno);
        }
    }
    let flags = if error.is_some() { 0 } else { CONTINUE };
    let errno = i32::from(error.unwrap_or(0)).saturating_neg();
    let response = [&id.to_ne_bytes()[..], &[0; 8], &errno.to_ne_bytes(), &u32::to_ne_bytes(flags)].concat();
    match raw::call(Call::IOCTL, &mut [Arg::Value(listener), Arg::Value(SEND), Arg::Bytes(&response)]) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The child's status as a shell has it, once it has ended.
fn reap(child: i32) -> io::Result<Option<u8>> {
    let mut status = [0; 4];
    let reaped =
        raw::call(Call::WAIT4, &mut [Arg::Value(child), Arg::Fill(&mut status), Arg::Value(libc::WNOHANG)])?;
    if reaped == 0 {
        return Ok(None);
    }
    let status = i32::from_ne_bytes(status);
    let code = if libc::WIFSIGNALED(status) {
        libc::WTERMSIG(status).saturating_add(128)
    } else {
        libc::WEXITSTATUS(status)
    };
    Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)))
}
