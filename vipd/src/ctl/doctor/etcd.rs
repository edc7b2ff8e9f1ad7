//! The members of etcd, where the quorum is kept there: whether each would carry
//! out this node's compare-and-swaps, proven by one that changes nothing. Their
//! clocks are not looked at: nothing depends on them.

use super::{Findings, Verdict};
use crate::etcd::prove::{MemberState, Proof, expiry_of_file, prove};
use crate::etcd::{FULL, Failure};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use vipd_config::{Config, Etcd};
use vipd_core::lease::renewed_every;

const ABOUT: &str = "etcd";
/// The oldest whose JSON gateway speaks `/v3`.
const OLDEST: (u32, u32) = (3, 4);
const DAY: i64 = 86_400;
/// A certificate that runs out sooner should be replaced.
const SOON: i64 = 30 * DAY;
/// A swap that takes a larger part of the lease leaves no room for a new leader of etcd.
const SLOW: u32 = 12;

/// Looks at every member; says nothing where no quorum is kept in etcd.
pub(super) fn look(config: &Config, runtime: &Runtime, findings: &mut Findings) {
    let Some(etcd) = &config.etcd else { return };
    let (cluster, lease) = (&config.cluster.name, config.election.etcd_lease);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let daily = writes_a_day(config);
    for (endpoint, proof) in runtime.block_on(prove(etcd, cluster, lease, daily)) {
        let prefix = format!("{}/{cluster}/", etcd.prefix);
        let member = Member { etcd, endpoint: &endpoint, prefix, daily };
        match proof {
            Ok(proof) => member.good(&proof, lease, now, findings),
            Err(failure) => {
                findings.fix(Verdict::Bad, ABOUT, format!("{endpoint}: {failure}"), member.mend(&failure));
            }
        }
    }
    let text = format!("this cluster's owners write up to {daily} revisions a day into it");
    findings.good(ABOUT, text);
    let (cert, ca) = (etcd.identity.as_ref().map(|(cert, _)| cert), etcd.ca_file.as_ref());
    for (key, file) in [("tls-cert-file", cert), ("tls-ca-file", ca)] {
        let Some(file) = file else { continue };
        if let Some(expires) = expiry_of_file(file) {
            let what = format!("{key} {}", file.display());
            let fix =
                format!("put a new one into {}; vipd reads it with its next connection", file.display());
            expiry(&what, expires - now, fix, findings);
        }
    }
}

/// How often the owners of all groups renew their leases in a day, at the most.
fn writes_a_day(config: &Config) -> u64 {
    let every = renewed_every(config.election.advert_interval, config.election.etcd_lease);
    let each = 86_400_000 / u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    each * u64::try_from(config.vips.len()).unwrap_or(u64::MAX)
}

/// A member, and what its commands need.
struct Member<'a> {
    etcd: &'a Etcd,
    endpoint: &'a str,
    /// What the keys of this cluster begin with.
    prefix: String,
    /// Revisions that this cluster makes in a day.
    daily: u64,
}

impl Member<'_> {
    /// It carried out the swap.
    fn good(&self, proof: &Proof, lease: Duration, now: i64, findings: &mut Findings) {
        let Proof { state, round_trip, hoards, expires } = proof;
        let MemberState { version, errors } = state.clone().unwrap_or_default();
        let of = if version.is_empty() { String::new() } else { format!(" (etcd {version})") };
        let took = format!("{}.{:03} ms", round_trip.as_millis(), round_trip.as_micros() % 1000);
        let text = format!(
            "{}{of} lets this node read and change {}, within {took}; nothing was changed",
            self.endpoint, self.prefix
        );
        findings.good(ABOUT, text);
        if numbers(&version).is_some_and(|v| v < OLDEST) {
            let text = format!("{} is etcd {version}: 3.4 or newer is needed", self.endpoint);
            findings.fix(
                Verdict::Bad,
                ABOUT,
                text,
                "there: apt-get install etcd-server; systemctl restart etcd",
            );
        }
        for error in errors {
            let fix = match error.contains("NOSPACE") {
                true => self.make_room(),
                false => format!("{} endpoint status --cluster --write-out=table", self.etcdctl("root")),
            };
            findings.fix(Verdict::Bad, ABOUT, format!("{} says: {error}", self.endpoint), fix);
        }
        if *hoards {
            let text = format!(
                "{} keeps more revisions than this cluster makes in a day ({}): nobody compacts it, and when its \
                 database is full (--quota-backend-bytes) it takes no write and nobody owns",
                self.endpoint, self.daily
            );
            let fix = "there: ETCD_AUTO_COMPACTION_RETENTION=1h in /etc/default/etcd; systemctl restart etcd";
            findings.fix(Verdict::Warning, ABOUT, text, fix);
        }
        if *round_trip > lease / SLOW {
            let text = format!(
                "{} took {took} for a compare-and-swap: much of a lease of {} ms, which an owner renews by them",
                self.endpoint,
                lease.as_millis()
            );
            let fix = "a longer `lease` in [etcd] of every node, or a faster disk for etcd's data";
            findings.fix(Verdict::Warning, ABOUT, text, fix);
        }
        if let Some(expires) = expires {
            let what = format!("the certificate of {}", self.endpoint);
            let fix = "there: a new one into etcd's --cert-file; etcd reads it with its next connection";
            expiry(&what, expires - now, fix.to_owned(), findings);
        }
    }

    /// What makes room in a full database.
    fn make_room(&self) -> String {
        format!(
            "{0} compact --physical $({0} endpoint status --write-out=json | grep -o '\"revision\":[0-9]*' | grep -o '[0-9]*'); \
             {0} defrag; {0} alarm disarm",
            self.etcdctl("root")
        )
    }

    /// `etcdctl` as it reaches this member.
    fn etcdctl(&self, user: &str) -> String {
        let mut line = format!("etcdctl --endpoints {}", self.endpoint);
        if let Some(ca) = &self.etcd.ca_file {
            let _ = write!(line, " --cacert {}", ca.display());
        }
        if let Some((cert, key)) = &self.etcd.identity {
            let _ = write!(line, " --cert {} --key {}", cert.display(), key.display());
        }
        if self.etcd.login.is_some() {
            let _ = write!(line, " --user {user}");
        }
        line
    }

    /// What mends that it did not carry out the swap.
    fn mend(&self, failure: &Failure) -> String {
        let (host, port) = self.endpoint.rsplit_once(':').unwrap_or((self.endpoint, "2379"));
        let host = host.rsplit_once("//").map_or(host, |(_, host)| host);
        let user = self.etcd.login.as_ref().map_or("USER", |(user, _)| user);
        let file = self.etcd.login.as_ref().map_or_else(String::new, |(_, file)| file.display().to_string());
        match failure {
            Failure::Connect(_) | Failure::Http(_) => {
                format!("ssh {host} systemctl status etcd; ssh {host} ss -ltn 'sport = :{port}'")
            }
            Failure::Silent(_) => {
                format!("{} endpoint status --cluster --write-out=table", self.etcdctl("root"))
            }
            Failure::Tls(_) => {
                format!(
                    "openssl s_client -connect {host}:{port} -showcerts </dev/null; then tls-ca-file in [etcd]"
                )
            }
            Failure::Answer(_) => format!("curl {}/version", self.endpoint),
            Failure::OtherCluster(..) => {
                format!(
                    "{} member list; all endpoints of [etcd] must be members of one cluster",
                    self.etcdctl("root")
                )
            }
            Failure::Password(_) => format!("install -m 640 -g vipd /dev/stdin {file}"),
            Failure::Refused(why) if why == FULL => self.make_room(),
            Failure::Refused(why) if why.starts_with("permission denied") => format!(
                "{0} user get {user}; {0} role grant-permission ROLE --prefix=true readwrite {1}/",
                self.etcdctl("root"),
                self.etcd.prefix
            ),
            Failure::Refused(why) if why.starts_with("the login") => {
                format!("{} user passwd {user}; the same into {file}", self.etcdctl("root"))
            }
            Failure::Refused(_) | Failure::Token => format!("{} endpoint health", self.etcdctl(user)),
        }
    }
}

/// How long a certificate is good still.
fn expiry(what: &str, left: i64, fix: String, findings: &mut Findings) {
    let days = left.unsigned_abs() / DAY.unsigned_abs();
    match left {
        ..0 => findings.fix(Verdict::Bad, ABOUT, format!("{what} ran out {days} days ago"), fix),
        0..SOON => findings.fix(Verdict::Warning, ABOUT, format!("{what} runs out in {days} days"), fix),
        SOON.. => findings.good(ABOUT, format!("{what} is good for {days} days more")),
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipd_config::EtcdEndpoint;
    use vipd_core::settings::Host;

    fn settings() -> Etcd {
        Etcd {
            endpoints: vec![EtcdEndpoint { tls: true, host: Host::Name("e1".into()), port: 2379 }],
            prefix: "/vipd".into(),
            login: Some(("vipd".into(), "/etc/vipd/etcd.password".into())),
            ca_file: Some("/etc/vipd/ca.pem".into()),
            tls_name: None,
            identity: None,
        }
    }

    fn told(proof: &Proof) -> Vec<(Verdict, String)> {
        let (etcd, mut findings) = (settings(), Findings::default());
        let member = Member {
            etcd: &etcd,
            endpoint: "https://e1:2379",
            prefix: "/vipd/orders/".into(),
            daily: 345_600,
        };
        member.good(proof, Duration::from_secs(3), 1_000_000_000, &mut findings);
        findings.0.into_iter().map(|f| (f.verdict, f.text)).collect()
    }

    fn proof(version: &str) -> Proof {
        let state = MemberState { version: version.into(), errors: vec![] };
        Proof { state: Some(state), round_trip: Duration::from_micros(1_875), hoards: false, expires: None }
    }

    #[test]
    fn what_a_member_says_of_itself_is_judged() {
        let good = "https://e1:2379 (etcd 3.4.23) lets this node read and change /vipd/orders/, within 1.875 ms; \
                    nothing was changed";
        assert_eq!(told(&proof("3.4.23")), [(Verdict::Good, good.to_owned())]);
        let words = |proof: &Proof| told(proof).pop().expect("findings");
        let old = words(&proof("3.3.27"));
        assert!(old.0 == Verdict::Bad && old.1.contains("3.4 or newer"), "{old:?}");
        let mut full = proof("3.5.1");
        full.state.get_or_insert_default().errors = vec!["memberID:1 alarm:NOSPACE ".into()];
        assert_eq!(
            words(&full),
            (Verdict::Bad, "https://e1:2379 says: memberID:1 alarm:NOSPACE ".to_owned())
        );
        let slow = words(&Proof { round_trip: Duration::from_millis(400), ..proof("3.10.0") });
        assert!(slow.0 == Verdict::Warning && slow.1.contains("took 400.000 ms"), "{slow:?}");
        let hoards = words(&Proof { hoards: true, ..proof("3.5.1") });
        assert!(hoards.0 == Verdict::Warning && hoards.1.contains("in a day (345600)"), "{hoards:?}");
        for (days, verdict) in [(29, Verdict::Warning), (31, Verdict::Good), (-1, Verdict::Bad)] {
            let expires = Some(1_000_000_000 + days * DAY);
            assert_eq!(words(&Proof { expires, ..proof("3.4.23") }).0, verdict, "{days} days");
        }
    }

    #[test]
    fn each_refusal_comes_with_a_command() {
        let etcd = settings();
        let member = Member {
            etcd: &etcd,
            endpoint: "https://e1:2379",
            prefix: "/vipd/orders/".into(),
            daily: 345_600,
        };
        let reach = "etcdctl --endpoints https://e1:2379 --cacert /etc/vipd/ca.pem --user root";
        let refused = |why: &str| Failure::Refused(why.to_owned());
        for (failure, fix) in [
            (
                refused(FULL),
                format!(
                    "{reach} compact --physical $({reach} endpoint status --write-out=json | grep -o '\"revision\":[0-9]*' | \
                     grep -o '[0-9]*'); {reach} defrag; {reach} alarm disarm"
                ),
            ),
            (
                refused("permission denied: the user's role needs readwrite on the prefix"),
                format!(
                    "{reach} user get vipd; {reach} role grant-permission ROLE --prefix=true readwrite /vipd/"
                ),
            ),
            (
                refused("the login of \"vipd\" failed: authentication failed"),
                format!("{reach} user passwd vipd; the same into /etc/vipd/etcd.password"),
            ),
            (
                Failure::Connect(std::io::ErrorKind::ConnectionRefused.into()),
                "ssh e1 systemctl status etcd; ssh e1 ss -ltn 'sport = :2379'".to_owned(),
            ),
            (
                Failure::Silent(Duration::from_secs(1)),
                format!("{reach} endpoint status --cluster --write-out=table"),
            ),
        ] {
            assert_eq!(member.mend(&failure), fix);
        }
    }
}
