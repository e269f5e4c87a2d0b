//! A resolved policy becomes a confined process.
//!
//! # Data flow
//!
//! ```text
//! Policy + UnpackedRootfs + HostSupport ── SandboxSpec::resolve ──► SandboxSpec      pure
//! SandboxSpec ── prepare ──► PreparedSandbox       descriptors opened, BPF compiled, no process yet
//! PreparedSandbox ── create ──► CreatedSandbox     locked down, waiting, without a secret
//! CreatedSandbox ── start(Secrets) ──► RunningSandbox
//! ```
//!
//! # Processes
//!
//! ```text
//! gateway ─► keeper (__supervise)      outside all namespaces: writes the id map, owns the cgroup
//!              └─► supervisor          own user and mount namespace; launches through libcontainer
//!                    └─► pid 1         our reaper, locked down
//!                          └─► the MCP server
//! ```
//!
//! # Reading order
//!
//! [`host`] (what this kernel offers), [`spec`] (what will be enforced, as data), [`seccomp`],
//! [`secret`], [`launch`] (the gateway's side), [`supervisor`] (keeper and supervisor), [`lockdown`]
//! (inside the sandbox, from the last capability to `execve`), [`trial`] (what `palisade doctor` tries).
//!
//! # The attacker
//!
//! The image and everything that runs from it. It is never trusted to be absent: the file system
//! that libcontainer assembles the sandbox in holds nothing of the host except what the policy
//! mounts ([`supervisor::stage`]), so a path trick there has nothing to reach.
//!
//! # Deliberately absent
//!
//! No TLS, no tokio, no thread: libcontainer clones the calling process, which must have one thread.

#![forbid(unsafe_code)]

pub mod host;
pub mod launch;
pub mod lockdown;
pub mod protocol;
pub mod seccomp;
pub mod secret;
pub mod spec;
pub mod supervisor;
pub mod trial;

pub use host::HostSupport;
pub use launch::{CreatedSandbox, ExitReport, PrepareError, PreparedSandbox, RunningSandbox, SpawnError};
pub use secret::{Secret, Secrets};
pub use spec::{ResolveError, SandboxSpec};
