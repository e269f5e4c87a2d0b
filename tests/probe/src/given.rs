//! What a test tells the probes: which group to run, and what of the host there is to reach.

use std::io;

use serde_json::{Map, Value};

/// The arguments of one run.
#[derive(Debug, Clone)]
pub(crate) struct Given(Map<String, Value>);

impl Given {
    pub(crate) fn new(arguments: &Map<String, Value>) -> Self {
        Self(arguments.clone())
    }

    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(io::Error::other)?;
        value.as_object().map(Self::new).ok_or_else(|| io::Error::other("the arguments are no JSON object"))
    }

    /// A string that was given and is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A number that fits a descriptor, a process id or a port.
    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        self.0.get(name).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok())
    }

    /// A number of things or bytes.
    pub(crate) fn amount(&self, name: &str, otherwise: u64) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or(otherwise)
    }

    /// A list of strings.
    pub(crate) fn words(&self, name: &str) -> Vec<&str> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A process outside, by the id that it has there.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.number("pid").filter(|pid| *pid > 0)
    }
}
