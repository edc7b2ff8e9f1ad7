//! What an election is told, what it says, and by what it runs.

use crate::lease::{Answer, Request, Wanted};
use crate::settings::VrrpVersion;
use crate::time::Time;
use std::net::IpAddr;
use std::time::Duration;

/// What an election runs by.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Params {
    /// This node's priority, 1 to 255.
    pub priority: u8,
    /// This node's advert interval.
    pub interval: Duration,
    /// The version in use; it decides the skew.
    pub version: VrrpVersion,
    /// Whether to take the addresses from a living owner of lower priority.
    pub preempt: bool,
    /// How long such an owner is left alone first.
    pub preempt_delay: Duration,
    /// The kernel's lease on the addresses; an owner that slept past it steps down.
    pub lease: Duration,
}

/// Who sent an advert.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Who {
    /// A node of the cluster, as a position in its list.
    Node(usize),
    /// Somebody else who serves the same virtual router.
    Stranger(IpAddr),
}

/// A valid advert for this virtual router.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heard {
    /// Its sender.
    pub who: Who,
    /// Its priority.
    pub priority: u8,
    /// Its interval.
    pub interval: Duration,
    /// Whether its source address is greater than this node's: it decides
    /// between equal priorities.
    pub source_is_greater: bool,
    /// If it is a release: how long to wait before taking over; the RFC's skew when absent.
    pub wait: Option<Duration>,
}

/// What happens to an election.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The interface is up and this node may take part.
    Startup,
    /// This node takes part no longer; its addresses are given up already.
    Shutdown,
    /// The interface or the kernel makes it impossible to own.
    Fault,
    /// The addresses are given up on purpose and silenced: say so.
    Release,
    /// An advert arrived.
    Advert(Heard),
    /// Time passed.
    Timer,
    /// The program runs again, this long after something was due: comes before
    /// every other event. After a pause what is queued may be old.
    Wake(Duration),
    /// A voter answered a request of this run.
    Answer {
        /// The voter.
        voter: usize,
        /// The request's number.
        number: u64,
        /// What it says.
        answer: Answer,
    },
}

/// Why ownership changed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// This node is the addresses' owner (priority 255).
    AddressOwner,
    /// Nobody advertised; the last one to do so, and how long ago.
    Silence(Option<(Who, Duration)>),
    /// The owner released the addresses.
    Released(Who),
    /// An owner of lower priority was preempted; its priority, and this node's then.
    Preempted(Who, u8, u8),
    /// Another owner has the better claim; its priority, and this node's then.
    Superior(Who, u8, u8),
    /// This node slept so long that another may have taken over.
    Slept(Duration),
    /// No majority of the voters promises them to this node any more: how many
    /// did, of how many.
    NoMajority(usize, usize),
    /// Nobody could be asked, and the settings say to own without a majority.
    WithoutMajority,
    /// This node gave them up on purpose.
    GivenUp,
    /// This node cannot own them.
    Fault,
    /// This node takes part no longer.
    Shutdown,
}

/// What the node has to do now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Send an advert.
    pub advertise: bool,
    /// Send an advert of priority 0.
    pub release: bool,
    /// The addresses became this node's.
    pub own: Option<Cause>,
    /// They are no longer this node's.
    pub disown: Option<Cause>,
    /// Ask every voter.
    pub ask: Option<Request>,
    /// Tell every voter that requests up to this number are withdrawn.
    pub give_back: Option<u64>,
    /// The lease lasts longer than before.
    pub extended: bool,
}

impl Outcome {
    pub(super) fn and(self, wanted: Wanted) -> Self {
        Self { ask: wanted.ask.or(self.ask), give_back: wanted.give_back.or(self.give_back), ..self }
    }
}

/// The last owner that was followed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    /// Who it is.
    pub who: Who,
    /// Its priority.
    pub priority: u8,
    /// When it last spoke.
    pub at: Time,
}

/// What keeps a backup from preempting an owner of lower priority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Restraint {
    /// Preemption is off.
    Off,
    /// This node gave ownership up, to just that owner.
    Yielded,
    /// This node would not serve.
    NotEager,
    /// The delay: what is left of it.
    Delay(Duration),
    /// Nothing: it takes over when its timer runs out.
    Nothing,
}
