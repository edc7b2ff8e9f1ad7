//! An index of loads, so that the least loaded server, or the next that is not
//! full, is found without a look at all of them.
//!
//! Each worker has its own. It holds a score of each server, and the least
//! score of each block of servers. Loads are counted elsewhere and change at
//! any time; before each use the blocks in which one changed are read anew.
//! So a change in between is seen at the next use, and none is ever missed.

use super::{Seat, ServerKey};

/// Servers whose changes of load are told together, see [`Loads::changes`].
pub const BLOCK: usize = 16;

/// The sessions of all servers, as they are counted elsewhere.
///
/// A function from a server to its sessions is one, too. Without
/// [`changes`](Self::changes) every load is read for a choice that asks for
/// the least one.
pub trait Loads {
    /// The sessions that a server has now; `u32::MAX` if it takes no more for
    /// another reason than its `max_connections`, so that it counts as full.
    fn load(&self, server: ServerKey) -> u32;

    /// A number that is another one after each change of a load in a block of
    /// a pool: of the servers at the positions `block * BLOCK` and following.
    /// Who reads it and then a load must, when the load changes after that,
    /// read another number later. `None` where changes are not followed.
    fn changes(&self, _pool: usize, _block: usize) -> Option<u64> {
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

/// Scores of the servers of a tier.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By position in the pool's list.
    scores: Vec<u64>,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
struct Block {
    /// [`Loads::changes`] before the scores were taken.
    changes: Option<u64>,
    /// The least of the scores.
    least: u64,
}

impl Index {
    /// Forgets everything: the pool is another one.
    pub(super) fn clear(&mut self) {
        self.scores.clear();
        self.blocks.clear();
    }

    /// Takes the loads as of now.
    pub(super) fn update(&mut self, pool: usize, seats: &[Seat], loads: &impl Loads) {
        if self.scores.len() != seats.len() {
            self.scores = vec![NONE; seats.len()];
            self.blocks = vec![Block { changes: None, least: NONE }; seats.len().div_ceil(BLOCK)];
        }
        let seats = seats.chunks(BLOCK).zip(self.scores.chunks_mut(BLOCK));
        for (at, (block, (seats, scores))) in self.blocks.iter_mut().zip(seats).enumerate() {
            let changes = loads.changes(pool, at);
            if changes.is_some() && changes == block.changes {
                continue;
            }
            block.changes = changes;
            block.least = NONE;
            for (i, (seat, score)) in seats.iter().zip(scores).enumerate() {
                let load = loads.load(ServerKey { pool, server: at * BLOCK + i });
                *score = seat.score(load);
                block.least = block.least.min(*score);
            }
        }
    }

    /// Leaves a server out until the next update.
    pub(super) fn hide(&mut self, server: usize) {
        let at = server / BLOCK;
        let scores = self.scores.chunks_mut(BLOCK).nth(at);
        if let (Some(scores), Some(block)) = (scores, self.blocks.get_mut(at))
            && let Some(score) = scores.get_mut(server % BLOCK)
        {
            *score = NONE;
            block.least = scores.iter().copied().min().unwrap_or(NONE);
            block.changes = None;
        }
    }

    /// The least loaded; of equals the first from `from` on, once around.
    pub(super) fn least(&self, from: usize) -> Option<usize> {
        let least = self.blocks.iter().map(|b| b.least).min().filter(|l| *l != NONE)?;
        self.find(from, |score| score == least)
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
        let within =
            |start: usize, end: usize| (start..end.min(self.scores.len())).find(|i| wanted(self.scores[*i]));
        let whole = |block: usize| {
            wanted(self.blocks[block].least).then(|| within(block * BLOCK, (block + 1) * BLOCK)).flatten()
        };
        within(from, (first + 1) * BLOCK)
            .or_else(|| (first + 1..self.blocks.len()).chain(0..first).find_map(whole))
            .or_else(|| within(first * BLOCK, from))
    }
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
