use super::*;
use crate::envelope::{Message, parse};

fn policy(tools: &str) -> Policy {
    let text = format!("palisade: 1\nserver: s\nimage: {{ reference: r, unsigned: a test }}\n{tools}");
    palisade_policy::parse("p.yaml", &text).unwrap()
}

fn call(line: &str) -> ToolCall<'_> {
    match parse(line.as_bytes()) {
        Ok(Message::Request(request)) => match ClientRequest::classify(request).unwrap() {
            ClientRequest::Call(call) => call,
            ClientRequest::Plain(plain) => panic!("{plain:?}"),
        },
        other => panic!("{other:?}"),
    }
}

const LINE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__get_x","arguments":{"name":"y"}},"z":0}"#;

#[test]
fn a_permitted_call_is_forwarded_as_sent_or_under_the_permitted_name() {
    let line = Bytes::from_static(LINE.as_bytes());
    let permitted = call(LINE).permit(&policy("")).unwrap();
    assert_eq!(permitted.rule(), "no tools.allow");
    assert_eq!(permitted.forward_as_sent(&line).unwrap().line(), LINE.as_bytes());
    let renamed = call(LINE).renamed("get_x".to_owned());
    let permitted = renamed.permit(&policy("tools: { allow: [\"get_*\"] }\n")).unwrap();
    let sent = permitted.forward_as_sent(&line).unwrap();
    assert_eq!(sent.line(), LINE.replace("s__get_x", "get_x").as_bytes());
}

#[test]
fn the_name_that_is_forwarded_is_the_name_that_is_asked_for() {
    let only = policy("tools: { allow: [\"s__get_x\"] }\n");
    assert!(call(LINE).permit(&only).is_ok());
    let refusal = call(LINE).renamed("get_x".to_owned()).permit(&only).unwrap_err();
    assert_eq!(refusal.to_string(), "the policy of server `s` does not allow tool `get_x`");
    assert!(refusal.hint().unwrap().contains("tools.allow"));
}

#[test]
fn denial_beats_allowance_and_names_its_rule() {
    let both = policy("tools: { allow: [\"*\"], deny: [\"s__*\"] }\n");
    assert_eq!(call(LINE).permit(&both).unwrap_err().rule, "tools.deny: s__*");
}

#[test]
fn own_messages_cannot_call_a_tool() {
    let message = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call" });
    assert_eq!(Forward::own(&message).unwrap_err(), EnvelopeError::DisguisedCall);
}

#[test]
fn a_denied_name_in_disguise_is_refused_before_and_after_renaming() {
    let deny = policy("tools: { deny: [\"drop\"] }\n");
    let line = |name: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}"}}}}"#)
    };
    let classified = |line: &str| match parse(line.as_bytes()) {
        Ok(Message::Request(request)) => ClientRequest::classify(request).map(|_classified| ()),
        other => panic!("{other:?}"),
    };
    let ambiguous = Err(EnvelopeError::AmbiguousText { key: "name" });
    for name in ["drop ", " drop", "drop\\u0000", "drop\\u0000x", "drop\\n", "drop\u{a0}"] {
        assert_eq!(classified(&line(name)), ambiguous, "{name:?}");
    }
    let key = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","name\u0000":"drop"}}"#;
    assert_eq!(classified(key), Err(EnvelopeError::ControlInKey));
    // `s__ drop` has nothing around it until the gateway takes the server's name away.
    let renamed = line("s__ drop");
    assert!(call(&renamed).renamed(" drop".to_owned()).permit(&deny).is_err());
    assert!(call(&line("other")).permit(&deny).is_ok());
}
