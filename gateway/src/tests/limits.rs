//! How long a call may take and how fast a server may write, for one server and behind the hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fake::*;
use crate::launch::ServerEntry;
use crate::{CALL_TIME_OVER, ExitReason, Transport, run_gateway, run_single};

/// Short deadlines, and calls of a quarter of a second.
const SHORT: &str = "lifecycle: { start_timeout: 1s, stop_timeout: 1s }\nlimits: { call_time: 250ms }\n";

/// Answers everything but calls of `stuck`; counts the cancellations that it hears.
fn stuck(cancelled: &Arc<AtomicUsize>) -> Arc<Fake> {
    let cancelled = Arc::clone(cancelled);
    fake(move |io| {
        let mut waits = Vec::new();
        while let Some(message) = io.hear() {
            if message["method"] == "notifications/cancelled" {
                assert!(waits.contains(&message["params"]["requestId"]), "{message} of {waits:?}");
                cancelled.fetch_add(1, Ordering::SeqCst);
            } else if message["method"] == "tools/call" && message["params"]["name"] == "stuck" {
                waits.push(message["id"].clone());
            } else if let Some(answer) = polite("fake", &message) {
                io.say(&answer);
            }
        }
        0
    })
}

fn assert_over(answer: &Value) {
    assert_eq!(answer["error"]["code"], CALL_TIME_OVER, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    for word in ["`stuck`", "250ms", "`limits.call_time`", "`fake`"] {
        assert!(message.contains(word), "{word}: {message}");
    }
}

fn gateway(servers: Vec<ServerEntry>) -> (Client, Audited, JoinHandle<Result<(), crate::GatewayError>>) {
    let (client, (input, output)) = client();
    let (context, audited) = context();
    let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
    (client, audited, tokio::spawn(run_gateway(servers, transport, context)))
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_the_server_is_told() {
    let cancelled = Arc::default();
    let (mut client, stdio) = client();
    let (context, audited) = context();
    let running = tokio::spawn(run_single(entry("fake", SHORT, stuck(&cancelled)), stdio, context));
    client.initialize(json!({})).await;
    assert_over(&client.ask(1, "tools/call", json!({ "name": "stuck" })).await);
    // The control: the same server, another tool. Its answer also shows that the cancellation was heard.
    assert!(client.ask(2, "tools/call", json!({ "name": "echo" })).await["result"].is_object());
    assert_eq!(cancelled.load(Ordering::SeqCst), 1);
    // The id is not free until the late answer comes: it must not pass for the answer to another call.
    let again = client.ask(1, "tools/call", json!({ "name": "echo" })).await;
    assert!(again["error"]["message"].as_str().unwrap().contains("cancelled"), "{again}");
    client.leave();
    running.await.unwrap().unwrap();
    let outcomes: Vec<Value> =
        audited.of("tool_result").into_iter().map(|event| event["outcome"].clone()).collect();
    assert_eq!(outcomes, ["time_over", "result"]);
}

#[tokio::test]
async fn a_server_that_lets_calls_run_out_and_says_nothing_is_ended() {
    let (mut client, stdio) = client();
    let (context, _audited) = context();
    let running = tokio::spawn(run_single(entry("fake", SHORT, stuck(&Arc::default())), stdio, context));
    client.initialize(json!({})).await;
    for id in 1..=3 {
        assert_over(&client.ask(id, "tools/call", json!({ "name": "stuck" })).await);
    }
    let exit = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
    let ExitReason::ServerStopped(why) = &exit.reason else { panic!("{exit:?}") };
    assert!(why.contains("3 calls") && why.contains("said nothing"), "{why}");
    assert!(exit.fault.unwrap().hint.contains("limits.call_time"));
}

#[tokio::test]
async fn behind_the_hub_a_late_call_is_given_up_and_others_go_on() {
    let cancelled = Arc::default();
    let servers = vec![entry("fake", SHORT, stuck(&cancelled)), entry("good", QUICK, polite_server("good"))];
    let (mut client, audited, running) = gateway(servers);
    client.initialize(json!({})).await;
    client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "fake__stuck" } })).await;
    assert!(client.ask(2, "tools/call", json!({ "name": "good__echo" })).await["result"].is_object());
    assert_over(&client.answer(1).await);
    assert!(client.ask(3, "tools/call", json!({ "name": "fake__echo" })).await["result"].is_object());
    assert_eq!(cancelled.load(Ordering::SeqCst), 1);
    client.leave();
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
    assert!(audited.of("tool_result").iter().any(|event| event["outcome"] == "time_over"));
}

#[tokio::test]
async fn behind_the_hub_a_server_that_lets_calls_run_out_is_started_again() {
    let server = stuck(&Arc::default());
    let (mut client, audited, _running) = gateway(vec![entry("fake", SHORT, server.launcher())]);
    client.initialize(json!({})).await;
    for id in 1..=3 {
        assert_over(&client.ask(id, "tools/call", json!({ "name": "fake__stuck" })).await);
    }
    while audited.of("server_stop").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stop = audited.of("server_stop").remove(0);
    assert!(stop["reason"].as_str().unwrap().contains("3 calls"), "{stop}");
    assert!(client.ask(9, "tools/call", json!({ "name": "fake__echo" })).await["result"].is_object());
    assert_eq!(server.starts(), 2);
}

/// Answers its handshake, then writes messages without end.
fn flooding(written: &Arc<AtomicUsize>) -> Arc<Fake> {
    let written = Arc::clone(written);
    fake(move |io| {
        while let Some(message) = io.hear() {
            if let Some(answer) = polite("flood", &message) {
                io.say(&answer);
            }
            if message["method"] == "tools/call" {
                break;
            }
        }
        let line =
            json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": "x".repeat(1000) }).to_string();
        while std::io::Write::write_all(&mut io.out, format!("{line}\n").as_bytes()).is_ok() {
            written.fetch_add(line.len(), Ordering::SeqCst);
        }
        0
    })
}

/// What a flooding server has got rid of after half a second.
async fn flooded(limits: &str) -> usize {
    let written = Arc::default();
    let more = format!("{QUICK}{limits}");
    let servers =
        vec![entry("flood", &more, flooding(&written)), entry("good", QUICK, polite_server("good"))];
    let (mut client, _audited, _running) = gateway(servers);
    client.initialize(json!({})).await;
    assert!(client.ask(1, "tools/call", json!({ "name": "flood__echo" })).await["result"].is_object());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(client.ask(2, "tools/call", json!({ "name": "good__echo" })).await["result"].is_object());
    written.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_output_is_taken_no_faster_than_the_policy_says() {
    let slow = flooded("limits: { output: 100KiB }\n").await;
    // A second's worth at once, half a second's more, and what fits into the pipe and one read.
    assert!(slow < 2 * 100 * 1024 + 2 * 64 * 1024, "{slow}");
    // The control: without a limit that matters it is far more.
    let fast = flooded("limits: { output: 1GiB }\n").await;
    assert!(fast > 4 * slow, "{fast} and {slow}");
}
