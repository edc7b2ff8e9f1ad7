//! Words of a few, and what other programs call them.

use crate::On;
use crate::report::{Problem, did_you_mean, quote};
use crate::shape::Shape;
use vipd_core::settings::{
    Balance, KeyAlgorithm, OnDown, OnNoQuorum, Policy, ProxyProtocol, Quorum, RecordForm, Resolve, Role,
    Transport, VrrpVersion, WhenAllDown,
};

/// A word of a few.
pub(crate) trait Choice: Copy + 'static {
    /// The words for people: `unicast or multicast`.
    const WHAT: &'static str;
    /// The words with their meaning.
    const WORDS: &'static [(&'static str, Self)];
    /// Words of other programs, or of habit, with what to write here.
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[];
    /// Words of a later version.
    const LATER: &'static [&'static str] = &[];
}

impl<T: Choice> Shape for T {
    const EXPECTED: &'static str = T::WHAT;

    fn text(text: &str) -> Result<Self, Problem> {
        if let Some((_, choice)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        if T::LATER.contains(&text) {
            return Err(Problem::new(format!("{text:?} is not supported by this version of vipd"))
                .hint(format!("allowed: {}", T::WHAT)));
        }
        let problem = Problem::new(format!("{} is not one of {}", quote(text), T::WHAT));
        let known = text.to_lowercase();
        Err(match T::OTHER_WORDS.iter().find(|(other, _)| *other == known) {
            Some((_, ours)) => problem.hint(format!("vipd says {ours}")),
            None => problem.maybe_hint(did_you_mean(text, T::WORDS.iter().map(|(word, _)| *word))),
        })
    }

    fn integer(number: i128) -> Result<Self, Problem> {
        let problem = Problem::new(format!("expected {}, found the number {number}", T::WHAT));
        let word = T::OTHER_WORDS.iter().find(|(other, _)| *other == number.to_string());
        Err(problem.maybe_hint(word.map(|(_, ours)| format!("vipd says {ours}"))))
    }

    fn boolean(boolean: bool) -> Result<Self, Problem> {
        let problem = Problem::new(format!("expected {}, found {boolean}", T::WHAT));
        let off = !boolean && T::WORDS.iter().any(|(word, _)| *word == "off");
        Err(if off { problem.hint("in quotes: \"off\"") } else { problem })
    }
}

impl Choice for Transport {
    const WHAT: &'static str = "\"unicast\", \"multicast\" or \"udp\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("unicast", Self::Unicast), ("multicast", Self::Multicast), ("udp", Self::Udp)];
}

/// `[cluster] unsealed`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unsealed {
    Refuse,
    Accept,
}

impl Choice for Unsealed {
    const WHAT: &'static str = "\"refuse\" or \"accept\"";
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("accept", Self::Accept)];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] =
        &[("deny", "\"refuse\""), ("allow", "\"accept\"")];
}

impl Choice for On {
    const WHAT: &'static str = "\"active\", \"backup\", \"fault\", \"init\", \"takeover\", \"switchover\", \"address\", \
                                \"peer\", \"server\", \"config\" or \"maintenance\"";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("active", Self::Active),
        ("backup", Self::Backup),
        ("fault", Self::Fault),
        ("init", Self::Init),
        ("takeover", Self::Takeover),
        ("switchover", Self::Switchover),
        ("address", Self::Address),
        ("peer", Self::Peer),
        ("server", Self::Server),
        ("config", Self::Config),
        ("maintenance", Self::Maintenance),
    ];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("master", "\"active\""),
        ("primary", "\"active\""),
        ("slave", "\"backup\""),
        ("stop", "\"init\""),
        ("reload", "\"config\""),
    ];
}

impl Choice for Quorum {
    const WHAT: &'static str = "\"none\", \"majority\" or \"etcd\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("majority", Self::Majority), ("etcd", Self::Etcd)];
}

impl Choice for OnNoQuorum {
    const WHAT: &'static str = "\"withdraw\" or \"keep\"";
    const WORDS: &'static [(&'static str, Self)] = &[("withdraw", Self::Withdraw), ("keep", Self::Keep)];
}

impl Choice for Balance {
    const WHAT: &'static str =
        "\"round-robin\", \"least-connections\", \"source-hash\", \"random-two\" or \"first\"";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round-robin", Self::RoundRobin),
        ("least-connections", Self::LeastConnections),
        ("source-hash", Self::SourceHash),
        ("random-two", Self::RandomTwo),
        ("first", Self::First),
    ];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("rr", "\"round-robin\""),
        ("wrr", "\"round-robin\", which heeds weights"),
        ("static-rr", "\"round-robin\""),
        ("lc", "\"least-connections\""),
        ("wlc", "\"least-connections\", which heeds weights"),
        ("sh", "\"source-hash\""),
        ("hash", "\"source-hash\""),
        ("ip_hash", "\"source-hash\""),
        ("maglev", "\"source-hash\""),
    ];
}

impl Choice for Role {
    const WHAT: &'static str = "\"primary\", \"replica\" or \"any\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("primary", Self::Primary), ("replica", Self::Replica), ("any", Self::Any)];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("master", "\"primary\""),
        ("leader", "\"primary\""),
        ("source", "\"primary\""),
        ("writer", "\"primary\""),
        ("slave", "\"replica\""),
        ("secondary", "\"replica\""),
        ("standby", "\"replica\""),
        ("reader", "\"replica\""),
    ];
}

impl Choice for Resolve {
    const WHAT: &'static str = "\"one\", \"all\" or \"srv\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("one", Self::One), ("all", Self::All), ("srv", Self::Srv)];
}

impl Choice for OnDown {
    const WHAT: &'static str = "\"close\" or \"drain\"";
    const WORDS: &'static [(&'static str, Self)] = &[("close", Self::Close), ("drain", Self::Drain)];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] =
        &[("shutdown-sessions", "\"close\""), ("none", "\"drain\"")];
}

impl Choice for Policy {
    const WHAT: &'static str = "\"multi\" or \"owner\"";
    const WORDS: &'static [(&'static str, Self)] = &[("multi", Self::Multi), ("owner", Self::Owner)];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("multivalue", "\"multi\""),
        ("all", "\"multi\", which is every healthy node"),
        ("failover", "\"owner\""),
        ("single", "\"owner\""),
        ("master", "\"owner\""),
        ("active", "\"owner\""),
    ];
}

impl Choice for WhenAllDown {
    const WHAT: &'static str = "\"last-good\", \"all\" or \"empty\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("last-good", Self::LastGood), ("all", Self::All), ("empty", Self::Empty)];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] =
        &[("keep", "\"last-good\""), ("last", "\"last-good\""), ("none", "\"empty\"")];
}

impl Choice for RecordForm {
    const WHAT: &'static str = "\"multivalue\" or \"simple\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("multivalue", Self::Multivalue), ("simple", Self::Simple)];
}

impl Choice for KeyAlgorithm {
    const WHAT: &'static str = "\"hmac-sha256\", \"hmac-sha384\" or \"hmac-sha512\"";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::HmacSha256.name(), Self::HmacSha256),
        (Self::HmacSha384.name(), Self::HmacSha384),
        (Self::HmacSha512.name(), Self::HmacSha512),
    ];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("hmac-md5", "\"hmac-sha256\": MD5 is broken"),
        ("hmac-sha1", "\"hmac-sha256\": SHA-1 is too weak"),
    ];
}

impl Choice for Option<ProxyProtocol> {
    const WHAT: &'static str = "\"off\", \"v1\" or \"v2\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", None), ("v1", Some(ProxyProtocol::V1)), ("v2", Some(ProxyProtocol::V2))];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("1", "\"v1\""),
        ("2", "\"v2\""),
        ("none", "\"off\""),
        ("send-proxy", "\"v1\""),
        ("send-proxy-v2", "\"v2\""),
    ];
}

/// `[pool.check] kind`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Tcp,
    Http,
    Mysql,
    Postgres,
    Redis,
    Exec,
}

impl Kind {
    /// The word in the file.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Mysql => "mysql",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Exec => "exec",
        }
    }
}

impl Choice for Kind {
    const WHAT: &'static str = "\"tcp\", \"http\", \"mysql\", \"postgres\", \"redis\" or \"exec\"";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Tcp.word(), Self::Tcp),
        (Self::Http.word(), Self::Http),
        (Self::Mysql.word(), Self::Mysql),
        (Self::Postgres.word(), Self::Postgres),
        (Self::Redis.word(), Self::Redis),
        (Self::Exec.word(), Self::Exec),
    ];
    const OTHER_WORDS: &'static [(&'static str, &'static str)] = &[
        ("https", "\"http\" and tls = true"),
        ("httpchk", "\"http\""),
        ("http_get", "\"http\""),
        ("ssl_get", "\"http\" and tls = true"),
        ("patroni", "\"http\" with port = 8008 and path = \"/primary\""),
        ("mariadb", "\"mysql\", which is for MariaDB too"),
        ("galera", "\"mysql\" and galera = true"),
        ("pxc", "\"mysql\" and galera = true"),
        ("pg", "\"postgres\""),
        ("pgsql", "\"postgres\""),
        ("valkey", "\"redis\", which is for Valkey too"),
        ("script", "\"exec\""),
        ("external", "\"exec\""),
        ("misc_check", "\"exec\""),
        ("command", "\"exec\""),
    ];
}

/// `[election] vrrp-version`; of our own, because the numbers are the words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version(pub(crate) VrrpVersion);

impl Shape for Version {
    const EXPECTED: &'static str = "2 or 3";

    fn integer(number: i128) -> Result<Self, Problem> {
        match number {
            2 => Ok(Self(VrrpVersion::V2)),
            3 => Ok(Self(VrrpVersion::V3)),
            _ => Err(Problem::new(format!("there is no VRRP version {number}"))
                .hint("2 (RFC 3768) or 3 (RFC 9568)")),
        }
    }

    fn text(text: &str) -> Result<Self, Problem> {
        Err(Problem::new(format!("expected {}, found the string {}", Self::EXPECTED, quote(text)))
            .hint("a number, without quotes"))
    }
}
