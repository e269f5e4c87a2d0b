//! Profiles: named collections of servers with their configuration.
//!
//! In this version a profile is the list of policy files that `palisade gateway run` is given; naming,
//! exporting and sharing collections is not there yet. The crate holds the one rule that a collection has.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use palisade_policy::Policy;

/// A collection of servers whose names differ.
#[derive(Debug)]
pub struct Profile<'a> {
    servers: Vec<&'a Policy>,
}

/// Why policies do not make a profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    /// Tools are told apart by their server's name.
    #[error("two policies name their server `{0}`")]
    DuplicateServer(String),
    /// Nothing to serve.
    #[error("a profile needs at least one server")]
    Empty,
}

impl<'a> Profile<'a> {
    /// Collects policies.
    ///
    /// # Errors
    /// When there is none, or two have the same server name.
    pub fn new(servers: Vec<&'a Policy>) -> Result<Self, ProfileError> {
        if servers.is_empty() {
            return Err(ProfileError::Empty);
        }
        let mut names = BTreeSet::new();
        for policy in &servers {
            if !names.insert(policy.server.as_str()) {
                return Err(ProfileError::DuplicateServer(policy.server.to_string()));
            }
        }
        Ok(Self { servers })
    }

    /// The servers, in the order in which they were given.
    pub fn servers(&self) -> &[&'a Policy] {
        &self.servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(server: &str) -> Policy {
        let text =
            format!("palisade: 1\nserver: {server}\nimage: {{ reference: \"a:b\", unsigned: \"a test\" }}\n");
        palisade_policy::parse("test.yaml", &text).unwrap()
    }

    #[test]
    fn servers_keep_their_order_and_must_have_different_names() {
        let (b, a) = (policy("b"), policy("a"));
        let profile = Profile::new(vec![&b, &a]).unwrap();
        let names: Vec<_> = profile.servers().iter().map(|policy| policy.server.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(Profile::new(vec![&a, &b, &a]).unwrap_err(), ProfileError::DuplicateServer("a".into()));
        assert_eq!(Profile::new(vec![]).unwrap_err(), ProfileError::Empty);
    }
}
