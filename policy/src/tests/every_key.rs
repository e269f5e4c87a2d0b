//! No key is ignored: each key of the schema either changes the policy or is refused.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::schema;

/// A file with every key that is enforced. JSON is YAML.
fn full() -> Value {
    json!({
        "palisade": 1,
        "server": "time",
        "image": {
            "reference": "time:1",
            "digest": format!("sha256:{}", "0".repeat(64)),
            "signed_by": [{ "key": "a.pub", "tlog": "optional" }]
        },
        "args": ["x"],
        "environment": { "A": "x" },
        "network": { "egress": [] },
        "filesystem": { "mounts": [{ "source": "/a", "target": "/b", "access": "read-only" }] },
        "secrets": [{ "name": "t", "env": "T" }, { "name": "u", "file": "/run/secrets/u" }],
        "syscalls": {
            "baseline": "static", "seccomp": "kill",
            "add": [{ "call": "a", "reason": "x" }], "remove": [{ "call": "b", "reason": "y" }]
        },
        "landlock": { "minimum_abi": 4 },
        "limits": {
            "memory": "1GiB", "swap": "1MiB", "cpus": 2, "pids": 65, "io": "2MiB", "open_files": 513,
            "file_size": "2GiB", "tmp": "65MiB", "tmp_files": 100, "output": "2MiB", "call_time": "5m"
        },
        "tools": { "allow": ["a"], "deny": ["b"] },
        "lifecycle": { "start": "at-start", "start_timeout": "10s", "stop_timeout": "6s", "warm": 1 },
        "accept_degraded": ["memory"]
    })
}

/// For each key that holds no further keys: another value, and whether it is accepted.
fn changes() -> BTreeMap<&'static str, (Value, Outcome)> {
    use Outcome::{Different, Refused};
    BTreeMap::from([
        ("/palisade", (json!(2), Refused)),
        ("/server", (json!("other"), Different)),
        ("/image/reference", (json!("other:2"), Different)),
        ("/image/digest", (json!(format!("sha256:{}", "1".repeat(64))), Different)),
        ("/image/signed_by/0/key", (json!("b.pub"), Different)),
        ("/image/signed_by/0/tlog", (json!("required"), Refused)),
        ("/image/signed_by/0/keyless", (json!({ "issuer": "x", "identity": "y" }), Refused)),
        ("/image/unsigned", (json!("a reason"), Refused)),
        ("/image/attestations", (json!([]), Refused)),
        ("/args", (json!(["y"]), Different)),
        ("/environment", (json!({ "A": "y" }), Different)),
        ("/network/egress", (json!([{ "host": "example.com", "ports": [443] }]), Refused)),
        ("/filesystem/mounts/0/source", (json!("/c"), Different)),
        ("/filesystem/mounts/0/target", (json!("/c"), Different)),
        ("/filesystem/mounts/0/access", (json!("read-write"), Different)),
        ("/secrets/0/name", (json!("v"), Different)),
        ("/secrets/0/env", (json!("V"), Different)),
        ("/secrets/0/file", (json!("/run/secrets/t"), Refused)),
        ("/secrets/0/header", (json!({}), Refused)),
        ("/secrets/0/placeholder_env", (json!("P"), Refused)),
        ("/syscalls/baseline", (json!("node"), Different)),
        ("/landlock/minimum_abi", (json!(6), Different)),
        ("/syscalls/seccomp", (json!("enforce"), Different)),
        ("/syscalls/add/0/call", (json!("c"), Different)),
        ("/syscalls/add/0/reason", (json!("z"), Different)),
        ("/syscalls/remove/0/call", (json!("c"), Different)),
        ("/syscalls/remove/0/reason", (json!("z"), Different)),
        ("/limits/memory", (json!("3GiB"), Different)),
        ("/limits/swap", (json!("2MiB"), Different)),
        ("/limits/cpus", (json!(2.5), Different)),
        ("/limits/io", (json!("3MiB"), Different)),
        ("/limits/pids", (json!(66), Different)),
        ("/limits/open_files", (json!(514), Different)),
        ("/limits/file_size", (json!("3GiB"), Different)),
        ("/limits/tmp", (json!("66MiB"), Different)),
        ("/limits/tmp_files", (json!(101), Different)),
        ("/limits/output", (json!("3MiB"), Different)),
        ("/limits/call_time", (json!("6m"), Different)),
        ("/tools/allow", (json!([]), Different)),
        ("/tools/deny", (json!(["c"]), Different)),
        ("/tools/pin", (json!("required"), Refused)),
        ("/lifecycle/start", (json!("on-demand"), Different)),
        ("/lifecycle/start_timeout", (json!("11s"), Different)),
        ("/lifecycle/stop_timeout", (json!("7s"), Different)),
        ("/lifecycle/warm", (json!(2), Different)),
        ("/lifecycle/instances", (json!("shared"), Refused)),
        ("/lifecycle/idle_timeout", (json!("1m"), Refused)),
        ("/accept_degraded", (json!(["pids"]), Different)),
    ])
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Different,
    Refused,
}

/// The JSON pointers of all keys that hold no further keys; a list stands for its first item.
fn leaves(schema: &Value, pointer: &str, found: &mut Vec<String>) {
    let inner = schema.get("items").filter(|items| items.get("properties").is_some());
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        properties.iter().for_each(|(key, value)| leaves(value, &format!("{pointer}/{key}"), found));
    } else if let Some(items) = inner {
        leaves(items, &format!("{pointer}/0"), found);
    } else {
        found.push(pointer.to_owned());
    }
}

#[test]
fn every_key_of_the_schema_changes_the_policy_or_is_refused() {
    let mut keys = Vec::new();
    leaves(&schema(), "", &mut keys);
    keys.sort();
    let changes = changes();
    assert_eq!(
        keys,
        changes.keys().copied().collect::<Vec<_>>(),
        "a key of the schema that this test does not know"
    );
    let before = policy(&full().to_string());
    for (pointer, (value, outcome)) in changes {
        let mut file = full();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        file.pointer_mut(parent).unwrap()[key] = value;
        match parse("p", &file.to_string()) {
            Ok(after) => assert!(after != before && outcome == Outcome::Different, "{pointer} is ignored"),
            Err(error) => assert_eq!(outcome, Outcome::Refused, "{pointer}: {error}"),
        }
    }
}

#[test]
fn every_key_can_be_misspelt_and_is_then_refused() {
    fn misspelt(value: &Value, file: &Value, pointer: &str) {
        let Some(object) = value.as_object() else {
            if let Some(items) = value.as_array() {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(n, item)| misspelt(item, file, &format!("{pointer}/{n}")));
            }
            return;
        };
        for (key, inner) in object {
            if pointer != "/environment" {
                let mut file = file.clone();
                let parent = file.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
                let value = parent.remove(key).unwrap();
                parent.insert(format!("{key}_"), value);
                let error = error(&file.to_string());
                let hint = format!("did you mean `{key}`?");
                assert!(
                    error.findings().iter().any(|f| f.hint.as_ref() == Some(&hint)),
                    "{pointer}/{key}: {error}"
                );
            }
            misspelt(inner, file, &format!("{pointer}/{key}"));
        }
    }
    misspelt(&full(), &full(), "");
}

/// Every object, list and string of the schema has its limit, and every key its description.
#[test]
fn the_schema_is_complete() {
    fn walk(schema: &Value, pointer: &str) {
        let has = |key: &str| schema.get(key).is_some();
        if has("x-palisade-instead") {
            assert!(has("description"), "{pointer}");
            return;
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") if has("properties") => {
                assert_eq!(schema["additionalProperties"], false, "{pointer}");
                for (key, value) in schema["properties"].as_object().unwrap() {
                    assert!(value.get("description").is_some(), "{pointer}/{key} is not described");
                    walk(value, &format!("{pointer}/{key}"));
                }
            }
            Some("object") => {
                assert!(has("maxProperties"), "{pointer}");
                walk(&schema["additionalProperties"], &format!("{pointer}/*"));
            }
            Some("array") => {
                assert!(has("maxItems"), "{pointer}");
                walk(&schema["items"], &format!("{pointer}/[]"));
            }
            Some("string") => assert!(has("maxLength"), "{pointer}"),
            Some("integer") => assert!(has("const") || has("maximum"), "{pointer}"),
            Some("number") => assert!(has("maximum"), "{pointer}"),
            Some(other) => panic!("{pointer} has the type {other}"),
            None => assert!(!crate::shape::choices(schema).is_empty(), "{pointer} has no type: {schema}"),
        }
    }
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(!schema.to_string().contains("$ref") && !schema.to_string().contains("\"null\""));
    walk(&schema, "");
}

#[test]
fn the_reference_has_every_key() {
    let page = crate::reference_markdown();
    let mut keys = Vec::new();
    leaves(&schema(), "", &mut keys);
    for key in keys {
        let name = key.rsplit('/').next().unwrap();
        assert!(page.contains(&format!("| `{name}` | ")), "{name}");
    }
    assert!(page.contains("| `memory` | string | `512MiB` | "));
    assert!(page.contains("| `egress` | *pending* | *required* | "));
    assert!(page.contains("## `filesystem.mounts[]`\n"));
    let rows = page.lines().filter(|line| line.starts_with('|'));
    rows.for_each(|row| assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}"));
}
