//! `palisade gateway run`: several servers behind one endpoint.

use std::collections::HashSet;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::downstream::http::{self, HttpOptions, ListenError};
use crate::downstream::stdio;
use crate::hub::Hub;
use crate::launch::ServerEntry;
use crate::single::Context;

/// Where the clients are.
pub enum Transport {
    /// One client on a pair of streams.
    Stdio {
        /// The client's messages.
        input: Box<dyn AsyncRead + Send + Unpin>,
        /// Messages to the client.
        output: Box<dyn AsyncWrite + Send + Unpin>,
    },
    /// Any number of clients over Streamable HTTP.
    Http {
        /// The listening socket.
        listener: TcpListener,
        /// Token, allowed origins and hosts.
        options: HttpOptions,
    },
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Transport::Stdio { .. } => out.write_str("Stdio"),
            Transport::Http { listener, .. } => out.debug_tuple("Http").field(listener).finish(),
        }
    }
}

/// The gateway could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// No server was given.
    #[error("no server was given to the gateway")]
    NoServers,
    /// Two policies have the same server name.
    #[error("two policies name their server `{name}`")]
    DuplicateServer {
        /// The name.
        name: String,
    },
    /// The HTTP endpoint could not be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl GatewayError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            GatewayError::NoServers => Some("give at least one `--policy`".to_owned()),
            GatewayError::DuplicateServer { .. } => {
                Some("give each server its own name: tools are told apart by it".to_owned())
            }
            GatewayError::Listen(error) => error.hint(),
        }
    }
}

/// Serves until the client leaves (stdio) or the gateway shall end; then ends all servers.
pub async fn run_gateway(
    servers: Vec<ServerEntry>,
    transport: Transport,
    context: Context,
) -> Result<(), GatewayError> {
    check(&servers)?;
    let hub = Hub::new(servers, &context);
    hub.start_early();
    let served = match transport {
        Transport::Stdio { input, output } => {
            stdio::serve(&hub, (input, output), &context.shutdown).await;
            Ok(())
        }
        Transport::Http { listener, options } => {
            http::serve(&hub, listener, options, &context.shutdown).await.map_err(GatewayError::from)
        }
    };
    let reason = if context.shutdown.is_cancelled() { "the gateway ends" } else { "the client left" };
    hub.shut_down(reason).await;
    served
}

fn check(servers: &[ServerEntry]) -> Result<(), GatewayError> {
    if servers.is_empty() {
        return Err(GatewayError::NoServers);
    }
    let mut seen = HashSet::new();
    match servers.iter().map(ServerEntry::name).find(|name| !seen.insert(name.clone())) {
        Some(name) => Err(GatewayError::DuplicateServer { name }),
        None => Ok(()),
    }
}
