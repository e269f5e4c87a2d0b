//! Several servers behind one endpoint, over stdio.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::*;
use crate::launch::ServerEntry;
use crate::{GatewayError, OVERLOADED, REFUSED_BY_POLICY, SERVER_UNAVAILABLE, Transport, run_gateway};

struct Run {
    client: Client,
    audited: Audited,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), GatewayError>>,
}

fn run(servers: Vec<ServerEntry>) -> Run {
    let (client, (input, output)) = client();
    let (context, audited) = context();
    let shutdown = context.shutdown.clone();
    let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
    let running = tokio::spawn(run_gateway(servers, transport, context));
    Run { client, audited, shutdown, running }
}

impl Run {
    async fn end(self) -> Audited {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.running)
            .await
            .expect("the gateway does not end");
        ended.unwrap().unwrap();
        self.audited
    }
}

fn two() -> Run {
    run(vec![entry("alpha", "", polite_server("alpha")), entry("beta", "", polite_server("beta"))])
}

fn names(list: &Value, kind: &str, key: &str) -> Vec<String> {
    let entries = list["result"][kind].as_array().unwrap_or_else(|| panic!("{list}"));
    entries.iter().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_handshake_is_the_gateways_own() {
    let mut run = two();
    let answer = run.client.initialize(json!({ "roots": {} })).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(answer["result"]["serverInfo"]["name"], "palisade");
    assert!(answer["result"]["capabilities"]["tools"]["listChanged"].as_bool().unwrap());
    assert_eq!(run.client.ask(1, "ping", json!({})).await["result"], json!({}));
    let again = run.client.ask(2, "initialize", json!({ "protocolVersion": "2025-11-25" })).await;
    assert!(again["error"]["message"].as_str().unwrap().contains("twice"));
}

#[tokio::test]
async fn the_stateless_revision_is_answered_so_that_clients_fall_back() {
    let mut run = two();
    for method in ["server/discover", "tools/list"] {
        let meta = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } });
        let answer = run.client.ask(1, method, meta).await;
        let code = answer["error"]["code"].as_i64().unwrap();
        assert!(!(-32099..=-32020).contains(&code), "{code} would say that the gateway is modern");
    }
    assert!(run.client.initialize(json!({})).await["result"].is_object());
}

#[tokio::test]
async fn lists_are_merged_over_all_pages_and_unknown_fields_survive() {
    let mut run = two();
    run.client.initialize(json!({})).await;
    let tools = run.client.ask(1, "tools/list", json!({})).await;
    assert_eq!(names(&tools, "tools", "name"), ["alpha__echo", "alpha__drop", "beta__echo", "beta__drop"]);
    assert_eq!(tools["result"]["tools"][0]["x-vendor"]["n"], 1.0);
    assert!(tools["result"].get("nextCursor").is_none());
    let prompts = run.client.ask(2, "prompts/list", json!({})).await;
    assert_eq!(names(&prompts, "prompts", "name"), ["alpha__hello", "beta__hello"]);
    let resources = run.client.ask(3, "resources/list", json!({})).await;
    assert_eq!(names(&resources, "resources", "uri"), ["alpha://one", "beta://one"]);
    let templates = run.client.ask(4, "resources/templates/list", json!({})).await;
    assert_eq!(
        names(&templates, "resourceTemplates", "uriTemplate"),
        ["alpha://row/{id}", "beta://row/{id}"]
    );
    let cursor = run.client.ask(5, "tools/list", json!({ "cursor": "x" })).await;
    assert_eq!(cursor["error"]["code"], -32602);
}

#[tokio::test]
async fn requests_reach_the_server_that_is_meant_under_its_own_names() {
    let mut run = two();
    run.client.initialize(json!({})).await;
    let params = json!({ "name": "beta__echo", "arguments": { "n": 1.50 }, "_meta": { "v/x": [1] } });
    let answer = run.client.ask(1, "tools/call", params).await;
    assert_eq!(answer["result"]["x-server"], "beta");
    let seen: Value = serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(seen, json!({ "name": "echo", "arguments": { "n": 1.5 }, "_meta": { "v/x": [1] } }));
    let answer = run.client.ask(2, "prompts/get", json!({ "name": "alpha__hello" })).await;
    assert_eq!(
        (&answer["result"]["x-asked"], &answer["result"]["x-server"]),
        (&json!("hello"), &json!("alpha"))
    );
    for (id, uri, owner) in [(3, "beta://one", "beta"), (4, "alpha://row/7", "alpha")] {
        let answer = run.client.ask(id, "resources/read", json!({ "uri": uri })).await;
        assert_eq!(answer["result"]["contents"][0]["text"], owner);
    }
    let completion = |reference: Value| json!({ "ref": reference, "argument": { "name": "a", "value": "" } });
    let prompt = completion(json!({ "type": "ref/prompt", "name": "beta__hello" }));
    let answer = run.client.ask(5, "completion/complete", prompt).await;
    assert_eq!(answer["result"]["completion"]["values"][0], "beta");
    assert!(answer["result"]["completion"]["values"][1].as_str().unwrap().contains("\"hello\""));
    let template = completion(json!({ "type": "ref/resource", "uri": "alpha://row/{id}" }));
    let answer = run.client.ask(6, "completion/complete", template).await;
    assert_eq!(answer["result"]["completion"]["values"][0], "alpha");
    assert_eq!(run.client.ask(7, "logging/setLevel", json!({ "level": "info" })).await["result"], json!({}));
}

#[tokio::test]
async fn what_no_server_owns_is_refused_and_sent_to_nobody() {
    let mut run = two();
    run.client.initialize(json!({})).await;
    let cases = [
        ("tools/call", json!({ "name": "echo" })),
        ("tools/call", json!({ "name": "gamma__echo" })),
        ("tools/call", json!({ "name": "alpha__" })),
        ("prompts/get", json!({ "name": "hello" })),
        ("resources/read", json!({ "uri": "file:///etc/shadow" })),
        ("resources/read", json!({})),
        ("completion/complete", json!({ "ref": { "type": "ref/other" } })),
        ("tasks/get", json!({ "taskId": "1" })),
    ];
    for (method, params) in cases {
        let answer = run.client.ask(1, method, params.clone()).await;
        assert!(answer["error"]["code"].is_i64(), "{method} {params}: {answer}");
    }
}

#[tokio::test]
async fn each_server_has_its_own_policy() {
    let allowed = "tools: { allow: [\"echo\"] }\n";
    let mut run =
        run(vec![entry("alpha", allowed, polite_server("alpha")), entry("beta", "", polite_server("beta"))]);
    run.client.initialize(json!({})).await;
    let tools = run.client.ask(1, "tools/list", json!({})).await;
    assert_eq!(names(&tools, "tools", "name"), ["alpha__echo", "beta__echo", "beta__drop"]);
    let refused = run.client.ask(2, "tools/call", json!({ "name": "alpha__drop" })).await;
    assert_eq!(refused["error"]["code"], REFUSED_BY_POLICY);
    assert_eq!(refused["error"]["message"], "the policy of server `alpha` does not allow tool `drop`");
    assert!(run.client.ask(3, "tools/call", json!({ "name": "beta__drop" })).await["result"].is_object());
    let twice = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"alpha__echo","name":"alpha__drop"}}"#;
    run.client.send_line(twice).await;
    assert_eq!(run.client.answer(9).await["error"]["code"], -32600);
    run.client.leave();
    let audited = run.end().await;
    let calls = audited.of("tool_call");
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!((&calls[0]["decision"], &calls[0]["server"]), (&json!("refused"), &json!("alpha")));
    assert_eq!((&calls[1]["decision"], &calls[1]["tool"]), (&json!("permitted"), &json!("drop")));
    assert_eq!(audited.of("tool_result")[0]["outcome"], "result");
}

#[tokio::test]
async fn one_server_that_hangs_and_one_that_fails_do_not_hold_up_the_third() {
    let hanging = fake(|io| {
        io.linger();
        0
    });
    let mut run = run(vec![
        entry("hangs", QUICK, hanging),
        entry("fails", QUICK, Arc::new(Refusing)),
        entry("works", QUICK, polite_server("works")),
    ]);
    run.client.initialize(json!({})).await;
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
    // The list waits for the deadline of the one that hangs; a call to the one that works does not.
    let call =
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "works__echo" } });
    run.client.send(&call).await;
    let (mut reports, mut answers) = (Vec::new(), Vec::new());
    while answers.len() < 2 {
        let message = run.client.message().await;
        if message["method"] == "notifications/message" {
            reports.push(message["params"]["data"].to_string());
        } else {
            answers.push(message);
        }
    }
    assert_eq!((&answers[0]["id"], &answers[0]["result"]["x-server"]), (&json!(2), &json!("works")));
    let tools = &answers[1];
    assert_eq!(names(tools, "tools", "name"), ["works__echo", "works__drop"]);
    let said = |words: &str| reports.iter().any(|report| report.contains(words));
    assert!(said("server `hangs` did not answer `initialize` within 1 s"), "{reports:?}");
    assert!(
        said("server `fails` cannot be started: the image has no signature: nothing was found"),
        "{reports:?}"
    );
    run.client.leave();
    let audited = run.end().await;
    assert!(!audited.of("launch_failed").is_empty());
}

#[tokio::test]
async fn servers_start_when_needed_or_at_start_up() {
    let (lazy, eager) = (polite_server("lazy"), polite_server("eager"));
    let at_start = "lifecycle: { start: at-start }\n";
    let mut run = run(vec![entry("lazy", "", lazy.launcher()), entry("eager", at_start, eager.launcher())]);
    for _ in 0..200 {
        if eager.starts() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((lazy.starts(), eager.starts()), (0, 1));
    run.client.initialize(json!({})).await;
    run.client.ask(1, "tools/call", json!({ "name": "eager__echo" })).await;
    assert_eq!((lazy.starts(), eager.starts()), (0, 1));
    run.client.ask(2, "tools/call", json!({ "name": "lazy__echo" })).await;
    assert_eq!((lazy.starts(), eager.starts()), (1, 1));
    run.client.leave();
    run.end().await;
    assert_eq!((lazy.alive(), eager.alive()), (0, 0));
}

#[tokio::test]
async fn a_server_that_dies_fails_its_calls_and_is_started_again() {
    let server = fake(|io| {
        while let Some(request) = io.hear() {
            if request["params"]["arguments"]["die"] == true {
                writeln!(io.err, "out of luck").unwrap();
                return 9;
            }
            if let Some(answer) = polite("frail", &request) {
                io.say(&answer);
            }
        }
        0
    });
    let mut run =
        run(vec![entry("frail", QUICK, server.launcher()), entry("other", "", polite_server("other"))]);
    run.client.initialize(json!({})).await;
    let answer =
        run.client.ask(1, "tools/call", json!({ "name": "frail__echo", "arguments": { "die": true } })).await;
    assert_eq!(answer["error"]["code"], SERVER_UNAVAILABLE);
    assert_eq!(
        answer["error"]["message"],
        "server `frail` exited with status 9; its last line of standard error: out of luck"
    );
    assert!(run.client.ask(2, "tools/call", json!({ "name": "other__echo" })).await["result"].is_object());
    assert!(run.client.ask(3, "tools/call", json!({ "name": "frail__echo" })).await["result"].is_object());
    assert_eq!(server.starts(), 2);
    run.client.ask(4, "tools/call", json!({ "name": "frail__echo", "arguments": { "die": true } })).await;
    // It has died twice within seconds: now there is a pause.
    let answer = run.client.ask(5, "tools/call", json!({ "name": "frail__echo" })).await;
    assert_eq!(answer["error"]["code"], SERVER_UNAVAILABLE);
    assert_eq!(server.starts(), 2);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(run.client.ask(6, "tools/call", json!({ "name": "frail__echo" })).await["result"].is_object());
    run.client.leave();
    assert_eq!(run.end().await.of("server_stop")[0]["exit_code"], 9);
}

#[tokio::test]
async fn progress_and_cancellation_cross_with_the_right_ids() {
    let server = fake(|io| {
        let mut waiting: Option<Value> = None;
        while let Some(request) = io.hear() {
            if request["method"] == "notifications/cancelled" {
                let waiting = waiting.take().unwrap();
                assert_eq!(request["params"]["requestId"], waiting["id"]);
                assert_eq!(request["params"]["reason"], "enough");
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/message",
                    "params": { "level": "info", "data": "cancelled" } }));
                io.say(&reply(&waiting, json!({ "late": true })));
            } else if request["method"] == "tools/call" {
                let token = &request["params"]["_meta"]["progressToken"];
                assert_eq!(*token, request["id"]);
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/progress",
                    "params": { "progressToken": token, "progress": 0.5, "x": 1 } }));
                waiting = Some(request);
            } else if let Some(answer) = polite("slow", &request) {
                io.say(&answer);
            }
        }
        0
    });
    let mut run = run(vec![entry("slow", QUICK, server)]);
    run.client.initialize(json!({})).await;
    let params = json!({ "name": "slow__x", "_meta": { "progressToken": "client's" } });
    run.client
        .send(&json!({ "jsonrpc": "2.0", "id": "call", "method": "tools/call", "params": params }))
        .await;
    let progress = run.client.message().await;
    assert_eq!(progress["params"], json!({ "progressToken": "client's", "progress": 0.5, "x": 1 }));
    let cancel = json!({ "requestId": "call", "reason": "enough" });
    run.client
        .send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }))
        .await;
    let log = run.client.message().await;
    assert_eq!(log["params"], json!({ "logger": "slow", "level": "info", "data": "cancelled" }));
    // The late answer was written before this one is asked for.
    let next = run.client.ask(2, "ping", json!({})).await;
    assert_eq!(next["result"], json!({}));
    run.client.leave();
    assert_eq!(run.end().await.of("tool_result")[0]["outcome"], "cancelled");
}

#[tokio::test]
async fn requests_of_servers_reach_the_client_and_its_answers_the_server() {
    let asking = |name: &'static str| {
        fake(move |io| {
            while let Some(message) = io.hear() {
                if message["method"] == "tools/call" {
                    io.say(&json!({ "jsonrpc": "2.0", "id": "q", "method": "ping" }));
                    assert_eq!(io.hear().unwrap(), json!({ "jsonrpc": "2.0", "id": "q", "result": {} }));
                    io.say(&json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create",
                        "params": { "message": name, "x-unknown": [1] } }));
                    let answer = io.hear().unwrap();
                    assert_eq!(answer["id"], "q");
                    io.say(&json!({ "jsonrpc": "2.0", "id": "r", "method": "sampling/createMessage" }));
                    let refused = io.hear().unwrap();
                    let result = json!({ "answer": answer["result"], "refused": refused["error"]["code"] });
                    io.say(&reply(&message, result));
                } else if let Some(answer) = polite(name, &message) {
                    io.say(&answer);
                }
            }
            0
        })
    };
    let mut run = run(vec![entry("alpha", "", asking("alpha")), entry("beta", "", asking("beta"))]);
    run.client.initialize(json!({ "elicitation": {} })).await;
    for (id, name) in [(1, "alpha"), (2, "beta")] {
        let params = json!({ "name": format!("{name}__ask") });
        run.client
            .send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
            .await;
    }
    // One server may be done before the other one asks.
    let mut answered = Vec::new();
    while answered.len() < 2 {
        let question = run.client.message().await;
        if question.get("method").is_none() {
            answered.push(question);
            continue;
        }
        assert_eq!(question["params"]["x-unknown"], json!([1]));
        let result = json!({ "action": "accept", "for": question["params"]["message"] });
        run.client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result })).await;
    }
    answered.sort_by_key(|answer| answer["id"].as_i64());
    for (answer, name) in answered.iter().zip(["alpha", "beta"]) {
        assert_eq!(answer["result"]["answer"], json!({ "action": "accept", "for": name }));
        assert_eq!(answer["result"]["refused"], -32601);
    }
}

#[tokio::test]
async fn changes_are_forwarded_and_garbage_ends_only_its_server() {
    let noisy = fake(|io| {
        while let Some(message) = io.hear() {
            if message["method"] == "tools/call" {
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
                for _ in 0..100 {
                    io.say_line("Traceback (most recent call last):");
                }
                io.linger();
            } else if let Some(answer) = polite("noisy", &message) {
                io.say(&answer);
            }
        }
        0
    });
    let mut run = run(vec![entry("noisy", QUICK, noisy), entry("calm", "", polite_server("calm"))]);
    run.client.initialize(json!({})).await;
    run.client
        .send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "noisy__x" } }))
        .await;
    assert_eq!(run.client.message().await["method"], "notifications/tools/list_changed");
    let answer = run.client.answer(1).await;
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("server `noisy` was stopped: it sent 64 lines")
    );
    assert!(run.client.ask(2, "tools/call", json!({ "name": "calm__echo" })).await["result"].is_object());
    run.client.leave();
    assert!(!run.end().await.of("protocol_violation").is_empty());
}

#[tokio::test]
async fn updates_of_resources_reach_only_subscribers() {
    let server = fake(|io| {
        while let Some(message) = io.hear() {
            if let Some(answer) = polite("r", &message) {
                io.say(&answer);
            }
            if matches!(message["method"].as_str(), Some("resources/subscribe" | "resources/unsubscribe")) {
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated",
                    "params": { "uri": message["params"]["uri"] } }));
            }
        }
        0
    });
    let mut run = run(vec![entry("r", "", server)]);
    run.client.initialize(json!({})).await;
    let subscribe =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": { "uri": "r://one" } });
    run.client.send(&subscribe).await;
    // The answer and the update may come in any order.
    let both = [run.client.message().await, run.client.message().await];
    let update = both.iter().find(|message| message["method"] == "notifications/resources/updated");
    assert_eq!(update.expect("an update")["params"]["uri"], "r://one");
    run.client.ask(2, "resources/unsubscribe", json!({ "uri": "r://one" })).await;
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 3, "method": "ping" })).await;
    assert_eq!(run.client.message().await["id"], 3);
}

#[tokio::test]
async fn a_flood_of_requests_is_bounded() {
    let silent = fake(|io| {
        while let Some(message) = io.hear() {
            if message["method"] == "initialize" {
                io.say(&polite("silent", &message).unwrap());
            }
        }
        0
    });
    let mut run = run(vec![entry("silent", QUICK, silent)]);
    run.client.initialize(json!({})).await;
    for id in 1..=100 {
        run.client.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "silent__x" } })).await;
    }
    let answer = run.client.message().await;
    assert_eq!(answer["error"]["code"], OVERLOADED);
    // A second request under a pending id is refused too.
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })).await;
    run.shutdown.cancel();
    run.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_still_gets_what_it_asked_for() {
    let server = polite_server("a");
    let mut run = run(vec![entry("a", "", server.launcher())]);
    run.client.initialize(json!({})).await;
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
    run.client.leave();
    assert_eq!(names(&run.client.answer(1).await, "tools", "name"), ["a__echo", "a__drop"]);
    run.end().await;
    assert_eq!((server.alive(), server.stops()), (0, 0));
}

#[tokio::test]
async fn all_servers_are_ended_even_if_they_do_not_want_to() {
    let stubborn = || {
        fake(|io| {
            let request = io.hear().unwrap();
            io.say(&polite("s", &request).unwrap());
            io.linger();
            0
        })
    };
    let servers = [stubborn(), stubborn()];
    let [one, two] = servers.each_ref().map(Fake::launcher);
    let mut run = run(vec![entry("one", QUICK, one), entry("two", QUICK, two)]);
    run.client.initialize(json!({})).await;
    run.client.ask(1, "tools/list", json!({})).await;
    let since = std::time::Instant::now();
    run.shutdown.cancel();
    run.end().await;
    assert_eq!(servers.each_ref().map(|server| (server.alive(), server.stops())), [(0, 1), (0, 1)]);
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_list_without_end_is_cut_off_and_reported() {
    let endless = fake(|io| {
        while let Some(message) = io.hear() {
            if message["method"] == "tools/list" {
                io.say(&reply(&message, json!({ "tools": [], "nextCursor": "more" })));
            } else if let Some(answer) = polite("endless", &message) {
                io.say(&answer);
            }
        }
        0
    });
    let mut run = run(vec![entry("endless", "", endless), entry("fine", "", polite_server("fine"))]);
    run.client.initialize(json!({})).await;
    let tools = run.client.ask(1, "tools/list", json!({})).await;
    assert_eq!(names(&tools, "tools", "name"), ["fine__echo", "fine__drop"]);
}

#[tokio::test]
async fn two_servers_of_one_name_are_refused() {
    let (_client, (input, output)) = client();
    let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
    let servers = vec![entry("a", "", polite_server("a")), entry("a", "", polite_server("a"))];
    let error = run_gateway(servers, transport, context().0).await.unwrap_err();
    assert_eq!(error.to_string(), "two policies name their server `a`");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_up_nobody_else() {
    let deaf = fake(|io| {
        let request = io.hear().unwrap();
        io.say(&polite("deaf", &request).unwrap());
        io.linger();
        0
    });
    let mut run = run(vec![entry("deaf", QUICK, deaf), entry("fine", "", polite_server("fine"))]);
    run.client.initialize(json!({})).await;
    // More than its pipe holds.
    let filler = "x".repeat(200_000);
    for id in 1..=3 {
        let params = json!({ "name": "deaf__x", "arguments": { "filler": filler } });
        run.client
            .send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
            .await;
    }
    for _ in 0..50 {
        run.client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" })).await;
    }
    for id in 1..=3 {
        let cancel = json!({ "requestId": id });
        run.client
            .send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }))
            .await;
    }
    let answer = run.client.ask(4, "tools/call", json!({ "name": "fine__echo" })).await;
    assert_eq!(answer["result"]["x-server"], "fine");
    run.client.leave();
    run.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_keep_the_gateway_from_ending() {
    let server = polite_server("a");
    let mut run = run(vec![entry("a", QUICK, server.launcher())]);
    run.client.initialize(json!({})).await;
    let params = json!({ "name": "a__echo", "arguments": { "filler": "x".repeat(400_000) } });
    for id in 1..=20 {
        run.client
            .send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
            .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        if id == 10 {
            // The client's own stream is full from here on; nobody reads it.
            break;
        }
    }
    run.shutdown.cancel();
    let Run { client: _silent, audited: _, shutdown: _, running } = run;
    tokio::time::timeout(Duration::from_secs(10), running)
        .await
        .expect("the gateway does not end")
        .unwrap()
        .unwrap();
    assert_eq!(server.alive(), 0);
}

#[tokio::test]
async fn a_server_that_dies_before_its_first_client_is_reported_and_started_again() {
    let starts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&starts);
    let server = fake(move |io| {
        if counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            return 1;
        }
        while let Some(request) = io.hear() {
            if let Some(answer) = polite("early", &request) {
                io.say(&answer);
            }
        }
        0
    });
    let at_start = "lifecycle: { start: at-start, start_timeout: 2s, stop_timeout: 1s }\n";
    let mut run = run(vec![entry("early", at_start, server.launcher())]);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((server.starts(), server.alive()), (1, 0));
    run.client.initialize(json!({})).await;
    let answer = run.client.ask(1, "tools/call", json!({ "name": "early__echo" })).await;
    assert_eq!(answer["result"]["x-server"], "early");
    run.client.leave();
    assert_eq!(run.end().await.of("server_stop")[0]["exit_code"], 1);
}

#[tokio::test]
async fn a_server_that_is_just_being_started_is_ended_too() {
    let hanging = fake(|io| {
        io.linger();
        0
    });
    let late = fake(|io| {
        io.linger();
        0
    });
    let slow = Arc::new(Slow(Arc::clone(&late), Duration::from_millis(700)));
    let mut run = run(vec![entry("hangs", QUICK, hanging.launcher()), entry("late", QUICK, slow)]);
    run.client.initialize(json!({})).await;
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    run.shutdown.cancel();
    run.end().await;
    assert_eq!((hanging.starts(), hanging.alive(), hanging.stops()), (1, 0, 1));
    assert_eq!((late.starts(), late.alive(), late.stops()), (1, 0, 1));
}

#[tokio::test]
async fn a_progress_token_that_cannot_be_read_is_refused() {
    let mut run = run(vec![entry("a", "", polite_server("a"))]);
    run.client.initialize(json!({})).await;
    let call = |meta: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a__echo","_meta":{meta}}}}}"#
        )
    };
    let bad = [
        r#"{"progressToken":1,"progressToken":2}"#,
        r#"{"progressToken":1,"progresstoken":2}"#,
        r#"{"progressToken":{}}"#,
        r#"{"progressToken":1.5}"#,
        "[]",
        r#"{},"_meta":{"progressToken":1}"#,
    ];
    for meta in bad {
        run.client.send_line(&call(meta)).await;
        assert_eq!(run.client.answer(1).await["error"]["code"], -32600, "{meta}");
    }
    for meta in [r#"{"progressToken":"t"}"#, r#"{"progressToken":9}"#, "{}", "null"] {
        run.client.send_line(&call(meta)).await;
        assert!(run.client.answer(1).await["result"].is_object(), "{meta}");
    }
}

#[tokio::test]
async fn a_log_message_that_cannot_carry_its_servers_name_is_dropped() {
    let server = fake(|io| {
        while let Some(message) = io.hear() {
            if message["method"] == "tools/call" {
                for params in
                    [r#"{"data":"forged","logger":"other","logger":"other"}"#, r#"["forged"]"#, "null"]
                {
                    io.say_line(&format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}"#
                    ));
                }
                io.say_line(r#"{"jsonrpc":"2.0","method":"notifications/message"}"#);
                io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/message",
                    "params": { "level": "info", "data": "honest" } }));
            } else if let Some(answer) = polite("a", &message) {
                io.say(&answer);
            }
        }
        0
    });
    let mut run = run(vec![entry("a", "", server)]);
    run.client.initialize(json!({})).await;
    run.client
        .send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "a__x" } }))
        .await;
    let first = run.client.message().await;
    assert_eq!(first["params"], json!({ "logger": "a", "level": "info", "data": "honest" }));
}

#[tokio::test]
async fn one_session_has_a_share_of_a_servers_places() {
    let silent = fake(|io| {
        while let Some(message) = io.hear() {
            if message["method"] == "initialize" {
                io.say(&polite("silent", &message).unwrap());
            }
        }
        0
    });
    let mut run = run(vec![entry("silent", QUICK, silent), entry("other", "", polite_server("other"))]);
    run.client.initialize(json!({})).await;
    for id in 1..=17 {
        let params = json!({ "name": "silent__x" });
        run.client
            .send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
            .await;
    }
    let refused = run.client.message().await;
    assert_eq!(refused["error"]["code"], OVERLOADED);
    assert!(refused["error"]["message"].as_str().unwrap().contains("16 requests pending"), "{refused}");
    assert!(run.client.ask(20, "tools/call", json!({ "name": "other__echo" })).await["result"].is_object());
    run.shutdown.cancel();
    run.end().await;
}

#[tokio::test]
async fn an_unlisted_resource_is_nobodys_while_a_server_is_not_running() {
    let shy = || {
        fake(|io| {
            while let Some(message) = io.hear() {
                match message["method"].as_str() {
                    Some("resources/list") => io.say(&reply(&message, json!({ "resources": [] }))),
                    Some("resources/templates/list") => {
                        io.say(&reply(&message, json!({ "resourceTemplates": [] })));
                    }
                    _ => drop(polite("shy", &message).map(|answer| io.say(&answer))),
                }
            }
            0
        })
    };
    let read = json!({ "uri": "secret://of-the-other" });
    let mut two = run(vec![entry("shy", QUICK, shy()), entry("down", QUICK, Arc::new(Refusing))]);
    two.client.initialize(json!({})).await;
    let answer = two.client.ask(1, "resources/read", read.clone()).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    // The positive control: alone, it can only be meant.
    let mut run = run(vec![entry("shy", QUICK, shy())]);
    run.client.initialize(json!({})).await;
    assert!(run.client.ask(1, "resources/read", read).await["result"].is_object());
}
