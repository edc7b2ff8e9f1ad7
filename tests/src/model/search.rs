//! Breadth first, so that the first trace found is a shortest one.

use super::cluster::{Action, Bounds, Cluster};
use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How a search ended.
#[derive(Debug)]
pub struct Explored {
    /// Different states seen.
    pub states: usize,
    /// Transitions taken.
    pub transitions: usize,
    /// Whether nothing was left to look at.
    pub complete: bool,
    /// Every state that this many actions lead to was looked at.
    pub depth: u32,
    /// A shortest way to two owners.
    pub broken: Option<Trace>,
}

/// What happened, one line each.
pub type Trace = Vec<String>;

/// Looks at every state that can be reached, at most `limit`.
#[must_use]
pub fn explore(bounds: &Bounds, limit: usize) -> Explored {
    let first = Cluster::new(bounds);
    let mut seen = HashSet::from([fingerprint(&first)]);
    // By number of the state: from which one, and how.
    let mut ways: Vec<(usize, Action)> = vec![(0, Action::Step)];
    let mut queue = VecDeque::from([(0, 0, first)]);
    let mut transitions = 0;
    let mut depth = 0;
    while let Some((number, far, state)) = queue.pop_front() {
        depth = far;
        for action in state.actions() {
            transitions += 1;
            let next = state.after(action, bounds);
            if !seen.insert(fingerprint(&next)) {
                continue;
            }
            ways.push((number, action));
            let new = ways.len() - 1;
            if next.owners().len() > 1 {
                let broken = Some(trace(&ways, new, bounds));
                return Explored { states: seen.len(), transitions, complete: false, depth, broken };
            }
            if seen.len() % 100_000 == 0 && std::env::var_os("MODEL_PROGRESS").is_some() {
                eprintln!("{} states, {} waiting", seen.len(), queue.len());
            }
            if seen.len() >= limit {
                return Explored { states: seen.len(), transitions, complete: false, depth, broken: None };
            }
            queue.push_back((new, far + 1, next));
        }
    }
    Explored { states: seen.len(), transitions, complete: true, depth, broken: None }
}

/// 128 bits: among a hundred million states two alike by chance are less
/// likely than a fault of the machine.
fn fingerprint(state: &Cluster) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

fn trace(ways: &[(usize, Action)], end: usize, bounds: &Bounds) -> Trace {
    let mut actions = vec![];
    let mut at = end;
    while at != 0 {
        actions.push(ways[at].1);
        at = ways[at].0;
    }
    let mut state = Cluster::new(bounds);
    let mut lines = vec![];
    for action in actions.into_iter().rev() {
        let line = state.tell(action);
        state = state.after(action, bounds);
        lines.push(format!("{line}; owners: {:?}", state.owners().iter().map(|o| o + 1).collect::<Vec<_>>()));
    }
    lines
}
