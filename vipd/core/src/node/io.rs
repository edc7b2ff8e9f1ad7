//! What goes into a node, and what comes out.

use crate::event::{Event, Steps};
use crate::health::{Only, Why};
use crate::lease::register::{Operation, Outcome, Sight};
use crate::plan::GroupPlan;
use crate::pool::{Pools, ServerKey};
use crate::probe::{Checked, Probe};
use crate::publish::Records;
use crate::rejects::Reject;
use crate::settings::Cidr;
use crate::time::Time;
use crate::wire::peer::State;
use crate::wire::{Claim, Mac};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

/// The interface that carries a group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Link {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It cannot be used.
    Down {
        /// Why, for people: "eth0 has no carrier".
        reason: String,
    },
    /// It is up and lacks an own address of a family that the group needs:
    /// nothing can be owned there.
    Partial {
        /// What is missing, for people.
        reason: String,
        /// The kernel's index of the interface.
        interface: u32,
        /// The own addresses that are left, to say so from.
        sources: Vec<IpAddr>,
    },
    /// It can.
    Up {
        /// The kernel's index of the interface.
        interface: u32,
        /// This node's own addresses to advertise from, at most one a family.
        sources: Vec<IpAddr>,
        /// Its Ethernet address, if it has one.
        mac: Option<Mac>,
        /// This host's own addresses on it, with the subnets that are on that link.
        subnets: Vec<Cidr>,
    },
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A deadline passed.
    Tick,
    /// A group's interface came, went or changed.
    Link {
        /// The group's number.
        group: usize,
        /// What it is now.
        link: Link,
    },
    /// A packet of IP protocol 112 arrived.
    Packet {
        /// The interface it came in by.
        interface: u32,
        /// Its IP source.
        source: IpAddr,
        /// Its IP destination.
        destination: IpAddr,
        /// Its TTL or hop limit.
        ttl: u8,
        /// What follows the IP header.
        payload: &'a [u8],
    },
    /// A datagram arrived on the peer port.
    PeerPacket {
        /// Its IP source.
        source: IpAddr,
        /// Its TTL or hop limit; 255 for what a seal has proven, which may have come through routers.
        ttl: u8,
        /// Its bytes; if it was sealed, what was inside.
        payload: &'a [u8],
    },
    /// A packet counts for nothing by what the cluster key says of it, or was
    /// not even looked at.
    Refused {
        /// Its IP source.
        source: IpAddr,
        /// Why.
        cause: Reject,
        /// The virtual router that it says to own, where its sender may yet be
        /// a node of ours with another key: this node does not take that over
        /// for as long as it hears so.
        owns: Option<NonZeroU8>,
        /// The interface that it came by, where that means anything.
        interface: Option<u32>,
    },
    /// Somebody on a link said by ARP or neighbour discovery that an address is theirs.
    Claim {
        /// The interface that it was heard on.
        interface: u32,
        /// What was said.
        claim: Claim,
    },
    /// The kernel answered a plan.
    Applied {
        /// The group's number.
        group: usize,
        /// The plan's generation.
        generation: u64,
        /// Done, or why not.
        result: Result<(), String>,
    },
    /// A plan waited for too long to be carried out.
    Stale {
        /// The group's number.
        group: usize,
        /// The plan's generation.
        generation: u64,
        /// How long it waited.
        waited: Duration,
    },
    /// Somebody deleted planned addresses, and they were put back.
    Restored {
        /// The group's number.
        group: usize,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// Planned addresses are gone and cannot be put back.
    Lost {
        /// The group's number.
        group: usize,
        /// Why not.
        reason: String,
    },
    /// Somebody put a group's addresses where this node does not hold them; they
    /// are removed from there.
    Evicted {
        /// The group's number.
        group: usize,
        /// The addresses and where they were, for people.
        copies: Vec<String>,
    },
    /// An announcement was sent.
    Announced {
        /// The group's number.
        group: usize,
    },
    /// A check answered.
    Probe {
        /// The server.
        server: ServerKey,
        /// What the check saw.
        probe: Probe,
        /// When and where that was.
        checked: Checked,
    },
    /// A client's connection to a server failed.
    ConnectFailed {
        /// The server's pool.
        pool: &'a str,
        /// The server.
        server: &'a str,
        /// Where that was.
        place: SocketAddr,
        /// As the last of so many in a row, with no good one in between.
        in_a_row: u32,
    },
    /// A client's connection to a server is good, the first after one that failed.
    ConnectWorked {
        /// The server's pool.
        pool: &'a str,
        /// The server.
        server: &'a str,
        /// Where that was.
        place: SocketAddr,
    },
    /// A server's name was looked up.
    Resolved {
        /// The server.
        server: ServerKey,
        /// Where it leads, as it was known last; nowhere if it has not resolved since the start.
        addresses: Vec<IpAddr>,
        /// Where it cannot be any more, even if nothing else is known.
        unfit: Vec<IpAddr>,
        /// Why the latest look-up failed, if it did.
        problem: Option<String>,
    },
    /// The stores of records have carried out an order, or one of them has not.
    Published {
        /// The order's generation.
        generation: u64,
        /// Done everywhere, or why not.
        result: Result<(), String>,
    },
    /// An operation on a group's key in etcd has come to something.
    Registered {
        /// The group's VRID.
        vrid: NonZeroU8,
        /// The operation's number.
        number: u64,
        /// What it has come to.
        outcome: Outcome,
    },
    /// A group's key in etcd is like this now.
    RegisterNews {
        /// The group's VRID.
        vrid: NonZeroU8,
        /// The key.
        sight: Sight,
    },
    /// etcd does not answer, or does so again.
    RegisterTrouble {
        /// Why not, by endpoint; none if it answers.
        why: Option<String>,
    },
    /// Stop: hand over, release, and say when it is done.
    Stop,
}

/// A VRRP packet to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transmit {
    /// The interface to send it by.
    pub interface: u32,
    /// Its IP source.
    pub source: IpAddr,
    /// Its IP destination.
    pub destination: IpAddr,
    /// What follows the IP header.
    pub bytes: Vec<u8>,
}

/// Addresses to announce: gratuitous ARP, unsolicited neighbour advertisements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// The group's number.
    pub group: usize,
    /// The interface to send them by.
    pub interface: u32,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// Addresses to ask for on a link, without changing anybody's table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inquiry {
    /// The interface to ask by.
    pub interface: u32,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// What the crash guard must know: it replaces what it knew before.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuardState {
    /// The addresses to delete, with the interface of each.
    pub addresses: Vec<(u32, Cidr)>,
    /// The packets to send then.
    pub farewells: Vec<Transmit>,
    /// Datagrams to send then, when the addresses are deleted: to which voter,
    /// and what.
    pub releases: Vec<(usize, Vec<u8>)>,
    /// What to delete even while the program lives, because it is frozen.
    pub watched: Vec<Watch>,
}

/// Addresses that a quorum lease has ended for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watch {
    /// When, on this node's clock.
    pub until: Time,
    /// The addresses, with the interface of each.
    pub addresses: Vec<(u32, Cidr)>,
}

/// What must be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a VRRP packet.
    Advert(Transmit),
    /// Send a datagram to a node's peer port.
    Peer {
        /// The node, as a position in the cluster's list.
        node: usize,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Make the kernel hold this, and answer with [`Input::Applied`].
    Addresses(GroupPlan),
    /// The quorum's lease of a group that is owned lasts longer than its plan
    /// says: it may be put there until then.
    Extended {
        /// The group's number.
        group: usize,
        /// In the place of [`GroupPlan::until`], on this node's clock.
        until: Time,
        /// What the guard watches of the group from now on: less than this
        /// node believes would have it delete what is owned.
        watch: Option<Watch>,
    },
    /// Announce addresses, and answer with [`Input::Announced`].
    Announce(Announcement),
    /// Ask who has addresses; answers come as [`Input::Claim`].
    Ask(Inquiry),
    /// Close the sessions of clients that came by these addresses.
    CloseSessions {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// Balance over these from now on.
    Pools(Arc<Pools>),
    /// Close the sessions on a server; comes after the pools without it.
    CloseServer {
        /// The server.
        server: ServerKey,
        /// Why.
        why: Why,
    },
    /// Close the sessions of a pool that are not where its primary is; comes
    /// after the pools by which it is.
    CloseElsewhere(Only),
    /// Give a server no more sessions than this beside those that it has, until
    /// its next check.
    Room {
        /// The server.
        server: ServerKey,
        /// Further sessions; unbounded when absent.
        free: Option<u32>,
    },
    /// Check a server now rather than at its turn.
    Hurry {
        /// The server.
        server: ServerKey,
    },
    /// Make the stores of records hold this, and answer with [`Input::Published`];
    /// of several orders only the newest counts.
    Records(Records),
    /// Do this with a group's key in etcd, however often it takes, and answer
    /// with [`Input::Registered`].
    Register {
        /// The group's VRID.
        vrid: NonZeroU8,
        /// The operation's number.
        number: u64,
        /// What to do.
        operation: Operation,
    },
    /// Tell the crash guard.
    Guard(GuardState),
    /// Tell people.
    Event(Event),
    /// This group is no more; no plan for it follows.
    Forget {
        /// The group's number.
        group: usize,
    },
    /// Everything is handed over and released: the program may end.
    Stopped {
        /// The kernel has said so; else time ran out, and the guard has to look.
        clean: bool,
    },
}

/// Who answers for an owner's addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// The owner.
    Owner {
        /// The Ethernet address that answered.
        mac: Mac,
        /// How long that took, from its first advert on.
        took: Duration,
    },
    /// Another one.
    Other {
        /// For which address.
        address: IpAddr,
        /// Who.
        mac: Mac,
    },
    /// Nobody.
    Nobody {
        /// For which address.
        address: IpAddr,
    },
}

impl Proof {
    /// Whether it says the same, but for times and addresses.
    pub(crate) fn is_like(self, other: Option<Self>) -> bool {
        other.is_some_and(|other| std::mem::discriminant(&self) == std::mem::discriminant(&other))
    }
}

/// Who answers for a group's addresses, as a node sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProofStatus {
    /// The name of the node that asked.
    pub seer: String,
    /// What it saw.
    pub proof: Proof,
}

/// Another host claims an address that this node owns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConflictStatus {
    /// The address.
    pub address: IpAddr,
    /// The other's Ethernet address.
    pub mac: Mac,
    /// The node that has it, if one of the cluster does.
    pub node: Option<String>,
    /// Claims so far.
    pub count: u64,
    /// Time since the last.
    pub ago: Duration,
}

/// A group as users see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupStatus {
    /// Its number.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
    /// This node's state.
    pub state: State,
    /// Who owns it, as far as this node knows.
    pub owner: Option<String>,
    /// This node's priority.
    pub priority: u8,
    /// How long the state has lasted.
    pub since: Duration,
    /// Why it is what it is.
    pub why: String,
    /// Whether a planned switchover of it is under way here.
    pub switching: bool,
    /// The last takeover's steps.
    pub steps: Option<Steps>,
    /// Others that claim an address which this node owns.
    pub conflicts: Vec<ConflictStatus>,
    /// Claims of others since the start.
    pub claims: u64,
    /// Who answers for the addresses.
    pub proofs: Vec<ProofStatus>,
    /// What is left of the quorum lease by which this node owns; none without
    /// a quorum, and zero where the settings keep it without a majority.
    pub lease_left: Option<Duration>,
}
