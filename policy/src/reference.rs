//! The reference of the policy language, for people, made from the same definition as the parser.

use std::fmt::Write as _;

use serde_json::Value;

use crate::bounds::{MAX_DEPTH, MAX_FILE_BYTES, MAX_FINDINGS, MAX_TEXT};
use crate::schema::{INSTEAD, INSTEAD_OF, shared};
use crate::shape::choices;

/// The contents of `docs/policy.md`: every section with its keys, their types, defaults and meanings; what is
/// refused and how. The same for the same version of palisade, so that a copy can be compared with it.
pub fn reference_markdown() -> String {
    let mut page = String::from(HEAD);
    section(&mut page, "", shared());
    page.push_str(&tail());
    page
}

const HEAD: &str = "# The policy file

<!-- Generated from policy/src/written.rs; do not edit. -->

One YAML file says what one MCP server may do. Whatever the file does not grant, the server does not have. This page is
generated from the definition that the parser itself reads; `palisade policy schema` prints the same for editors, as
JSON Schema.

The smallest policy grants nothing but running, and says which image runs and why that one is trusted:

```yaml
palisade: 1
server: time
image:
  reference: time:1
  signed_by:
    - { key: keys/time.pub, tlog: optional }
```

A key that is *pending* is part of the language and not enforced by this version. A policy that has it is refused: a
rule that is written down and not enforced would be worse than none.
";

fn section(page: &mut String, path: &str, schema: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    put(page, format_args!("\n## {title}\n\n{}\n\n", text_of(schema, "description")));
    page.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (key, property) in properties {
        let is_required = required.iter().any(|name| name.as_str() == Some(key));
        row(page, key, property, is_required);
    }
    for (key, property) in properties.iter().filter(|(_, property)| property.get(INSTEAD).is_none()) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        section(page, &path, property);
        if let Some(items) = property.get("items") {
            section(page, &format!("{path}[]"), items);
        }
    }
}

fn row(page: &mut String, key: &str, property: &Value, is_required: bool) {
    let default = match property.get("default") {
        Some(Value::String(text)) => format!("`{text}`"),
        Some(value) => format!("`{value}`"),
        None if is_required => "*required*".into(),
        None => "—".into(),
    };
    let mut meaning = text_of(property, "description").to_owned();
    let mut kind = type_of(property);
    if let Some(instead) = property.get(INSTEAD).and_then(Value::as_str) {
        put(&mut meaning, format_args!(" **Pending**: {instead}."));
        "*pending*".clone_into(&mut kind);
    }
    for (value, instead) in property.get(INSTEAD_OF).and_then(Value::as_object).into_iter().flatten() {
        put(&mut meaning, format_args!(" `{value}` is **pending**: {}.", instead.as_str().unwrap_or("")));
    }
    let meaning = meaning.replace('|', "\\|");
    put(page, format_args!("| `{key}` | {kind} | {default} | {meaning} |\n"));
}

fn type_of(schema: &Value) -> String {
    let choices = choices(schema);
    if !choices.is_empty() {
        return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    }
    let number = |key: &str| schema.get(key).map(ToString::to_string);
    match schema.get("type").and_then(Value::as_str) {
        Some("array") => {
            let items = schema.get("items").map_or_else(|| "anything".to_owned(), type_of);
            let most = number("maxItems").map_or_else(String::new, |most| format!(", at most {most}"));
            format!("list of: {items}{most}")
        }
        Some("object") if schema.get("properties").is_none() => {
            let most = number("maxProperties").map_or_else(String::new, |most| format!(", at most {most}"));
            format!("names and strings{most}")
        }
        Some("object") => "mapping".into(),
        Some(kind @ ("integer" | "number")) => {
            match (number("const"), number("minimum"), number("maximum")) {
                (Some(only), _, _) => format!("`{only}`"),
                (None, Some(least), Some(most)) => format!("{kind}, {least} to {most}"),
                (None, _, _) => kind.into(),
            }
        }
        Some(kind) => kind.into(),
        None => "anything".into(),
    }
}

fn tail() -> String {
    format!(
        "
## What is refused

Everything is refused that two readers could read in two ways, and all findings of a file are reported together, each
with its line, the exact characters, and a way out:

- a key that is not known (with the nearest known one), a key written twice, a key without a value;
- a value of another type: a number where a string is meant needs quotes, a string where a number is meant must not have
  them; `yes`, `no`, `on`, `off`, `0x10`, `010`, `1e3` and their like need quotes everywhere;
- anchors (`&`), aliases (`*`), tags (`!`), merge keys (`<<`), directives (`%`), a second document;
- bytes that are not UTF-8, a byte-order mark, control characters, and characters that hide or reorder text;
- more than {MAX_FILE_BYTES} bytes, {MAX_DEPTH} levels of nesting, or {MAX_TEXT} characters in one string;
- a number without a unit where the key is a size or a duration;
- two mounts that overlap, a variable or a secret's file that is given twice.

## What happens then

A refused policy starts nothing, unpacks nothing and fetches nothing. Every command that is given one writes the findings
to standard error and ends with status 3; `palisade policy check` ends with 0 when every file that it was given is
accepted. One report holds {MAX_FINDINGS} findings at most, and says how many more there are.
"
    )
}

fn text_of<'s>(schema: &'s Value, key: &str) -> &'s str {
    schema.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Writing to a string cannot fail.
fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    if page.write_fmt(text).is_err() {
        page.push('?');
    }
}
