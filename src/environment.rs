//! The caller's environment: read here once, and nowhere else.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What the environment says.
#[derive(Debug)]
pub(crate) struct Environment {
    home: Option<PathBuf>,
    data_home: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
}

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads it")]
    pub(crate) fn read() -> Self {
        // The base directory specification says that a relative path is to be ignored.
        let absolute =
            |name: &str| std::env::var(name).ok().map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            home: absolute("HOME"),
            data_home: absolute("XDG_DATA_HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
        }
    }

    /// What `~` stands for.
    pub(crate) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Where the store is when nobody says.
    pub(crate) fn default_store(&self) -> Option<PathBuf> {
        let data = self.data_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/share")))?;
        Some(data.join("palisade"))
    }

    /// Where files that nobody needs tomorrow may go, the best place first.
    pub(crate) fn temporary(&self) -> Vec<PathBuf> {
        self.runtime_dir.iter().cloned().chain([std::env::temp_dir()]).collect()
    }

    /// Whether a variable is set; what to is not looked at.
    pub(crate) fn has(name: &str) -> bool {
        std::env::var_os(name).is_some()
    }

    /// A secret's value, from the variable that the caller names.
    pub(crate) fn secret_variable(name: &str) -> Option<Vec<u8>> {
        std::env::var_os(name).map(OsString::into_vec)
    }
}
