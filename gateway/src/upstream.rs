//! The servers' side: processes with three pipes each.
//!
//! Reading order: `process` (wait and stop), `stderr` (what servers say to people), `pipes` (what is left of a
//! launch once its descriptors are asynchronous; `rate`: how fast they are read), `connection` (requests, answers, the end of one process),
//! `server` (start on demand, back-off, restart).

pub(crate) mod connection;
pub(crate) mod deadline;
pub(crate) mod garbage;
pub(crate) mod pipes;
pub(crate) mod process;
pub(crate) mod rate;
pub(crate) mod server;
pub(crate) mod stderr;
