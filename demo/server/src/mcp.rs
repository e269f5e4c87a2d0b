//! MCP with the handshake, revisions 2024-11-05 to 2025-11-25: what most servers in images speak today.

use serde_json::{Map, Value, json};

use crate::tools;

pub(crate) const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
/// MCP's own code, from revision 2024-11-05 on.
const RESOURCE_NOT_FOUND: i32 = -32002;

/// Oldest first; the last is offered to a client that asks for one not listed.
const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const NEWEST: &str = "2025-11-25";

const RESOURCE_URI: &str = "demo://about";
const RESOURCE_TEXT: &str = "This server ships with Palisade. Half of its tools attack the host it runs on.";
const PROMPT: &str = "attack_report";

/// A JSON-RPC error code and its message.
type Failure = (i32, String);

/// The answer to one message, or to a batch (2025-03-26 has them); none for notifications and responses.
pub(crate) fn answer(message: &Value) -> Option<Value> {
    let Value::Array(batch) = message else { return answer_one(message) };
    if batch.is_empty() {
        return Some(error(&Value::Null, INVALID_REQUEST, "the batch is empty"));
    }
    let answers: Vec<Value> = batch.iter().filter_map(answer_one).collect();
    (!answers.is_empty()).then(|| Value::Array(answers))
}

/// An error response.
pub(crate) fn error(id: &Value, code: i32, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn answer_one(message: &Value) -> Option<Value> {
    let Some(message) = message.as_object() else {
        return Some(error(&Value::Null, INVALID_REQUEST, "a message is an object"));
    };
    let id = message.get("id")?;
    let Some(method) = message.get("method") else {
        let is_response = message.contains_key("result") || message.contains_key("error");
        return (!is_response).then(|| error(id, INVALID_REQUEST, "the request has no method"));
    };
    let empty = Map::new();
    let params = message.get("params").and_then(Value::as_object).unwrap_or(&empty);
    Some(match result(method.as_str().unwrap_or_default(), params) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err((code, message)) => error(id, code, &message),
    })
}

fn result(method: &str, params: &Map<String, Value>) -> Result<Value, Failure> {
    match method {
        "initialize" => Ok(initialize(params)),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({ "tools": tools::list() })),
        "tools/call" => call_tool(params),
        "resources/list" => Ok(json!({ "resources": [{
            "uri": RESOURCE_URI, "name": "about", "title": "About this server", "mimeType": "text/plain",
        }] })),
        "resources/templates/list" => Ok(json!({ "resourceTemplates": [] })),
        "resources/read" => read_resource(params),
        "prompts/list" => Ok(json!({ "prompts": [{
            "name": PROMPT, "title": "Report on the attacks",
            "description": "Asks for every attack tool to be called and for a summary of what was refused",
        }] })),
        "prompts/get" => get_prompt(params),
        other => Err((METHOD_NOT_FOUND, format!("the server has no method {other:?}"))),
    }
}

fn initialize(params: &Map<String, Value>) -> Value {
    let asked = text(params, "protocolVersion");
    let revision = REVISIONS.into_iter().find(|revision| *revision == asked).unwrap_or(NEWEST);
    json!({
        "protocolVersion": revision,
        "capabilities": { "tools": {}, "resources": {}, "prompts": {} },
        "serverInfo": {
            "name": "palisade-demo-server",
            "title": "Palisade demo server",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "instructions": "echo, add and word_count are honest; every other tool attacks the host and reports how it went.",
    })
}

fn call_tool(params: &Map<String, Value>) -> Result<Value, Failure> {
    let empty = Map::new();
    let arguments = params.get("arguments").and_then(Value::as_object).unwrap_or(&empty);
    let name = text(params, "name");
    tools::call(name, arguments).ok_or_else(|| (INVALID_PARAMS, format!("the server has no tool {name:?}")))
}

fn read_resource(params: &Map<String, Value>) -> Result<Value, Failure> {
    match text(params, "uri") {
        RESOURCE_URI => Ok(json!({ "contents": [{
            "uri": RESOURCE_URI, "mimeType": "text/plain", "text": RESOURCE_TEXT,
        }] })),
        other => Err((RESOURCE_NOT_FOUND, format!("the server has no resource {other:?}"))),
    }
}

fn get_prompt(params: &Map<String, Value>) -> Result<Value, Failure> {
    match text(params, "name") {
        PROMPT => Ok(json!({ "messages": [{ "role": "user", "content": {
            "type": "text", "text": "Call every attack tool of this server and list what was refused, and how.",
        } }] })),
        other => Err((INVALID_PARAMS, format!("the server has no prompt {other:?}"))),
    }
}

fn text<'a>(params: &'a Map<String, Value>, key: &str) -> &'a str {
    params.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, params: &Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": "a", "method": method, "params": params });
        answer(&request).expect("a request gets an answer")
    }

    #[test]
    fn the_revision_is_the_clients_where_known_and_the_newest_otherwise() {
        for revision in REVISIONS {
            let answer = ask("initialize", &json!({ "protocolVersion": revision }));
            assert_eq!(answer["result"]["protocolVersion"], revision);
        }
        let answer = ask("initialize", &json!({ "protocolVersion": "2026-07-28" }));
        assert_eq!(answer["result"]["protocolVersion"], NEWEST);
        assert_eq!(REVISIONS.last(), Some(&NEWEST));
    }

    #[test]
    fn notifications_and_responses_get_no_answer() {
        assert_eq!(answer(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })), None);
        assert_eq!(answer(&json!({ "jsonrpc": "2.0", "id": 1, "result": {} })), None);
    }

    #[test]
    fn a_batch_is_answered_as_one() {
        let batch = json!([
            { "jsonrpc": "2.0", "id": 1, "method": "ping" },
            { "jsonrpc": "2.0", "method": "notifications/initialized" },
            { "jsonrpc": "2.0", "id": 2, "method": "nonsense" },
        ]);
        let answers = answer(&batch).expect("two of three want an answer");
        assert_eq!(answers[0]["id"], 1);
        assert_eq!(answers[1]["error"]["code"], METHOD_NOT_FOUND);
        assert_eq!(answers.as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!(ask("tools/call", &json!({ "name": "x" }))["error"]["code"], INVALID_PARAMS);
        assert_eq!(ask("resources/read", &json!({ "uri": "x:" }))["error"]["code"], RESOURCE_NOT_FOUND);
        assert_eq!(ask("prompts/get", &json!({ "name": "x" }))["error"]["code"], INVALID_PARAMS);
    }

    #[test]
    fn what_is_listed_can_be_had() {
        let uri = ask("resources/list", &json!({}))["result"]["resources"][0]["uri"].clone();
        assert!(ask("resources/read", &json!({ "uri": uri }))["result"]["contents"][0]["text"].is_string());
        let name = ask("prompts/list", &json!({}))["result"]["prompts"][0]["name"].clone();
        assert!(ask("prompts/get", &json!({ "name": name }))["result"]["messages"][0].is_object());
    }
}
