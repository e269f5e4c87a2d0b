//! Steps that attempts share. Each gives the kernel's error number and nothing that it has read.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use crate::raw::{self, Arg, Call};
use crate::report::ChildEnd;

/// The most read of any file. The largest ones of interest are environments and /proc/PID/status; an environment
/// may be 2 MiB with the kernel's default stack limit of 8 MiB, but what precedes is enough to recognise it.
const MAX_READ_BYTES: u64 = 256 * 1024;

/// The error number of an I/O error; those that std makes up by itself have none.
pub fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}

/// Opens a file for reading and gives up rather than wait (for the other end of a pipe, say).
pub fn open(path: &str) -> Result<File, Errno> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| errno(&error))
}

/// The first part of a file.
pub fn read(path: &str) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "bounded by `take`")]
    open(path)?.take(MAX_READ_BYTES).read_to_end(&mut content).map_err(|error| errno(&error))?;
    Ok(content)
}

/// How many bytes of a file could be read: for a detail that shows success and no content.
pub fn read_some(path: &str) -> Result<String, Errno> {
    let content = read(path)?;
    Ok(format!("read {} bytes of it", content.len()))
}

/// The names in a directory.
pub fn list(path: &str) -> Result<Vec<String>, Errno> {
    let entries = std::fs::read_dir(path).map_err(|error| errno(&error))?;
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(|error| errno(&error))
}

/// For a path.
pub fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Errno> {
    CString::new(text).map_err(|_nul_inside| Errno::EINVAL)
}

/// `openat`, for reading, below a descriptor; the new descriptor is closed when `body` has seen it.
pub fn open_at<T>(directory: i32, path: &str, body: impl FnOnce(i32) -> T) -> Result<T, Errno> {
    let path = c_string(path)?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let opened = raw::call(Call::OPENAT, &mut [Arg::Value(directory), Arg::Text(&path), Arg::Value(flags)])?;
    let opened = i32::try_from(opened).map_err(|_too_wide| Errno::EOVERFLOW)?;
    let seen = body(opened);
    raw::call(Call::CLOSE, &mut [Arg::Value(opened)])?;
    Ok(seen)
}

/// Runs `body` in a child process and says how that ended.
pub fn in_child(body: impl FnOnce() -> Result<(), Errno>) -> Result<ChildEnd, Errno> {
    reap(raw::fork(0, || exit_code(body()))?)
}

/// An exit code that carries an error number; all of Linux's fit.
pub fn exit_code(result: Result<(), Errno>) -> u8 {
    result.err().map_or(0, |errno| u8::try_from(raw_errno(errno)).unwrap_or(u8::MAX))
}

fn raw_errno(errno: Errno) -> i32 {
    io::Error::from(errno).raw_os_error().unwrap_or(i32::MAX)
}

/// Waits for a child that carries an error number in its exit code.
pub fn reap(child: i32) -> Result<ChildEnd, Errno> {
    let mut status = [0; 4];
    raw::call(Call::WAIT4, &mut [Arg::Value(child), Arg::Fill(&mut status)])?;
    let status = i32::from_ne_bytes(status);
    if libc::WIFSIGNALED(status) {
        return Ok(ChildEnd::Killed(libc::WTERMSIG(status)));
    }
    Ok(match libc::WEXITSTATUS(status) {
        0 => ChildEnd::Done,
        code => ChildEnd::Failed(Errno::from_raw(code)),
    })
}

/// A process id that this process has, as text and as number.
pub fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

/// The parent; 0 where it lives outside this process id namespace.
pub fn parent_pid() -> i32 {
    i32::try_from(std::os::unix::process::parent_id()).unwrap_or(i32::MAX)
}
