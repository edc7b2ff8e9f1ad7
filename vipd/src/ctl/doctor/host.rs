//! This host: interfaces, subnets, switches of the kernel, its clock.

use super::{Findings, Verdict};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use vipd_config::Config;
use vipd_core::settings::{Cidr, VipGroup};

/// An address of this host.
struct Own {
    interface: String,
    flags: InterfaceFlags,
    address: Option<IpAddr>,
    prefix: Option<u8>,
}

/// All of them; nothing if the system does not tell.
fn own() -> Vec<Own> {
    let ip = |s: Option<nix::sys::socket::SockaddrStorage>| {
        let s = s?;
        let four = s.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        four.or_else(|| s.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let prefix = |mask: IpAddr| match mask {
        IpAddr::V4(mask) => u8::try_from(mask.to_bits().count_ones()).ok(),
        IpAddr::V6(mask) => u8::try_from(mask.to_bits().count_ones()).ok(),
    };
    let all = getifaddrs().into_iter().flatten();
    all.map(|i| Own {
        flags: i.flags,
        address: ip(i.address),
        prefix: ip(i.netmask).and_then(prefix),
        interface: i.interface_name,
    })
    .collect()
}

/// The addresses of this host.
pub(super) fn addresses() -> Vec<IpAddr> {
    own().into_iter().filter_map(|o| o.address).collect()
}

/// Which node this host is, as a position in the file.
pub(super) fn node(config: &Config, wanted: Option<&str>, findings: &mut Findings) -> Option<usize> {
    let found = match wanted {
        Some(name) => config.node_named(name),
        None => config.find_node(&addresses()),
    };
    match found {
        Ok(me) => {
            let name = config.cluster.nodes.get(me).map_or("?", |n| n.name.as_str());
            findings.good("node", format!("this host is {name}"));
            Some(me)
        }
        Err(error) => {
            findings.fix(
                Verdict::Bad,
                "node",
                error.to_string(),
                "ip address show; then correct nodes in [cluster]",
            );
            None
        }
    }
}

/// Looks at what every VIP group of this node needs.
pub(super) fn look(config: &Config, me: usize, findings: &mut Findings) {
    let own = own();
    let mut seen: Vec<String> = Vec::new();
    for vip in config.vips.iter().filter(|v| v.nodes.contains(&me) && !v.addresses.is_empty()) {
        if let Some(interface) = interface(vip, &own, findings)
            && !seen.contains(&interface)
        {
            switches(&interface, &own, findings);
            seen.push(interface);
        }
    }
    // Alone a node hands over to nobody.
    if !seen.is_empty() && config.cluster.nodes.len() > 1 {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A user's shell may not look where systemd does.
        let systems = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        passage(std::env::split_paths(&path).chain(systems), findings);
    }
    clock(findings);
}

/// The program by which the next owner passes packets on.
fn passage(mut directories: impl Iterator<Item = PathBuf>, findings: &mut Findings) {
    match directories.find_map(|dir| Some(dir.join("nft")).filter(|file| file.is_file())) {
        Some(file) => findings.good("nft", format!("{} is there, for planned switchovers", file.display())),
        None => {
            let text = "there is no nft: at a planned switchover to this host connections that are open at that \
                        moment are reset at once, instead of going on for a while so that whoever waits for an answer \
                        gets it";
            findings.fix(Verdict::Warning, "nft", text, "apt install nftables");
        }
    }
}

/// Interfaces by which the groups of a node send adverts, each with an address of the group.
pub(super) fn interfaces(config: &Config, me: usize) -> Vec<(String, IpAddr)> {
    let own = own();
    let of = |vip: &VipGroup| {
        let name = named(vip, &own);
        vip.addresses.iter().filter_map(|a| Some((name.clone()?, a.address()))).collect::<Vec<_>>()
    };
    config.vips.iter().filter(|v| v.nodes.contains(&me)).flat_map(of).collect()
}

/// The name of a group's interface: that of the file, or the one in its subnet.
fn named(vip: &VipGroup, own: &[Own]) -> Option<String> {
    let within =
        |cidr: &Cidr| own.iter().find(|o| o.address.is_some_and(|a| a != cidr.address() && cidr.contains(a)));
    vip.interface.clone().or_else(|| vip.addresses.iter().find_map(within).map(|o| o.interface.clone()))
}

/// The interface of a group; what is wrong with it is told.
fn interface(vip: &VipGroup, own: &[Own], findings: &mut Findings) -> Option<String> {
    let Some(name) = named(vip, own) else {
        let text = format!("{}: no interface of this host has an address in the subnet of its VIP", vip.name);
        let fix = "give the host an address there, or name the interface: interface = \"eth0\"";
        findings.fix(Verdict::Bad, "interface", text, fix);
        return None;
    };
    let Some(link) = own.iter().find(|o| o.interface == name) else {
        let text = format!("{}: there is no interface {name}", vip.name);
        findings.fix(Verdict::Bad, "interface", text, "ip link show; then correct interface in the [[vip]]");
        return None;
    };
    if !link.flags.contains(InterfaceFlags::IFF_UP) {
        findings.fix(Verdict::Bad, "interface", format!("{name} is down"), format!("ip link set {name} up"));
    } else if !link.flags.contains(InterfaceFlags::IFF_RUNNING) {
        let text = format!("{name} has no carrier: its cable or the other end of it is unplugged");
        findings.fix(Verdict::Bad, "interface", text, format!("ethtool {name}"));
    } else {
        findings.good("interface", format!("{}: {name} is up", vip.name));
    }
    for cidr in &vip.addresses {
        subnet(vip, cidr, &name, own, findings);
    }
    Some(name)
}

fn subnet(vip: &VipGroup, cidr: &Cidr, interface: &str, own: &[Own], findings: &mut Findings) {
    let here = || own.iter().filter(|o| o.interface == interface);
    let near = here().find(|o| o.address.is_some_and(|a| a != cidr.address() && cidr.contains(a)));
    match near {
        Some(near) if near.prefix.is_some_and(|p| p != cidr.prefix() && !single(cidr)) => {
            let length = near.prefix.unwrap_or(0);
            let text =
                format!("{}: {cidr} has another prefix length than {interface} itself (/{length})", vip.name);
            findings.fix(
                Verdict::Warning,
                "subnet",
                text,
                format!("addresses = [\"{}/{length}\"]", cidr.address()),
            );
        }
        Some(_) => findings.good("subnet", format!("{}: {cidr} is in a subnet of {interface}", vip.name)),
        None if single(cidr) => {
            findings
                .good("subnet", format!("{}: {cidr} needs no address beside it on {interface}", vip.name));
        }
        None => {
            let text = format!(
                "{}: {interface} has no other address in the subnet of {cidr}: neighbours may not reach it",
                vip.name
            );
            findings.fix(Verdict::Warning, "subnet", text, format!("ip address show dev {interface}"));
        }
    }
}

fn single(cidr: &Cidr) -> bool {
    cidr.prefix() == if cidr.address().is_ipv4() { 32 } else { 128 }
}

/// A switch of the kernel; the greater of `all` and the interface's counts for these.
fn switch(name: &str, interface: &str) -> Option<u32> {
    let read = |of: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/{name}")).ok()?.trim().parse().ok()
    };
    let (all, own): (u32, u32) = (read("all")?, read(interface)?);
    Some(all.max(own))
}

fn switches(interface: &str, own: &[Own], findings: &mut Findings) {
    let set = |name: &str, value: u32| {
        format!("sysctl -w net.ipv4.conf.{interface}.{name}={value} net.ipv4.conf.all.{name}={value}")
    };
    let lan = own.iter().filter(|o| o.address.is_some_and(|a| a.is_ipv4() && !a.is_loopback()));
    let mut interfaces: Vec<&str> = lan.map(|o| o.interface.as_str()).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    match switch("rp_filter", interface) {
        Some(1) if interfaces.len() > 1 => {
            let text = format!(
                "rp_filter is strict on {interface}, and this host has {} networks: packets for a VIP that come by another way than answers would go are dropped",
                interfaces.len()
            );
            findings.fix(Verdict::Warning, "rp_filter", text, set("rp_filter", 2));
        }
        Some(value) => findings.good("rp_filter", format!("{value} on {interface}")),
        None => {
            findings.add(Verdict::Unknown, "rp_filter", format!("not told by the kernel for {interface}"))
        }
    }
    match switch("arp_ignore", interface) {
        Some(value @ (3..=8)) => {
            let text =
                format!("arp_ignore is {value} on {interface}: the host does not answer ARP for its VIPs");
            findings.fix(Verdict::Bad, "arp_ignore", text, set("arp_ignore", 1));
        }
        Some(value) => findings.good("arp_ignore", format!("{value} on {interface}")),
        None => {
            findings.add(Verdict::Unknown, "arp_ignore", format!("not told by the kernel for {interface}"))
        }
    }
    if switch("proxy_arp", interface) == Some(1) {
        let text = format!(
            "proxy_arp is on for {interface}: this host answers ARP for others' addresses, VIPs among them"
        );
        findings.fix(Verdict::Warning, "proxy_arp", text, set("proxy_arp", 0));
    }
}

/// Leases and elections need no wall clock; TLS, TSIG and the lag of replicas do.
fn clock(findings: &mut Findings) {
    let told = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    match told.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()) {
        Some(yes) if yes == "yes" => findings.good("clock", "it is kept in step by NTP"),
        Some(_) => findings.fix(
            Verdict::Warning,
            "clock",
            "it is not kept in step: elections do not need it, but times in logs, certificates, TSIG and heartbeats do",
            "timedatectl set-ntp true",
        ),
        None => findings.add(Verdict::Unknown, "clock", "systemd does not tell whether it is kept in step"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_without_nft_is_told_and_is_no_error() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let look = || {
            let mut findings = Findings::default();
            passage([PathBuf::from("/nonexistent"), dir.path().to_owned()].into_iter(), &mut findings);
            findings.0.pop().map(|f| (f.verdict, f.text, f.fix))
        };
        let (verdict, text, fix) = look().unwrap_or_else(|| unreachable!("a finding"));
        assert_eq!((verdict, fix.as_deref()), (Verdict::Warning, Some("apt install nftables")));
        assert!(text.contains("planned switchover") && text.contains("reset"), "{text}");
        std::fs::write(dir.path().join("nft"), "")?;
        assert_eq!(look().map(|(verdict, ..)| verdict), Some(Verdict::Good));
        Ok(())
    }
}
