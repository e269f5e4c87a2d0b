//! Which mounts the server will see, and with which flags: exactly those of the spec.
//!
//! Read from `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), so that it holds for what the kernel
//! mounted and not for what libcontainer was asked to mount. A mount that lies under another one on
//! the same point cannot be reached and does not count.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::spec::{DEVICES, Mount, MountKind};

/// A line is some 150 bytes; 32 mounts of the policy may each bring the mounts below their source.
pub(super) const MOUNTINFO_MAX: u64 = 1024 * 1024;

/// Options of the file system that a mount of the spec asks for, besides its flags.
const FILE_SYSTEM_OPTIONS: [&str; 2] = ["subset=pid", "hidepid=invisible"];

#[derive(Debug)]
struct Line<'a> {
    id: &'a str,
    parent: &'a str,
    point: PathBuf,
    flags: Vec<&'a str>,
    kind: &'a str,
    file_system: Vec<&'a str>,
}

/// Returns how many mounts there are to be seen.
pub(super) fn verify(mountinfo: &str, promised: &[Mount]) -> Result<usize, String> {
    let lines = mountinfo
        .lines()
        .map(|line| {
            Line::parse(line).ok_or_else(|| format!("the line `{}` of mountinfo", line.escape_debug()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let visible: Vec<&Line<'_>> = lines.iter().filter(|line| !line.is_covered(&lines)).collect();
    for mount in promised {
        if !visible.iter().any(|line| line.point == mount.target) {
            return Err(format!("nothing is mounted on {}", mount.target.display()));
        }
    }
    for line in &visible {
        line.keeps_promise(promised)?;
    }
    Ok(visible.len())
}

impl<'a> Line<'a> {
    /// `ID PARENT MAJOR:MINOR ROOT POINT FLAGS [FIELDS…] - TYPE SOURCE OPTIONS`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (id, parent) = (fields.next()?, fields.next()?);
        let point = unescape(fields.nth(2)?);
        let flags = fields.next()?.split(',').collect();
        let mut fields = file_system.split(' ');
        let kind = fields.next()?;
        let file_system = fields.nth(1)?.split(',').collect();
        Some(Self { id, parent, point, flags, kind, file_system })
    }

    /// Whether a path walk ends on another mount: one on the same point lies on top of this one, or one that
    /// covers this point lies on a mount on the way here.
    fn is_covered(&self, lines: &[Line<'_>]) -> bool {
        if lines.iter().any(|other| other.parent == self.id && other.point == self.point) {
            return true;
        }
        let mut here = self;
        // No way is longer than there are mounts.
        for _ in lines {
            let beside = |other: &&Line<'_>| other.id != here.id && other.parent == here.parent;
            if lines.iter().filter(beside).any(|other| here.point.starts_with(&other.point)) {
                return true;
            }
            match lines.iter().find(|line| line.id == here.parent) {
                Some(parent) => here = parent,
                None => return false,
            }
        }
        true
    }

    fn keeps_promise(&self, promised: &[Mount]) -> Result<(), String> {
        let shown = self.point.display();
        if let Some(mount) = promised.iter().find(|mount| mount.target == self.point) {
            return self.has(mount.flags.iter().map(String::as_str), is_read_only(mount));
        }
        let above = promised
            .iter()
            .filter(|mount| self.point.starts_with(&mount.target))
            .max_by_key(|mount| mount.target.as_os_str().len())
            .ok_or_else(|| format!("{shown} is mounted and the spec does not know it"))?;
        match above.kind {
            // Devices are what this mount is for: all flags but nodev.
            MountKind::Devices if is_device(&self.point) => self.has(["nosuid", "noexec"], self.is_ro()),
            // A procfs of the host would show the host's processes.
            MountKind::Host { .. } if self.kind == "proc" => Err(format!("{shown} is a procfs of the host")),
            // What was mounted below the source came along, with the same flags.
            MountKind::Host { .. } => self.has(above.flags.iter().map(String::as_str), is_read_only(above)),
            MountKind::Devices | MountKind::Layers | MountKind::Proc | MountKind::Tmpfs { .. } => {
                Err(format!("{shown} is mounted and the spec does not know it"))
            }
        }
    }

    fn is_ro(&self) -> bool {
        self.flags.contains(&"ro")
    }

    fn has<'b>(&self, wanted: impl IntoIterator<Item = &'b str>, read_only: bool) -> Result<(), String> {
        for flag in wanted {
            let found = if FILE_SYSTEM_OPTIONS.contains(&flag) { &self.file_system } else { &self.flags };
            if !found.contains(&flag) {
                return Err(format!("{} is mounted without {flag}", self.point.display()));
            }
        }
        // A file system that cannot be written is no broken promise, one that can be is.
        if self.is_ro() || !read_only {
            return Ok(());
        }
        Err(format!("{} is mounted without ro", self.point.display()))
    }
}

fn is_read_only(mount: &Mount) -> bool {
    mount.flags.iter().any(|flag| flag == "ro")
}

fn is_device(point: &Path) -> bool {
    DEVICES.iter().any(|name| Path::new("/dev").join(name) == point)
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let code = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(byte) = code {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests;
