//! The other nodes: whether IP protocol 112 gets there and here, and whether
//! somebody else answers for a VIP.
//!
//! Probes are packets of protocol 112 that no VRRP speaker acts on (their
//! version is none). A vipd that gets one counts it as rejected and notes the
//! sender, so that `vipctl doctor` on both hosts proves both directions.

use super::firewall::{Way, culprit, permit};
use super::{Findings, Verdict, host};
use crate::control::api::{PeerDoc, PeerState, StatusDoc, VipState, WitnessDoc};
use crate::net::advert::multicast_group;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use vipd_config::Config;
use vipd_core::settings::{Family, Member, Transport};

/// VRRP's protocol number (RFC 9568, section 5.1.1.4).
const VRRP: i32 = 112;
/// Version 0, type 0: of no VRRP there is or was.
const PROBE: [u8; 8] = [0; 8];
/// One of them may be lost.
const PROBES: usize = 3;
/// Older ones prove nothing of a firewall of today.
const PROBE_COUNTS_MS: u64 = 600_000;
/// Who was heard since is there.
const RECENT_MS: u64 = 5_000;
/// An owner sends adverts more often than this, or its interval is long.
const ADVERT_COUNTS_MS: u64 = 2_000;
/// How a vipd counts such a packet.
pub(super) const COUNTED_AS: &str = "unknown-version";

/// Looks at every other node.
pub(super) fn look(config: &Config, me: usize, status: Option<&StatusDoc>, findings: &mut Findings) {
    let others = config.cluster.nodes.iter().enumerate().filter(|(n, _)| *n != me).map(|(_, m)| m);
    let transport = config.election.transport;
    let used = |address: &IpAddr| {
        config.vips.iter().flat_map(|v| &v.addresses).any(|vip| vip.address().is_ipv4() == address.is_ipv4())
    };
    let interval = u64::try_from(config.election.advert_interval.as_millis()).unwrap_or(u64::MAX);
    let patience_ms = ADVERT_COUNTS_MS.max(interval.saturating_mul(4));
    if transport == Transport::Multicast {
        to_group(config, me, findings);
    }
    for member in others {
        if let Some(status) = status {
            heard(member, config.cluster.peer_port, status, findings);
        }
        for address in member.addresses.iter().filter(|a| used(a)) {
            match transport {
                Transport::Unicast => there(member, *address, findings),
                Transport::Multicast => {}
                // The messages that were heard, or not, go the same way.
                Transport::Udp => continue,
            }
            if let Some(status) = status {
                here(member, *address, (status, transport), patience_ms, findings);
            }
        }
    }
    for witness in status.iter().flat_map(|s| &s.witnesses) {
        self::witness(witness, config.cluster.peer_port, findings);
    }
    if let Some(status) = status {
        duplicates(config, status, findings);
    }
}

/// Whether its messages come here.
fn heard(member: &Member, port: u16, status: &StatusDoc, findings: &mut Findings) {
    let Some(peer) = status.peers.iter().find(|p| p.name == member.name) else { return };
    match peer.last_heard_ms {
        Some(ms) if ms < RECENT_MS => findings.good("peer", format!("{} was heard {ms} ms ago", peer.name)),
        Some(ms) => findings.fix(
            Verdict::Bad,
            "peer",
            format!("{} was last heard {} s ago", peer.name, ms / 1000),
            format!("ping -c 3 {0}; ssh {0} systemctl status vipd", peer.address),
        ),
        None => findings.fix(
            Verdict::Bad,
            "peer",
            format!(
                "{} was never heard: vipd does not run there, or a firewall drops UDP from it",
                peer.name
            ),
            format!("nft insert rule inet filter input ip saddr {} udp dport {port} accept", peer.address),
        ),
    }
    if peer.config_match == Some(false) {
        let keys = peer.config_differs.join(", ");
        let fix = format!("copy the file to {}, then `vipctl reload` there", peer.name);
        findings.fix(
            Verdict::Bad,
            "peer",
            format!("{} has other settings than this node: {keys}", peer.name),
            fix,
        );
    }
}

/// Whether a witness is there, and votes by the same settings.
fn witness(witness: &WitnessDoc, port: u16, findings: &mut Findings) {
    let WitnessDoc { name, address, last_heard_ms, config_match, config_differs } = witness;
    match last_heard_ms {
        Some(ms) if *ms < RECENT_MS => findings.good("witness", format!("{name} was heard {ms} ms ago")),
        Some(ms) => findings.fix(
            Verdict::Bad,
            "witness",
            format!("{name} was last heard {} s ago: it does not vote", ms / 1000),
            format!("ping -c 3 {address}; ssh {address} systemctl status vipd"),
        ),
        None => findings.fix(
            Verdict::Bad,
            "witness",
            format!("{name} was never heard: vipd does not run there, or a firewall drops UDP from it"),
            format!("nft insert rule inet filter input ip saddr {address} udp dport {port} accept"),
        ),
    }
    if *config_match == Some(false) {
        let keys = config_differs.join(", ");
        findings.fix(
            Verdict::Bad,
            "witness",
            format!("{name} votes by other settings than this node's: {keys}"),
            format!("copy the file to {name}, then `systemctl restart vipd` there"),
        );
    }
}

/// Whether this host may send protocol 112 to another.
fn there(member: &Member, address: IpAddr, findings: &mut Findings) {
    let sent = raw(address).and_then(|socket| probe(&socket, address));
    tell_sent(sent, &format!("{} ({address})", member.name), address, findings);
}

/// Whether it may send it to all others, by the interfaces of its groups.
fn to_group(config: &Config, me: usize, findings: &mut Findings) {
    let ways = host::interfaces(config, me).into_iter();
    let ways: BTreeSet<_> = ways.map(|(link, vip)| (link, multicast_group(Family::of(vip)))).collect();
    for (interface, group) in ways {
        let own = config.cluster.nodes.get(me).map(|n| n.addresses.as_slice()).unwrap_or_default();
        let own = own.iter().copied().find(|a| a.is_ipv4() == group.is_ipv4());
        let sent = group_socket(&interface, group, own).and_then(|socket| probe(&socket, group));
        tell_sent(sent, &format!("the others ({group}, by {interface})"), group, findings);
    }
}

fn tell_sent(sent: io::Result<()>, whom: &str, address: IpAddr, findings: &mut Findings) {
    match sent {
        Ok(()) => {
            let text = format!("sent to {whom}; `vipctl doctor` there tells whether it arrived");
            findings.good("protocol 112", text);
        }
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() =>
        {
            let text = format!("to {whom}: a probe needs the right to open raw sockets");
            findings.fix(Verdict::Unknown, "protocol 112", text, "sudo vipctl doctor");
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let found = culprit(Way::Out, address);
            let rule = found.as_ref().map(|c| format!(": {}", c.told())).unwrap_or_default();
            let text = format!("to {whom}: the firewall of this host drops it on its way out{rule}");
            findings.fix(Verdict::Bad, "protocol 112", text, permit(found.as_ref(), Way::Out, address));
        }
        Err(error) => findings.fix(
            Verdict::Bad,
            "protocol 112",
            format!("to {whom}: {}", crate::words(&error)),
            format!("ip route get {address}"),
        ),
    }
}

/// A socket whose packets receivers take: nothing else than these hops (RFC 9568, section 7.1).
fn raw(address: IpAddr) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(VRRP)))?;
    match address {
        IpAddr::V4(_) => socket.set_ttl_v4(255)?,
        IpAddr::V6(_) => socket.set_unicast_hops_v6(255)?,
    }
    Ok(socket)
}

/// The same for a group, by one interface. This host's own vipd, which has joined it, gets nothing;
/// the others know the sender by the address that the file has of it.
fn group_socket(interface: &str, group: IpAddr, own: Option<IpAddr>) -> io::Result<Socket> {
    let socket = raw(group)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    match group {
        IpAddr::V4(_) => {
            socket.set_multicast_ttl_v4(255)?;
            socket.set_multicast_loop_v4(false)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(nix::net::if_::if_nametoindex(interface)?)?;
            socket.set_multicast_hops_v6(255)?;
            socket.set_multicast_loop_v6(false)?;
        }
    }
    if let Some(own) = own {
        socket.bind(&SockAddr::from(SocketAddr::new(own, 0)))?;
    }
    Ok(socket)
}

fn probe(socket: &Socket, address: IpAddr) -> io::Result<()> {
    let to = SockAddr::from(SocketAddr::new(address, 0));
    for _ in 0..PROBES {
        socket.send_to(&PROBE, &to)?;
    }
    Ok(())
}

/// Whether protocol 112 comes here from another.
fn here(
    member: &Member,
    address: IpAddr,
    (status, transport): (&StatusDoc, Transport),
    patience_ms: u64,
    findings: &mut Findings,
) {
    let (name, node) = (&member.name, &status.node);
    let peer = status.peers.iter().find(|p| p.name == *name);
    let advert = peer.and_then(|p| p.last_advert_ms).filter(|ms| *ms < patience_ms);
    if let Some(ms) = advert {
        findings.good("protocol 112", format!("from {name}: its last advert came {ms} ms ago"));
        return;
    }
    let found = culprit(Way::In, address);
    let fix = permit(found.as_ref(), Way::In, address);
    // It is there and says that it owns, but its adverts are missing.
    let owns = |p: &PeerDoc| p.state == PeerState::Active && p.last_heard_ms.is_some_and(|ms| ms < RECENT_MS);
    let silent_owner = peer.is_some_and(owns);
    if let Some(culprit) = &found {
        let text = format!(
            "from {name} ({address}): the firewall of {node} drops it on its way in: {}",
            culprit.told()
        );
        findings.fix(Verdict::Bad, "protocol 112", text, fix);
        return;
    }
    let or = match transport {
        Transport::Multicast => "a switch does not pass the group on (IGMP snooping without a querier), or ",
        Transport::Unicast | Transport::Udp => "",
    };
    if silent_owner {
        let text = format!(
            "from {name} ({address}): it owns a VIP and says so over UDP, but its adverts do not arrive: {or}a firewall \
             between {name} and {node}, or {name}'s own, drops protocol 112 on the way from {name} to {node}"
        );
        findings.fix(Verdict::Bad, "protocol 112", text, fix);
        return;
    }
    let sender = address.to_string();
    let mut rejected = status.counters.adverts_rejected.iter().filter(|r| r.sender == sender);
    if let Some(probe) = rejected.find(|r| r.cause == COUNTED_AS && r.ago_ms < PROBE_COUNTS_MS) {
        findings.good("protocol 112", format!("from {name}: a probe came {} s ago", probe.ago_ms / 1000));
        return;
    }
    let text = format!(
        "from {name} ({address}): nothing has come in the last ten minutes. Run `vipctl doctor` on {name}, then here again: if this stays, {or}a firewall drops it on the way from {name} to {node}"
    );
    findings.fix(Verdict::Unknown, "protocol 112", text, fix);
}

/// Whether a VIP and its owner's own address have one hardware address.
fn duplicates(config: &Config, status: &StatusDoc, findings: &mut Findings) {
    for vip in &status.vips {
        let Some(group) = config.vips.iter().find(|v| v.name == vip.name) else { continue };
        if vip.state == VipState::Active {
            continue;
        }
        let member = vip.owner.as_ref().and_then(|o| config.cluster.nodes.iter().find(|n| n.name == *o));
        for address in group.addresses.iter().map(|a| a.address()).filter(IpAddr::is_ipv4) {
            let answers = hardware(address);
            let own =
                member.and_then(|m| m.addresses.iter().find(|a| a.is_ipv4())).and_then(|a| hardware(*a));
            match (answers, own) {
                (Some(a), Some(b)) if a != b => findings.fix(
                    Verdict::Bad,
                    "duplicate",
                    format!(
                        "{address}: {a} answers for it, and its owner {} is {b}",
                        vip.owner.as_deref().unwrap_or("?")
                    ),
                    format!("find the host with the address {a} and take {address} from it"),
                ),
                (Some(a), None) if vip.owner.is_none() => findings.fix(
                    Verdict::Bad,
                    "duplicate",
                    format!("{address}: no node owns it, and {a} answers for it"),
                    format!("find the host with the address {a} and take {address} from it"),
                ),
                (Some(_), Some(_)) => {
                    findings.good("duplicate", format!("{address}: nobody but its owner answers"))
                }
                (Some(_), None) | (None, _) => {}
            }
        }
    }
}

/// Who answers for an address in the LAN, after the kernel was made to ask.
fn hardware(address: IpAddr) -> Option<String> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // To the discard port: what counts is the question that the kernel puts before it.
    socket.send_to(&[], (address, 9)).ok()?;
    let wanted = address.to_string();
    for _ in 0..20 {
        let table = std::fs::read_to_string("/proc/net/arp").ok()?;
        let row = table
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .find(|r| r.first() == Some(&&*wanted));
        // Bit 2: the entry is complete (if_arp.h).
        if let Some([_, _, "0x2" | "0x6", mac, ..]) = row.as_deref() {
            return Some((*mac).to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_is_silent_or_votes_by_another_file_is_wrong() {
        let well = WitnessDoc {
            name: "w1".into(),
            address: "192.0.2.13".into(),
            last_heard_ms: Some(300),
            config_match: Some(true),
            config_differs: vec![],
        };
        let found = |doc: &WitnessDoc| {
            let mut findings = Findings::default();
            witness(doc, 7112, &mut findings);
            findings.0.into_iter().map(|f| (f.verdict, f.text)).collect::<Vec<_>>()
        };
        assert_eq!(found(&well), [(Verdict::Good, "w1 was heard 300 ms ago".to_owned())]);
        let silent = found(&WitnessDoc { last_heard_ms: Some(9_000), ..well.clone() });
        assert_eq!(silent, [(Verdict::Bad, "w1 was last heard 9 s ago: it does not vote".to_owned())]);
        let differs = vec!["election.advert-interval".to_owned()];
        let other = found(&WitnessDoc { config_match: Some(false), config_differs: differs, ..well });
        let text = "w1 votes by other settings than this node's: election.advert-interval";
        assert_eq!(other.last(), Some(&(Verdict::Bad, text.to_owned())));
    }
}
