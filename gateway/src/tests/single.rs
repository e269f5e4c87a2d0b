//! One server in the place of itself, good and bad.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::*;
use crate::launch::{Ending, ExitStatus, Launch};
use crate::single::{ExitReason, SingleError, SingleExit, run_single};
use crate::{REFUSED_BY_POLICY, SERVER_UNAVAILABLE};

struct Run {
    client: Client,
    audited: Audited,
    shutdown: CancellationToken,
    running: JoinHandle<Result<SingleExit, SingleError>>,
}

fn run(more: &str, launch: Arc<dyn Launch>) -> Run {
    let (client, stdio) = client();
    let (context, audited) = context();
    let shutdown = context.shutdown.clone();
    let running = tokio::spawn(run_single(entry("fake", more, launch), stdio, context));
    Run { client, audited, shutdown, running }
}

impl Run {
    async fn end(self) -> (Result<SingleExit, SingleError>, Audited) {
        let ended =
            tokio::time::timeout(Duration::from_secs(30), self.running).await.expect("the run does not end");
        (ended.unwrap(), self.audited)
    }
}

fn assert_unavailable(answer: &Value, words: &str) {
    assert_eq!(answer["error"]["code"], SERVER_UNAVAILABLE, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("`fake`") && message.contains(words), "{message}");
}

/// Repeats every line, as a response if it is a request.
fn echo() -> Arc<Fake> {
    fake(|io| {
        while let Some(Ok(line)) = io.input.next() {
            let answer = line.replace("\"method\":\"any\"", "\"result\":{}");
            io.say_line(&answer);
        }
        7
    })
}

#[tokio::test]
async fn lines_pass_byte_for_byte_in_both_directions() {
    let mut run = run("", echo());
    let request = r#"{ "x" :1e400,"jsonrpc":"2.0","id":"\u0061","method":"any", "params":{"_meta":{"k":[1.0, 2]}},"y":{}}"#;
    run.client.send_line(request).await;
    let answer = run.client.line().await.unwrap();
    assert_eq!(answer, request.replace("\"method\":\"any\"", "\"result\":{}"));
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/x","z":1.50}"#;
    run.client.send_line(notification).await;
    assert_eq!(run.client.line().await.unwrap(), notification);
    run.client.leave();
    let (ended, audited) = run.end().await;
    let exit = ended.unwrap();
    assert_eq!((exit.reason, exit.exit.status), (ExitReason::ClientLeft, ExitStatus::Code(7)));
    assert_eq!(audited.of("server_start")[0]["facts"]["image"], "sha256:fake");
    assert_eq!(audited.of("server_stop")[0]["exit_code"], 7);
}

#[tokio::test]
async fn both_eras_pass() {
    let server = fake(|io| {
        while let Some(request) = io.hear() {
            match request["method"].as_str() {
                Some("initialize") => io.say(&polite("fake", &request).unwrap()),
                Some("server/discover") => {
                    io.say(&reply(&request, json!({ "supportedVersions": ["2026-07-28"] })));
                }
                _ => {}
            }
        }
        0
    });
    let mut run = run("", server);
    let answer = run.client.initialize(json!({})).await;
    assert_eq!(answer["result"]["serverInfo"]["name"], "fake");
    let meta = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } });
    let answer = run.client.ask(2, "server/discover", meta).await;
    assert_eq!(answer["result"]["supportedVersions"][0], "2026-07-28");
}

#[tokio::test]
async fn tools_are_listed_and_called_as_the_policy_says() {
    let mut run = run("tools: { allow: [\"echo\"] }\n", polite_server("fake"));
    let list = run.client.ask(1, "tools/list", json!({})).await;
    assert_eq!(list["result"]["tools"][0]["x-vendor"]["n"], 1.0);
    assert_eq!(list["result"]["nextCursor"], "two");
    // The positive control: the second page has one tool when the policy does not hide it, see `polite`.
    let list = run.client.ask(2, "tools/list", json!({ "cursor": "two" })).await;
    assert_eq!(list["result"]["tools"], json!([]));
    let answer = run.client.ask(3, "tools/call", json!({ "name": "echo", "arguments": { "a": 1 } })).await;
    assert_eq!(answer["result"]["x-server"], "fake");
    let answer = run.client.ask(4, "tools/call", json!({ "name": "drop", "arguments": { "a": 1 } })).await;
    assert_eq!(answer["error"]["code"], REFUSED_BY_POLICY);
    assert_eq!(answer["error"]["message"], "the policy of server `fake` does not allow tool `drop`");
    run.client.leave();
    let (_, audited) = run.end().await;
    let calls = audited.of("tool_call");
    assert_eq!(calls.len(), 2);
    assert_eq!((&calls[0]["decision"], &calls[0]["rule"]), (&json!("permitted"), &json!("tools.allow")));
    let results = audited.of("tool_result");
    assert_eq!(results.len(), 1);
    assert_eq!((&results[0]["tool"], &results[0]["outcome"]), (&json!("echo"), &json!("result")));
    assert!(results[0]["duration_ms"].is_u64());
    assert_eq!((&calls[1]["decision"], &calls[1]["rule"]), (&json!("refused"), &json!("not in tools.allow")));
    assert!(!calls.iter().any(|call| call.to_string().contains("arguments")));
}

#[tokio::test]
async fn no_disguise_gets_a_refused_call_through() {
    let server = fake(|io| {
        while let Some(Ok(line)) = io.input.next() {
            let said =
                json!({ "jsonrpc": "2.0", "method": "notifications/heard", "params": { "line": line } });
            io.say(&said);
        }
        0
    });
    let mut run = run("tools: { allow: [\"ok\"] }\n", server);
    let disguises = [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","n\u0061me":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","Name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok"},"params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok"},"Params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","METHOD":"tools/call","params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"drop"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"drop"}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop"}}]"#,
        r#" [{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["drop"]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["drop"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
    ];
    for line in disguises {
        run.client.send_line(line).await;
        let answer = run.client.message().await;
        assert!(answer["error"]["code"].is_i64(), "{line} was answered {answer}");
    }
    // The positive control: what is allowed reaches the server.
    run.client.send_line(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok"}}"#).await;
    assert!(run.client.line().await.unwrap().contains("notifications/heard"));
}

#[tokio::test]
async fn a_carriage_return_does_not_split_a_message() {
    let mut run = run("", echo());
    run.client.send_line("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"any\",\"x\":\r{\"id\":2}\r}").await;
    let line = run.client.line().await.unwrap();
    assert!(!line.contains('\r') && line.contains("\"x\": {\"id\":2} }"), "{line}");
}

#[tokio::test]
async fn a_server_that_exits_at_once_is_named_with_its_status_and_last_words() {
    let server = fake(|io| {
        writeln!(io.err, "cannot find module 'x'").unwrap();
        io.hear();
        3
    });
    let mut run = run(QUICK, server);
    run.client.send(&json!({ "jsonrpc": "2.0", "id": "a", "method": "initialize" })).await;
    let answer = run.client.message().await;
    assert_eq!(answer["id"], "a");
    assert_unavailable(
        &answer,
        "exited with status 3; its last line of standard error: cannot find module 'x'",
    );
    let (ended, audited) = run.end().await;
    assert_eq!(ended.unwrap().exit.status, ExitStatus::Code(3));
    let stop = &audited.of("server_stop")[0];
    assert_eq!(
        (&stop["exit_code"], &stop["reason"]),
        (&json!(3), &json!("server `fake` exited with status 3"))
    );
}

#[tokio::test]
async fn a_client_that_asks_after_the_servers_end_is_told() {
    let mut run = run(QUICK, fake(|_io| 3));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = run.client.ask(1, "initialize", json!({})).await;
    assert_unavailable(&answer, "exited with status 3");
    let fault = run.end().await.0.unwrap().fault.unwrap();
    assert!(fault.sentence.contains("exited with status 3") && !fault.hint.is_empty(), "{fault:?}");
}

#[tokio::test]
async fn garbage_is_survived_and_endless_garbage_ends_the_server() {
    let server = fake(|io| {
        io.say_line("Welcome to my server!");
        let request = io.hear().unwrap();
        io.say(&reply(&request, json!({})));
        io.hear();
        for _ in 0..200 {
            io.say_line("not JSON");
        }
        io.linger();
        0
    });
    let mut run = run(QUICK, server);
    let answer = run.client.ask(1, "any", json!({})).await;
    assert_eq!(answer["result"], json!({}));
    let answer = run.client.ask(2, "any", json!({})).await;
    assert_unavailable(&answer, "64 lines in a row");
    let (ended, audited) = run.end().await;
    let exit = ended.unwrap();
    assert!(matches!(exit.reason, ExitReason::ServerStopped(_)) && exit.exit.ending == Ending::Stopped);
    assert!(audited.of("protocol_violation").len() >= 2);
}

#[tokio::test]
async fn an_endless_line_ends_the_server_with_an_error() {
    let server = fake(|io| {
        io.hear();
        let megabyte = vec![b'x'; 1 << 20];
        for _ in 0..1024 {
            if io.out.write_all(&megabyte).is_err() {
                break;
            }
        }
        0
    });
    let mut run = run(QUICK, server);
    let answer = run.client.ask(1, "any", json!({})).await;
    assert_unavailable(&answer, "a line over the limit of 16 MiB");
    let (ended, _) = run.end().await;
    assert!(matches!(ended.unwrap().reason, ExitReason::ServerStopped(_)));
}

#[tokio::test]
async fn a_server_that_never_answers_initialize_is_stopped() {
    let server = fake(|io| {
        io.linger();
        0
    });
    let stops = Arc::clone(&server.stops);
    let mut run = run(QUICK, server);
    let answer = run.client.ask(1, "initialize", json!({})).await;
    assert_unavailable(&answer, "did not answer `initialize` within 1 s");
    run.end().await.0.unwrap();
    assert_eq!(stops.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_ignores_the_end_of_its_input_is_stopped() {
    let server = fake(|io| {
        io.linger();
        0
    });
    let mut run = run(QUICK, server.launcher());
    run.client.leave();
    let (ended, _) = run.end().await;
    let exit = ended.unwrap();
    assert_eq!((exit.reason, exit.exit.ending), (ExitReason::ClientLeft, Ending::Stopped));
    assert_eq!(server.alive(), 0);
}

#[tokio::test]
async fn a_signal_ends_the_server() {
    let mut run = run(QUICK, polite_server("fake"));
    run.client.initialize(json!({})).await;
    run.shutdown.cancel();
    assert_eq!(run.end().await.0.unwrap().reason, ExitReason::ShutDown);
}

#[tokio::test]
async fn a_refused_launch_is_an_answer_and_an_error_with_a_hint() {
    let mut run = run("", Arc::new(Refusing));
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize" })).await;
    let answer = run.client.message().await;
    assert_unavailable(&answer, "the image has no signature: nothing was found");
    let (ended, audited) = run.end().await;
    assert_eq!(ended.unwrap_err().hint().as_deref(), Some("sign it"));
    assert_eq!(audited.of("launch_failed").len(), 1);
}

#[tokio::test]
async fn a_late_launch_is_given_up_and_the_late_server_is_stopped() {
    let server = fake(|io| {
        io.linger();
        0
    });
    let run = run(QUICK, Arc::new(Slow(Arc::clone(&server), Duration::from_millis(1500))));
    let (ended, _) = run.end().await;
    assert!(matches!(ended.unwrap_err(), SingleError::Late { .. }));
    for _ in 0..200 {
        if server.starts() == 1 && server.alive() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the late server was not stopped");
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_its_server_and_nothing_grows() {
    let server = fake(|io| {
        let line =
            json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": { "s": "x".repeat(1 << 16) } });
        let mut sent = 0_u64;
        // 4 GiB if nothing held it back.
        for _ in 0..65_536 {
            if writeln!(io.out, "{line}").is_err() {
                break;
            }
            sent += 1;
        }
        i32::try_from(sent.min(1000)).unwrap()
    });
    let run = run(QUICK, server);
    tokio::time::sleep(Duration::from_millis(500)).await;
    run.shutdown.cancel();
    let (ended, _) = run.end().await;
    // 1 MiB of the test's own stream, a pipe and a line or two: some 20 of the lines.
    match ended.unwrap().exit.status {
        ExitStatus::Code(sent) => assert!(sent < 100, "{sent}"),
        ExitStatus::Signal(_) | ExitStatus::Unknown => {}
    }
}

#[tokio::test]
async fn a_cancelled_request_is_forgotten_and_its_late_answer_dropped() {
    let server = fake(|io| {
        let first = io.hear().unwrap();
        io.hear();
        io.say(&reply(&first, json!({ "late": true })));
        let second = io.hear().unwrap();
        io.say(&reply(&second, json!({ "second": true })));
        io.hear();
        0
    });
    let mut run = run("", server);
    run.client
        .send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "x" } }))
        .await;
    run.client
        .send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }))
        .await;
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "any" })).await;
    let answer = run.client.message().await;
    assert_eq!(answer["id"], 2, "{answer}");
    run.client.leave();
    let (_, audited) = run.end().await;
    assert_eq!(audited.of("tool_result")[0]["outcome"], "cancelled");
}

#[tokio::test]
async fn the_late_list_of_a_cancelled_request_does_not_pass_under_a_reused_id() {
    let server = fake(|io| {
        let list = io.hear().unwrap();
        io.hear();
        let marker = io.hear().unwrap();
        io.say(&reply(&list, json!({ "tools": [{ "name": "drop" }] })));
        io.say(&reply(&marker, json!({})));
        while let Some(request) = io.hear() {
            io.say(&reply(&request, json!({ "fresh": true })));
        }
        0
    });
    let mut run = run("tools: { allow: [\"echo\"] }\n", server);
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
    let cancel = json!({ "requestId": 1 });
    run.client
        .send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }))
        .await;
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "any" })).await;
    let refused = run.client.message().await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("cancelled"), "{refused}");
    run.client.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "any" })).await;
    assert_eq!(run.client.message().await["id"], 2);
    // Once it is answered, the id is free again.
    assert_eq!(run.client.ask(1, "any", json!({})).await["result"]["fresh"], true);
}

#[tokio::test]
async fn messages_between_garbage_do_not_reset_its_count_nor_fill_the_audit_log() {
    let server = fake(|io| {
        let request = io.hear().unwrap();
        for _ in 0..200 {
            for _ in 0..10 {
                io.say_line("not JSON");
            }
            io.say(&json!({ "jsonrpc": "2.0", "method": "notifications/x" }));
        }
        io.say(&reply(&request, json!({})));
        io.linger();
        0
    });
    let mut run = run(QUICK, server);
    let answer = run.client.ask(1, "any", json!({})).await;
    assert_unavailable(&answer, "it sent 1024 lines that are no MCP messages");
    let (_, audited) = run.end().await;
    let violations = audited.of("protocol_violation");
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert_eq!(violations[1]["detail"], "sent 1024 lines in all that are no MCP messages");
}

/// A disk with room for so many events.
struct Room(usize);

impl std::io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_tool_is_called_while_the_audit_log_cannot_be_written() {
    let (mut client, stdio) = client();
    let (mut context, _) = context();
    // The start, the first call and its result are written; the second call is the first that fails.
    context.audit = Arc::new(crate::audit::Log::write_to(Box::new(Room(3))));
    let shutdown = context.shutdown.clone();
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let server = fake(move |io| {
        while let Some(request) = io.hear() {
            if request["method"] == "tools/call" {
                seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            if let Some(answer) = polite("fake", &request) {
                io.say(&answer);
            }
        }
        0
    });
    let running = tokio::spawn(run_single(entry("fake", QUICK, server), stdio, context));
    assert!(client.initialize(json!({})).await["result"].is_object());
    assert!(client.ask(1, "tools/call", json!({ "name": "echo" })).await["result"].is_object());
    for id in 2..4 {
        let answer = client.ask(id, "tools/call", json!({ "name": "echo" })).await;
        assert_eq!(answer["error"]["code"], SERVER_UNAVAILABLE);
        assert!(answer["error"]["message"].as_str().unwrap().contains("audit log"));
    }
    assert!(client.ask(4, "prompts/list", json!({})).await["result"].is_object());
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_server_is_started_whose_start_cannot_be_written_down() {
    let (mut client, stdio) = client();
    let (mut context, _) = context();
    context.audit = Arc::new(crate::audit::Log::write_to(Box::new(Room(0))));
    let server = polite_server("fake");
    let running = tokio::spawn(run_single(entry("fake", QUICK, server.launcher()), stdio, context));
    let answer = client.ask(1, "initialize", json!({})).await;
    assert_unavailable(&answer, "audit log");
    let error = running.await.unwrap().unwrap_err();
    assert!(error.hint().unwrap().contains("--audit-log"));
    assert_eq!(server.alive(), 0);
}
