//! The network policy at work: what a server's network namespace lets out.
//!
//! In this version nothing is let out. A policy that asks for any egress is refused before an image is
//! unpacked, and every sandbox has an empty network namespace: no address, no route, and the loopback
//! device is down. The types are those that the supervisor will take when connections are policed
//! (docs/design/003-network-capture.md).
//!
//! The attacker considered: the server, which may speak any protocol to any address.

#![forbid(unsafe_code)]

/// What a server may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressPolicy {
    /// Nothing: the namespace stays empty and no listener is bound in it.
    Closed,
}

impl EgressPolicy {
    /// The egress policy of a checked policy file. The parser refuses a file with egress rules.
    pub fn of(_policy: &palisade_policy::Policy) -> Self {
        Self::Closed
    }
}
