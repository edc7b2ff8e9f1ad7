//! An index of loads, so that the least loaded server, or the next that is not
//! full, is found without a look at all of them.
//!
//! Each worker has its own. It holds a score of each server, and the least
//! score of each block of servers. Loads are counted elsewhere and change at
//! any time; before each use those are read that [`Changes`] tells of. So a
//! change in between is seen at the next use, and none is ever missed.

use super::{Changes, Seat, ServerKey};

/// The sessions of all servers, as they are counted elsewhere.
///
/// A function from a server to its sessions is one, too.
pub trait Loads {
    /// The sessions that a server has now; `u32::MAX` if it takes no more for
    /// another reason than its `max_connections`, so that it counts as full.
    fn load(&self, server: ServerKey) -> u32;

    /// Where the changes of a pool's loads are noted. Where they are not,
    /// every load is read for a choice that asks for the least one.
    fn changes(&self, _pool: usize) -> Option<&Changes> {
        None
    }
}

impl<F: Fn(ServerKey) -> u32> Loads for F {
    fn load(&self, server: ServerKey) -> u32 {
        self(server)
    }
}

/// The score of a server that takes no connection.
const NONE: u64 = u64::MAX;

/// Scores in a block: about the square root of a thousand, so that blocks are
/// as many as scores in one.
const BLOCK: usize = 32;

/// Scores of the servers of a tier.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By position in the pool's list.
    scores: Vec<u64>,
    /// The least of each block.
    least: Vec<u64>,
    /// [`Changes::count`] as of which the scores are.
    seen: u64,
}

impl Index {
    /// Forgets everything: the pool is another one.
    pub(super) fn clear(&mut self) {
        self.scores.clear();
    }

    /// Takes the loads as of now.
    pub(super) fn update(&mut self, pool: usize, seats: &[Seat], loads: &impl Loads) {
        let known = self.scores.len() == seats.len();
        // To read this number before the loads is what lets no change be missed.
        let changes = loads.changes(pool).map(|changes| (changes, changes.count()));
        if let (true, Some((changes, count))) = (known, changes)
            && count.wrapping_sub(self.seen) <= seats.len() as u64
        {
            while self.seen != count {
                let Some(server) = changes.get(self.seen) else { break };
                self.read(ServerKey { pool, server }, seats, loads);
                self.seen += 1;
            }
            if self.seen == count {
                return;
            }
        }
        self.scores.clear();
        let load = |server| loads.load(ServerKey { pool, server });
        self.scores.extend(seats.iter().enumerate().map(|(server, seat)| seat.score(load(server))));
        self.least.clear();
        self.least.extend(self.scores.chunks(BLOCK).map(least));
        self.seen = changes.map_or(0, |(_, count)| count);
    }

    fn set(&mut self, server: usize, score: u64) {
        let block = server / BLOCK;
        let before = std::mem::replace(&mut self.scores[server], score);
        if score <= self.least[block] {
            self.least[block] = score;
        } else if before == self.least[block] {
            let end = self.scores.len().min((block + 1) * BLOCK);
            self.least[block] = least(&self.scores[block * BLOCK..end]);
        }
    }

    /// Leaves a server out, until it is [`read`](Self::read) again.
    pub(super) fn hide(&mut self, server: usize) {
        if server < self.scores.len() {
            self.set(server, NONE);
        }
    }

    /// Takes the load of one server as of now.
    pub(super) fn read(&mut self, server: ServerKey, seats: &[Seat], loads: &impl Loads) {
        if let Some(seat) = seats.get(server.server) {
            self.set(server.server, seat.score(loads.load(server)));
        }
    }

    /// The least loaded; of equals the first from `from` on, once around.
    pub(super) fn least(&self, from: usize) -> Option<usize> {
        let least = least(&self.least);
        if least == NONE { None } else { self.find(from, |score| score == least) }
    }

    /// The first that takes a connection from `from` on, once around.
    pub(super) fn open(&self, from: usize) -> Option<usize> {
        self.find(from, |score| score != NONE)
    }

    /// The first that is wanted from `from` on, once around. A block has one
    /// if and only if its least score is wanted.
    fn find(&self, from: usize, wanted: impl Fn(u64) -> bool) -> Option<usize> {
        let from = if from < self.scores.len() { from } else { 0 };
        let first = from / BLOCK;
        let within = |start: usize, end: usize| {
            let scores = &self.scores[start..end.min(self.scores.len())];
            scores.iter().position(|s| wanted(*s)).map(|i| start + i)
        };
        let whole = |block: usize| within(block * BLOCK, (block + 1) * BLOCK);
        let block = |mut blocks: std::ops::Range<usize>| blocks.find(|b| wanted(self.least[*b]));
        within(from, (first + 1) * BLOCK)
            .or_else(|| block(first + 1..self.least.len()).or_else(|| block(0..first)).and_then(whole))
            .or_else(|| within(first * BLOCK, from))
    }
}

/// The least of some scores.
fn least(scores: &[u64]) -> u64 {
    scores.iter().copied().min().unwrap_or(NONE)
}

impl Seat {
    /// What the load would be for the weight, were the connection its own.
    /// (Counting the connection itself is what makes the heavier of two idle
    /// servers come first.) Up to 65,535 sessions and a weight of 256 no two
    /// different ratios have their order changed by the division's rest.
    pub(super) fn score(self, load: u32) -> u64 {
        if self.cost == 0 || load >= self.limit {
            return NONE;
        }
        (u64::from(load) + 1) * u64::from(self.cost)
    }
}
