//! Pools that want the primary of the same servers follow the same one: two
//! listeners of one database must not write to two. (Where every server takes
//! writes each pool may have its own.)

use super::pool::PoolState;
use super::{Change, Changes, Event};
use crate::pool::ServerKey;
use crate::settings::Role;
use crate::time::Time;
use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::Duration;

/// A pool that follows another server than the one that decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Apart {
    since: Time,
    told: bool,
}

/// Two pools follow different servers, though each has that of the other.
#[derive(Clone, Copy, Debug)]
struct Difference {
    /// The pool that decides.
    leads: usize,
    follows: usize,
    /// The server to follow, in the pool that follows.
    server: usize,
}

/// Lets the pools agree with the one at a position, in which something changed;
/// `all` has what the change asks for.
pub(super) fn align(pools: &mut [PoolState], at: usize, all: &mut Changes, now: Time) {
    if !pools.get(at).is_some_and(follows_one) {
        return;
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
        let (epoch, since) = (pools[leads].epoch, pools[leads].followed_at);
        let mut changes = Changes::default();
        let pool = &mut pools[follows];
        // What takes its own change back decides anew, for all nodes, and only
        // if it can: its last check of the other may be older than that.
        let back = pool.epoch > epoch;
        let epoch = if back { pool.epoch.saturating_add(1) } else { epoch };
        if !back || pool.servers[server].said_primary() {
            pool.adopt(follows, server, epoch, since, &mut changes);
            pool.judge(follows, now, &mut changes);
            changes.pools = !pool.is_built();
        }
        if pool.incumbent == Some(server) {
            pool.apart = None;
        } else {
            stay_apart(pools, difference, &mut changes, now);
        }
        all.extend(changes);
    }
    // A choice that was undone by that is none.
    let stands = |e: &Event| pools[e.key.pool].incumbent == Some(e.key.server);
    all.events.retain(|e| !matches!(e.change, Change::Chosen { .. }) || stands(e));
}

/// Whether a pool follows one of several servers, of which only one should be written to.
fn follows_one(pool: &PoolState) -> bool {
    let wants_one = pool.demands.is_some_and(|d| d.role == Role::Primary && !d.clustered);
    wants_one && !pool.has_heir && pool.incumbent.is_some_and(|i| pool.servers[i].is_writable())
}

fn difference(pools: &[PoolState], first: usize, second: usize) -> Option<Difference> {
    let (leads, follows) =
        if leads(&pools[second], &pools[first]) { (second, first) } else { (first, second) };
    let server = find(&pools[follows], &pools[leads], pools[leads].incumbent?)?;
    // Whoever knows nothing of a server takes no writes from it.
    find(&pools[leads], &pools[follows], pools[follows].incumbent?)?;
    (pools[follows].incumbent != Some(server)).then_some(Difference { leads, follows, server })
}

/// Whether a pool decides over one before it in the file: its primary changed
/// more often, or has been followed for longer. But a primary that is well, and
/// was followed before the other's was, is not left for a change that another
/// pool made alone: that one's checks may fail of themselves.
fn leads(second: &PoolState, first: &PoolState) -> bool {
    let older = |a: &PoolState, b: &PoolState| a.followed_at < b.followed_at;
    let well = |pool: &PoolState| pool.incumbent.is_some_and(|i| pool.servers[i].is_settled());
    match second.epoch.cmp(&first.epoch) {
        Ordering::Equal => older(second, first),
        Ordering::Greater => !(well(first) && older(first, second)),
        Ordering::Less => well(second) && older(second, first),
    }
}

/// The server of a pool that is where one of another pool is: the one it
/// follows, if that is it.
fn find(pool: &PoolState, other: &PoolState, server: usize) -> Option<usize> {
    let wanted = places(other, server);
    let same = |server: &usize| places(pool, *server).iter().any(|place| wanted.contains(place));
    pool.incumbent.filter(same).or_else(|| (0..pool.servers.len()).find(same))
}

fn places(pool: &PoolState, server: usize) -> Vec<SocketAddr> {
    let port = pool.settings.servers[server].port;
    pool.servers[server].places().iter().map(|a| SocketAddr::new(*a, port)).collect()
}

/// One pool cannot follow the other's server yet, by its own checks. Those are
/// asked again, and the other's, which may be older; if all stay with it, a
/// person is told.
fn stay_apart(pools: &mut [PoolState], difference: Difference, changes: &mut Changes, now: Time) {
    let Difference { leads, follows, server } = difference;
    let with = pools[leads].settings.name.clone();
    let theirs = pools[leads].incumbent.map(|server| ServerKey { pool: leads, server });
    let pool = &mut pools[follows];
    let apart = pool.apart.get_or_insert_with(|| {
        changes.hurry.push(ServerKey { pool: follows, server });
        changes.hurry.extend(theirs);
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
