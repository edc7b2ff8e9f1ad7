//! What watchers are sent: the state each second, and what happens when it happens.
//!
//! One task asks the loop for all of them, and only while somebody watches; it
//! also notes the servers' lag of the last hour, in bounded room.

use super::Body;
use crate::control::api::{EventDoc, StatusDoc};
use crate::control::call::Calls;
use crate::control::events::{Subscription, Subscriptions};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::MissedTickBehavior;

/// How often watchers are sent the state.
const REFRESH: Duration = Duration::from_secs(1);
/// Every so many of them the lag is noted.
const LAG_EVERY: u32 = 10;
/// Points of a server's lag: an hour.
const LAG_POINTS: usize = 360;
/// Servers whose lag is noted: with their points they take about 1.5 MB at most.
pub(super) const LAG_SERVERS: usize = 512;

/// What watchers share.
#[derive(Debug)]
pub(super) struct Live {
    status: watch::Sender<Arc<str>>,
    lag: Mutex<Lag>,
    pub(super) events: Subscriptions,
}

/// The last hour's lag of each server.
#[derive(Debug, Default)]
struct Lag(BTreeMap<(String, String), VecDeque<Option<u32>>>);

/// The same as a document: `/lag.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LagDoc {
    every_s: u64,
    series: Vec<Series>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Series {
    pool: String,
    server: String,
    /// The oldest first, the last one of now; none where it was not known.
    lag_ms: Vec<Option<u32>>,
}

impl Lag {
    fn note(&mut self, doc: &StatusDoc) {
        let servers = || doc.pools.iter().flat_map(|p| p.servers.iter().map(move |s| (p, s)));
        let known = |key: &(String, String)| servers().any(|(p, s)| p.name == key.0 && s.name == key.1);
        self.0.retain(|key, _| known(key));
        for (pool, server) in servers() {
            let key = (pool.name.clone(), server.name.clone());
            // Whoever has no lag, and never had, needs no room.
            if !self.0.contains_key(&key) && (server.lag_ms.is_none() || self.0.len() >= LAG_SERVERS) {
                continue;
            }
            let points = self.0.entry(key).or_default();
            if points.len() == LAG_POINTS {
                points.pop_front();
            }
            points.push_back(server.lag_ms.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)));
        }
    }
}

impl Live {
    pub(super) fn new(events: Subscriptions) -> Self {
        Self { status: watch::channel(Arc::from("")).0, lag: Mutex::default(), events }
    }

    /// Only tasks of this server take this lock, and none waits while it holds it.
    fn points(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lag(&self) -> LagDoc {
        let points = self.points();
        let series = points.0.iter().map(|((pool, server), points)| Series {
            pool: pool.clone(),
            server: server.clone(),
            lag_ms: points.iter().copied().collect(),
        });
        LagDoc { every_s: REFRESH.as_secs() * u64::from(LAG_EVERY), series: series.collect() }
    }

    /// Asks the loop again and again; ends with it.
    pub(super) async fn keep_fresh(&self, calls: &Calls) {
        let mut happening = self.events.subscribe(u64::MAX).live;
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        loop {
            let noting = tokio::select! {
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    ticks % LAG_EVERY == 1
                }
                // Many at once are shown by one refresh.
                () = next(&mut happening) => false,
            };
            if !noting && self.status.receiver_count() == 0 {
                continue;
            }
            let Ok(doc) = calls.status().await else { continue };
            if noting {
                self.points().note(&doc);
            }
            if self.status.receiver_count() > 0
                && let Ok(text) = serde_json::to_string(&doc)
            {
                self.status.send_replace(Arc::from(text));
            }
        }
    }

    /// The stream of a watcher (HTML Living Standard, server-sent events).
    pub(super) fn stream(&self) -> Body {
        let Subscription { kept, live } = self.events.subscribe(0);
        let kept = serde_json::to_string(&kept).unwrap_or_else(|_| "[]".into());
        let state = Watcher { first: Some(message("history", &kept)), status: self.status.subscribe(), live };
        let frames = stream::unfold(state, |mut watcher| async move {
            let text = watcher.next().await?;
            Some((Ok(Frame::data(Bytes::from(text))), watcher))
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

async fn next(live: &mut Option<broadcast::Receiver<Arc<EventDoc>>>) {
    loop {
        let Some(events) = live else { return std::future::pending().await };
        match events.recv().await {
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => *live = None,
        }
    }
}

struct Watcher {
    first: Option<String>,
    status: watch::Receiver<Arc<str>>,
    live: Option<broadcast::Receiver<Arc<EventDoc>>>,
}

impl Watcher {
    /// The next message; none when the daemon ends, or the watcher was too slow: it comes again.
    async fn next(&mut self) -> Option<String> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let live = self.live.as_mut()?;
        tokio::select! {
            biased;
            event = live.recv() => {
                let event = event.ok()?;
                Some(message("happened", &serde_json::to_string(&*event).ok()?))
            }
            changed = self.status.changed() => {
                changed.ok()?;
                let text = Arc::clone(&self.status.borrow_and_update());
                Some(message("status", &text))
            }
        }
    }
}

/// JSON has no newline of its own, so it is one line of data.
fn message(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::text::tests::troubled;

    #[test]
    fn lag_is_noted_in_bounded_room() {
        let mut doc = troubled();
        let mut lag = Lag::default();
        for _ in 0..LAG_POINTS + 5 {
            lag.note(&doc);
        }
        let key = ("replicas".to_owned(), "db2".to_owned());
        assert_eq!(lag.0[&key].len(), LAG_POINTS);
        assert!(!lag.0.contains_key(&("primary".to_owned(), "db1".to_owned())), "it never had any");
        let db2 =
            doc.pools.iter().flat_map(|p| &p.servers).find(|s| s.name == "db2").expect("it is there").clone();
        doc.pools[1].servers = (0..LAG_SERVERS * 2)
            .map(|n| crate::control::api::ServerDoc { name: format!("s{n}"), ..db2.clone() })
            .collect();
        lag.note(&doc);
        assert_eq!(
            lag.0.len(),
            LAG_SERVERS,
            "those that vanished are forgotten, and no more than this are kept"
        );
    }
}
