//! The state of a node as a document.

use crate::control::stamp;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The state of a node: `vipctl status --json` and `/status.json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatusDoc {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// The daemon's version.
    pub version: String,
    /// Whether the node is out of the election by an operator's word.
    #[serde(default)]
    pub maintenance: bool,
    /// The VIP groups, in the file's order.
    pub vips: Vec<VipDoc>,
    /// The other nodes, in the file's order.
    pub peers: Vec<PeerDoc>,
    /// The witnesses, in the file's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessDoc>,
    /// The listeners, in the file's order.
    pub listeners: Vec<ListenerDoc>,
    /// The pools, in the file's order.
    pub pools: Vec<PoolDoc>,
    /// The names published in DNS.
    pub dns: Vec<DnsDoc>,
    /// The members of etcd, where the quorum is kept there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub etcd: Vec<EtcdDoc>,
    /// Why the newest configuration was refused; empty when it is in force.
    #[serde(default)]
    pub config_errors: Vec<String>,
    /// What was counted since the start.
    #[serde(default)]
    pub counters: Counters,
}

/// A VIP group, as this node sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VipDoc {
    /// Its name.
    pub name: String,
    /// Its addresses with their prefix length.
    pub addresses: Vec<String>,
    /// This node's state in its election.
    pub state: VipState,
    /// Who owns it, as far as this node knows.
    pub owner: Option<String>,
    /// This node's VRRP priority.
    pub priority: u8,
    /// When this node entered its state.
    #[serde(with = "stamp::seconds")]
    pub since: Timestamp,
    /// Why it is in that state, in a sentence.
    pub why: String,
    /// How long the steps of this node's last takeover took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// Others that claim an address which this node owns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictDoc>,
    /// Claims of others since the start.
    #[serde(default)]
    pub claims_total: u64,
    /// Who answers for the addresses, as other nodes see this owner, or as
    /// this node sees the owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<ProofDoc>,
    /// Milliseconds left of the quorum lease by which this node owns; absent
    /// without a quorum, 0 where `on-no-quorum = "keep"` does without a majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// Another host claims an address that this node owns, by ARP or neighbour discovery.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConflictDoc {
    /// The address.
    pub address: String,
    /// The other's Ethernet address.
    pub mac: String,
    /// The node that has it, if one of the cluster does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Claims so far.
    pub count: u64,
    /// Milliseconds since the last one.
    pub ago_ms: u64,
}

/// Who answers ARP or neighbour discovery for a VIP group, as a node sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProofDoc {
    /// The node that asked.
    pub seer: String,
    /// Who answers.
    pub sees: Sees,
    /// The address that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The Ethernet address that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Microseconds from the owner's first advert to its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

/// Who answers for an address.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sees {
    /// The owner, and nobody else.
    Owner,
    /// Another host.
    Other,
    /// Nobody.
    Nobody,
}

/// A state of RFC 9568, section 6.3, or a fault that keeps a node out of the election.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VipState {
    /// Not started.
    Init,
    /// Another node owns the address, or none does yet.
    Backup,
    /// This node owns the address.
    Active,
    /// This node cannot own it, and says so.
    Fault,
}

impl VipState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Init, Self::Backup, Self::Active, Self::Fault];
}

impl fmt::Display for VipState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::Fault => "fault",
        })
    }
}

/// The steps of a takeover: microseconds since the earlier owner's last sign
/// of life (its last advert, or its word that it lets go), each including
/// those before it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Steps {
    /// The owner's silence, or its word, was noticed; absent where there was no
    /// owner before, as at a start: then the others count from the decision.
    pub detected_us: Option<u64>,
    /// This node decided to take over.
    pub decided_us: u64,
    /// The kernel had the addresses.
    pub address_in_us: u64,
    /// The first announcement was sent.
    pub announced_us: u64,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerDoc {
    /// Its name.
    pub name: String,
    /// Its own address.
    pub address: String,
    /// Its state.
    pub state: PeerState,
    /// Milliseconds since it was last heard; absent if it never was.
    pub last_heard_ms: Option<u64>,
    /// Milliseconds since its last advert; absent if none ever came, as of a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_advert_ms: Option<u64>,
    /// Whether the settings that must agree do; absent while that is not known.
    pub config_match: Option<bool>,
    /// Whether it hears this node, by its own word; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hears_this: Option<bool>,
    /// The settings that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_differs: Vec<String>,
    /// The sealed link to it; absent without a cluster key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkDoc>,
}

/// A witness, as this node sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WitnessDoc {
    /// Its name.
    pub name: String,
    /// Its own address.
    pub address: String,
    /// Milliseconds since it last said hello; absent if it never did.
    pub last_heard_ms: Option<u64>,
    /// Whether the settings by which it votes agree; absent while that is not known.
    pub config_match: Option<bool>,
    /// Those that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_differs: Vec<String>,
}

/// The sealed link to another node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkDoc {
    /// Since when it is sealed; absent while there is no link.
    #[serde(default, with = "stamp::maybe_seconds")]
    pub sealed_since: Option<Timestamp>,
    /// What seals it.
    pub cipher: String,
    /// What went wrong on it last, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Milliseconds since that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_ago_ms: Option<u64>,
}

/// A member of etcd, as this node has found it since its start.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EtcdDoc {
    /// Its endpoint, as the file has it.
    pub endpoint: String,
    /// Requests that it carried out; of a member that was not asked yet there
    /// are neither these nor the others.
    pub answers: u64,
    /// Requests that it did not carry out.
    pub failures: u64,
    /// How long the last one that it carried out took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Why it did not carry out the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The state of another node: its highest in any VIP's election.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// It was never heard, or not for long.
    Unknown,
    /// It has started, and takes no part yet.
    Init,
    /// It owns nothing.
    Backup,
    /// It owns a VIP.
    Active,
    /// It says that it cannot own anything.
    Fault,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::Fault => "fault",
        })
    }
}

/// A listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ListenerDoc {
    /// Its name.
    pub name: String,
    /// Where it listens; nowhere if it was removed.
    pub bind: String,
    /// Whether a reload removed it: it goes when its last session has ended.
    #[serde(default)]
    pub removed: bool,
    /// Sessions now.
    pub sessions: u64,
    /// Sessions since the start.
    pub total: u64,
    /// Bytes taken from clients since the start.
    pub bytes_in: u64,
    /// Bytes given to clients since the start.
    pub bytes_out: u64,
    /// Sessions that ended since the start, by cause.
    #[serde(default)]
    pub closed: BTreeMap<String, u64>,
    /// Connections that could not be accepted.
    #[serde(default)]
    pub accept_errors: u64,
    /// Client addresses that are counted; none unless the listener limits them.
    #[serde(default)]
    pub sources: u64,
}

/// A pool.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolDoc {
    /// Its name.
    pub name: String,
    /// Its servers, in the file's order.
    pub servers: Vec<ServerDoc>,
    /// The primary that it follows, where it wants one.
    #[serde(default)]
    pub incumbent: Option<String>,
    /// Servers that are writable beside the incumbent, and get nothing.
    #[serde(default)]
    pub conflict: Vec<String>,
    /// Counts the changes of the primary, on all nodes; 0 where no primary is followed.
    #[serde(default)]
    pub epoch: u32,
    /// Nodes that follow another primary than this one, and which: `px2: db1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreeing: Vec<String>,
    /// The clients that had to wait for a server.
    #[serde(default)]
    pub queue: QueueDoc,
    /// Its sessions on servers of its fallbacks.
    #[serde(default)]
    pub fallback_sessions: u32,
    /// Its servers and entries with whose names something is wrong.
    #[serde(default)]
    pub unresolved: Vec<String>,
}

/// What was counted of a pool's queue.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueDoc {
    /// Clients that wait now.
    pub waiting: u32,
    /// Clients that had to wait.
    pub total: u64,
    /// Those of them that waited in vain.
    pub timeouts: u64,
    /// Clients that were refused because it was full.
    pub full: u64,
}

/// A server of a pool.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServerDoc {
    /// Its name.
    pub name: String,
    /// Its address and port; the configured name while that is not resolved.
    pub address: String,
    /// Its state.
    pub state: ServerState,
    /// Its role, where the check can tell.
    pub role: Option<ServerRole>,
    /// Its replication lag in milliseconds, where it is known.
    pub lag_ms: Option<u64>,
    /// Sessions now.
    pub sessions: u64,
    /// Why it is in that state, in a sentence.
    pub why: String,
    /// When it entered its state.
    #[serde(default, with = "stamp::maybe_seconds")]
    pub since: Option<Timestamp>,
    /// Its weight: that of the file, or what an operator gave it.
    #[serde(default)]
    pub weight: u16,
    /// Whether an operator gave it its weight.
    #[serde(default)]
    pub weight_given: bool,
    /// How much of its weight it has, in percent, while it starts slowly.
    #[serde(default)]
    pub slow_start_percent: Option<u8>,
    /// Its checks, where its pool has one.
    #[serde(default)]
    pub check: Option<CheckDoc>,
    /// The connections it has by its own count, of everybody, where the check can ask.
    #[serde(default)]
    pub connections_used: Option<u32>,
    /// The connections it takes at most, where the check can ask.
    #[serde(default)]
    pub connections_max: Option<u32>,
    /// Sessions since it was first configured.
    #[serde(default)]
    pub total: u64,
    /// Connections to it that failed.
    #[serde(default)]
    pub connect_errors: u64,
    /// Sessions that it reset, or in which it stopped answering.
    #[serde(default)]
    pub resets: u64,
    /// Bytes taken from clients for it, by sessions that have ended.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes given to clients from it, by sessions that have ended.
    #[serde(default)]
    pub bytes_out: u64,
    /// Sessions that ended on it since the start, by cause; causes that did not
    /// come about are left out.
    #[serde(default)]
    pub closed: BTreeMap<String, u64>,
    /// Sessions that its own limit, less the pool's `headroom`, leaves beside
    /// those that it has, where the check can ask.
    #[serde(default)]
    pub room: Option<u32>,
}

/// What was counted of a server's checks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckDoc {
    /// Checks that ended since the start.
    pub total: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Connections of clients that failed and were counted like a failed check.
    pub passive: u64,
    /// How long the last one took, in microseconds.
    pub took_us: u64,
}

/// The state of a server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// It takes connections.
    Up,
    /// Its check says no.
    Down,
    /// By an operator's word: no new connections.
    Drain,
    /// By an operator's word: no connections.
    Maint,
    /// Not checked yet.
    Unknown,
    /// Its check fails from this node, and another node reaches it.
    Unreachable,
}

impl ServerState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Down, Self::Drain, Self::Maint, Self::Unknown, Self::Unreachable];
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
        })
    }
}

/// What a database said it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerRole {
    /// It takes writes.
    Primary,
    /// It is read-only.
    Replica,
}

impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

/// A name published in DNS.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DnsDoc {
    /// The name.
    pub name: String,
    /// The addresses it should have.
    pub desired: Vec<String>,
    /// The addresses it has.
    pub published: Vec<String>,
    /// Whether these agree.
    pub in_sync: bool,
    /// The number of the last write.
    pub epoch: u64,
    /// Who writes, as far as this node knows.
    #[serde(default)]
    pub writer: Option<String>,
    /// Which nodes are in and which are out, and why.
    #[serde(default)]
    pub why: Vec<String>,
    /// Each server or zone that keeps the records.
    #[serde(default)]
    pub stores: Vec<DnsStoreDoc>,
}

/// A server or zone that keeps the records of a name.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DnsStoreDoc {
    /// The server's address, or the zone.
    pub place: String,
    /// The addresses it had when it was last read or written.
    pub published: Vec<String>,
    /// Whether these are what the name should have.
    pub in_sync: bool,
    /// The number of its last write; 0 if it has none.
    pub epoch: u64,
    /// What somebody has edited, and is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<String>,
    /// Why it cannot be read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Writes of this node since it started or was given other settings.
    #[serde(default)]
    pub writes: u64,
    /// Attempts that failed, since then.
    #[serde(default)]
    pub errors: u64,
    /// Milliseconds for which it is left alone after the last attempt; 0 while it
    /// holds what it should.
    #[serde(default)]
    pub retry_ms: u64,
    /// This node's last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_write: Option<DnsSteps>,
}

/// The steps of a write: microseconds since it was decided.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DnsSteps {
    /// Where.
    pub place: String,
    /// The write's number.
    pub epoch: u64,
    /// It was sent.
    pub sent_us: u64,
    /// It was acknowledged.
    pub acknowledged_us: u64,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counters {
    /// Adverts and messages of nodes that were not accepted, by cause and
    /// sender, of the last hour's senders.
    pub adverts_rejected: Vec<Rejected>,
    /// The same by cause, since the start.
    #[serde(default)]
    pub adverts_rejected_total: BTreeMap<String, u64>,
}

/// Packets of one sender that were not accepted, for one cause.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rejected {
    /// The cause, in kebab case.
    pub cause: String,
    /// The sender's address; "others" where there are too many to keep apart.
    pub sender: String,
    /// How many.
    pub count: u64,
    /// Milliseconds since the last one.
    #[serde(default)]
    pub ago_ms: u64,
}
