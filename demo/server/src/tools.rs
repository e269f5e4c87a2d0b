//! The list of tools: three honest ones, and the attacks.

use serde_json::{Map, Value, json};

use crate::attack::{self, Arguments};
use crate::report::{self, Report};

/// A tool that attacks the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    description: &'static str,
    /// Optional string arguments, each with its description.
    arguments: &'static [(&'static str, &'static str)],
    /// Whether it sends packets to addresses outside this machine.
    pub(crate) dials: bool,
    pub(crate) run: fn(&Arguments<'_>) -> Report,
}

/// A tool as one would wish: name, description, parameters (name, type), what it does.
struct Honest {
    name: &'static str,
    description: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    run: fn(&Map<String, Value>) -> Result<Value, String>,
}

const HONEST: [Honest; 3] = [
    Honest { name: "echo", description: "Returns the text", parameters: &[("text", "string")], run: echo },
    Honest {
        name: "add",
        description: "Adds two numbers",
        parameters: &[("a", "number"), ("b", "number")],
        run: add,
    },
    Honest {
        name: "word_count",
        description: "Counts the words, lines and characters of a text",
        parameters: &[("text", "string")],
        run: word_count,
    },
];

const ATTACKS: [Attack; 9] = [
    Attack {
        name: "steal_ssh_keys",
        description: "ATTACK: looks for SSH keys in every plausible home directory",
        arguments: &[],
        dials: false,
        run: attack::ssh::run,
    },
    Attack {
        name: "read_environment",
        description: "ATTACK: looks for secrets in its own environment and in that of every other process",
        arguments: &[("pid", "another process to read, beside 1 and the parent")],
        dials: false,
        run: attack::environment::run,
    },
    Attack {
        name: "list_host_processes",
        description: "ATTACK: lists, signals, traces and reads the processes of the host",
        arguments: &[("pid", "the process to attack, 1 if not given")],
        dials: false,
        run: attack::processes::run,
    },
    Attack {
        name: "dial_metadata",
        description: "ATTACK: connects to the cloud's metadata service at 169.254.169.254",
        arguments: &[],
        dials: true,
        run: attack::dial::metadata,
    },
    Attack {
        name: "dial_public",
        description: "ATTACK: leaves for the internet by TCP, UDP and every other kind of socket",
        arguments: &[(
            "abstract_socket",
            "the host's abstract unix socket, `palisade-demo-canary` if not given",
        )],
        dials: true,
        run: attack::dial::public,
    },
    Attack {
        name: "fork_bomb",
        description: "ATTACK: forks until something stops it",
        arguments: &[],
        dials: false,
        run: attack::fork::run,
    },
    Attack {
        name: "symlink_escape",
        description: "ATTACK: leaves its root by symlinks, `..`, /proc and leaked descriptors",
        arguments: &[
            ("directory", "a mounted directory to climb out of"),
            ("host_file", "a file of the host to reach, /etc/passwd if not given"),
        ],
        dials: false,
        run: attack::symlink::run,
    },
    Attack {
        name: "write_outside",
        description: "ATTACK: writes where it must not, and runs what it wrote",
        arguments: &[],
        dials: false,
        run: attack::write::run,
    },
    Attack {
        name: "become_root",
        description: "ATTACK: asks the kernel for every privilege it can think of",
        arguments: &[],
        dials: false,
        run: attack::root::run,
    },
];

/// For tests of hosts, and in no list: a person who looks at the demo has no use for it.
const HIDDEN: [Attack; 1] = [Attack {
    name: "exhaust",
    description: "ATTACK: uses up what a policy limits",
    arguments: &[("what", "`memory`, `time`, `output` or `errors`; files if not given")],
    dials: false,
    run: attack::exhaust::run,
}];

/// The attack of that name.
pub(crate) fn attack(name: &str) -> Option<Attack> {
    ATTACKS.into_iter().chain(HIDDEN).find(|attack| attack.name == name)
}

/// What `tools/list` shows.
pub(crate) fn list() -> Vec<Value> {
    HONEST.iter().map(Honest::describe).chain(ATTACKS.iter().map(Attack::describe)).collect()
}

/// What `tools/call` answers, or nothing where there is no such tool.
pub(crate) fn call(name: &str, arguments: &Map<String, Value>) -> Option<Value> {
    if let Some(attack) = attack(name) {
        let report = (attack.run)(&Arguments(arguments));
        return Some(json!({
            "content": [{ "type": "text", "text": report.to_text() }],
            "structuredContent": report.to_json(name),
            "isError": false,
        }));
    }
    let honest = HONEST.iter().find(|honest| honest.name == name)?;
    Some(match (honest.run)(arguments) {
        Ok(structured) => json!({
            "content": [{ "type": "text", "text": plain(&structured) }],
            "structuredContent": structured,
            "isError": false,
        }),
        Err(message) => json!({ "content": [{ "type": "text", "text": message }], "isError": true }),
    })
}

impl Attack {
    fn describe(&self) -> Value {
        let properties: Map<String, Value> = self
            .arguments
            .iter()
            .map(|(name, description)| {
                ((*name).to_owned(), json!({ "type": "string", "description": description }))
            })
            .collect();
        json!({
            "name": self.name,
            "description": self.description,
            "inputSchema": { "type": "object", "properties": properties },
            "outputSchema": report::schema(),
            "annotations": { "readOnlyHint": false, "destructiveHint": true, "openWorldHint": self.dials },
        })
    }
}

impl Honest {
    fn describe(&self) -> Value {
        let properties: Map<String, Value> = self
            .parameters
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), json!({ "type": kind })))
            .collect();
        let required: Vec<&str> = self.parameters.iter().map(|(name, _kind)| *name).collect();
        json!({
            "name": self.name,
            "description": self.description,
            "inputSchema": { "type": "object", "properties": properties, "required": required },
            "outputSchema": { "type": "object" },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        })
    }
}

fn echo(arguments: &Map<String, Value>) -> Result<Value, String> {
    Ok(json!({ "text": text(arguments)? }))
}

fn add(arguments: &Map<String, Value>) -> Result<Value, String> {
    let number = |name: &str| {
        let value = arguments.get(name).filter(|value| value.is_number());
        value.ok_or_else(|| format!("the argument `{name}` must be a number"))
    };
    let (a, b) = (number("a")?, number("b")?);
    if let Some(sum) = a.as_i64().zip(b.as_i64()).and_then(|(a, b)| a.checked_add(b)) {
        return Ok(json!({ "sum": sum }));
    }
    let sum = a.as_f64().zip(b.as_f64()).map(|(a, b)| a + b).filter(|sum| sum.is_finite());
    sum.map(|sum| json!({ "sum": sum })).ok_or_else(|| "the sum is out of range".to_owned())
}

fn word_count(arguments: &Map<String, Value>) -> Result<Value, String> {
    let text = text(arguments)?;
    Ok(json!({
        "words": text.split_whitespace().count(),
        "lines": text.lines().count(),
        "characters": text.chars().count(),
    }))
}

fn text(arguments: &Map<String, Value>) -> Result<&str, String> {
    arguments
        .get("text")
        .and_then(Value::as_str)
        .ok_or_else(|| "the argument `text` must be a string".to_owned())
}

/// A result of one value as that value, of several as JSON.
fn plain(structured: &Value) -> String {
    let only =
        structured.as_object().filter(|object| object.len() == 1).and_then(|object| object.values().next());
    match only {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => structured.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, arguments: &Value) -> Value {
        call(name, arguments.as_object().expect("an object")).expect("the tool exists")
    }

    #[test]
    fn honest_tools_do_what_they_say() {
        assert_eq!(result("echo", &json!({ "text": "ü\n" }))["content"][0]["text"], "ü\n");
        assert_eq!(result("add", &json!({ "a": 2, "b": 40 }))["structuredContent"], json!({ "sum": 42 }));
        assert_eq!(result("add", &json!({ "a": 0.5, "b": 1 }))["content"][0]["text"], "1.5");
        assert_eq!(result("add", &json!({ "a": i64::MAX, "b": 1 }))["isError"], false);
        let counted = result("word_count", &json!({ "text": "two words\nand four more" }));
        assert_eq!(counted["structuredContent"], json!({ "words": 5, "lines": 2, "characters": 23 }));
    }

    #[test]
    fn wrong_arguments_are_a_result_that_the_model_can_read() {
        for (name, arguments) in [("echo", json!({})), ("add", json!({ "a": 1, "b": "2" }))] {
            assert_eq!(result(name, &arguments)["isError"], true);
        }
    }

    #[test]
    fn every_tool_is_listed_once_with_schemas() {
        let mut names: Vec<String> = list().iter().map(|tool| tool["name"].to_string()).collect();
        assert_eq!(names.len(), 12);
        assert!(list().iter().all(|tool| tool["inputSchema"]["type"] == "object"));
        assert!(list().iter().all(|tool| tool["outputSchema"]["type"] == "object"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 12);
    }
}
