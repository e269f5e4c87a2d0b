//! Changing single values of a message in place: everything else stays byte for byte as it was sent.
//!
//! A value is named by the slice of the message that holds it, as [`crate::envelope`] returns it, so an edit
//! can only hit what was parsed.

/// A message in which some values are replaced.
#[derive(Debug)]
pub(crate) struct Edits<'a> {
    line: &'a str,
    edits: Vec<Edit>,
}

#[derive(Debug)]
struct Edit {
    start: usize,
    end: usize,
    with: String,
}

/// The slice does not lie in the message, or two edits overlap: a defect of the gateway, never of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value that was to be changed is not part of the message")]
pub struct Misplaced;

impl<'a> Edits<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        Edits { line, edits: Vec::new() }
    }

    /// Replaces the value at `slice` by the JSON text `with`.
    pub(crate) fn replace(&mut self, slice: &str, with: impl Into<String>) -> Result<(), Misplaced> {
        let (start, end) = self.range(slice).ok_or(Misplaced)?;
        self.edits.push(Edit { start, end, with: with.into() });
        Ok(())
    }

    /// Puts a member in front of the others of the object at `slice`.
    pub(crate) fn insert_member(&mut self, slice: &str, key: &str, value: &str) -> Result<(), Misplaced> {
        let (start, _) = self.range(slice).ok_or(Misplaced)?;
        let inside = slice.strip_prefix('{').ok_or(Misplaced)?;
        let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
        let at = start.checked_add(1).ok_or(Misplaced)?;
        let with = format!("{}:{value}{comma}", crate::rpc::quoted(key));
        self.edits.push(Edit { start: at, end: at, with });
        Ok(())
    }

    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The message with all edits made.
    pub(crate) fn finish(mut self) -> Result<String, Misplaced> {
        self.edits.sort_by_key(|edit| edit.start);
        let grown: usize = self.edits.iter().map(|edit| edit.with.len()).sum();
        let mut out = String::with_capacity(self.line.len().saturating_add(grown));
        let mut done = 0;
        for edit in &self.edits {
            out.push_str(self.line.get(done..edit.start).ok_or(Misplaced)?);
            out.push_str(&edit.with);
            done = edit.end;
        }
        out.push_str(self.line.get(done..).ok_or(Misplaced)?);
        Ok(out)
    }

    fn range(&self, slice: &str) -> Option<(usize, usize)> {
        let start = slice.as_ptr().addr().checked_sub(self.line.as_ptr().addr())?;
        let end = start.checked_add(slice.len())?;
        (end <= self.line.len()).then_some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{self, Message, Object};

    #[test]
    fn values_are_replaced_and_the_rest_is_untouched() {
        let line = r#"{ "id" : 1.0e2 , "a":{"b":"x"},"c":{} }"#;
        let members = Object::parse(line, &[]).unwrap();
        let mut edits = Edits::of(line);
        edits.insert_member(members.get("c").unwrap().get(), "k", "1").unwrap();
        edits.insert_member(members.get("a").unwrap().get(), "k", "2").unwrap();
        edits.replace(members.get("id").unwrap().get(), "7").unwrap();
        assert_eq!(edits.finish().unwrap(), r#"{ "id" : 7 , "a":{"k":2,"b":"x"},"c":{"k":1} }"#);
    }

    #[test]
    fn a_slice_of_something_else_is_refused() {
        let line = String::from("{}");
        assert_eq!(Edits::of(&line).replace("elsewhere", "1"), Err(Misplaced));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn unknown_fields_survive_a_new_id(extra in any_json(), params in any_json(), id in any::<u32>()) {
            let mut object = serde_json::json!({"jsonrpc": "2.0", "x-extra": extra, "id": "old", "method": "m/n"});
            object["params"] = serde_json::json!({"_meta": {"vendor/x": params}, "more": params});
            let line = serde_json::to_string(&object).unwrap();
            let Ok(Message::Request(request)) = envelope::parse(line.as_bytes()) else {
                return Err(TestCaseError::fail("not a request"));
            };
            let mut edits = Edits::of(request.line);
            edits.replace(request.raw_id.get(), id.to_string()).unwrap();
            let sent = edits.finish().unwrap();
            prop_assert_eq!(sent.replacen(&format!("\"id\":{id}"), "\"id\":\"old\"", 1), line);
        }
    }
}
