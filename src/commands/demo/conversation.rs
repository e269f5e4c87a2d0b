//! Everything that happens over MCP: list, call, be refused, attack.

use palisade_gateway::{Context, ServerEntry};
use palisade_sandbox::SandboxSpec;
use serde_json::{Map, Value, json};

use super::attack::Report;
use super::client::Client;
use super::defect;
use super::place::Place;
use super::policies::{ATTACKER, NEIGHBOUR, NEIGHBOUR_TOOL, SECRET_VARIABLE};
use super::render::{self, Audience, Clock, Detail};
use super::tally::{Tally, attack_all};
use crate::commands::Done;
use crate::failure::Failure;

/// Runs the gateway with these servers, and the client through its whole visit.
pub(super) async fn call_and_attack(
    place: &Place,
    servers: Vec<ServerEntry>,
    context: Context,
    spec: &SandboxSpec,
    (detail, clock): (Detail, &mut Clock),
) -> Result<Tally, Failure> {
    let client = Client::connect(servers, context).await?;
    let tally = visit(place, &client, spec, (detail, clock)).await;
    let left = client.leave().await;
    clock.phase("stop");
    let tally = tally?;
    left?;
    Ok(tally)
}

async fn visit(
    place: &Place,
    client: &Client,
    spec: &SandboxSpec,
    (detail, clock): (Detail, &mut Clock),
) -> Result<Tally, Failure> {
    let tools = client.list().await?;
    clock.phase("start");
    call_as_any_client(client, &tools).await?;
    show_neighbour(client).await?;
    clock.phase("calls");
    let tally = attack_all(place, client, spec, detail).await?;
    clock.phase("attacks");
    Ok(tally)
}

async fn call_as_any_client(client: &Client, tools: &[String]) -> Done {
    let audience = Audience::Watching;
    audience.step("gateway", &format!("{}; {} tools:", client.agreed(), tools.len()))?;
    for names in tools.chunks(4) {
        audience.more(&names.join(", "))?;
    }
    let echo = format!("{ATTACKER}__echo");
    let text = "hello from an MCP client";
    let answer = client.call(&echo, arguments(&json!({ "text": text }))).await?;
    must_be(&echo, &answer, &json!({ "text": text }))?;
    let add = format!("{ATTACKER}__add");
    let sum = client.call(&add, arguments(&json!({ "a": 2, "b": 40 }))).await?;
    must_be(&add, &sum, &json!({ "sum": 42 }))?;
    audience.step("called", &format!("{echo} -> {answer}"))?;
    audience.step("called", &format!("{add} 2, 40 -> {sum}"))
}

/// The neighbour has the secret (so that there is one to steal), and one tool.
async fn show_neighbour(client: &Client) -> Done {
    let audience = Audience::Watching;
    let tool = format!("{NEIGHBOUR}__{NEIGHBOUR_TOOL}");
    let report = Report::read(client.call(&tool, Map::new()).await?)?;
    let found = report.attempts.iter().find(|attempt| attempt.id == "own_session");
    match found {
        Some(found) if found.detail.contains(SECRET_VARIABLE) => {
            audience.step("called", &format!("{tool} -> {}, its own secret", found.detail))?;
        }
        Some(_) | None => {
            return Err(defect(format!(
                "the server `{NEIGHBOUR}` did not get the secret that its policy declares"
            )));
        }
    }
    let forbidden = format!("{NEIGHBOUR}__become_root");
    let refusal = client.refusal(&forbidden).await?;
    audience.step("refused", &format!("{forbidden}, by the gateway: {refusal}"))
}

fn arguments(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn must_be(tool: &str, answer: &Value, expected: &Value) -> Done {
    if answer == expected {
        return Ok(());
    }
    Err(defect(format!("`{tool}` answered {}", render::cut(&answer.to_string(), 60))))
}
