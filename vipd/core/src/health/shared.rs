//! Pools that want the primary of the same servers follow the same one: two
//! listeners of one database must not write to two. (Where every server takes
//! writes each pool may have its own.)

use super::pool::PoolState;
use super::{Change, Changes};
use crate::pool::ServerKey;
use crate::settings::Role;
use crate::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// A pool that follows another server than the one that decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Apart {
    since: Time,
    told: bool,
}

/// Two pools follow different servers, though that of the first is one of the second's, too.
#[derive(Clone, Copy, Debug)]
struct Difference {
    /// The pool that decides: the primary changed more often in it, or it is
    /// the first in the file.
    leads: usize,
    follows: usize,
    /// The server to follow, in the pool that follows.
    server: usize,
}

/// Lets the pools agree with the one at a position, in which something changed.
pub(super) fn align(pools: &mut [PoolState], at: usize, now: Time) -> Changes {
    let mut all = Changes::default();
    if !pools.get(at).is_some_and(follows_one) {
        return all;
    }
    for other in (0..pools.len()).filter(|other| *other != at) {
        if !follows_one(&pools[other]) {
            continue;
        }
        let Some(difference) = difference(pools, at.min(other), at.max(other)) else {
            pools[at.max(other)].apart = None;
            pools[at.min(other)].apart = None;
            continue;
        };
        let Difference { leads, follows, server } = difference;
        let epoch = pools[leads].epoch;
        let mut changes = Changes::default();
        let pool = &mut pools[follows];
        pool.adopt(follows, server, epoch, &mut changes);
        pool.judge(follows, now, &mut changes);
        changes.pools = !pool.is_built();
        if pool.incumbent == Some(server) {
            pool.apart = None;
        } else {
            stay_apart(pools, difference, &mut changes, now);
        }
        all.extend(changes);
    }
    all
}

/// Whether a pool follows one of several servers, of which only one should be written to.
fn follows_one(pool: &PoolState) -> bool {
    let wants_one = pool.demands.is_some_and(|d| d.role == Role::Primary && !d.writes_anywhere);
    wants_one && !pool.has_heir && pool.incumbent.is_some_and(|i| pool.servers[i].is_writable())
}

fn difference(pools: &[PoolState], first: usize, second: usize) -> Option<Difference> {
    let (leads, follows) = match pools[second].epoch > pools[first].epoch {
        true => (second, first),
        false => (first, second),
    };
    let wanted = places(&pools[leads], pools[leads].incumbent?);
    let same = |server: &usize| places(&pools[follows], *server).iter().any(|place| wanted.contains(place));
    let server = (0..pools[follows].servers.len()).find(same)?;
    let agree = pools[follows].incumbent.is_some_and(|i| same(&i));
    (!agree).then_some(Difference { leads, follows, server })
}

fn places(pool: &PoolState, server: usize) -> Vec<SocketAddr> {
    let port = pool.settings.servers[server].port;
    pool.servers[server].places().iter().map(|a| SocketAddr::new(*a, port)).collect()
}

/// One pool cannot follow the other's server yet, by its own checks. Those are
/// asked again; if they stay with it, a person is told.
fn stay_apart(pools: &mut [PoolState], difference: Difference, changes: &mut Changes, now: Time) {
    let Difference { leads, follows, server } = difference;
    let with = pools[leads].settings.name.clone();
    let pool = &mut pools[follows];
    let apart = pool.apart.get_or_insert_with(|| {
        changes.hurry.push(ServerKey { pool: follows, server });
        Apart { since: now, told: false }
    });
    let patience = pool.settings.check.as_ref().map_or(Duration::ZERO, |c| (c.interval + c.timeout) * 3);
    if !apart.told && now - apart.since >= patience {
        apart.told = true;
        let name = pool.settings.servers[server].name.clone();
        let key = ServerKey { pool: follows, server: pool.incumbent.unwrap_or(server) };
        changes.events.push(pool.event(key, Change::Apart { with, other: name }));
    }
}
