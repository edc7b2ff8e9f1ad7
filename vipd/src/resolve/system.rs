//! The host's own ways to look a name up: `/etc/hosts`, then the DNS servers
//! of `/etc/resolv.conf`.

use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use std::collections::HashSet;
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

/// What a lookup of a name's SRV records said.
#[derive(Clone, Debug)]
pub(super) struct Services {
    /// In a stable order, never empty; or why there are none.
    pub(super) targets: Result<Vec<Target>, String>,
    /// What was left out, and why.
    pub(super) left_out: Option<String>,
    /// How long it stays true.
    pub(super) ttl: Duration,
}

impl Found {
    pub(super) fn of(&self, family: Family) -> &Answer {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Leaves out what can be no server's address, and tells why.
    pub(super) fn sift(mut self, why_unfit: impl Fn(IpAddr) -> Option<String>) -> Self {
        let mut unfit = Vec::new();
        for answer in [&mut self.v4, &mut self.v6] {
            let Answer::Addresses(addresses) = answer else { continue };
            addresses.retain(|address| match why_unfit(*address) {
                Some(why) => {
                    unfit.push((*address, why));
                    false
                }
                None => true,
            });
            if addresses.is_empty() {
                *answer = Answer::Nothing("the name has no address that a server can have".to_owned());
            }
        }
        if let Some(left_out) = left_out(&unfit) {
            let before = self.left_out.take().map(|before| format!("{before}; "));
            self.left_out = Some(before.unwrap_or_default() + &left_out);
        }
        self
    }
}

/// What is said of addresses that are left out, each with what is there.
pub(crate) fn left_out(unfit: &[(IpAddr, String)]) -> Option<String> {
    let texts: Vec<_> = unfit.iter().map(|(address, why)| format!("{address}, which is {why}")).collect();
    (!texts.is_empty()).then(|| format!("it leads to {}", texts.join(", and to ")))
}

/// Why no host at all has an address. A connection to 0.0.0.0 would be one to
/// this host itself.
fn nobodys(address: IpAddr) -> Option<String> {
    let why = match address.to_canonical() {
        a if a.is_unspecified() => "no host's address",
        a if a.is_multicast() => "a multicast address",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(why.to_owned())
}

/// The addresses of this host now.
pub(super) fn local() -> Vec<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|i| i.address);
    let ip = |a: nix::sys::socket::SockaddrStorage| {
        let v4 = a.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
    };
    addresses.filter_map(ip).collect()
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
            return Found { v4, v6, order, ttl: HOSTS_TTL, left_out: None }.sift(nobodys);
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
        Found { v4: answer(v4, Family::V4), v6: answer(v6, Family::V6), order, ttl, left_out: None }
            .sift(nobodys)
    }

    /// Looks the SRV records of a name up, now.
    pub(super) async fn find_srv(&self, name: &str) -> Services {
        let nothing = |why: String| Services { targets: Err(why), left_out: None, ttl: Duration::ZERO };
        let Ok(name) = Name::from_str_relaxed(name) else {
            return nothing("this is no DNS name".to_owned());
        };
        let loaded = self.load();
        let dns = match &loaded.dns {
            Ok(dns) => dns,
            Err(reason) => return nothing(reason.clone()),
        };
        dns.clear_cache();
        match dns.lookup(name, RecordType::SRV).await {
            Ok(lookup) => Services::of(lookup.answers()),
            Err(error) => nothing(none(&error).unwrap_or_else(|| error_text(&error))),
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
    for address in local() {
        match address {
            IpAddr::V4(v4) => has[0] |= !v4.is_loopback(),
            IpAddr::V6(v6) => has[1] |= !v6.is_loopback() && !v6.is_unicast_link_local(),
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

impl Services {
    /// Those of an answer. Of several records for one host and port the one of
    /// the lowest rank counts; names differ by more than the case of letters.
    fn of(records: &[Record]) -> Self {
        let target = |record: &Record| {
            let RData::SRV(srv) = &record.data else { return None };
            // RFC 2782: a target of "." says that the service is not there.
            let target = (!srv.target.is_root()).then(|| srv.target.to_lowercase().to_utf8())?;
            let host = Host::Name(target.trim_end_matches('.').to_owned());
            Some(Target { host, port: srv.port, rank: srv.priority, share: srv.weight })
        };
        let ttl = records.iter().map(|r| r.ttl).min().unwrap_or_default();
        let mut targets: Vec<_> = records.iter().filter_map(target).collect();
        targets.sort_unstable_by_key(|t| (t.rank, t.host.to_string(), t.port));
        let mut places = HashSet::new();
        targets.retain(|t| places.insert((t.host.clone(), t.port)));
        let unfit: Vec<_> = targets.extract_if(.., |t| t.port == 0).map(|t| t.host.to_string()).collect();
        let left_out =
            (!unfit.is_empty()).then(|| format!("its record for {} has no port", unfit.join(", ")));
        let nothing = "the name has no SRV record".to_owned();
        let targets = if targets.is_empty() { Err(nothing) } else { Ok(targets) };
        Self { targets, left_out, ttl: Duration::from_secs(ttl.into()) }
    }
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
