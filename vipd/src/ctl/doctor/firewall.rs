//! Which rule of this host's own firewall drops IP protocol 112.

use std::net::IpAddr;
use std::process::Command;

/// Where a packet passes the host's firewall.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// From the network to this host.
    In,
    /// From this host to the network.
    Out,
}

impl Way {
    const fn hook(self) -> &'static str {
        match self {
            Self::In => "input",
            Self::Out => "output",
        }
    }

    const fn end(self) -> &'static str {
        match self {
            Self::In => "saddr",
            Self::Out => "daddr",
        }
    }
}

/// A rule that drops the protocol, or a chain that drops whatever no rule lets through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Culprit {
    /// Family and name.
    table: String,
    chain: String,
    rule: String,
}

impl Culprit {
    /// The rule and its place, for a sentence.
    pub(super) fn told(&self) -> String {
        format!("`{}` in the chain {} of the nftables table {}", self.rule, self.chain, self.table)
    }
}

/// The rule that drops the protocol from or to another node; none if there is none, or the
/// rules cannot be listed. (iptables of Debian puts its rules into nftables.)
pub(super) fn culprit(way: Way, peer: IpAddr) -> Option<Culprit> {
    let listed = Command::new("nft").args(["list", "ruleset"]).output().ok()?;
    find(&String::from_utf8_lossy(&listed.stdout), way, peer)
}

/// A rule before all others that lets the protocol through.
pub(super) fn permit(found: Option<&Culprit>, way: Way, peer: IpAddr) -> String {
    let (table, chain) =
        found.map_or(("inet filter", way.hook()), |found| (found.table.as_str(), found.chain.as_str()));
    let (ip, protocol) = if peer.is_ipv4() { ("ip", "ip protocol") } else { ("ip6", "ip6 nexthdr") };
    format!("nft insert rule {table} {chain} {ip} {} {peer} {protocol} vrrp accept", way.end())
}

fn find(ruleset: &str, way: Way, peer: IpAddr) -> Option<Culprit> {
    let (mut table, mut chain, mut hook) = ("", "", None);
    // A rule of the chain lets it through before any other drops it.
    let mut passed = false;
    let mut closed = None;
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim();
        } else if let Some(name) = line.strip_prefix("chain ") {
            (chain, hook, passed) = (name.trim_end_matches('{').trim(), None, false);
        } else if line.starts_with("type ") {
            hook = line.split(" hook ").nth(1).and_then(|rest| rest.split(' ').next());
            if hook == Some(way.hook()) && line.contains("policy drop") && closed.is_none() {
                closed = Some(culprit_of(table, chain, "policy drop"));
            }
        } else if of_vrrp(line) && hook.is_none_or(|h| h == way.hook()) && !of_another(line, way, peer) {
            if !passed && (line.ends_with("drop") || line.contains(" reject")) {
                return Some(culprit_of(table, chain, line));
            }
            if line.ends_with("accept") {
                (passed, closed) = (true, None);
            }
        }
    }
    closed
}

fn culprit_of(table: &str, chain: &str, rule: &str) -> Culprit {
    Culprit { table: table.to_owned(), chain: chain.to_owned(), rule: rule.to_owned() }
}

/// Whether a rule is about another host alone.
fn of_another(rule: &str, way: Way, peer: IpAddr) -> bool {
    let end = rule.split(&format!("{} ", way.end())).nth(1).and_then(|rest| rest.split(' ').next());
    end.and_then(|a| a.parse::<IpAddr>().ok()).is_some_and(|a| a != peer)
}

/// Whether a rule is about the protocol.
fn of_vrrp(rule: &str) -> bool {
    ["protocol", "l4proto", "nexthdr"].into_iter().any(|field| {
        rule.split(&format!("{field} ")).skip(1).any(|rest| {
            let value = rest.split(' ').next().unwrap_or_default();
            matches!(value, "vrrp" | "112")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 11));
    const RULES: &str = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\
        \t\tip saddr 10.77.0.11 ip protocol vrrp counter packets 3 bytes 96 drop\n\t}\n\n\tchain output {\n\
        \t\ttype filter hook output priority filter; policy accept;\n\t}\n}\n";

    #[test]
    fn the_rule_is_named_with_its_place() {
        let found = find(RULES, Way::In, PEER).expect("a rule");
        let told = "`ip saddr 10.77.0.11 ip protocol vrrp counter packets 3 bytes 96 drop` in the chain input of the \
                    nftables table inet filter";
        assert_eq!(found.told(), told);
        assert_eq!(
            permit(Some(&found), Way::In, PEER),
            "nft insert rule inet filter input ip saddr 10.77.0.11 ip protocol vrrp accept"
        );
        assert_eq!(find(RULES, Way::Out, PEER), None, "the other way is open");
        assert_eq!(find(RULES, Way::In, [10, 77, 0, 12].into()), None, "the rule is about another");
    }

    #[test]
    fn a_chain_that_drops_what_nobody_lets_through_is_named_too() {
        let closed =
            RULES.replace("input priority filter; policy accept", "input priority filter; policy drop");
        let closed = closed.replace(
            "ip saddr 10.77.0.11 ip protocol vrrp counter packets 3 bytes 96 drop",
            "tcp dport 22 accept",
        );
        assert_eq!(find(&closed, Way::In, PEER).map(|c| c.rule), Some("policy drop".to_owned()));
        let let_through = closed.replace("tcp dport 22 accept", "meta l4proto 112 accept");
        assert_eq!(find(&let_through, Way::In, PEER), None);
        let permit = "\t\tip saddr 10.77.0.11 ip protocol vrrp accept\n\t\tip saddr 10.77.0.11 ip protocol vrrp counter";
        let permitted = RULES.replace("\t\tip saddr 10.77.0.11 ip protocol vrrp counter", permit);
        assert_eq!(find(&permitted, Way::In, PEER), None, "the first rule that fits counts");
        assert_eq!(find("", Way::In, PEER), None);
    }
}
