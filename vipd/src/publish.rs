//! Carries out what the node orders for its name's records: a task for each
//! server or zone, so that one that does not answer holds up nobody.
//!
//! All of it runs beside the shell, which only puts the newest order where the
//! tasks find it, and is told when each has carried it out.

mod place;
mod store;

use crate::control::api::DnsStoreDoc;
use crate::control::events::EventLog;
use place::Place;
use std::sync::Arc;
use store::{Opening, Where};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vipd_core::node::Settings;
use vipd_core::publish::Records;
use vipd_core::settings::Dns;

/// Answers that may wait for the shell: one for each place and order, and an
/// order waits for the hold-down.
pub const ANSWERS: usize = 256;

/// An order, and when it was given.
#[derive(Clone, Debug)]
struct Order {
    records: Records,
    decided: Instant,
}

/// That a place has carried out an order, or why not.
#[derive(Debug)]
pub struct Answer {
    /// Of which start of the tasks it is.
    start: u64,
    place: usize,
    generation: u64,
    result: Result<(), String>,
}

/// The places where a name's records are kept.
#[derive(Debug)]
pub struct Publishing {
    aux: Handle,
    events: EventLog,
    answers: mpsc::Sender<Answer>,
    orders: watch::Sender<Option<Order>>,
    dns: Option<Dns>,
    places: Vec<Running>,
    starts: u64,
}

#[derive(Debug)]
struct Running {
    state: watch::Receiver<DnsStoreDoc>,
    done: u64,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A write that is under way is found out about by whoever reads next.
        self.task.abort();
    }
}

impl Publishing {
    /// The places of the settings, for the node at position `me`; nothing is
    /// asked before the first order.
    #[must_use]
    pub fn start(
        aux: Handle,
        settings: &Settings,
        me: usize,
        events: EventLog,
        answers: mpsc::Sender<Answer>,
    ) -> Self {
        let (orders, _) = watch::channel(None);
        let mut publishing = Self { aux, events, answers, orders, dns: None, places: vec![], starts: 0 };
        publishing.reconfigure(settings, me);
        publishing
    }

    /// Takes over changed settings; places stay as they are if nothing changed.
    pub fn reconfigure(&mut self, settings: &Settings, me: usize) {
        if self.dns == settings.dns {
            return;
        }
        self.dns.clone_from(&settings.dns);
        self.starts += 1;
        self.places.clear();
        let Some(dns) = &settings.dns else {
            self.orders.send_replace(None);
            return;
        };
        let opening = Arc::new(Opening::new(dns.clone(), &settings.cluster.nodes, me));
        let servers = dns.rfc2136.iter().flat_map(|r| r.servers.iter().map(|s| Where::Server(*s)));
        let zones = dns.route53.iter().map(|_| Where::Route53);
        for (position, place) in servers.chain(zones).enumerate() {
            let (told, state) = watch::channel(place.unread(dns));
            let place = Place {
                opening: Arc::clone(&opening),
                place,
                position,
                start: self.starts,
                orders: self.orders.subscribe(),
                told,
                events: self.events.clone(),
                answers: self.answers.clone(),
            };
            let task = self.aux.spawn(place.keep());
            self.places.push(Running { state, done: 0, task });
        }
    }

    /// Gives a new order: the only one that counts from now on.
    pub fn order(&self, records: Records) {
        self.orders.send_replace(Some(Order { records, decided: Instant::now() }));
    }

    /// Takes an answer; gives the generation that every place has carried out
    /// by it, or that one could not.
    pub fn answered(&mut self, answer: Answer) -> Option<(u64, Result<(), String>)> {
        if answer.start != self.starts {
            return None;
        }
        let place = self.places.get_mut(answer.place)?;
        if let Err(why) = answer.result {
            return Some((answer.generation, Err(why)));
        }
        place.done = place.done.max(answer.generation);
        let all = self.places.iter().map(|p| p.done).min()?;
        (all == answer.generation).then_some((all, Ok(())))
    }

    /// The places as they are now.
    #[must_use]
    pub fn states(&self) -> Vec<DnsStoreDoc> {
        self.places.iter().map(|p| p.state.borrow().clone()).collect()
    }
}
