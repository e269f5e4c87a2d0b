//! The gateway: MCP clients on one side, confined MCP servers on the other.
//!
//! Two entry points, both libraries that run inside the caller's tokio runtime:
//! - [`run_single`]: one server in the place of itself, on standard input and output (`palisade run`);
//! - [`run_gateway`]: several servers behind one endpoint, on stdio or Streamable HTTP.
//!
//! Reading order: [`envelope`] is the only parser of what servers and clients send, and [`permit`] decides
//! what may be written to a server; `line` bounds what is read. [`launch`] is the seam to the sandbox, and
//! `upstream` keeps servers running. `single` is the pass-through; `hub` merges several servers, and
//! `downstream` holds its two transports. [`audit`] writes down what happened.
//!
//! The attackers considered: a server that tries to confuse, block, flood or exhaust the gateway, or to reach
//! a client under another server's name; a client (or what drives it) that tries to call a tool that the
//! policy does not allow; a web page that tries to reach the HTTP endpoint of the same machine.
//!
//! Deliberately absent: secrets (they pass from the caller's `Launch` straight into the sandbox), any
//! knowledge of images, namespaces or filters, and typed models of MCP's messages, which would lose the
//! fields that they do not know (docs/design/004-raw-json-in-the-gateway.md).

#![forbid(unsafe_code)]

pub mod envelope;
mod line;

mod edit;
mod protocol;
mod rpc;
mod text;

pub mod permit;

pub mod audit;
pub mod launch;

mod catalog;
mod upstream;

mod gateway;
mod single;

mod downstream;
mod hub;

pub use crate::downstream::http::{HttpOptions, ListenError, Token, TokenError};
pub use crate::downstream::stdio::{ClientInput, ClientOutput, standard_streams};
pub use crate::gateway::{GatewayError, Transport, run_gateway};
pub use crate::launch::{
    Ending, ExitReport, ExitStatus, Launch, LaunchError, Launched, ServerEntry, ServerProcess,
};
pub use crate::line::MAX_MESSAGE_BYTES;
pub use crate::rpc::{CALL_TIME_OVER, OVERLOADED, REFUSED_BY_POLICY, SERVER_UNAVAILABLE};
pub use crate::single::{Context, ExitReason, Fault, SingleError, SingleExit, run_single};
pub use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;
