//! The host's own ways to look a name up: `/etc/hosts`, then the DNS servers
//! of `/etc/resolv.conf`.

use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vipd_core::discover::Target;
use vipd_core::settings::{Family, Host};

/// How often a name of `/etc/hosts` is looked at again.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// The longest wait for a name server: the resolver's usual 5 s, twice, is
/// long for somebody who waits for a database.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// What a lookup of one address family said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// These, in a stable order; never empty.
    Addresses(Vec<IpAddr>),
    /// The name has none, for certain.
    Nothing(String),
    /// Nobody knows.
    Failed(String),
}

/// What a lookup of a name said.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) v4: Answer,
    pub(super) v6: Answer,
    /// The families, the preferred one first.
    pub(super) order: [Family; 2],
    /// How long it stays true.
    pub(super) ttl: Duration,
    /// What was left out of it, and why.
    pub(super) left_out: Option<String>,
}

impl Found {
    pub(super) fn of(&self, family: Family) -> &Answer {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Leaves out what can be no server's address. A connection to 0.0.0.0
    /// would be one to this host itself.
    fn sift(mut self) -> Self {
        let mut unfit = Vec::new();
        for answer in [&mut self.v4, &mut self.v6] {
            let Answer::Addresses(addresses) = answer else { continue };
            addresses.retain(|address| match why_unfit(*address) {
                Some(why) => {
                    unfit.push(format!("{address}, which is {why}"));
                    false
                }
                None => true,
            });
            if addresses.is_empty() {
                *answer = Answer::Nothing("the name has no address that a server can have".to_owned());
            }
        }
        self.left_out = (!unfit.is_empty()).then(|| format!("it leads to {}", unfit.join(", and to ")));
        self
    }
}

fn why_unfit(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        a if a.is_unspecified() => Some("no host's address"),
        a if a.is_multicast() => Some("a multicast address"),
        IpAddr::V4(a) if a.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The files that say how names are looked up, and what was read from them.
#[derive(Debug)]
pub(super) struct System {
    pub(super) hosts: PathBuf,
    pub(super) resolv_conf: PathBuf,
    /// The name servers' port: 53 outside tests.
    pub(super) port: u16,
    loaded: Mutex<Option<(Stamps, Arc<Loaded>)>>,
}

impl Default for System {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into(), 53)
    }
}

/// Which states of both files were read.
type Stamps = [Option<Stamp>; 2];

/// What changes when a file is written or replaced: device, inode, size, and
/// time of the last change of the inode.
type Stamp = (u64, u64, u64, i64, i64);

struct Loaded {
    hosts: Hosts,
    dns: Result<TokioResolver, String>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

impl System {
    pub(super) fn new(hosts: PathBuf, resolv_conf: PathBuf, port: u16) -> Self {
        Self { hosts, resolv_conf, port, loaded: Mutex::new(None) }
    }

    /// Looks a name up, now: nothing is taken from a cache.
    pub(super) async fn find(&self, name: &str) -> Found {
        let order = order();
        let failed = |reason: String| Found {
            v4: Answer::Failed(reason.clone()),
            v6: Answer::Failed(reason),
            order,
            ttl: Duration::ZERO,
            left_out: None,
        };
        let Ok(name) = Name::from_str_relaxed(name) else {
            return failed("this is no DNS name".to_owned());
        };
        let loaded = self.load();
        // As with glibc, a name of /etc/hosts is not asked of the DNS, not
        // even for the other family: it resolves without any name server.
        if let Some((v4, v6)) = in_hosts(&loaded.hosts, &name) {
            return Found { v4, v6, order, ttl: HOSTS_TTL, left_out: None }.sift();
        }
        let dns = match &loaded.dns {
            Ok(dns) => dns,
            Err(reason) => return failed(reason.clone()),
        };
        dns.clear_cache();
        let (v4, v6) =
            tokio::join!(dns.lookup(name.clone(), RecordType::A), dns.lookup(name, RecordType::AAAA));
        let ttl = [&v4, &v6].into_iter().flatten().flat_map(|l| l.answers().iter().map(|r| r.ttl)).min();
        let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
        Found { v4: answer(v4, Family::V4), v6: answer(v6, Family::V6), order, ttl, left_out: None }.sift()
    }

    /// Looks the SRV records of a name up, now, with the time they stay true.
    pub(super) async fn find_srv(&self, name: &str) -> (Result<Vec<Target>, String>, Duration) {
        let Ok(name) = Name::from_str_relaxed(name) else {
            return (Err("this is no DNS name".to_owned()), Duration::ZERO);
        };
        let loaded = self.load();
        let dns = match &loaded.dns {
            Ok(dns) => dns,
            Err(reason) => return (Err(reason.clone()), Duration::ZERO),
        };
        dns.clear_cache();
        match dns.lookup(name, RecordType::SRV).await {
            Ok(lookup) => {
                let ttl = lookup.answers().iter().map(|r| r.ttl).min().unwrap_or_default();
                (targets(&lookup), Duration::from_secs(ttl.into()))
            }
            Err(error) => (Err(none(&error).unwrap_or_else(|| error_text(&error))), Duration::ZERO),
        }
    }

    /// What the files say; they are read again if they have changed.
    fn load(&self) -> Arc<Loaded> {
        let stamps = [stamp(&self.hosts), stamp(&self.resolv_conf)];
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, known)) = loaded.as_ref()
            && *of == stamps
        {
            return Arc::clone(known);
        }
        let mut hosts = Hosts::default();
        // Without the file there are no static names; glibc sees it the same.
        if let Err(error) = File::open(&self.hosts).and_then(|file| hosts.read_hosts_conf(file)) {
            tracing::debug!(path = %self.hosts.display(), %error, "not read");
        }
        let read = Arc::new(Loaded { hosts, dns: self.dns() });
        *loaded = Some((stamps, Arc::clone(&read)));
        read
    }

    fn dns(&self) -> Result<TokioResolver, String> {
        let path = self.resolv_conf.display();
        let text =
            fs::read(&self.resolv_conf).map_err(|e| format!("reading {path}: {}", crate::words(&e)))?;
        let (config, mut options) =
            system_conf::parse_resolv_conf(text).map_err(|e| format!("{path}: {}", error_text(&e)))?;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = options.timeout.min(MAX_TIMEOUT);
        let mut servers = config.name_servers().to_vec();
        for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = self.port;
        }
        let config = ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers);
        let provider = TokioRuntimeProvider::default();
        let built = TokioResolver::builder_with_config(config, provider).with_options(options).build();
        built.map_err(|e| format!("{path}: {}", error_text(&e)))
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

/// IPv4 first, unless this host has no IPv4 address but has an IPv6 one.
fn order() -> [Family; 2] {
    let mut has = [false, false];
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    for address in addresses.filter_map(|i| i.address) {
        if let Some(v4) = address.as_sockaddr_in() {
            has[0] |= !v4.ip().is_loopback();
        }
        if let Some(v6) = address.as_sockaddr_in6() {
            has[1] |= !v6.ip().is_loopback() && !v6.ip().is_unicast_link_local();
        }
    }
    match has {
        [false, true] => [Family::V6, Family::V4],
        [true, _] | [false, false] => [Family::V4, Family::V6],
    }
}

fn in_hosts(hosts: &Hosts, name: &Name) -> Option<(Answer, Answer)> {
    let of = |record| {
        let lookup = hosts.lookup_static_host(&Query::query(name.to_lowercase(), record))?;
        let addresses: Vec<_> = lookup.answers().iter().filter_map(|r| r.data.ip_addr()).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let (v4, v6) = (of(RecordType::A), of(RecordType::AAAA));
    if v4.is_none() && v6.is_none() {
        return None;
    }
    // The file's order is the administrator's will: it is kept.
    let answer = |found| match found {
        Some(addresses) => Answer::Addresses(addresses),
        None => Answer::Nothing("/etc/hosts has no address of this family".to_owned()),
    };
    Some((answer(v4), answer(v6)))
}

fn answer(found: Result<hickory_resolver::lookup::Lookup, NetError>, family: Family) -> Answer {
    match found {
        Ok(lookup) => {
            let addresses = lookup.answers().iter().filter_map(|r| r.data.ip_addr());
            let mut addresses: Vec<_> = addresses.filter(|a| Family::of(*a) == family).collect();
            // Name servers rotate their answers; that is no change.
            addresses.sort_unstable();
            addresses.dedup();
            match addresses.is_empty() {
                true => Answer::Nothing("the name has no address".to_owned()),
                false => Answer::Addresses(addresses),
            }
        }
        Err(error) => match none(&error) {
            Some(reason) => Answer::Nothing(reason),
            None => Answer::Failed(error_text(&error)),
        },
    }
}

/// The SRV records of an answer, in a stable order.
fn targets(lookup: &hickory_resolver::lookup::Lookup) -> Result<Vec<Target>, String> {
    let target = |record: &Record| {
        let RData::SRV(srv) = &record.data else { return None };
        // RFC 2782: a target of "." says that the service is not there.
        let host = (!srv.target.is_root()).then(|| srv.target.to_utf8().trim_end_matches('.').to_owned())?;
        Some(Target { host: Host::Name(host), port: srv.port, rank: srv.priority, share: srv.weight })
    };
    let mut targets: Vec<_> = lookup.answers().iter().filter_map(target).collect();
    targets.sort_unstable_by_key(|t| (t.rank, t.host.to_string(), t.port));
    targets.dedup_by_key(|t| (t.host.clone(), t.port));
    if targets.is_empty() { Err("the name has no SRV record".to_owned()) } else { Ok(targets) }
}

/// In which words an error says for certain that there is nothing.
fn none(error: &NetError) -> Option<String> {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return None };
    if none.response_code == ResponseCode::NXDomain {
        Some("there is no such name (NXDOMAIN)".to_owned())
    } else if none.response_code == ResponseCode::NoError {
        let srv = none.query.query_type() == RecordType::SRV;
        Some(if srv { "the name has no SRV record" } else { "the name has no address" }.to_owned())
    } else {
        None
    }
}

/// An error in words that do not change from one time to the next.
fn error_text(error: &NetError) -> String {
    if let NetError::Timeout = error {
        return "the name servers do not answer".to_owned();
    }
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = error {
        return format!("the name servers answer: {}", none.response_code);
    }
    if let NetError::Io(error) = error {
        return format!("asking the name servers: {}", crate::words(error));
    }
    error.to_string()
}
