//! The binary as it is shipped: MCP over its pipes, and every attack as a plain process.
//!
//! The second half is the positive control of the denial tests elsewhere: what a sandbox is said to refuse succeeds
//! here, as an ordinary user and as root, with the very same binary. Only attempts that need no privilege are
//! asserted; none leaves the machine.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the tests start the binary and prepare files for it to find")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

fn server() -> Command {
    Command::new(env!("CARGO_BIN_EXE_palisade-demo-server"))
}

/// A directory of the test's own, gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("palisade-demo-server-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("it is ours");
    }
}

/// A process that waits, with the canary in its environment.
struct Victim(Child);

impl Victim {
    fn new() -> Self {
        // The server itself waits for input that never comes.
        let mut command = server();
        command.env("PALISADE_DEMO_CANARY", "1").stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().expect("the binary starts"))
    }

    fn arguments(&self) -> Value {
        json!({ "pid": self.0.id().to_string() })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is ours");
    }
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

fn probe(tool: &str, arguments: &Value, prepare: impl FnOnce(&mut Command)) -> Value {
    let mut command = server();
    command.args(["--probe", tool, "--arguments", &arguments.to_string()]).stdin(Stdio::null());
    prepare(&mut command);
    report(&command.output().expect("the binary starts"))
}

/// The outcomes of all attempts of that id.
fn outcomes<'a>(report: &'a Value, id: &str) -> Vec<&'a str> {
    let attempts = report["attempts"].as_array().expect("attempts are a list");
    let outcomes: Vec<&str> =
        attempts.iter().filter(|a| a["id"] == id).filter_map(|a| a["outcome"].as_str()).collect();
    assert!(!outcomes.is_empty(), "no attempt {id:?} in {report:#}");
    outcomes
}

fn assert_succeeded(report: &Value, ids: &[&str]) {
    for id in ids {
        assert!(outcomes(report, id).contains(&"succeeded"), "{id} in {report:#}");
    }
    let controls = report["controls"].as_array().expect("controls are a list");
    assert!(controls.iter().all(|control| control["works"] == true), "{report:#}");
}

#[test]
fn a_client_shakes_hands_lists_and_calls() {
    let mut child = server().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let requests = [
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call",
            "params": { "name": "add", "arguments": { "a": 2, "b": 3 } } }),
        json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "fork_bomb" } }),
    ];
    let mut input = child.stdin.take().expect("stdin is a pipe");
    for request in requests {
        writeln!(input, "{request}").expect("the server reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("the server ends with its input");
    assert!(output.status.success());
    let answers: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("each line is JSON"))
        .collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answers[1]["result"]["tools"].as_array().map(Vec::len), Some(12));
    assert_eq!(answers[2]["result"]["structuredContent"], json!({ "sum": 5 }));
    assert_eq!(answers[3]["result"]["structuredContent"]["tool"], "fork_bomb");
}

#[test]
fn keys_in_a_home_directory_are_found() {
    let home = Scratch::new("keys");
    fs::create_dir(home.0.join(".ssh")).expect("ours");
    fs::write(home.0.join(".ssh/id_ed25519"), "not a key, but a secret").expect("ours");
    let report = probe("steal_ssh_keys", &json!({}), |command| {
        command.env("HOME", &home.0);
    });
    assert_succeeded(&report, &["list_ssh_directory", "read_ssh_files"]);
    assert!(!report.to_string().contains("but a secret"), "the content is never reported");
}

#[test]
fn the_canary_is_found_in_its_own_environment_and_in_anothers() {
    let victim = Victim::new();
    let report = probe("read_environment", &victim.arguments(), |command| {
        command.env("PALISADE_DEMO_CANARY", "its-value").env("USER", "somebody");
    });
    let expected = ["own_canary", "own_session", "other_environ", "every_environ", "other_canary"];
    assert_succeeded(&report, &expected);
    assert!(!report.to_string().contains("its-value"), "values are never reported");
}

#[test]
fn another_process_of_the_same_user_is_seen_and_reached() {
    let victim = Victim::new();
    let report = probe("list_host_processes", &victim.arguments(), |_command| {});
    // Not asserted: what yama's ptrace_scope may refuse to an ordinary user.
    assert_succeeded(
        &report,
        &["list_proc", "kill", "proc_environ", "proc_root", "proc_cwd", "ptrace_traceme"],
    );
}

#[test]
fn dialling_out_must_be_asked_for() {
    for tool in ["dial_metadata", "dial_public"] {
        let output = server().args(["--probe", tool]).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-dial"));
    }
}

#[test]
fn forking_goes_on_until_its_own_bound_and_every_child_is_reaped() {
    let report = probe("fork_bomb", &json!({}), |_command| {});
    // A container may have a limit of its own; the policy's is 64.
    let figures = &report["attempts"][0]["figures"];
    let forks = figures["forks"].as_u64().expect("a number");
    assert!(forks > 64, "{report:#}");
    assert_eq!(figures["reaped"].as_u64(), Some(forks));
    assert_eq!(figures["killed"].as_u64(), Some(forks));
}

#[test]
fn a_file_elsewhere_is_reached_by_every_path() {
    let elsewhere = Scratch::new("elsewhere");
    let mounted = Scratch::new("mounted");
    let goal = elsewhere.0.join("secret");
    fs::write(&goal, "what it is after").expect("ours");
    let report =
        probe("symlink_escape", &json!({ "directory": mounted.0, "host_file": goal }), |_command| {});
    let expected = [
        "symlink_absolute",
        "symlink_relative",
        "dot_dot",
        "proc_self_root",
        "working_directory",
        "mount_climb",
        "mount_symlink",
    ];
    assert_succeeded(&report, &expected);
    assert!(!report.to_string().contains("what it is after"), "the content is never reported");
    assert_eq!(fs::read_dir(&mounted.0).expect("ours").count(), 0, "the link is removed");
}

#[test]
fn what_it_wrote_runs() {
    let report = probe("write_outside", &json!({}), |_command| {});
    assert_succeeded(&report, &["exec_tmp", "mmap_exec_tmp", "exec_memfd"]);
}

#[test]
fn system_calls_that_need_no_privilege_reach_the_kernel() {
    let report = probe("become_root", &json!({}), |_command| {});
    let expected = ["ptrace", "tiocsti", "setns_filter", "bpf", "clock_settime", "personality", "keyctl"];
    assert_succeeded(&report, &expected);
    assert!(!report.to_string().contains("not_tried"), "{report:#}");
}

#[test]
fn an_unknown_tool_is_a_usage_error() {
    for arguments in [&["--probe", "echo"][..], &["--probe"], &["--nonsense"]] {
        let output = server().args(arguments).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(2));
    }
}
