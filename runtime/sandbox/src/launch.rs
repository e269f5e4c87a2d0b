//! The gateway's side: from a spec to a running server.
//!
//! ```text
//! SandboxSpec::prepare       all that can fail without a process
//! PreparedSandbox::create    keeper, supervisor and pid 1 stand, locked down, without a secret
//! CreatedSandbox::start      secrets go into their pipe, the server is executed
//! ```
//!
//! Everything blocks, `create` for some 15 ms. Between `create` and `start` a sandbox can wait for as long
//! as one likes: that is what a warm pool holds.
//!
//! Reading order: this file, [`start`], [`process`].

mod process;
mod start;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use palisade_image::UnpackedRootfs;
use palisade_policy::Syscalls;
use palisade_sys::dir::{open_ambient_path, open_without_links, path_of};

use crate::protocol::{Launch, MESSAGE_MAX, Request};
use crate::seccomp::{Allowlist, CompiledFilter, FilterError, ListError};
use crate::spec::{MountKind, SandboxSpec};

pub use process::{ExitReport, SandboxProcess};
pub use start::{CreatedSandbox, RunningSandbox, SpawnError};

/// A sandbox whose parts are all at hand; nothing has been started.
#[derive(Debug)]
pub struct PreparedSandbox {
    spec: SandboxSpec,
    filters: Vec<CompiledFilter>,
    supervisor_filter: CompiledFilter,
    layers: Vec<OwnedFd>,
    mounts: Vec<OwnedFd>,
}

/// Why a sandbox could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A mount source is not there, or may not be opened.
    #[error("the mount source `{}` cannot be opened", path.display())]
    MountSource {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path of a mount source leads through a symbolic link.
    #[error("the mount source `{}` leads through a symbolic link", path.display())]
    MountLink {
        /// As the policy writes it.
        path: PathBuf,
        /// Where it leads now.
        real: PathBuf,
    },
    /// A mount source is a socket, a device or a FIFO.
    #[error("the mount source `{}` is neither a directory nor a file", path.display())]
    MountKind {
        /// Its path.
        path: PathBuf,
    },
    /// The spec does not fit into one message.
    #[error("server `{server}` has an environment and arguments of more than {MESSAGE_MAX} bytes together")]
    TooLarge {
        /// The server.
        server: String,
    },
    /// The list of the policy could not be made.
    #[error("the list of system calls could not be made")]
    List(#[from] ListError),
    /// Its filter did not compile.
    #[error("the seccomp filter could not be made")]
    Filter(#[from] FilterError),
    /// These are not the calls that the spec was resolved with.
    #[error("the list of system calls of server `{server}` is not the one of its spec")]
    OtherList {
        /// The server.
        server: String,
    },
    /// A descriptor could not be copied.
    #[error("a layer of the image cannot be opened")]
    Layer(#[source] io::Error),
}

impl PrepareError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MountSource { path, .. } => {
                Some(format!("create `{}`, or correct `filesystem.mounts` in the policy", path.display()))
            }
            Self::MountLink { real, .. } => Some(format!("write the real path, `{}`", real.display())),
            Self::MountKind { .. } => Some("mount the directory that holds what the server needs".into()),
            Self::TooLarge { .. } => Some("shorten the variables of the image or the policy".into()),
            Self::List(error) => error.hint(),
            Self::Filter(_) | Self::OtherList { .. } => None,
            Self::Layer(_) => Some("run `palisade image prepare` again".into()),
        }
    }
}

impl SandboxSpec {
    /// Opens what the spec names and compiles its filters.
    ///
    /// # Errors
    /// When a mount source is missing.
    pub fn prepare(
        self,
        syscalls: &Syscalls,
        rootfs: &UnpackedRootfs,
    ) -> Result<PreparedSandbox, PrepareError> {
        let list = Allowlist::of(syscalls)?;
        if list.digest() != self.seccomp.digest {
            return Err(PrepareError::OtherList { server: self.server });
        }
        let filters = list.compile()?;
        let mut mounts = Vec::new();
        for mount in &self.mounts {
            if let MountKind::Host { source, .. } = &mount.kind {
                mounts.push(open_source(source)?);
            }
        }
        let layers = rootfs
            .layers()
            .iter()
            .map(|layer| layer.as_fd().try_clone_to_owned())
            .collect::<Result<_, _>>()
            .map_err(PrepareError::Layer)?;
        let supervisor_filter = crate::seccomp::own_process_filter(crate::supervisor::SYSTEM_CALLS)?;
        let prepared = PreparedSandbox { spec: self, filters, supervisor_filter, layers, mounts };
        let size = serde_json::to_vec(&prepared.request()).map_or(usize::MAX, |message| message.len());
        if size > MESSAGE_MAX {
            return Err(PrepareError::TooLarge { server: prepared.spec.server });
        }
        Ok(prepared)
    }
}

/// Opens a mount source once; every start of the server gets this same directory or file.
///
/// A link anywhere in the path is refused: the path may lead through a directory that another mount
/// lets a server write, and then the server would choose what is mounted at the next start.
fn open_source(path: &Path) -> Result<OwnedFd, PrepareError> {
    let failed = |source| PrepareError::MountSource { path: path.to_owned(), source };
    let fd = match open_without_links(path) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            let real = open_ambient_path(path).and_then(|fd| path_of(&fd)).map_err(failed)?;
            return Err(PrepareError::MountLink { path: path.to_owned(), real });
        }
        opened => opened.map_err(failed)?,
    };
    let kind = nix::sys::stat::fstat(&fd).map_err(|error| failed(error.into()))?.st_mode & nix::libc::S_IFMT;
    if kind == nix::libc::S_IFDIR || kind == nix::libc::S_IFREG {
        return Ok(fd);
    }
    Err(PrepareError::MountKind { path: path.to_owned() })
}

impl PreparedSandbox {
    /// What will be enforced.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    fn request(&self) -> Request {
        Request::Launch(Box::new(Launch {
            spec: self.spec.clone(),
            filters: self.filters.clone(),
            supervisor_filter: self.supervisor_filter.clone(),
        }))
    }
}
