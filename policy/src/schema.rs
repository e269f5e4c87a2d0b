//! The JSON Schema of a policy file (draft 2020-12), for editors and for the parser itself.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::written::PolicyFile;

/// What a key that is not enforced yet says about what to write instead of it.
pub(crate) const INSTEAD: &str = "x-palisade-instead";
/// The values that are known and not enforced yet, each with what to write instead.
pub(crate) const INSTEAD_OF: &str = "x-palisade-instead-of";

static SCHEMA: LazyLock<Value> = LazyLock::new(generate);

/// The JSON Schema (draft 2020-12) of a policy file as written: an object without references, with a
/// description, the default and the limits of every key.
///
/// A file that the schema refuses is refused by [`crate::parse()`] too. The other direction does not hold: what
/// values mean together, a schema cannot say. Keys and values that are known and not enforced yet have the
/// extensions `x-palisade-instead` and `x-palisade-instead-of`, and no value fits them.
pub fn schema() -> Value {
    shared().clone()
}

pub(crate) fn shared() -> &'static Value {
    &SCHEMA
}

fn generate() -> Value {
    let generator =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut schema = generator.into_root_schema_for::<PolicyFile>().to_value();
    tidy(&mut schema);
    schema
}

/// A key may be left out, but `null` is not a way to leave it out: `null` is often a value that got lost.
/// Number formats and line breaks of Rust's comments say nothing to an author.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            without_null(object);
            object.remove("format");
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn without_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(allowed)) = schema.get_mut("enum") {
        allowed.retain(|value| !value.is_null());
    }
    let Some(Value::Array(mut choices)) = schema.remove("anyOf") else { return };
    choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
    match choices.as_mut_slice() {
        [Value::Object(only)] => {
            for (key, value) in std::mem::take(only) {
                schema.entry(key).or_insert(value);
            }
        }
        _ => {
            schema.insert("anyOf".into(), Value::Array(choices));
        }
    }
}
