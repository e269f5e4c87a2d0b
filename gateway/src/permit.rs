//! What may be written to a server: a tool call that its policy permits, or a message that is no tool call.
//!
//! ```text
//! Request ── classify ──► ToolCall ── permit(&Policy) ──► PermittedCall ─┐
//!                    └──► PlainRequest ─────────────────────────────────┼─► Forward ──► server's stdin
//!                Notification / Response of the client ─────────────────┘
//! ```
//!
//! The writer of a server's input takes a [`Forward`] and nothing else, and a `Forward` that is a `tools/call`
//! comes only from a [`PermittedCall`]: to forget the check is a compile error.
//!
//! ```
//! use palisade_gateway::permit::{Forward, PermittedCall};
//! fn after_the_check(call: PermittedCall<'_>, line: &bytes::Bytes) -> Option<Forward> {
//!     call.forward_as_sent(line).ok()
//! }
//! ```
//!
//! ```compile_fail
//! use palisade_gateway::permit::{Forward, ToolCall};
//! fn skip_the_check(call: ToolCall<'_>, line: &bytes::Bytes) -> Option<Forward> {
//!     call.forward_as_sent(line).ok() // a ToolCall cannot be forwarded
//! }
//! ```

use std::borrow::Cow;

use bytes::Bytes;
use palisade_policy::{Policy, ToolVerdict, Tools};
use serde_json::value::RawValue;

use crate::edit::Edits;
use crate::envelope::{self, EnvelopeError, Notification, Object, Request, Response};
use crate::{rpc, text};

pub use crate::edit::Misplaced;

/// The method that calls a tool.
const TOOLS_CALL: &str = "tools/call";

/// The keys of a tool call's parameters that must be unambiguous.
const CALL_KEYS: &[&str] = &["name", "arguments", "_meta"];

/// A line that may be written to a server.
#[derive(Debug)]
pub struct Forward(Bytes);

/// A request of a client, told apart by whether the policy has a say.
#[derive(Debug)]
pub enum ClientRequest<'a> {
    /// A `tools/call`.
    Call(ToolCall<'a>),
    /// Anything else.
    Plain(PlainRequest<'a>),
}

/// A `tools/call` that nobody has permitted yet.
#[derive(Debug)]
pub struct ToolCall<'a> {
    request: Request<'a>,
    raw_name: &'a RawValue,
    tool: Cow<'a, str>,
    renamed: Renamed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renamed {
    No,
    Yes,
}

/// A `tools/call` that the policy of its server allows.
#[derive(Debug)]
pub struct PermittedCall<'a> {
    call: ToolCall<'a>,
    rule: String,
}

/// A request that calls no tool.
#[derive(Debug)]
pub struct PlainRequest<'a> {
    request: Request<'a>,
}

/// The policy does not allow the tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy of server `{server}` does not allow tool `{tool}`")]
pub struct Refusal {
    /// The server's name.
    pub server: String,
    /// The tool's name, bounded and escaped.
    pub tool: String,
    /// The rule that decided, for the audit log.
    pub rule: String,
}

impl Refusal {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        Some(format!(
            "add `{}` to `tools.allow` in the policy of `{}`, or remove the rule `{}`",
            self.tool, self.server, self.rule
        ))
    }
}

impl<'a> ClientRequest<'a> {
    /// Tells tool calls from other requests.
    pub fn classify(request: Request<'a>) -> Result<Self, EnvelopeError> {
        if request.method != TOOLS_CALL {
            refuse_disguise(&request.method)?;
            return Ok(ClientRequest::Plain(PlainRequest { request }));
        }
        let bad_name = EnvelopeError::BadMember { key: "name" };
        let params = request.params.ok_or_else(|| bad_name.clone())?;
        let params = Object::parse(params.get(), CALL_KEYS)?;
        let raw_name = params.get("name").ok_or_else(|| bad_name.clone())?;
        let tool = envelope::text(raw_name).ok_or(bad_name)?;
        if is_ambiguous(&tool) {
            return Err(EnvelopeError::AmbiguousText { key: "name" });
        }
        Ok(ClientRequest::Call(ToolCall { request, raw_name, tool, renamed: Renamed::No }))
    }

    /// The request as sent.
    pub fn request(&self) -> &Request<'a> {
        match self {
            ClientRequest::Call(call) => &call.request,
            ClientRequest::Plain(plain) => &plain.request,
        }
    }
}

impl<'a> ToolCall<'a> {
    /// The tool that is called.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The request as sent.
    pub fn request(&self) -> &Request<'a> {
        &self.request
    }

    /// The same call under the name by which the server knows the tool. The name that is permitted is the
    /// name that is forwarded.
    #[must_use]
    pub fn renamed(self, tool: String) -> Self {
        ToolCall { tool: Cow::Owned(tool), renamed: Renamed::Yes, ..self }
    }

    /// Asks the policy.
    pub fn permit(self, policy: &Policy) -> Result<PermittedCall<'a>, Refusal> {
        match decide(&policy.tools, &self.tool) {
            Decision::Allowed { rule } => Ok(PermittedCall { call: self, rule }),
            Decision::Refused { rule } => {
                Err(Refusal { server: policy.server.to_string(), tool: text::name(&self.tool), rule })
            }
        }
    }
}

impl<'a> PermittedCall<'a> {
    /// The rule that allowed it, for the audit log.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The tool that is called.
    pub fn tool(&self) -> &str {
        self.call.tool()
    }

    /// The request as sent.
    pub fn request(&self) -> &Request<'a> {
        &self.call.request
    }

    /// The line to write when nothing changes but, perhaps, the tool's name.
    pub fn forward_as_sent(self, line: &Bytes) -> Result<Forward, Misplaced> {
        self.into_forward(line, |_request, _edits| Ok(()))
    }

    /// The line to write, with further changes.
    pub(crate) fn into_forward(self, line: &Bytes, change: impl Change<'a>) -> Result<Forward, Misplaced> {
        let mut edits = Edits::of(self.call.request.line);
        if self.call.renamed == Renamed::Yes {
            edits.replace(self.call.raw_name.get(), rpc::quoted(&self.call.tool))?;
        }
        change(&self.call.request, &mut edits)?;
        finish(edits, line)
    }
}

impl<'a> PlainRequest<'a> {
    /// The request as sent.
    pub fn request(&self) -> &Request<'a> {
        &self.request
    }

    /// The line to write when nothing changes.
    pub fn forward_as_sent(self, line: &Bytes) -> Result<Forward, Misplaced> {
        self.into_forward(line, |_request, _edits| Ok(()))
    }

    pub(crate) fn into_forward(self, line: &Bytes, change: impl Change<'a>) -> Result<Forward, Misplaced> {
        let mut edits = Edits::of(self.request.line);
        change(&self.request, &mut edits)?;
        finish(edits, line)
    }
}

/// Changes of values (ids, tokens, names of prompts) on the way to a server.
pub(crate) trait Change<'a>: FnOnce(&Request<'a>, &mut Edits<'a>) -> Result<(), Misplaced> {}
impl<'a, F: FnOnce(&Request<'a>, &mut Edits<'a>) -> Result<(), Misplaced>> Change<'a> for F {}

impl Forward {
    /// A notification of the client.
    pub fn notification(line: &Bytes, notification: &Notification<'_>) -> Result<Self, EnvelopeError> {
        // A `tools/call` without an id is no request, but a lenient server might run it.
        if notification.method == TOOLS_CALL {
            return Err(EnvelopeError::DisguisedCall);
        }
        refuse_disguise(&notification.method)?;
        Ok(Forward(envelope::single_line(line.clone())))
    }

    /// An answer of the client to a request of the server.
    pub fn response(line: &Bytes, _response: &Response<'_>) -> Self {
        Forward(envelope::single_line(line.clone()))
    }

    /// A message that the gateway made; it never makes a `tools/call`.
    pub(crate) fn own(message: &serde_json::Value) -> Result<Self, EnvelopeError> {
        match message.get("method").and_then(serde_json::Value::as_str) {
            Some(TOOLS_CALL) => Err(EnvelopeError::DisguisedCall),
            Some(_) | None => Ok(Forward(message.to_string().into())),
        }
    }

    /// An answer of the gateway itself to a request of the server.
    pub(crate) fn own_answer(answer: Bytes) -> Self {
        Forward(envelope::single_line(answer))
    }

    /// The bytes of the line.
    pub(crate) fn line(&self) -> &[u8] {
        &self.0
    }
}

fn finish(edits: Edits<'_>, line: &Bytes) -> Result<Forward, Misplaced> {
    let out = if edits.is_empty() { line.clone() } else { edits.finish()?.into() };
    Ok(Forward(envelope::single_line(out)))
}

fn refuse_disguise(method: &str) -> Result<(), EnvelopeError> {
    if method != TOOLS_CALL && envelope::folds_to(method.trim(), TOOLS_CALL) {
        return Err(EnvelopeError::DisguisedCall);
    }
    Ok(())
}

/// Whether a tool is listed to clients; the same rule as for a call.
pub(crate) fn is_listed(tools: &Tools, name: &str) -> bool {
    matches!(decide(tools, name), Decision::Allowed { .. })
}

enum Decision {
    Allowed { rule: String },
    Refused { rule: String },
}

/// Whether a server may take the name for another one: with `deny` alone, `drop ` is not `drop` to the policy,
/// but it is to a server that trims names or whose strings end at a NUL.
fn is_ambiguous(name: &str) -> bool {
    envelope::has_control(name) || name != name.trim()
}

fn decide(tools: &Tools, name: &str) -> Decision {
    // Also here, because a call is renamed after it was classified.
    if is_ambiguous(name) {
        return Decision::Refused { rule: "ambiguous name".to_owned() };
    }
    match tools.verdict(name) {
        ToolVerdict::Permitted if tools.allow.is_none() => {
            Decision::Allowed { rule: "no tools.allow".to_owned() }
        }
        ToolVerdict::Permitted => Decision::Allowed { rule: "tools.allow".to_owned() },
        ToolVerdict::NotListed => Decision::Refused { rule: "not in tools.allow".to_owned() },
        ToolVerdict::Denied(pattern) => Decision::Refused { rule: format!("tools.deny: {pattern}") },
    }
}

#[cfg(test)]
mod tests;
