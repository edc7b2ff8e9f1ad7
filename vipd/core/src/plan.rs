//! The addresses a node should hold: desired state, not commands. The kernel
//! actor makes it so, and may do so again at any time.

use crate::settings::Cidr;
use crate::time::Time;
use std::net::IpAddr;
use std::time::Duration;

/// What the kernel should hold of one VIP group. A plan replaces the group's
/// earlier one; of several that wait, only the newest counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupPlan {
    /// The group, as a position in the list of VIP groups.
    pub group: usize,
    /// Grows with every plan of the group, renewals included; the kernel's
    /// answer names it.
    pub generation: u64,
    /// The kernel's index of the interface.
    pub interface: u32,
    /// The group's addresses.
    pub addresses: Vec<Cidr>,
    /// How to hold them.
    pub hold: Hold,
    /// The life each address gets from the moment the plan is applied.
    pub lease: Duration,
    /// When it may be put there no more, on this node's clock: a plan that
    /// waited for longer, or an address that somebody deleted, stays out. A lease
    /// that is renewed meanwhile moves it.
    pub until: Option<Time>,
    /// Where the node is found that hands the addresses over to this one: it has
    /// connections, and takes their packets for a while yet. Empty if none does.
    pub former: Vec<IpAddr>,
}

/// How a node holds an address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Hold {
    /// Not at all.
    Absent,
    /// Packets that arrive for it are taken, but ARP and neighbour discovery
    /// are not answered: what both sides of a planned switchover do for a moment.
    Silent,
    /// It is this node's: on the interface, and answered for.
    Owned,
}
