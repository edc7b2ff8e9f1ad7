//! What other programs call our keys.

use crate::spec;

/// Names of HAProxy, keepalived, nginx or habit, our key, and what to write
/// where the key alone would not tell.
const NAMES: &[(&[&str], &str, &str)] = &[
    (&["virtual-router-id", "router-id"], "vrid", ""),
    (&["advert-int"], "advert-interval", ""),
    (&["version"], "vrrp-version", ""),
    (&["virtual-ipaddress", "vip", "vips", "ip"], "addresses", ""),
    (&["nopreempt"], "preempt", ""),
    (&["track-script"], "track", ""),
    (&["unicast-peer"], "nodes", ""),
    (&["maxconn", "max-conn", "max-conns", "uthreshold"], "max-connections", ""),
    (&["fullconn"], "max-connections", ""),
    (&["default-backend", "use-backend", "backend"], "pool", ""),
    (&["timeout-client", "timeout-server", "timeout-tunnel", "proxy-timeout"], "idle-timeout", ""),
    (&["tcpka", "clitcpka", "srvtcpka", "option-tcpka", "so-keepalive"], "tcp-keepalive", ""),
    (&["tcp-ut"], "tcp-user-timeout", ""),
    (&["conn-rate", "src-conn-rate", "rate-limit"], "max-rate-per-source", ""),
    (&["src-conn-cur", "limit-conn"], "max-connections-per-source", ""),
    (&["expect-proxy"], "accept-proxy", ""),
    (&["tcplog", "option-tcplog", "log"], "access-log", "access-log = true"),
    (&["server", "real-server", "upstream"], "servers", ""),
    (&["algorithm", "lb-algo", "lvs-sched"], "balance", ""),
    (&["persistence-timeout", "stick"], "balance", "balance = \"source-hash\""),
    (&["sorry-server"], "fallback", ""),
    (&["timeout-connect", "proxy-connect-timeout"], "connect-timeout", ""),
    (&["redispatch", "option-redispatch", "retry-on", "proxy-next-upstream-tries"], "retries", ""),
    (&["maxqueue", "max-queue", "backlog"], "queue", ""),
    (&["timeout-queue"], "queue-timeout", ""),
    (&["slowstart", "warmup"], "slow-start", ""),
    (&["send-proxy"], "proxy-protocol", "proxy-protocol = \"v1\""),
    (&["send-proxy-v2", "send-proxy-v2-ssl"], "proxy-protocol", "proxy-protocol = \"v2\""),
    (&["usesrc", "proxy-bind"], "source", ""),
    (&["on-marked-down"], "on-down", ""),
    (&["host", "addr"], "address", ""),
    (&["resolvers", "server-template"], "resolve", ""),
    (&["type"], "kind", ""),
    (&["tcp-check", "option-tcp-check"], "kind", "kind = \"tcp\""),
    (&["httpchk", "option-httpchk", "http-get"], "kind", "kind = \"http\""),
    (&["mysql-check", "option-mysql-check"], "kind", "kind = \"mysql\""),
    (&["pgsql-check", "option-pgsql-check"], "kind", "kind = \"postgres\""),
    (&["redis-check", "option-redis-check"], "kind", "kind = \"redis\""),
    (&["external-check", "option-external-check", "misc-check"], "kind", "kind = \"exec\""),
    (&["inter", "delay-loop"], "interval", ""),
    (&["fastinter", "delay-before-retry"], "fast-interval", ""),
    (&["downinter", "fail-timeout"], "down-interval", ""),
    (&["timeout-check"], "timeout", ""),
    (&["max-fails"], "fall", ""),
    (&["observe"], "passive", "passive = true"),
    (&["uri", "url"], "path", ""),
    (&["status-code", "http-check-expect"], "status", ""),
    (&["misc-path", "script", "external-check-command"], "command", ""),
    (&["password", "pass"], "password-file", ""),
    (&["secret", "tsig-secret", "key"], "key-file", ""),
    (&["algorithm-name", "key-alg"], "key-algorithm", ""),
    (&["hosted-zone-id"], "zone-id", ""),
    (&["dbname", "db"], "database", ""),
    (&["max-replication-lag"], "max-lag", ""),
    (&["available-when-donor"], "galera-donors", ""),
    (&["ssl", "check-ssl"], "tls", "tls = true"),
    (&["verify"], "tls-verify", ""),
    (&["ca-file", "ca"], "tls-ca-file", ""),
    (&["sni", "check-sni", "verifyhost"], "tls-name", ""),
];

/// Our keys for a name of others, each with what to say of it.
fn ours(key: &str) -> impl Iterator<Item = (&'static str, String)> {
    let key = plain(key);
    NAMES.iter().filter(move |(theirs, ..)| theirs.contains(&key.as_str())).map(|(_, ours, written)| {
        let said = match *written {
            "" => format!("vipd calls it \"{ours}\""),
            written => format!("vipd says {written}"),
        };
        (*ours, said)
    })
}

/// A hint for a key that the table at hand knows under another name.
pub(crate) fn here(key: &str, known: &[&str]) -> Option<String> {
    ours(key).find(|(ours, _)| known.contains(ours)).map(|(_, said)| said)
}

/// The same for a key of another table.
pub(crate) fn elsewhere(key: &str) -> Option<String> {
    let (ours, said) = ours(key).next()?;
    let homes: Vec<_> = spec::homes(ours).collect();
    Some(format!("{said}, in {}", homes.join(" or ")))
}

fn plain(key: &str) -> String {
    key.to_lowercase().replace(['_', ' '], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_a_key() {
        for (theirs, ours, _) in NAMES {
            assert!(spec::homes(ours).next().is_some(), "{ours} is no key");
            for name in *theirs {
                assert_eq!(*name, plain(name), "would never be found");
            }
        }
    }
}
