//! A real client (rmcp) over both transports.

use rmcp::ServiceExt as _;
use rmcp::model::{
    CallToolRequestParams, GetPromptRequestParams, ProtocolVersion, ReadResourceRequestParams,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;

use super::fake::*;
use super::http::{TOKEN, serve};
use crate::single::run_single;
use crate::{Transport, run_gateway};

type Running = rmcp::service::RunningService<rmcp::RoleClient, ()>;

async fn exercise(client: &Running) {
    let tools = client.list_all_tools().await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    assert_eq!(names, ["alpha__echo", "beta__echo", "beta__drop"]);
    let called = client.call_tool(CallToolRequestParams::new("beta__echo")).await.unwrap();
    assert!(!called.content.is_empty());
    let refused = client.call_tool(CallToolRequestParams::new("alpha__drop")).await.unwrap_err();
    assert!(
        refused.to_string().contains("the policy of server `alpha` does not allow tool `drop`"),
        "{refused}"
    );
    assert_eq!(client.list_all_prompts().await.unwrap().len(), 2);
    client.get_prompt(GetPromptRequestParams::new("alpha__hello")).await.unwrap();
    assert_eq!(client.list_all_resources().await.unwrap().len(), 2);
    client.read_resource(ReadResourceRequestParams::new("beta://one")).await.unwrap();
}

fn servers() -> Vec<crate::ServerEntry> {
    let only_echo = "tools: { allow: [\"echo\"] }\n";
    vec![entry("alpha", only_echo, polite_server("alpha")), entry("beta", "", polite_server("beta"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn over_stdio() {
    let (client_side, gateway_side) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(gateway_side);
    let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
    let running = tokio::spawn(run_gateway(servers(), transport, context().0));
    let client = ().serve(client_side).await.unwrap();
    assert_eq!(client.peer_info().unwrap().server_info.as_ref().unwrap().name, "palisade");
    exercise(&client).await;
    client.cancel().await.unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http() {
    let served = serve(servers()).await;
    let uri = format!("http://127.0.0.1:{}/mcp", served.port);
    let config = StreamableHttpClientTransportConfig::with_uri(uri).auth_header(TOKEN);
    let client = ().serve(StreamableHttpClientTransport::from_config(config)).await.unwrap();
    exercise(&client).await;
    client.cancel().await.unwrap();
    served.end().await;
}

/// A client of both eras: it asks `server/discover` first.
fn dual_era() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_both_eras_falls_back_over_stdio() {
    let (client_side, gateway_side) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(gateway_side);
    let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
    let running = tokio::spawn(run_gateway(servers(), transport, context().0));
    let client = ().serve_with_lifecycle(client_side, dual_era()).await.unwrap();
    exercise(&client).await;
    client.cancel().await.unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_both_eras_falls_back_over_http() {
    let served = serve(servers()).await;
    let uri = format!("http://127.0.0.1:{}/mcp", served.port);
    let config = StreamableHttpClientTransportConfig::with_uri(uri).auth_header(TOKEN);
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = ().serve_with_lifecycle(transport, dual_era()).await.unwrap();
    exercise(&client).await;
    client.cancel().await.unwrap();
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_front_of_a_single_server() {
    let (client_side, gateway_side) = tokio::io::duplex(1 << 16);
    let only_echo = entry("alpha", "tools: { allow: [\"echo\"] }\n", polite_server("alpha"));
    let running = tokio::spawn(run_single(only_echo, tokio::io::split(gateway_side), context().0));
    let client = ().serve(client_side).await.unwrap();
    let tools = client.list_all_tools().await.unwrap();
    assert_eq!(tools.iter().map(|tool| tool.name.as_ref()).collect::<Vec<_>>(), ["echo"]);
    assert!(client.call_tool(CallToolRequestParams::new("drop")).await.is_err());
    client.cancel().await.unwrap();
    running.await.unwrap().unwrap();
}
