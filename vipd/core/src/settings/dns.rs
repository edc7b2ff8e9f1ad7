//! `[dns]`.

use super::Member;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The name of the election that says who writes the records.
pub const DNS_GROUP: &str = "dns";

/// Whose addresses a name has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Policy {
    /// Those of every healthy node.
    Multi,
    /// Those of the owner only.
    Owner,
}

/// What a name has when no node is healthy.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum WhenAllDown {
    /// What it had before.
    LastGood,
    /// The addresses of all nodes.
    All,
    /// Nothing.
    Empty,
}

/// `[dns]`: a name that leads to the nodes, and where its records are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// The name, with a dot at its end.
    pub name: String,
    /// The records' time to live, in whole seconds.
    pub ttl: Duration,
    /// Whose addresses it has.
    pub policy: Policy,
    /// What it has when no node is healthy.
    pub when_all_down: WhenAllDown,
    /// Changes of the records are at least so far apart.
    pub hold_down: Duration,
    /// Whether a person's edit is overwritten.
    pub repair: bool,
    /// What is published of the node at a position instead of its own
    /// addresses, by position.
    pub public_addresses: Vec<(usize, Vec<IpAddr>)>,
    /// The group whose owner writes: a position in the list of groups. It has
    /// no addresses, and tracks the listeners that make a node healthy.
    pub election: usize,
    /// The group whose owner [`Policy::Owner`] means, as a position.
    pub owner: usize,
    /// `[dns.rfc2136]`.
    pub rfc2136: Option<Rfc2136>,
    /// `[dns.route53]`.
    pub route53: Option<Route53>,
}

impl Dns {
    /// The addresses by which clients reach the node at a position.
    #[must_use]
    pub fn addresses_of<'a>(&'a self, node: usize, nodes: &'a [Member]) -> &'a [IpAddr] {
        let public = self.public_addresses.iter().find(|(n, _)| *n == node).map(|(_, a)| a);
        public.or(nodes.get(node).map(|m| &m.addresses)).map_or(&[], Vec::as_slice)
    }
}

/// `[dns.rfc2136]`: servers that take dynamic updates, each on its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rfc2136 {
    /// The servers, at least one.
    pub servers: Vec<SocketAddr>,
    /// The zone, with a dot at its end; the name lies in it.
    pub zone: String,
    /// The name of the key that signs.
    pub key_name: String,
    /// How it signs.
    pub key_algorithm: KeyAlgorithm,
    /// The file of its secret, in base64.
    pub key_file: PathBuf,
}

/// How a TSIG key signs (RFC 8945, section 6).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyAlgorithm {
    /// hmac-sha256
    HmacSha256,
    /// hmac-sha384
    HmacSha384,
    /// hmac-sha512
    HmacSha512,
}

impl KeyAlgorithm {
    /// The name that RFC 8945 gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }

    /// Bytes of its signatures.
    #[must_use]
    pub const fn output(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

/// `[dns.route53]`: a hosted zone of Amazon Route 53.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route53 {
    /// The hosted zone's id.
    pub zone_id: String,
    /// How the addresses become records.
    pub records: RecordForm,
    /// Health checks of Route 53, each of the node at a position.
    pub health_checks: Vec<(usize, String)>,
    /// Where the API is, for tests; AWS's own place when absent.
    pub endpoint_url: Option<String>,
}

/// How several addresses become records of Route 53.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RecordForm {
    /// A multivalue answer record for each node, with a set identifier.
    Multivalue,
    /// One record with all values.
    Simple,
}
