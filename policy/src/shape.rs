//! Does the file have the shape that the schema describes? Finds all that is wrong, with its place.
//!
//! Reads the same schema that editors read: known keys, required keys, types, choices, lengths and ranges.
//! The result is the file's data as JSON for the as-written structures, without the parts that were refused,
//! so that the later checks can still say what is wrong with the rest. A refused part always leaves a
//! finding, and a file with a finding never becomes a policy.

use serde_json::{Map, Value};

use crate::error::{Finding, Findings, Rule, quoted};
use crate::node::{At, Kind, Node, Scalar, ScalarKind};
use crate::schema::{INSTEAD, INSTEAD_OF, shared};
use crate::size::{DURATION_PATTERN, SIZE_PATTERN};
use crate::suggest::{did_you_mean, list, nearest};

/// Checks one place against its schema; `None` when nothing useful is left of it.
pub(crate) fn check(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    if matches!(at.node.kind, Kind::Refused) {
        return None;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => mapping(at, schema, findings),
        Some("array") => sequence(at, schema, findings),
        Some("integer") => integer(at, schema, findings),
        Some("number") => decimal(at, schema, findings),
        // Choices are written as `oneOf` with constants.
        _ => string(at, schema, findings),
    }
}

fn mapping(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    if !matches!(at.node.kind, Kind::Map(_)) {
        return wrong_type(at, schema, "a mapping", findings);
    }
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => structure(at, schema, properties, findings),
        None => names_and_values(at, schema, findings),
    }
}

/// A mapping with known keys.
fn structure(
    at: &At<'_>,
    schema: &Value,
    known: &Map<String, Value>,
    findings: &mut Findings,
) -> Option<Value> {
    let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_required = |key: &str| required.iter().any(|name| name.as_str() == Some(key));
    let mut complete = true;
    let mut data = Map::new();
    for entry in at.entries() {
        let place = at.entry(entry);
        let Some(property) = known.get(&entry.key) else {
            unknown_key(at, &place, &entry.key, known, findings);
            continue;
        };
        match member(&place, property, findings) {
            Some(value) => {
                data.insert(entry.key.clone(), value);
            }
            None => complete &= !is_required(&entry.key),
        }
    }
    for key in required.iter().filter_map(Value::as_str).filter(|key| !at.has(key)) {
        complete = false;
        missing(at, key, findings);
    }
    complete.then_some(Value::Object(data))
}

/// A mapping whose keys are the author's.
fn names_and_values(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    at_most(at, schema, "maxProperties", at.entries().len(), findings)?;
    let property = schema.get("additionalProperties")?;
    let mut data = Map::new();
    for entry in at.entries() {
        if let Some(value) = check(&at.entry(entry), property, findings) {
            data.insert(entry.key.clone(), value);
        }
    }
    // Complete, or a finding says what is missing from it.
    Some(Value::Object(data))
}

/// A known key: refused when it is not enforced, else checked.
fn member(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    let Some(instead) = schema.get(INSTEAD).and_then(Value::as_str) else {
        return check(at, schema, findings);
    };
    let grants_nothing = schema.get("maxItems").and_then(Value::as_u64) == Some(0)
        && matches!(&at.node.kind, Kind::List(items) if items.is_empty());
    if grants_nothing {
        return Some(Value::Array(Vec::new()));
    }
    not_enforced(at, at.head_span(), &quoted(&at.path), instead, findings);
    None
}

fn not_enforced(
    at: &At<'_>,
    span: std::ops::Range<usize>,
    what: &str,
    instead: &str,
    findings: &mut Findings,
) {
    if matches!(at.node.kind, Kind::Refused) {
        return;
    }
    let message = format!("{what} is not enforced by this version, so a policy that relies on it is refused");
    findings.push(Finding::new(Rule::NotEnforced, span, message).label("not enforced").hint(instead));
}

fn sequence(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    let Kind::List(items) = &at.node.kind else { return wrong_type(at, schema, "a list", findings) };
    at_most(at, schema, "maxItems", items.len(), findings)?;
    if items.is_empty() && schema.get("minItems").is_some() {
        let message = format!("{} is empty", quoted(&at.path));
        findings.push(
            Finding::new(Rule::Value, at.span(), message)
                .label("empty")
                .hint("write at least one item, or remove the key"),
        );
        return None;
    }
    let schema = schema.get("items")?;
    let values: Vec<Option<Value>> =
        (0..items.len()).map(|index| check(&at.item(index), schema, findings)).collect();
    values.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
}

fn string(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    let scalar = match &at.node.kind {
        Kind::Scalar(scalar) if scalar.kind == ScalarKind::Text => scalar,
        Kind::Scalar(scalar) if scalar.kind != ScalarKind::Null => {
            return unquoted(at, scalar, schema, findings);
        }
        Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) | Kind::Refused => {
            return wrong_type(at, schema, "a string", findings);
        }
    };
    let choices = choices(schema);
    if !choices.is_empty() && !choices.contains(&scalar.text.as_str()) {
        return wrong_choice(at, scalar, &choices, schema, findings);
    }
    at_most(at, schema, "maxLength", scalar.text.chars().count(), findings)?;
    if scalar.text.is_empty() && schema.get("minLength").is_some() {
        let finding = Finding::new(Rule::Value, at.span(), format!("{} is empty", quoted(&at.path)));
        findings.push(finding.label("empty").hint("write something, or remove the key"));
        return None;
    }
    Some(Value::String(scalar.text.clone()))
}

fn integer(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    let Kind::Scalar(scalar @ Scalar { kind: ScalarKind::Integer, .. }) = &at.node.kind else {
        return wrong_type(at, schema, "an integer", findings);
    };
    let least = schema.get("minimum").and_then(Value::as_u64).unwrap_or(0);
    let most = schema.get("maximum").and_then(Value::as_u64).unwrap_or(u64::MAX);
    match scalar.text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Some(Value::from(number)),
        Ok(_) | Err(_) => {
            let message = format!("{} is {}, out of range", quoted(&at.path), quoted(&scalar.text));
            let hint = format!("give a number from {least} to {most}");
            findings.push(Finding::new(Rule::Value, at.span(), message).label("out of range").hint(hint));
            None
        }
    }
}

fn decimal(at: &At<'_>, schema: &Value, findings: &mut Findings) -> Option<Value> {
    match &at.node.kind {
        Kind::Scalar(Scalar { kind: ScalarKind::Integer | ScalarKind::Decimal, text }) => {
            Some(Value::String(text.clone()))
        }
        Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) | Kind::Refused => {
            wrong_type(at, schema, "a number", findings)
        }
    }
}

/// The allowed values of a string, when it is a choice.
pub(crate) fn choices(schema: &Value) -> Vec<&str> {
    let constants = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let constants = constants.filter_map(|choice| choice.get("const"));
    let plain = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    constants.chain(plain).chain(schema.get("const")).filter_map(Value::as_str).collect()
}

fn wrong_choice(
    at: &At<'_>,
    scalar: &Scalar,
    choices: &[&str],
    schema: &Value,
    findings: &mut Findings,
) -> Option<Value> {
    if let Some(instead) = schema.get(INSTEAD_OF).and_then(|of| of.get(&scalar.text)).and_then(Value::as_str)
    {
        not_enforced(at, at.span(), &format!("`{}: {}`", at.path, scalar.text), instead, findings);
        return None;
    }
    let message = format!("{} cannot be {}", quoted(&at.path), quoted(&scalar.text));
    let hint = did_you_mean(&scalar.text, choices);
    findings.push(Finding::new(Rule::Value, at.span(), message).label("not one of its values").hint(hint));
    None
}

/// A string that YAML reads as something else because it has no quotes.
fn unquoted(at: &At<'_>, scalar: &Scalar, schema: &Value, findings: &mut Findings) -> Option<Value> {
    let message =
        format!("{} must be a string, and {} is {}", quoted(&at.path), quoted(&scalar.text), at.node.noun());
    let pattern = schema.get("pattern").and_then(Value::as_str);
    let (label, hint) = match pattern {
        Some(SIZE_PATTERN) => ("needs a unit", format!("write it with a unit, such as `{}MiB`", scalar.text)),
        Some(DURATION_PATTERN) => {
            ("needs a unit", format!("write it with a unit, such as `{}s`", scalar.text))
        }
        Some(_) | None => ("needs quotes", format!("if it is meant, put it in quotes: \"{}\"", scalar.text)),
    };
    findings.push(Finding::new(Rule::Type, at.span(), message).label(label).hint(hint));
    None
}

fn wrong_type(at: &At<'_>, schema: &Value, wanted: &str, findings: &mut Findings) -> Option<Value> {
    let Node { kind, .. } = at.node;
    let hint = match kind {
        Kind::Refused => return None,
        Kind::Scalar(scalar) if scalar.kind == ScalarKind::Null => {
            "write a value, or remove the key; an empty one is not the same as none".to_owned()
        }
        Kind::Scalar(scalar) if is_quoted_number(scalar, wanted) => "remove the quotes".to_owned(),
        Kind::Scalar(_) if wanted == "a list" => {
            "put it in brackets, even if it is only one: `[…]`".to_owned()
        }
        Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => {
            match schema.get("properties").and_then(Value::as_object) {
                Some(keys) => {
                    format!("its keys are {}", list(&keys.keys().map(String::as_str).collect::<Vec<_>>()))
                }
                None => format!("write {wanted} there"),
            }
        }
    };
    let whole = if at.path.is_empty() { "the file".to_owned() } else { quoted(&at.path) };
    let message = format!("{whole} must be {wanted}, and is {}", at.node.noun());
    // A mapping or list in the wrong place can be long; its key says enough.
    let span = if matches!(kind, Kind::Scalar(_)) { at.span() } else { at.head_span() };
    findings.push(Finding::new(Rule::Type, span, message).label(format!("must be {wanted}")).hint(hint));
    None
}

fn is_quoted_number(scalar: &Scalar, wanted: &str) -> bool {
    scalar.kind == ScalarKind::Text
        && matches!(wanted, "an integer" | "a number")
        && matches!(ScalarKind::of_plain(&scalar.text), ScalarKind::Integer | ScalarKind::Decimal)
}

fn at_most(at: &At<'_>, schema: &Value, keyword: &str, found: usize, findings: &mut Findings) -> Option<()> {
    let most = schema.get(keyword).and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
    let Some(most) = most.filter(|&most| found > most) else { return Some(()) };
    let unit = if keyword == "maxLength" { "characters" } else { "entries" };
    let message = format!("{} has {found} {unit}, {most} are allowed", quoted(&at.path));
    let span = if keyword == "maxLength" { at.span() } else { at.head_span() };
    findings.push(Finding::new(Rule::Bounds, span, message).label("too long").hint("shorten it"));
    None
}

fn missing(at: &At<'_>, key: &str, findings: &mut Findings) {
    let message = format!("{} is missing", quoted(&at.path_of(key)));
    let hint = match (at.path.is_empty(), key) {
        (true, "palisade") => "write `palisade: 1`, the version of the policy language".to_owned(),
        _ => format!("add `{key}: …`{}", if at.path.is_empty() { "" } else { " here" }),
    };
    findings
        .push(Finding::new(Rule::MissingKey, at.head_span(), message).label("needs one more key").hint(hint));
}

fn unknown_key(at: &At<'_>, place: &At<'_>, key: &str, known: &Map<String, Value>, findings: &mut Findings) {
    // A guess costs thousands of steps, and a file can have thousands of unknown keys.
    if findings.is_full() {
        return findings.count_only();
    }
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    let near = nearest(key, names.iter().copied()).map(|name| format!("did you mean `{name}`?"));
    let elsewhere = || home_of(key, "", shared()).map(|home| format!("`{key}` belongs under {home}"));
    let hint = near.or_else(elsewhere).unwrap_or_else(|| format!("known here: {}", list(&names)));
    let message = if at.path.is_empty() {
        format!("the key {} is not known", quoted(key))
    } else {
        format!("the key {} is not known under {}", quoted(key), quoted(&at.path))
    };
    let span = place.key_span.clone().unwrap_or_else(|| place.span());
    findings.push(Finding::new(Rule::UnknownKey, span, message).label("unknown key").hint(hint));
}

/// Where in the language a key is at home, as a path in backticks.
fn home_of(key: &str, path: &str, schema: &Value) -> Option<String> {
    let properties = schema.get("properties").and_then(Value::as_object)?;
    if properties.contains_key(key) {
        return Some(if path.is_empty() { "the file itself".to_owned() } else { format!("`{path}`") });
    }
    properties.iter().find_map(|(name, inner)| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        home_of(key, &path, inner).or_else(|| home_of(key, &format!("{path}[]"), inner.get("items")?))
    })
}
