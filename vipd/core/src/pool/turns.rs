//! Weighted round-robin.
//!
//! Servers of equal weight are a class, and take turns in it one after the
//! other. The classes share the time by earliest deadline: in one cycle (from
//! 0 to 1) a class of which the weights sum up to W has its turns due at
//! `(k + phase) / W`, for k from 0 to W - 1. So every server has exactly its
//! share in any whole cycle, turns of a class lie as evenly as whole turns can,
//! and a turn costs no more than a step in a heap of the classes, of which
//! there are as many as different weights: mostly one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Who takes turns, and how often.
#[derive(Debug)]
pub(super) struct Turns {
    /// By weight, ascending.
    classes: Vec<Class>,
}

/// Servers of equal weight.
#[derive(Debug)]
struct Class {
    weight: u16,
    /// Their turns in a cycle.
    turns: u32,
    /// Where in its `1 / turns` of the cycle each turn is due, in parts of
    /// 2^32. The classes' are spread by the golden ratio, so that those of
    /// few turns are not all due at once.
    phase: u32,
    /// As positions in the pool's list.
    members: Vec<u32>,
}

impl Turns {
    /// Turns of `members`, which are positions in `weights`.
    pub(super) fn new(members: &[u32], weight: impl Fn(u32) -> u16) -> Self {
        let mut sorted = members.to_vec();
        sorted.sort_by_key(|m| weight(*m));
        let chunks = sorted.chunk_by(|a, b| weight(*a) == weight(*b));
        let class = |(rank, members): (u32, &[u32])| {
            let weight = weight(members[0]);
            let turns = u32::try_from(members.len()).unwrap_or(u32::MAX).saturating_mul(weight.into());
            let phase = (rank + 1).wrapping_mul(0x9e37_79b9);
            Class { weight, turns: turns.max(1), phase, members: members.to_vec() }
        };
        Self { classes: (0..).zip(chunks).map(class).collect() }
    }
}

impl Class {
    /// When in a cycle a turn is due, in parts of 2^32.
    fn due(&self, turn: u32) -> u32 {
        let due = ((u64::from(turn) << 32) | u64::from(self.phase)) / u64::from(self.turns);
        u32::try_from(due).unwrap_or(u32::MAX)
    }

    /// The first turn of a cycle that is not due before `part`.
    fn first_from(&self, part: u32) -> u32 {
        let before = (u64::from(part) * u64::from(self.turns)).saturating_sub(self.phase.into());
        u32::try_from(before.div_ceil(1 << 32)).unwrap_or(u32::MAX)
    }
}

/// How far a worker is with a tier's [`Turns`].
#[derive(Debug)]
pub(super) struct TurnState {
    /// Turns taken, from a random start on.
    taken: usize,
    /// When the last turn was due.
    now: (u64, u32),
    /// By class.
    cursors: Vec<Cursor>,
    /// The next turn of each class; unused while there is only one.
    queue: BinaryHeap<Reverse<Due>>,
}

#[derive(Debug)]
struct Cursor {
    weight: u16,
    /// The member whose turn it is.
    next: usize,
}

/// A turn to come. The fields' order is that of the turns.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Due {
    cycle: u64,
    part: u32,
    class: usize,
    turn: u32,
}

impl TurnState {
    /// Workers start at places of their own, or the first few connections of
    /// all of them would meet at the first server.
    pub(super) fn at(random: u64) -> Self {
        let (high, low) = ((random >> 33) as usize, random as u32);
        Self { taken: high, now: (0, low), cursors: Vec::new(), queue: BinaryHeap::new() }
    }

    /// Goes on with these turns at the same point of the cycle. A class that
    /// there was before goes on with the same member. One of a new weight
    /// begins where the turns taken lead: if all weights change again and
    /// again, as they do in a slow start, no server is the first each time.
    pub(super) fn fit(&mut self, turns: &Turns) {
        let cursor = |class: &Class| {
            let old = self.cursors.binary_search_by_key(&class.weight, |c| c.weight);
            let next = old.map_or(self.taken, |i| self.cursors[i].next) % class.members.len();
            Cursor { weight: class.weight, next }
        };
        self.cursors = turns.classes.iter().map(cursor).collect();
        let (cycle, part) = self.now;
        self.queue.clear();
        if turns.classes.len() > 1 {
            self.queue.extend(turns.classes.iter().enumerate().map(|(i, class)| {
                let turn = class.first_from(part);
                Reverse(if turn < class.turns {
                    Due { cycle, part: class.due(turn), class: i, turn }
                } else {
                    Due { cycle: cycle + 1, part: class.due(0), class: i, turn: 0 }
                })
            }));
        }
    }

    /// The server whose turn it is.
    pub(super) fn take(&mut self, turns: &Turns) -> Option<u32> {
        let class = self.class(turns)?;
        let (members, cursor) = (&turns.classes.get(class)?.members, self.cursors.get_mut(class)?);
        let server = *members.get(cursor.next)?;
        cursor.next = if cursor.next + 1 == members.len() { 0 } else { cursor.next + 1 };
        self.taken = self.taken.wrapping_add(1);
        Some(server)
    }

    /// The class whose turn it is; none if these are not the turns that it was
    /// fit to.
    fn class(&mut self, turns: &Turns) -> Option<usize> {
        let Some(mut first) = self.queue.peek_mut() else { return Some(0) };
        let Reverse(due) = &mut *first;
        let (class, entry) = (due.class, turns.classes.get(due.class)?);
        self.now = (due.cycle, due.part);
        due.turn += 1;
        if due.turn == entry.turns {
            due.turn = 0;
            due.cycle += 1;
        }
        due.part = entry.due(due.turn);
        Some(class)
    }
}
