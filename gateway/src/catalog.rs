//! Lists of tools, prompts and resources: filtered by the policy, renamed, merged.
//!
//! Every entry stays as the server sent it except for its name; unknown fields survive.

use std::collections::HashSet;

use bytes::Bytes;
use palisade_policy::Policy;
use serde_json::value::RawValue;

use crate::edit::Edits;
use crate::envelope::{self, EnvelopeError, Object};
use crate::permit;
use crate::{rpc, text};

/// The most entries of one kind that are taken from one server. The largest public server has about 150
/// tools, and a client that lists thousands cannot use them; resources may be files of a tree.
pub(crate) const MAX_ENTRIES: usize = 10_000;

/// The longest name, URI or template that is passed on. Names have 128 characters at most (2025-11-25,
/// server/tools); URIs are limited to 8,000 bytes by most of the web.
const MAX_NAME_BYTES: usize = 8 * 1024;

/// Between the server's name and the name of its tool or prompt. A server's name cannot contain it.
pub(crate) const SEPARATOR: &str = "__";

/// A kind of list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl Listing {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Listing::Tools => "tools/list",
            Listing::Prompts => "prompts/list",
            Listing::Resources => "resources/list",
            Listing::Templates => "resources/templates/list",
        }
    }

    pub(crate) fn of_method(method: &str) -> Option<Self> {
        [Listing::Tools, Listing::Prompts, Listing::Resources, Listing::Templates]
            .into_iter()
            .find(|listing| listing.method() == method)
    }

    /// The member of the result that holds the entries.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Listing::Tools => "tools",
            Listing::Prompts => "prompts",
            Listing::Resources => "resources",
            Listing::Templates => "resourceTemplates",
        }
    }

    /// The server capability without which there is nothing to list.
    pub(crate) fn capability(self) -> &'static str {
        match self {
            Listing::Tools => "tools",
            Listing::Prompts => "prompts",
            Listing::Resources | Listing::Templates => "resources",
        }
    }

    /// The member of an entry by which it is asked for.
    fn key(self) -> &'static str {
        match self {
            Listing::Tools | Listing::Prompts => "name",
            Listing::Resources => "uri",
            Listing::Templates => "uriTemplate",
        }
    }
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The server's own name, URI or template.
    pub(crate) key: String,
    /// The entry as JSON, as the client sees it.
    pub(crate) json: String,
}

/// One page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) next_cursor: Option<String>,
}

/// Reads one page of a server's list: renamed for the gateway, without what the policy does not allow.
pub(crate) fn read_page(policy: &Policy, listing: Listing, result: &str) -> Result<Page, EnvelopeError> {
    let known = [listing.member(), "nextCursor"];
    let result = Object::parse(result, &known)?;
    let raw = result.get(listing.member()).ok_or(EnvelopeError::BadMember { key: listing.member() })?;
    let elements =
        envelope::array(raw, MAX_ENTRIES).ok_or(EnvelopeError::BadMember { key: listing.member() })?;
    let entries = elements.into_iter().filter_map(|element| read_entry(policy, listing, element)).collect();
    let next_cursor = result.get("nextCursor").and_then(envelope::text).map(std::borrow::Cow::into_owned);
    Ok(Page { entries, next_cursor })
}

fn read_entry(policy: &Policy, listing: Listing, element: &RawValue) -> Option<Entry> {
    let (raw_key, key) = entry_key(policy, listing, element)?;
    let json = match listing {
        Listing::Tools | Listing::Prompts => {
            let mut edits = Edits::of(element.get());
            edits.replace(raw_key.get(), rpc::quoted(&format!("{}{SEPARATOR}{key}", policy.server))).ok()?;
            edits.finish().ok()?
        }
        Listing::Resources | Listing::Templates => element.get().to_owned(),
    };
    Some(Entry { key, json })
}

/// The key of an entry that may be listed.
fn entry_key<'a>(policy: &Policy, listing: Listing, element: &'a RawValue) -> Option<(&'a RawValue, String)> {
    let raw_key =
        Object::parse(element.get(), &[listing.key()]).ok().and_then(|entry| entry.get(listing.key()));
    let key = raw_key.and_then(|raw| Some((raw, envelope::text(raw)?.into_owned())));
    let Some((raw, key)) = key.filter(|(_, key)| !key.is_empty() && key.len() <= MAX_NAME_BYTES) else {
        tracing::warn!(server = %policy.server, "an entry of `{}` has no usable `{}`", listing.method(), listing.key());
        return None;
    };
    if listing == Listing::Tools && !permit::is_listed(&policy.tools, &key) {
        tracing::debug!(server = %policy.server, tool = text::name(&key), "the policy hides a tool");
        return None;
    }
    Some((raw, key))
}

/// The answer to `tools/list` without the tools that the policy does not allow; `None` if it allows all.
pub(crate) fn filter_tools(
    policy: &Policy,
    line: &str,
    result: &RawValue,
) -> Result<Option<Bytes>, EnvelopeError> {
    let members = Object::parse(result.get(), &["tools"])?;
    let Some(raw_tools) = members.get("tools") else { return Ok(None) };
    let bad = EnvelopeError::BadMember { key: "tools" };
    let tools = envelope::array(raw_tools, MAX_ENTRIES).ok_or_else(|| bad.clone())?;
    let allowed: Vec<&str> = tools
        .iter()
        .filter(|tool| entry_key(policy, Listing::Tools, tool).is_some())
        .map(|tool| tool.get())
        .collect();
    if allowed.len() == tools.len() {
        return Ok(None);
    }
    let mut edits = Edits::of(line);
    edits.replace(raw_tools.get(), format!("[{}]", allowed.join(","))).map_err(|_misplaced| bad.clone())?;
    Ok(Some(edits.finish().map_err(|_misplaced| bad)?.into()))
}

/// One result from the lists of all servers, in the order of the servers; of entries with the same key and
/// JSON name only the first is kept.
pub(crate) fn merge(listing: Listing, lists: &[Vec<Entry>]) -> String {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (server, entries) in lists.iter().enumerate() {
        for entry in entries {
            // Tools and prompts of different servers have different names; resources may collide.
            let owner = matches!(listing, Listing::Tools | Listing::Prompts).then_some(server);
            if seen.insert((owner, entry.key.as_str())) {
                out.push(entry.json.as_str());
            } else {
                tracing::warn!(key = text::name(&entry.key), "listed twice; the first is kept");
            }
        }
    }
    format!("{{\"{}\":[{}]}}", listing.member(), out.join(","))
}

/// The server's name and the rest of `server__name`.
pub(crate) fn split_name(name: &str) -> Option<(&str, &str)> {
    name.split_once(SEPARATOR).filter(|(server, rest)| !server.is_empty() && !rest.is_empty())
}
