//! The least of an MCP server: one tool, `probe`, and a line for each answer.

use std::io::{self, BufRead, Write};

use serde_json::{Map, Value, json};

use crate::given::Given;
use crate::{limits, probes};

/// Answers until the end of the input.
pub(crate) fn run(input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    for line in input.lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        let Some(id) = message.get("id") else { continue };
        let result = answer(&message, output)?;
        writeln!(output, "{}", json!({ "jsonrpc": "2.0", "id": id, "result": result }))?;
        output.flush()?;
    }
    Ok(())
}

fn answer(message: &Value, output: &mut impl Write) -> io::Result<Value> {
    let params = message.get("params").and_then(Value::as_object);
    match message.get("method").and_then(Value::as_str) {
        Some("initialize") => Ok(json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "palisade-probe", "version": env!("CARGO_PKG_VERSION") },
        })),
        Some("tools/list") => Ok(json!({ "tools": [{
            "name": "probe",
            "description": "Tries one group of attempts",
            "inputSchema": { "type": "object" },
        }] })),
        Some("tools/call") => {
            let arguments = params.and_then(|params| params.get("arguments")).and_then(Value::as_object);
            call(&Given::new(arguments.unwrap_or(&Map::new())), output)
        }
        _ => Ok(json!({})),
    }
}

fn call(given: &Given, output: &mut impl Write) -> io::Result<Value> {
    if let Some(megabytes) = given.number("flood_mib") {
        limits::flood(output, megabytes)?;
    }
    let attempts = probes::run(given);
    Ok(json!({
        "content": [{ "type": "text", "text": format!("{} attempts", attempts.len()) }],
        "structuredContent": { "attempts": attempts },
        "isError": false,
    }))
}
