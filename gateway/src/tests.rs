//! The gateway against scripted servers behind real pipes, and against a real client (rmcp).

mod fake;

#[expect(clippy::excessive_nesting, reason = "the script of a server reads best where it is used")]
mod gateway;
mod http;
mod limits;
mod real_client;
#[expect(clippy::excessive_nesting, reason = "the script of a server reads best where it is used")]
mod single;
