//! A temporary directory that is gone when the demonstration ends, whatever ends it.
//!
//! It is private (0700) and locked for as long as its process lives. Only SIGKILL can leave one behind;
//! the lock tells it apart from one that is in use, and the next demonstration removes it.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use palisade_sys::dir::{Dir, DirLock, LockMode};

use crate::failure::{Failure, Status};

/// What the names of all such directories begin with.
const PREFIX: &str = "palisade-demo-";

/// Random bytes in a name: enough that two demonstrations started at once do not meet.
const NAME_BYTES: usize = 8;

/// How often a new directory may be taken for a dead one by another demonstration that starts at the same
/// moment. It looks once, so once for each of a handful of them.
const TRIES: u32 = 8;

/// A directory of this process.
#[derive(Debug)]
pub(super) struct Place {
    base: Dir,
    name: String,
    path: PathBuf,
    dir: Dir,
    state: State,
}

#[derive(Debug)]
enum State {
    InUse { _lock: DirLock },
    Removed,
}

impl Place {
    /// Makes one in the first of `bases` that lets us, and removes the dead ones there.
    pub(super) fn make(bases: &[PathBuf]) -> Result<Self, Failure> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for base in bases {
            match Self::make_in(base) {
                Ok(place) => return Ok(place),
                Err(error) => last = error,
            }
        }
        Err(Failure::new(
            Status::Failed,
            &last,
            Some("set TMPDIR to a directory that you can write to".into()),
        )
        .because("no temporary directory can be made"))
    }

    fn make_in(path: &Path) -> io::Result<Self> {
        let base = Dir::open_ambient(path)?;
        for _ in 0..TRIES {
            let name = random_name()?;
            let dir = base.create_dir(Path::new(&name), 0o700)?;
            let Some(lock) = dir.try_lock(LockMode::Exclusive)? else { continue };
            // Somebody who swept just before we had the lock has removed it.
            if !is_still(&base, &name, &dir) {
                continue;
            }
            sweep(&base, dir.stat_self()?.st_uid)?;
            return Ok(Self { base, path: path.join(&name), name, dir, state: State::InUse { _lock: lock } });
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Its own path.
    pub(super) fn root(&self) -> &Path {
        &self.path
    }

    /// The path of something in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a file in it.
    pub(super) fn write(&self, name: &str, mode: u32, content: &[u8]) -> Result<PathBuf, Failure> {
        let written =
            self.dir.create_file(Path::new(name), mode).and_then(|mut file| file.write_all(content));
        self.made(name, written)
    }

    /// Makes a directory in it.
    pub(super) fn make_dir(&self, name: &str, mode: u32) -> Result<PathBuf, Failure> {
        let created = self.dir.create_dir(Path::new(name), mode).map(drop);
        self.made(name, created)
    }

    /// The names in a directory in it.
    pub(super) fn entries(&self, name: &str) -> Result<Vec<std::ffi::OsString>, Failure> {
        let entries = self.dir.open_dir(Path::new(name)).and_then(|dir| dir.entries());
        entries.map_err(|error| self.failure(name, &error, "read"))
    }

    fn made(&self, name: &str, result: io::Result<()>) -> Result<PathBuf, Failure> {
        result.map(|()| self.path(name)).map_err(|error| self.failure(name, &error, "written"))
    }

    fn failure(&self, name: &str, error: &io::Error, what: &str) -> Failure {
        Failure::new(Status::Failed, error, Some("set TMPDIR to a directory that has room".into()))
            .because(format!("`{}` cannot be {what}", self.path(name).display()))
    }

    /// Removes it with everything in it.
    pub(super) fn remove(mut self) -> Result<(), Failure> {
        self.clear().map_err(|error| {
            Failure::new(Status::Failed, &error, Some("remove it by hand".into()))
                .because(format!("the temporary directory `{}` cannot be removed", self.path.display()))
        })
    }

    fn clear(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Removed) {
            State::Removed => Ok(()),
            State::InUse { _lock } => self.base.remove_tree(Path::new(&self.name)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!("the temporary directory {} is left behind: {error}", self.path.display());
        }
    }
}

/// Removes what killed demonstrations of `user` have left.
fn sweep(base: &Dir, user: u32) -> io::Result<()> {
    for name in base.entries()?.iter().filter(|name| is_our_name(name)) {
        let path = Path::new(name);
        // Anybody may put anything into a shared directory, or take it away meanwhile; what is not plainly
        // a dead directory of this user is left alone.
        let Ok(dir) = base.open_dir(path) else { continue };
        if dir.stat_self()?.st_uid != user {
            continue;
        }
        if let Ok(Some(_lock)) = dir.try_lock(LockMode::Exclusive)
            && let Err(error) = base.remove_tree(path)
        {
            tracing::warn!("{PREFIX}… of a killed run cannot be removed: {error}");
        }
    }
    Ok(())
}

fn is_our_name(name: &OsStr) -> bool {
    let Some(suffix) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { return false };
    suffix.len() == NAME_BYTES.saturating_mul(2) && suffix.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_still(base: &Dir, name: &str, dir: &Dir) -> bool {
    match (base.stat(Path::new(name)), dir.stat_self()) {
        (Ok(named), Ok(held)) => (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn random_name() -> io::Result<String> {
    super::random_hex(NAME_BYTES).map(|hex| format!("{PREFIX}{hex}")).map_err(io::Error::other)
}
