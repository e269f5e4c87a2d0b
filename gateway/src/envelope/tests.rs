use proptest::prelude::*;

use super::*;

fn refused(line: &str) -> EnvelopeError {
    parse(line.as_bytes()).expect_err(line)
}

#[test]
fn the_three_shapes_are_told_apart() {
    let request = br#"{"jsonrpc":"2.0","id":"\u0061","method":"tools\/call","params":{"x":1e400}}"#;
    match parse(request).unwrap() {
        Message::Request(request) => {
            assert_eq!(request.id, Id::Text("a".into()));
            assert_eq!(request.raw_id.get(), r#""\u0061""#);
            assert_eq!(request.method, "tools/call");
            assert_eq!(request.params.unwrap().get(), r#"{"x":1e400}"#);
        }
        Message::Notification(_) | Message::Response(_) => panic!("not a request"),
    }
    assert!(matches!(parse(br#"{"jsonrpc":"2.0","method":"x"}"#).unwrap(), Message::Notification(_)));
    let response = parse(br#"{"jsonrpc":"2.0","id":-7,"result":null}"#).unwrap();
    assert!(matches!(response, Message::Response(Response { id: Some(Id::Number(-7)), .. })));
    let lost = parse(br#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#).unwrap();
    assert!(matches!(lost, Message::Response(Response { id: None, .. })));
}

#[test]
fn whatever_two_parsers_may_read_differently_is_refused() {
    let duplicate = EnvelopeError::DuplicateKey { key: "method" };
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#), duplicate);
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#), duplicate);
    let lookalike = EnvelopeError::LookalikeKey { key: "method" };
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#), lookalike);
    let long_s = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"param\u{17f}\":{}}";
    assert_eq!(refused(long_s), EnvelopeError::LookalikeKey { key: "params" });
    assert_eq!(refused(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#), EnvelopeError::Batch);
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#), EnvelopeError::Shape);
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1,"error":{},"result":1}"#), EnvelopeError::Shape);
}

#[test]
fn control_characters_in_keys_and_methods_are_refused() {
    for control in ["\\u0000", "\\u001f", "\\u007f", "\\n"] {
        let key = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params{control}":{{}}}}"#);
        assert_eq!(refused(&key), EnvelopeError::ControlInKey, "{key}");
        let method = EnvelopeError::AmbiguousText { key: "method" };
        assert_eq!(refused(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a{control}"}}"#)), method);
        assert_eq!(refused(&format!(r#"{{"jsonrpc":"2.0","method":"a{control}"}}"#)), method);
    }
    // The positive control: elsewhere they are the business of the server.
    assert!(parse(br#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"x\u0000":"\u0000"}}"#).is_ok());
}

#[test]
fn malformed_lines_are_refused() {
    assert_eq!(parse(b"\xff").unwrap_err(), EnvelopeError::NotUtf8);
    for line in ["", "null", "hello", "{", "{}{}", "\"x\"", "{\"a\":\u{1}}"] {
        assert_eq!(refused(line), EnvelopeError::NotAnObject, "{line}");
    }
    assert_eq!(refused(r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#), EnvelopeError::Version);
    for id in ["null", "1.5", "[]", "true", "99999999999999999999"] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"a"}}"#);
        assert_eq!(refused(&line), EnvelopeError::BadId, "{id}");
    }
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"a"}}"#, "x".repeat(MAX_ID_BYTES));
    assert_eq!(refused(&long), EnvelopeError::BadId);
    assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1,"method":7}"#), EnvelopeError::BadMember { key: "method" });
    let many: Vec<String> = (0..=MAX_MEMBERS).map(|n| format!("\"k{n}\":0")).collect();
    assert_eq!(refused(&format!("{{{}}}", many.join(","))), EnvelopeError::TooManyMembers);
}

#[test]
fn deep_nesting_below_the_envelope_costs_no_stack() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{}{}}}"#,
        "[".repeat(1_000_000),
        "]".repeat(1_000_000)
    );
    assert!(parse(deep.as_bytes()).is_ok());
}

#[test]
fn a_carriage_return_cannot_smuggle_a_second_line() {
    let smuggled =
        Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":\r{\"id\":2}\r}");
    assert!(parse(&smuggled).is_ok());
    let forwarded = single_line(smuggled);
    assert!(!forwarded.contains(&b'\r') && parse(&forwarded).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(&bytes).is_ok() || parse(&bytes).is_err());
    }

    #[test]
    fn what_is_accepted_agrees_with_serde_json(line in "\\{(\"(jsonrpc|id|method|params|x)\":(\"2.0\"|1|\\{\\}|\"a\"),?){0,5}\\}") {
        if parse(line.as_bytes()).is_ok() {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value.get("jsonrpc").and_then(|v| v.as_str()), Some("2.0"));
        }
    }
}
