//! Which server a resource belongs to.
//!
//! URIs pass unchanged, because they also occur inside results, where a prefix could not be kept consistent.
//! So the gateway remembers who listed what. When two servers list the same URI, the one whose policy was
//! given first has it: a server cannot take over a URI of a server in front of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Hub;
use super::answer::{Answer, Failure, Trip, forward_plain, member};
use crate::catalog::{Entry, Listing};
use crate::envelope;
use crate::permit::PlainRequest;
use crate::upstream::server::Server;
use crate::{rpc, text};

/// How many resources may be subscribed to at once, over all sessions.
const MAX_SUBSCRIPTIONS: usize = 4096;

/// What each server listed, and who subscribed to what.
pub(super) struct Resources {
    listed: Vec<Listed>,
    subscribers: HashMap<(usize, String), HashSet<u64>>,
}

#[derive(Default)]
struct Listed {
    uris: HashSet<String>,
    templates: Vec<String>,
}

impl Resources {
    pub(super) fn of(servers: usize) -> Self {
        let listed = (0..servers).map(|_| Listed::default()).collect();
        Resources { listed, subscribers: HashMap::new() }
    }

    pub(super) fn learn(&mut self, listing: Listing, server: usize, entries: &[Entry]) {
        let Some(listed) = self.listed.get_mut(server) else { return };
        let keys = entries.iter().map(|entry| entry.key.clone());
        match listing {
            Listing::Resources => listed.uris = keys.collect(),
            Listing::Templates => listed.templates = keys.collect(),
            Listing::Tools | Listing::Prompts => {}
        }
    }

    /// The server that listed the URI, or a template that it may come from.
    fn owner(&self, uri: &str) -> Option<usize> {
        // One pass: a later server must not take a URI out of an earlier one's template by listing it.
        let owns = |listed: &Listed| {
            let covers = |template: &String| template == uri || may_expand_to(template, uri);
            listed.uris.contains(uri) || listed.templates.iter().any(covers)
        };
        self.listed.iter().position(owns)
    }

    pub(super) fn forget_session(&mut self, session: u64) {
        for sessions in self.subscribers.values_mut() {
            sessions.remove(&session);
        }
        self.subscribers.retain(|_, sessions| !sessions.is_empty());
    }

    /// The sessions that want to know of a change. A server may report a part of what was subscribed to, so
    /// a URI that nobody named goes to everybody who subscribed to something of that server.
    pub(super) fn subscribers(&self, server: usize, uri: &str) -> HashSet<u64> {
        if let Some(sessions) = self.subscribers.get(&(server, uri.to_owned())) {
            return sessions.clone();
        }
        let of_server = self.subscribers.iter().filter(|((owner, _), _)| *owner == server);
        of_server.flat_map(|(_, sessions)| sessions.iter().copied()).collect()
    }

    fn subscribe(&mut self, server: usize, uri: &str, session: u64) -> Result<(), Failure> {
        let key = (server, uri.to_owned());
        if self.subscribers.len() >= MAX_SUBSCRIPTIONS && !self.subscribers.contains_key(&key) {
            return Err(Failure::new(rpc::OVERLOADED, "the gateway has too many resource subscriptions"));
        }
        self.subscribers.entry(key).or_default().insert(session);
        Ok(())
    }

    /// Whether nobody is left who wants to know.
    fn unsubscribe(&mut self, server: usize, uri: &str, session: u64) -> bool {
        let key = (server, uri.to_owned());
        let Some(sessions) = self.subscribers.get_mut(&key) else { return true };
        sessions.remove(&session);
        let last = sessions.is_empty();
        if last {
            self.subscribers.remove(&key);
        }
        last
    }
}

impl Hub {
    pub(super) async fn read_resource(self: &Arc<Self>, trip: &Trip<'_>, plain: PlainRequest<'_>) -> Answer {
        let server = self.owner_of(&uri(&plain)?).await?;
        let ready = self.start(&server).await?;
        forward_plain(trip, &ready, plain, None).await
    }

    pub(super) async fn subscribe(self: &Arc<Self>, trip: &Trip<'_>, plain: PlainRequest<'_>) -> Answer {
        let uri = uri(&plain)?;
        let server = self.owner_of(&uri).await?;
        let ready = self.start(&server).await?;
        self.resources().subscribe(self.index_of(&server), &uri, trip.session.id)?;
        forward_plain(trip, &ready, plain, None).await
    }

    pub(super) async fn unsubscribe(self: &Arc<Self>, trip: &Trip<'_>, plain: PlainRequest<'_>) -> Answer {
        let uri = uri(&plain)?;
        let server = self.owner_of(&uri).await?;
        if !self.resources().unsubscribe(self.index_of(&server), &uri, trip.session.id) {
            // Another session still wants to know, and the server has one subscription for all.
            return Ok(Some(rpc::result(plain.request().raw_id.get(), "{}")));
        }
        let ready = self.start(&server).await?;
        forward_plain(trip, &ready, plain, None).await
    }

    /// The server that a URI belongs to.
    pub(super) async fn owner_of(self: &Arc<Self>, uri: &str) -> Result<Arc<Server>, Failure> {
        if let Some(server) = self.known_owner(uri) {
            return Ok(server);
        }
        // Nobody has listed it yet: perhaps because no client has asked for the lists.
        self.list(Listing::Resources).await;
        self.list(Listing::Templates).await;
        if let Some(server) = self.known_owner(uri) {
            return Ok(server);
        }
        self.only_owner().ok_or_else(|| {
            let message = format!("no server of the gateway lists the resource `{}`", text::name(uri));
            Failure::new(rpc::INVALID_PARAMS, message)
        })
    }

    fn known_owner(&self, uri: &str) -> Option<Arc<Server>> {
        let index = self.resources().owner(uri)?;
        self.servers.get(index).cloned()
    }

    /// The one server that has resources at all: an unlisted URI can only be its own. Unknown while a server
    /// is not running, because the URI may be that one's.
    fn only_owner(&self) -> Option<Arc<Server>> {
        let mut owner = None;
        for server in &self.servers {
            if server.running()?.has("resources") && owner.replace(server).is_some() {
                return None;
            }
        }
        owner.map(Arc::clone)
    }

    pub(super) fn index_of(&self, server: &Arc<Server>) -> usize {
        self.servers.iter().position(|other| Arc::ptr_eq(other, server)).unwrap_or(usize::MAX)
    }
}

fn uri(plain: &PlainRequest<'_>) -> Result<String, Failure> {
    let uri = member(plain.request(), &[], "uri").and_then(envelope::text);
    let missing = || Failure::new(rpc::INVALID_PARAMS, "the client named no `uri`");
    uri.map(std::borrow::Cow::into_owned).ok_or_else(missing)
}

/// Whether a URI template (RFC 6570) may expand to a URI: its literal parts occur in order, the first at the
/// start and the last at the end. Enough to tell servers apart; the server decides what it means.
fn may_expand_to(template: &str, uri: &str) -> bool {
    let mut rest = uri;
    let mut parts = literal_parts(template).into_iter().peekable();
    let Some(first) = parts.next() else { return false };
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    // A template that starts with a variable could be anybody's.
    if first.is_empty() || parts.peek().is_none() {
        return !first.is_empty() && rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    false
}

fn literal_parts(template: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((literal, expression)) = rest.split_once('{') {
        parts.push(literal);
        rest = expression.split_once('}').map_or("", |(_, after)| after);
    }
    parts.push(rest);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_matched_by_their_literal_parts() {
        assert!(may_expand_to("file:///{path}", "file:///a/b"));
        assert!(may_expand_to("db://{table}/rows/{id}", "db://t/rows/7"));
        assert!(may_expand_to("x://{a}.json", "x://1.json"));
        assert!(!may_expand_to("x://{a}.json", "x://1.xml"));
        assert!(!may_expand_to("db://{table}/rows/{id}", "db://t/columns/7"));
        assert!(!may_expand_to("{anything}", "file:///etc/passwd"));
        assert!(may_expand_to("x://fixed", "x://fixed"));
        assert!(!may_expand_to("x://fixed", "x://fixed2"));
    }

    #[test]
    fn the_first_server_keeps_a_uri_that_two_list() {
        let entry = |key: &str| Entry { key: key.to_owned(), json: String::new() };
        let mut resources = Resources::of(2);
        resources.learn(Listing::Resources, 1, &[entry("a://1"), entry("a://2")]);
        assert_eq!(resources.owner("a://1"), Some(1));
        resources.learn(Listing::Resources, 0, &[entry("a://1")]);
        assert_eq!(resources.owner("a://1"), Some(0));
        assert_eq!(resources.owner("a://2"), Some(1));
        assert_eq!(resources.owner("a://3"), None);
        resources.learn(Listing::Templates, 0, &[entry("a://{n}")]);
        assert_eq!(
            resources.owner("a://2"),
            Some(0),
            "a template of an earlier server beats a later listing"
        );
    }
}
