//! Carries out what the node orders for its name's records: a task for each
//! server or zone, so that one that does not answer holds up nobody.
//!
//! All of it runs beside the shell, which only puts the newest order where the
//! tasks find it, and is told when each has carried it out.

mod place;
pub(crate) mod proof;
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
        for (position, place) in Where::all(dns).enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;
    use hickory_resolver::proto::op::Message;
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use std::collections::BTreeSet;
    use std::net::{IpAddr, SocketAddr};
    use std::path::Path;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use vipd_cloud::{Lease, Owner};
    use vipd_config::Config;

    /// Two servers, and a key file that is not there.
    fn settings() -> Settings {
        let text = include_str!("../../config/examples/cloud.toml");
        let text = text.replace("/etc/vipd/tsig.key", "/nonexistent/tsig.key");
        shell::settings(Config::parse(&text, "cloud.toml").expect("a good file"))
    }

    fn start(settings: &Settings) -> (Publishing, mpsc::Receiver<Answer>) {
        let (answers, answers_in) = mpsc::channel(ANSWERS);
        let (events, _) = EventLog::new();
        (Publishing::start(Handle::current(), settings, 0, events, answers), answers_in)
    }

    fn answer(start: u64, place: usize, generation: u64) -> Answer {
        Answer { start, place, generation, result: Ok(()) }
    }

    #[tokio::test]
    async fn an_order_is_done_when_every_place_has_carried_it_out() {
        let settings = settings();
        let (mut publishing, _answers) = start(&settings);
        assert_eq!(publishing.answered(answer(1, 0, 1)), None);
        assert_eq!(publishing.answered(answer(1, 1, 1)), Some((1, Ok(()))));
        // Of a newer order one is late, and one could not.
        assert_eq!(publishing.answered(answer(1, 1, 3)), None);
        let failed = Answer { result: Err("timed out".to_owned()), ..answer(1, 0, 3) };
        assert_eq!(publishing.answered(failed), Some((3, Err("timed out".to_owned()))));
        assert_eq!(publishing.answered(answer(1, 0, 3)), Some((3, Ok(()))));
        // What a reload has replaced does not count.
        let mut other = settings.clone();
        if let Some(dns) = &mut other.dns {
            dns.ttl *= 2;
        }
        publishing.reconfigure(&other, 0);
        assert_eq!(publishing.answered(answer(1, 0, 4)), None);
        assert_eq!(publishing.states().len(), 2);
        publishing.reconfigure(&Settings { dns: None, ..other }, 0);
        assert_eq!(publishing.states(), []);
    }

    #[test]
    fn the_ttl_falls_in_servers_of_ones_own_only() {
        let settings = settings();
        let dns = settings.dns.clone().expect("a name");
        let opening = Opening::new(dns, &settings.cluster.nodes, 0);
        let ttl = |place, near| {
            let records = Records { generation: 1, write: true, wanted: None, near };
            opening.desired(place, &records).map(|d| d.ttl)
        };
        let server = Where::Server("10.77.0.11:53".parse().expect("an address"));
        assert_eq!([ttl(server, false), ttl(server, true)], [Ok(5), Ok(1)]);
        assert_eq!([ttl(Where::Route53, false), ttl(Where::Route53, true)], [Ok(5), Ok(5)]);
    }

    /// Settings with these servers and a key.
    fn with_servers(servers: [SocketAddr; 2], key: &Path) -> Settings {
        let text = include_str!("../../config/examples/cloud.toml");
        let text = text.replace("/etc/vipd/tsig.key", &key.display().to_string());
        let text = text.replace("10.77.0.11:53", &servers[0].to_string());
        let text = text.replace("10.77.0.12:53", &servers[1].to_string());
        shell::settings(Config::parse(&text, "cloud.toml").expect("a good file"))
    }

    fn key() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "bm90IGEgc2VjcmV0LCBidXQgYXMgbG9uZyBhcyBvbmU=").expect("written");
        file
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    fn order(publishing: &Publishing, generation: u64) {
        let wanted = Some(BTreeSet::from([IpAddr::from([10, 77, 0, 11])]));
        publishing.order(Records { generation, write: true, wanted, near: false });
    }

    /// One takes questions and never answers: the other is asked as if it were alone.
    #[tokio::test]
    async fn a_server_that_hangs_holds_up_no_other() {
        let ((hangs, first), (works, second), key) = (listener().await, listener().await, key());
        let (publishing, _answers) = start(&with_servers([first, second], key.path()));
        let mut held = vec![];
        order(&publishing, 1);
        held.push(hangs.accept().await.expect("a question"));
        for generation in 2..6 {
            let asked = works.accept().await.expect("a question");
            // It ends the connection: the next order comes upon an error of its own.
            drop(asked);
            let mut state = publishing.places[1].state.clone();
            let told = move |doc: &DnsStoreDoc| doc.errors >= generation - 1;
            state.wait_for(told).await.expect("a task");
            order(&publishing, generation);
        }
        // All of that while the first one was waited for.
        assert_eq!(publishing.states()[0].errors, 0, "the first one has had its two seconds");
        drop(held);
    }

    /// The look would wait for its answer for two seconds.
    #[tokio::test]
    async fn a_new_order_does_not_wait_for_a_look() {
        let ((hangs, first), (_other, second), key) = (listener().await, listener().await, key());
        let (publishing, _answers) = start(&with_servers([first, second], key.path()));
        let records = Records { generation: 1, write: false, wanted: None, near: false };
        publishing.order(records);
        let look = hangs.accept().await.expect("a question");
        let ordered = Instant::now();
        order(&publishing, 2);
        let write = hangs.accept().await.expect("another question");
        assert!(ordered.elapsed() < Duration::from_secs(1), "{:?}", ordered.elapsed());
        assert_eq!(publishing.states()[0].errors, 0, "the look has not failed: it was left");
        drop((look, write));
    }

    /// After each failure it is left alone for twice as long, however many orders come.
    #[tokio::test]
    async fn a_server_that_fails_is_asked_less_and_less_often() {
        let ((fails, address), (_other, second), key) = (listener().await, listener().await, key());
        let (publishing, _answers) = start(&with_servers([address, second], key.path()));
        order(&publishing, 1);
        let mut generation = 1;
        let mut asked = vec![];
        while asked.len() < 6 {
            tokio::select! {
                connection = fails.accept() => {
                    connection.expect("a question");
                    // A look that an order ends has not failed: the order asks at once.
                    if publishing.states()[0].errors == asked.len() as u64 {
                        asked.push(Instant::now());
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    generation += 1;
                    order(&publishing, generation);
                }
            }
        }
        let pauses: Vec<_> = asked.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect();
        // Chance takes away up to half of each.
        let least = [50, 100, 200, 400, 800];
        assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least - 2), "{pauses:?}");
        assert!(generation > 20, "orders came meanwhile");
        // The fifth failure is told by now, as is perhaps the sixth.
        assert!(publishing.states()[0].retry_ms >= 300, "and it is told for how long");
    }

    /// Answers what is asked on one connection by this lease; nobody signs it, and to
    /// updates that is no answer.
    async fn serve(mut stream: TcpStream, lease: Lease) -> Option<()> {
        loop {
            let mut question = vec![0; usize::from(stream.read_u16().await.ok()?)];
            stream.read_exact(&mut question).await.ok()?;
            let question = Message::from_vec(&question).ok()?;
            let asked = question.queries.first()?;
            let mut answer = Message::response(question.id, question.op_code);
            answer.metadata.authoritative = true;
            let mut data = vec![];
            if asked.query_type() == RecordType::TXT {
                data.push(RData::TXT(TXT::new(vec![lease.to_string()])));
            } else if asked.query_type() == RecordType::A {
                data.extend(lease.addresses.iter().map(|address| RData::from(*address)));
            }
            let record = |data| Record::from_rdata(asked.name().clone(), lease.ttl, data);
            answer.answers = data.into_iter().map(record).collect();
            let answer = answer.to_vec().ok()?;
            stream.write_u16(u16::try_from(answer.len()).ok()?).await.ok()?;
            stream.write_all(&answer).await.ok()?;
        }
    }

    /// It has looked while the other one was elected, and the other one has written since.
    #[tokio::test]
    async fn a_node_that_is_elected_calls_nothing_right_that_it_has_not_read() {
        let ((works, first), (_hangs, second), key) = (listener().await, listener().await, key());
        let (publishing, mut answers) = start(&with_servers([first, second], key.path()));
        let (change, now) = watch::channel(11_u8);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = works.accept().await {
                let last = *now.borrow();
                let addresses = BTreeSet::from([IpAddr::from([10, 77, 0, last])]);
                let owner = Owner::new("px2").expect("a name");
                tokio::spawn(serve(stream, Lease { epoch: last.into(), owner, ttl: 5, addresses }));
            }
        });
        let wanted = Some(BTreeSet::from([IpAddr::from([10, 77, 0, 11])]));
        let records = Records { generation: 1, write: false, wanted, near: false };
        publishing.order(records.clone());
        let mut answer_of = async |generation| loop {
            let answer = answers.recv().await.expect("a task");
            if (answer.place, answer.generation) == (0, generation) {
                return answer.result;
            }
        };
        assert_eq!(answer_of(1).await, Ok(()));
        change.send_replace(12);
        publishing.order(Records { generation: 2, write: true, ..records });
        // What it would write then is not acknowledged by a signature.
        let why = answer_of(2).await.expect_err("it is not as it should be");
        assert!(why.contains("not signed"), "{why}");
        server.abort();
    }

    #[tokio::test]
    async fn a_key_file_that_is_missing_is_said() {
        let (publishing, _answers) = start(&settings());
        let mut state = publishing.places[0].state.clone();
        let state = state.wait_for(|doc| doc.error.is_some()).await.expect("a task").clone();
        assert_eq!(state.place, "10.77.0.11:53");
        assert!(state.error.is_some_and(|e| e.contains("/nonexistent/tsig.key: No such file")));
    }
}
