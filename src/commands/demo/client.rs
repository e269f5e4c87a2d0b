//! An MCP client as others have it: the official Rust SDK, on the other end of a stream to the gateway.

use palisade_gateway::{Context, GatewayError, ServerEntry, Transport, run_gateway};
use rmcp::model::CallToolRequestParams;
use rmcp::service::RunningService;
use rmcp::{RoleClient, ServiceError, ServiceExt};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;

use super::defect;
use crate::failure::{Failure, Status};

/// What may wait in the stream in each direction. Any size works; an attack's report is some 20 KiB.
const STREAM_BYTES: usize = 64 * 1024;

/// A client, and the gateway that it talks to.
pub(super) struct Client {
    client: RunningService<RoleClient, ()>,
    gateway: JoinHandle<Result<(), GatewayError>>,
}

impl Client {
    /// Starts the gateway with these servers, connects to it and shakes hands.
    pub(super) async fn connect(servers: Vec<ServerEntry>, context: Context) -> Result<Self, Failure> {
        let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
        let (input, output) = tokio::io::split(theirs);
        let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
        let gateway = tokio::spawn(run_gateway(servers, transport, context));
        match Box::pin(().serve(ours)).await {
            Ok(client) => Ok(Self { client, gateway }),
            Err(error) => Err(Failure::new(Status::Failed, &error, None)
                .because("the client and the gateway could not shake hands")),
        }
    }

    /// The revision of MCP that was agreed on.
    pub(super) fn agreed(&self) -> String {
        match self.client.peer_info() {
            Some(gateway) => format!("MCP {}", gateway.protocol_version),
            None => "MCP".into(),
        }
    }

    /// The names of all tools.
    pub(super) async fn list(&self) -> Result<Vec<String>, Failure> {
        let tools = self.client.list_all_tools().await.map_err(|error| failed("tools/list", &error))?;
        Ok(tools.into_iter().map(|tool| tool.name.into_owned()).collect())
    }

    /// Calls a tool that answers with structured content.
    pub(super) async fn call(&self, tool: &str, arguments: Map<String, Value>) -> Result<Value, Failure> {
        let call = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let result = self.client.call_tool(call).await.map_err(|error| failed(tool, &error))?;
        match (result.structured_content, result.is_error) {
            (Some(content), None | Some(false)) => Ok(content),
            (_, _) => Err(defect(format!("the tool `{tool}` answered with an error"))),
        }
    }

    /// Calls a tool that must be refused; the words of the refusal.
    pub(super) async fn refusal(&self, tool: &str) -> Result<String, Failure> {
        match self.client.call_tool(CallToolRequestParams::new(tool.to_owned())).await {
            Err(ServiceError::McpError(error)) => Ok(error.message.into_owned()),
            Err(error) => Err(failed(tool, &error)),
            Ok(_answer) => Err(defect(format!(
                "the gateway passed on a call of `{tool}`, which the policy does not allow"
            ))),
        }
    }

    /// Leaves, and waits until the gateway has ended its servers.
    pub(super) async fn leave(self) -> Result<(), Failure> {
        let Self { client, gateway } = self;
        drop(client.cancel().await.map_err(|error| {
            Failure::new(Status::Failed, &error, None).because("the client could not leave")
        })?);
        let served = gateway
            .await
            .map_err(|error| Failure::new(Status::Failed, &error, None).because("the gateway crashed"))?;
        served.map_err(|error| Failure::new(Status::Failed, &error, error.hint()))
    }
}

fn failed(what: &str, error: &ServiceError) -> Failure {
    Failure::new(Status::Failed, error, Some("`palisade doctor` shows what this host offers".into()))
        .because(format!("`{what}` was not answered"))
}
