//! Breadth first, so that the first trace found is a shortest one.

use super::cluster::{Bounds, Cluster};
use super::keyed::Keyed;
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

/// A state, and what may happen in it.
pub(super) trait State: Clone + Hash {
    /// Something that happens.
    type Action: Copy;

    /// Everything that may happen now.
    fn actions(&self) -> Vec<Self::Action>;

    /// The state after that.
    fn after(&self, action: Self::Action, bounds: &Bounds) -> Self;

    /// Who answers for the address.
    fn owners(&self) -> Vec<usize>;

    /// What an action is, in this state, for people.
    fn tell(&self, action: Self::Action) -> String;
}

/// Looks at every state that can be reached, at most `limit`.
#[must_use]
pub fn explore(bounds: &Bounds, limit: usize) -> Explored {
    match bounds.etcd {
        false => explore_from(&Cluster::new(bounds), bounds, limit),
        true => explore_from(&Keyed::new(bounds), bounds, limit),
    }
}

fn explore_from<S: State>(first: &S, bounds: &Bounds, limit: usize) -> Explored {
    let mut seen = HashSet::from([fingerprint(first)]);
    // By number of the state: from which one, and how; the first has no way.
    let mut ways: Vec<Option<(usize, S::Action)>> = vec![None];
    let mut queue = VecDeque::from([(0, 0, first.clone())]);
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
            ways.push(Some((number, action)));
            let new = ways.len() - 1;
            if next.owners().len() > 1 {
                let broken = Some(trace(first, &ways, new, bounds));
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
fn fingerprint<S: State>(state: &S) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

fn trace<S: State>(first: &S, ways: &[Option<(usize, S::Action)>], end: usize, bounds: &Bounds) -> Trace {
    let mut actions = vec![];
    let mut at = end;
    while let Some((from, action)) = ways[at] {
        actions.push(action);
        at = from;
    }
    let mut state = first.clone();
    let mut lines = vec![];
    for action in actions.into_iter().rev() {
        let line = state.tell(action);
        state = state.after(action, bounds);
        lines.push(format!("{line}; owners: {:?}", state.owners().iter().map(|o| o + 1).collect::<Vec<_>>()));
    }
    lines
}
