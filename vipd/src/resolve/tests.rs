//! Lookups against a name server made by hand on 127.0.0.1.

use super::*;
use hickory_resolver::proto::op::{Message, Metadata, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use std::path::Path;
use std::sync::Mutex;
use tokio::net::UdpSocket;
use vipd_core::discover::{Entry, Target};
use vipd_core::settings::{Bind, Cidr, ClusterSettings, Listener, Member, Server, VipGroup};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const LIMIT: Duration = Duration::from_secs(20);

/// What the name server answers, whatever the name.
#[derive(Clone)]
struct Zone {
    code: ResponseCode,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    srv: Vec<SRV>,
    ttl: u32,
    /// No answer to a question for AAAA.
    mute_v6: bool,
    /// What a question for AAAA is answered instead of `code`.
    code_v6: Option<ResponseCode>,
}

impl Default for Zone {
    fn default() -> Self {
        let code = ResponseCode::NoError;
        Self { code, v4: vec![], v6: vec![], srv: vec![], ttl: 60, mute_v6: false, code_v6: None }
    }
}

struct NameServer {
    zone: Arc<Mutex<Zone>>,
    /// Grows with each question for A.
    questions: watch::Receiver<usize>,
    /// Grows with each answer for AAAA.
    answers_v6: watch::Receiver<usize>,
    port: u16,
}

impl NameServer {
    async fn start(zone: Zone) -> std::io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let port = socket.local_addr()?.port();
        let zone = Arc::new(Mutex::new(zone));
        let shared = Arc::clone(&zone);
        let (asked, questions) = watch::channel(0);
        let (answered_v6, answers_v6) = watch::channel(0);
        drop(tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let zone = shared.lock().map(|z| z.clone()).unwrap_or_default();
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                match question.queries.first().map(Query::query_type) {
                    Some(RecordType::A | RecordType::SRV) => asked.send_modify(|n| *n += 1),
                    _ if zone.mute_v6 => continue,
                    _ => {}
                }
                let answer = reply(&question, &zone).to_vec().unwrap_or_default();
                socket.send_to(&answer, from).await?;
                if question.queries.iter().any(|q| q.query_type() == RecordType::AAAA) {
                    answered_v6.send_modify(|n| *n += 1);
                }
            }
            std::io::Result::Ok(())
        }));
        Ok(Self { zone, questions, answers_v6, port })
    }

    fn set(&self, zone: Zone) {
        if let Ok(mut now) = self.zone.lock() {
            *now = zone;
        }
    }
}

fn reply(question: &Message, zone: &Zone) -> Message {
    let Metadata { id, op_code, .. } = question.metadata;
    let mut reply = Message::response(id, op_code);
    let of_v6 = question.queries.iter().any(|q| q.query_type() == RecordType::AAAA);
    reply.metadata.response_code = zone.code_v6.filter(|_| of_v6).unwrap_or(zone.code);
    if zone.code_v6.is_some() && of_v6 {
        reply.add_queries(question.queries.iter().cloned());
        return reply;
    }
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    for query in &question.queries {
        reply.add_query(query.clone());
        let answers: Vec<RData> = if query.query_type() == RecordType::SRV {
            zone.srv.iter().cloned().map(RData::SRV).collect()
        } else {
            let addresses = if query.query_type() == RecordType::A { &zone.v4 } else { &zone.v6 };
            addresses.iter().map(|a| RData::from(*a)).collect()
        };
        for data in answers {
            reply.add_answer(Record::from_rdata(query.name().clone(), zone.ttl, data));
        }
    }
    reply
}

fn pool(hosts: &[&str]) -> Pool {
    let server = |host: &&str| {
        let parsed = host.parse().map_or_else(|_| Host::Name((*host).to_owned()), Host::Address);
        Server::new(*host, parsed, 3306)
    };
    Pool::new("a", hosts.iter().map(server).collect())
}

/// The places of the proxies: a VIP, and a listener of the pool on all addresses of a node.
fn own() -> Own {
    own_with(100)
}

/// With the VIP at another address.
fn own_with(vip: u8) -> Own {
    let address = |last| IpAddr::from([10, 77, 0, last]);
    let cluster = ClusterSettings {
        name: "orders".into(),
        nodes: vec![Member { name: "px1".into(), addresses: vec![address(11)], priority: None }],
        witnesses: vec![],
        peer_port: 7112,
    };
    let vip = VipGroup {
        name: "main".into(),
        addresses: Cidr::new(address(vip), 24).into_iter().collect(),
        interface: None,
        vrid: std::num::NonZeroU8::MIN,
        nodes: vec![0],
        track: vec![],
    };
    let listener = Listener::new("write", Bind { address: None, port: 3306 }, 0);
    Own::of(&cluster, &[vip], &[listener], &[pool(&[])])
}

struct Lab {
    resolver: Resolver,
    events: mpsc::Receiver<Resolved>,
    files: tempfile::TempDir,
}

impl Lab {
    fn start(port: u16, hosts: &str, servers: &[&str]) -> std::io::Result<Self> {
        let files = tempfile::tempdir()?;
        let (hosts_file, resolv_conf) = (files.path().join("hosts"), files.path().join("resolv.conf"));
        std::fs::write(&hosts_file, hosts)?;
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        let (sender, events) = mpsc::channel(64);
        let system = System::new(hosts_file, resolv_conf, port);
        let resolver = Resolver::with_system(Handle::current(), &[pool(servers)], own(), sender, system);
        Ok(Self { resolver, events, files })
    }

    fn lookup(&self, name: &str) -> Lookup {
        self.resolver.lookup("a", &Host::Name(name.to_owned()), 3306)
    }

    fn hosts(&self) -> std::path::PathBuf {
        self.files.path().join("hosts")
    }

    async fn event(&mut self) -> Result<Resolved, Box<dyn std::error::Error>> {
        Ok(tokio::time::timeout(LIMIT, self.events.recv()).await?.ok_or("the resolver has ended")?)
    }

    async fn addresses(&mut self) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        Ok(self.event().await?.addresses.iter().map(ToString::to_string).collect())
    }

    async fn problem(&mut self) -> Result<String, Box<dyn std::error::Error>> {
        let event = self.event().await?;
        Ok(event.problem.ok_or_else(|| format!("no problem: {:?}", event.addresses))?.to_string())
    }
}

fn v4(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|n| IpAddr::from([10, 77, 0, *n])).collect()
}

#[tokio::test]
async fn a_name_is_followed_at_the_pace_of_its_time_to_live() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[22, 21]), ttl: 1, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal."])?;
    assert_eq!(lab.addresses().await?, ["10.77.0.21", "10.77.0.22"]);
    // Another order is no change: the next event is the next addresses.
    server.set(Zone { v4: v4(&[21, 22]), ttl: 1, ..Zone::default() });
    let mut questions = server.questions.clone();
    questions.wait_for(|n| *n >= 2).await?;
    server.set(Zone { v4: v4(&[30]), ttl: 1, ..Zone::default() });
    assert_eq!(lab.addresses().await?, ["10.77.0.30"]);
    Ok(())
}

#[tokio::test]
async fn a_request_comes_before_the_time_to_live_but_not_at_once() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[21]), ttl: 3600, ..Zone::default() }).await?;
    let start = Instant::now();
    let mut lab = Lab::start(server.port, "", &["db1.internal."])?;
    assert_eq!(lab.addresses().await?, ["10.77.0.21"]);
    server.set(Zone { v4: v4(&[22]), ttl: 3600, ..Zone::default() });
    let lookup = lab.lookup("db1.internal.");
    for _ in 0..100 {
        lookup.refresh();
        tokio::task::yield_now().await;
    }
    assert_eq!(lab.addresses().await?, ["10.77.0.22"]);
    assert!(start.elapsed() >= EARLY_EVERY && start.elapsed() < Duration::from_secs(60));
    assert_eq!(*server.questions.borrow(), 2, "a hundred requests, one lookup");
    Ok(())
}

#[tokio::test]
async fn a_failure_keeps_what_was_known_and_is_told_once() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[21]), ttl: 1, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal."])?;
    assert_eq!(lab.addresses().await?, ["10.77.0.21"]);
    server.set(Zone { code: ResponseCode::NXDomain, ..Zone::default() });
    let gone = lab.event().await?;
    assert_eq!(
        (&*gone.addresses, gone.problem.as_deref()),
        (&v4(&[21])[..], Some("there is no such name (NXDOMAIN)"))
    );
    // The same failure again is no event: the next one is that it is over.
    let mut questions = server.questions.clone();
    let now = *questions.borrow_and_update();
    questions.wait_for(|n| *n > now).await?;
    server.set(Zone { v4: v4(&[21]), ttl: 1, ..Zone::default() });
    let back = lab.event().await?;
    assert_eq!((&*back.addresses, back.problem), (&v4(&[21])[..], None));
    Ok(())
}

#[tokio::test]
async fn a_name_unknown_at_the_start_is_asked_for_again() -> Outcome {
    let server = NameServer::start(Zone { code: ResponseCode::ServFail, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal."])?;
    let mut lookup = lab.lookup("db1.internal.");
    assert!(!lookup.is_answered());
    let problem = lab.problem().await?;
    assert!(problem.to_lowercase().contains("server failure"), "{problem}");
    assert_eq!(lookup.addresses().await, Err(format!("db1.internal. does not resolve: {problem}")));
    server.set(Zone { v4: v4(&[21]), ..Zone::default() });
    assert_eq!(lab.addresses().await?, ["10.77.0.21"]);
    assert_eq!(lookup.addresses().await.as_deref(), Ok(&v4(&[21])[..]));
    Ok(())
}

#[tokio::test]
async fn both_families_are_asked_and_one_may_fail() -> Outcome {
    let v6: Vec<IpAddr> = vec!["fd77::21".parse()?];
    let zone = Zone { v4: v4(&[21]), v6: v6.clone(), ttl: 1, ..Zone::default() };
    let server = NameServer::start(zone.clone()).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal."])?;
    let mut both = lab.addresses().await?;
    both.sort();
    assert_eq!(both, ["10.77.0.21", "fd77::21"]);
    // AAAA is not answered any more, or by a failure, while A moves: the old AAAA is kept.
    let fails = |code| Zone { code_v6: Some(code), ..zone.clone() };
    for (last, failing) in [
        (22, Zone { mute_v6: true, ..zone.clone() }),
        (23, fails(ResponseCode::ServFail)),
        (24, fails(ResponseCode::Refused)),
    ] {
        server.set(Zone { v4: v4(&[last]), ..failing });
        let mut both = lab.addresses().await?;
        both.sort();
        assert_eq!(both, [format!("10.77.0.{last}"), "fd77::21".to_owned()]);
    }
    Ok(())
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_its_changes_are_seen() -> Outcome {
    let server =
        NameServer::start(Zone { v4: v4(&[99]), v6: vec!["fd77::99".parse()?], ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "10.77.0.21 DB1 db1.internal\n", &["db1"])?;
    assert_eq!(lab.addresses().await?, ["10.77.0.21"]);
    assert_eq!(*server.questions.borrow(), 0);
    replace(&lab.hosts(), "10.77.0.22 db1\n")?;
    lab.lookup("db1").refresh();
    assert_eq!(lab.addresses().await?, ["10.77.0.22"]);
    Ok(())
}

/// As editors and configuration management do it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

#[tokio::test]
async fn without_a_name_server_the_file_is_named() -> Outcome {
    let mut lab = Lab::start(1, "", &["db1.internal."])?;
    assert_eq!(lab.problem().await?, "the name servers do not answer");
    let path = lab.files.path().join("resolv.conf");
    std::fs::remove_file(&path)?;
    let missing = format!("reading {}: no such file or directory", path.display());
    assert_eq!(lab.problem().await?, missing);
    Ok(())
}

#[tokio::test]
async fn a_reload_sends_again_what_is_known_and_forgets_what_is_gone() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[21]), ttl: 3600, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal.", "10.77.0.5"])?;
    let first = lab.event().await?;
    assert_eq!((first.generation, first.pool, first.server), (0, 0, 0));
    let generation = lab.resolver.update(&[pool(&["10.77.0.5", "db1.internal.", "db1.internal."])], own());
    let mut places = Vec::new();
    for _ in 0..2 {
        let event = lab.event().await?;
        assert_eq!((event.generation, &*event.addresses), (generation, &v4(&[21])[..]));
        places.push((event.pool, event.server));
    }
    assert_eq!(places, [(0, 1), (0, 2)]);
    assert_eq!(*server.questions.borrow(), 1, "one name, one lookup");
    let mut lookup = lab.lookup("db1.internal.");
    lab.resolver.update(&[], own());
    lookup.addresses().await?;
    let ended = async { while lookup.known.changed().await.is_ok() {} };
    tokio::time::timeout(LIMIT, ended).await?;
    Ok(())
}

#[tokio::test]
async fn an_address_needs_no_lookup() -> Outcome {
    let lab = Lab::start(1, "", &["10.77.0.5"])?;
    let mut lookup = lab.resolver.lookup("a", &Host::Address(IpAddr::from([10, 77, 0, 5])), 3306);
    assert!(lookup.is_answered());
    assert_eq!(lookup.addresses().await.as_deref(), Ok(&v4(&[5])[..]));
    Ok(())
}

/// A name server that has lost its records for a moment costs no session.
#[tokio::test]
async fn a_family_is_not_lost_by_a_word_or_two() -> Outcome {
    let zone = Zone { v4: v4(&[21]), v6: vec!["fd77::21".parse()?], ttl: 1, ..Zone::default() };
    let server = NameServer::start(zone.clone()).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal."])?;
    assert_eq!(lab.addresses().await?.len(), 2);
    let mut answers = server.answers_v6.clone();
    for doubtful in
        [Zone { v6: vec![], ..zone.clone() }, Zone { code_v6: Some(ResponseCode::NXDomain), ..zone.clone() }]
    {
        // That it is all there again is no news: the next is that A has moved.
        for zone in [doubtful, zone.clone()] {
            server.set(zone);
            let now = *answers.borrow_and_update();
            // The first of them may be the last of those before; a third is a second away.
            answers.wait_for(|n| *n >= now + 2).await?;
        }
    }
    server.set(Zone { v4: v4(&[22]), ..zone.clone() });
    let mut both = lab.addresses().await?;
    both.sort();
    assert_eq!(both, ["10.77.0.22", "fd77::21"]);
    // What stays so is believed, soon.
    let start = Instant::now();
    server.set(Zone { v4: v4(&[22]), v6: vec![], ttl: 1, ..Zone::default() });
    assert_eq!(lab.addresses().await?, ["10.77.0.22"]);
    assert!(
        start.elapsed() >= Duration::from_secs(2) && start.elapsed() < LIMIT / 2,
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn a_name_that_lost_a_family_for_certain_loses_its_address() {
    let both: Arc<[IpAddr]> = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([1; 16])].into();
    let before = Known { addresses: both, ..Known::default() };
    let found = Found {
        v4: Answer::Addresses(v4(&[1])),
        v6: Answer::Nothing("no".to_owned()),
        order: [Family::V4, Family::V6],
        ttl: Duration::ZERO,
        left_out: None,
    };
    assert!(loses_family(&found, &before));
    assert_eq!(merge(&found, &before, false).addresses.len(), 2);
    assert_eq!(&*merge(&found, &before, true).addresses, &v4(&[1])[..]);
}

/// Looks up one entry at a name server.
struct OneEntry {
    discovery: Discovery,
    events: mpsc::Receiver<Discovered>,
    entry: Entry,
    _files: tempfile::TempDir,
}

impl OneEntry {
    fn start(port: u16, resolve: Resolve) -> std::io::Result<Self> {
        let files = tempfile::tempdir()?;
        let (hosts_file, resolv_conf) = (files.path().join("hosts"), files.path().join("resolv.conf"));
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        let (sender, events) = mpsc::channel(64);
        let system = System::new(hosts_file, resolv_conf, port);
        let host = Host::Name("_mysql._tcp.internal.".to_owned());
        let pools = [Pool::new("a", vec![Server { resolve, ..Server::new("read", host, 3306) }])];
        let discovery = Discovery::with_system(Handle::current(), &pools, sender, system);
        let entry = Entry { pool: "a".to_owned(), server: "read".to_owned() };
        Ok(Self { discovery, events, entry, _files: files })
    }

    async fn next(&mut self) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await?.ok_or("it has ended")?;
        assert_eq!(event.entry, self.entry);
        let show = |t: &Target| format!("{} {}/{}", t, t.rank, t.share);
        Ok(event.targets.iter().map(show).chain(event.problem).collect())
    }
}

#[tokio::test]
async fn every_address_of_a_name_is_found_and_a_failure_is_told_once() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[32, 31]), ttl: 1, ..Zone::default() }).await?;
    let mut found = OneEntry::start(server.port, Resolve::All)?;
    assert_eq!(found.next().await?, ["10.77.0.31:3306 0/0", "10.77.0.32:3306 0/0"]);
    server.set(Zone { code: ResponseCode::NXDomain, ..Zone::default() });
    assert_eq!(found.next().await?, ["there is no such name (NXDOMAIN)"]);
    server.set(Zone { v4: v4(&[33]), v6: vec!["fd77::1".parse()?], ttl: 1, ..Zone::default() });
    let mut both = found.next().await?;
    both.sort();
    assert_eq!(both, ["10.77.0.33:3306 0/0", "[fd77::1]:3306 0/0"]);
    Ok(())
}

/// A name server that has lost its AAAA records for a moment drains no server.
#[tokio::test]
async fn a_family_of_a_names_servers_is_not_lost_by_a_word_or_two() -> Outcome {
    let zone = Zone { v4: v4(&[31]), v6: vec!["fd77::1".parse()?], ttl: 1, ..Zone::default() };
    let server = NameServer::start(zone.clone()).await?;
    let mut found = OneEntry::start(server.port, Resolve::All)?;
    assert_eq!(found.next().await?.len(), 2);
    let mut answers = server.answers_v6.clone();
    for zone in [Zone { v6: vec![], ..zone.clone() }, zone.clone()] {
        server.set(zone);
        let now = *answers.borrow_and_update();
        // The first of them may be the last of those before; a third is a second away.
        answers.wait_for(|n| *n >= now + 2).await?;
    }
    // That it is all there again is no news: the next is that A has moved.
    server.set(Zone { v4: v4(&[32]), ..zone.clone() });
    let mut both = found.next().await?;
    both.sort();
    assert_eq!(both, ["10.77.0.32:3306 0/0", "[fd77::1]:3306 0/0"]);
    let start = Instant::now();
    server.set(Zone { v4: v4(&[32]), v6: vec![], ..zone });
    assert_eq!(found.next().await?, ["10.77.0.32:3306 0/0"]);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn what_is_no_servers_address_is_left_out_and_told() -> Outcome {
    let unfit = ["0.0.0.0", "224.0.0.1", "255.255.255.255"].map(|a| a.parse::<IpAddr>());
    let unfit: Vec<IpAddr> = unfit.into_iter().collect::<Result<_, _>>()?;
    let told = "it leads to 0.0.0.0, which is no host's address, and to 224.0.0.1, which is a multicast address, \
                and to 255.255.255.255, which is the broadcast address, and to ::, which is no host's address";
    let zone = Zone { v4: unfit.clone(), v6: vec!["::".parse()?], ttl: 1, ..Zone::default() };
    let server = NameServer::start(zone).await?;
    let mut found = OneEntry::start(server.port, Resolve::All)?;
    assert_eq!(found.next().await?, [told]);
    let mut lab = Lab::start(server.port, "", &["db1.internal"])?;
    let event = lab.event().await?;
    assert_eq!((event.addresses.len(), event.problem.as_deref()), (0, Some(told)));
    // What is good of an answer is used.
    let zone = Zone { v4: [v4(&[31]), unfit[..1].to_vec()].concat(), ttl: 1, ..Zone::default() };
    server.set(zone);
    let told = "it leads to 0.0.0.0, which is no host's address";
    assert_eq!(found.next().await?, ["10.77.0.31:3306 0/0", told]);
    let event = lab.event().await?;
    assert_eq!((event.addresses.to_vec(), event.problem.as_deref()), (v4(&[31]), Some(told)));
    Ok(())
}

/// A connection there would come back for ever.
#[tokio::test]
async fn where_the_proxies_themselves_are_is_no_server() -> Outcome {
    let vip = "it leads to 10.77.0.100, which is a floating address, of VIP main";
    let listener = "which is where listener write listens (port 3306): connections would come back for ever";
    let server = NameServer::start(Zone { v4: v4(&[100]), ttl: 1, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal"])?;
    let mut lookup = lab.lookup("db1.internal");
    let event = lab.event().await?;
    assert_eq!((event.addresses.len(), event.problem.as_deref()), (0, Some(vip)));
    assert_eq!(lookup.addresses().await, Err(format!("db1.internal does not resolve: {vip}")));
    // What is good of an answer is used, and the last good one stays.
    server.set(Zone { v4: v4(&[11, 31]), ttl: 1, ..Zone::default() });
    let event = lab.event().await?;
    let told = format!("it leads to 10.77.0.11, {listener}");
    assert_eq!((event.addresses.to_vec(), event.problem.as_deref()), (v4(&[31]), Some(&*told)));
    server.set(Zone { v4: vec!["127.0.0.1".parse()?], ttl: 1, ..Zone::default() });
    let event = lab.event().await?;
    let told = format!("it leads to 127.0.0.1, {listener}");
    assert_eq!((event.addresses.to_vec(), event.problem.as_deref()), (v4(&[31]), Some(&*told)));
    assert_eq!(lookup.addresses().await.as_deref(), Ok(&v4(&[31])[..]));
    Ok(())
}

/// Whatever its name's time to live.
#[tokio::test]
async fn what_a_reload_makes_a_place_of_the_proxies_is_no_server_any_more() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[21, 31]), ttl: 3600, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &["db1.internal"])?;
    assert_eq!(lab.event().await?.addresses.to_vec(), v4(&[21, 31]));
    // One of two, and then the only one that was left.
    for (vip, addresses, unfit) in [(31, &[21][..], &[31][..]), (100, &[21, 31], &[])] {
        lab.resolver.update(&[pool(&["db1.internal"])], own_with(vip));
        // What was known is sent at once, for the new positions; then what is known by now.
        lab.event().await?;
        let event = lab.event().await?;
        assert_eq!((event.addresses.to_vec(), event.unfit.to_vec()), (v4(addresses), v4(unfit)));
        assert_eq!(event.problem.is_some(), !unfit.is_empty());
    }
    server.set(Zone { v4: v4(&[31]), ttl: 3600, ..Zone::default() });
    lab.resolver.update(&[pool(&["db1.internal"])], own_with(99));
    lab.event().await?;
    assert_eq!(lab.event().await?.addresses.to_vec(), v4(&[31]));
    lab.resolver.update(&[pool(&["db1.internal"])], own_with(31));
    lab.event().await?;
    let event = lab.event().await?;
    assert_eq!((event.addresses.to_vec(), event.unfit.to_vec()), (vec![], v4(&[31])));
    Ok(())
}

/// The proxies listen at one of its ports, and a database at the other.
#[tokio::test]
async fn a_name_leads_each_server_to_what_fits_its_own_port() -> Outcome {
    let server = NameServer::start(Zone { v4: v4(&[11, 31]), ttl: 3600, ..Zone::default() }).await?;
    let mut lab = Lab::start(server.port, "", &[])?;
    let mut both = pool(&["db1.internal", "db1.internal"]);
    both.servers[1].port = 3307;
    lab.resolver.update(&[both], own());
    let mut found = [vec![], vec![]];
    for _ in 0..2 {
        let event = lab.event().await?;
        found[event.server] = event.addresses.to_vec();
    }
    assert_eq!(found, [v4(&[31]), v4(&[11, 31])]);
    Ok(())
}

#[tokio::test]
async fn srv_records_are_found_again_on_request() -> Outcome {
    let srv = |name: &str, port| -> Result<SRV, Box<dyn std::error::Error>> {
        Ok(SRV::new(10, 5, port, name.parse()?))
    };
    let zone = Zone {
        srv: vec![srv("db2.internal.", 3307)?, srv("db1.internal.", 3306)?],
        ttl: 3600,
        ..Zone::default()
    };
    let server = NameServer::start(zone).await?;
    let mut found = OneEntry::start(server.port, Resolve::Srv)?;
    assert_eq!(found.next().await?, ["db1.internal:3306 10/5", "db2.internal:3307 10/5"]);
    server.set(Zone { srv: vec![srv("db3.internal.", 3306)?], ttl: 3600, ..Zone::default() });
    found.discovery.refresh(&found.entry);
    assert_eq!(found.next().await?, ["db3.internal:3306 10/5"]);
    // The case of letters makes no other host, and 0 is no port.
    let records = vec![
        srv("DB4.Internal.", 3306)?,
        SRV::new(20, 1, 3306, "db4.internal.".parse()?),
        srv("db5.internal.", 0)?,
    ];
    server.set(Zone { srv: records, ttl: 3600, ..Zone::default() });
    found.discovery.refresh(&found.entry);
    assert_eq!(found.next().await?, ["db4.internal:3306 10/5", "its record for db5.internal has no port"]);
    // "." says that there is no such service.
    server.set(Zone { srv: vec![srv(".", 0)?], ttl: 3600, ..Zone::default() });
    found.discovery.refresh(&found.entry);
    assert_eq!(found.next().await?, ["the name has no SRV record"]);
    Ok(())
}
