//! vipd beside Debian's keepalived: each takes over from the other, in every
//! form the two can speak, and at rest there is one owner.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use vipd_tests::lab::keepalived::{self, Instance, Version};
use vipd_tests::lab::vipd::{self, Vipd};
use vipd_tests::lab::{Host, Lab, Process};

const BOTH: &[Need] = &[Need::Vipd, Need::Keepalived];

pub(crate) const CASES: &[Case] = &[
    Case { name: "interop::v2_ipv4_multicast", needs: BOTH, run: |l| run(l, Version::V2, false, false) },
    Case { name: "interop::v2_ipv4_unicast", needs: BOTH, run: |l| run(l, Version::V2, false, true) },
    Case { name: "interop::v3_ipv4_multicast", needs: BOTH, run: |l| run(l, Version::V3, false, false) },
    Case { name: "interop::v3_ipv4_unicast", needs: BOTH, run: |l| run(l, Version::V3, false, true) },
    Case { name: "interop::v3_ipv6_multicast", needs: BOTH, run: |l| run(l, Version::V3, true, false) },
    Case { name: "interop::v3_ipv6_unicast", needs: BOTH, run: |l| run(l, Version::V3, true, true) },
];

const PATIENCE: Duration = Duration::from_secs(15);

/// The two hosts: keepalived on `ka`, vipd on `px2`.
struct Pair {
    lab: Lab,
    ka: Host,
    px2: Host,
    version: Version,
    v6: bool,
    unicast: bool,
    interval: Duration,
}

fn run(lab: &Lab, version: Version, v6: bool, unicast: bool) -> Result<()> {
    let ka = lab.host("ka", &["10.77.0.11/24", "fd77::11/64"])?;
    let px2 = lab.host("px2", &["10.77.0.12/24", "fd77::12/64"])?;
    // Version 2 has whole seconds only.
    let interval = Duration::from_millis(if version == Version::V2 { 1000 } else { 100 });
    let pair = Pair { lab: lab.clone(), ka, px2, version, v6, unicast, interval };
    pair.keepalived_leads()?;
    pair.vipd_leads()
}

impl Pair {
    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let texts: &[&str] =
            if self.v6 { &["fe80::100", "fd77::100"] } else { &["10.77.0.100", "10.77.0.101"] };
        texts.iter().map(|t| Ok(t.parse()?)).collect()
    }

    fn with_prefixes(&self) -> Result<Vec<String>> {
        let prefix = if self.v6 { 64 } else { 24 };
        Ok(self.addresses()?.iter().map(|a| format!("{a}/{prefix}")).collect())
    }

    fn start_keepalived(&self, priority: u8, nopreempt: bool) -> Result<Process> {
        let (own, peer) = if self.v6 { ("fd77::11", "fd77::12") } else { ("10.77.0.11", "10.77.0.12") };
        let unicast = if self.unicast { Some((own.parse()?, vec![peer.parse()?])) } else { None };
        let instance = Instance { vrid: 51, priority, addresses: self.with_prefixes()?, unicast, nopreempt };
        let config = keepalived::Config {
            version: self.version,
            interval: self.interval,
            unicast_ttl: Some(255),
            instances: vec![instance],
        };
        keepalived::start(&self.ka, &config)
    }

    fn start_vipd(&self) -> Result<Vipd> {
        let nodes = if self.v6 {
            [("ka", "fd77::11"), ("px2", "fd77::12")]
        } else {
            [("ka", "10.77.0.11"), ("px2", "10.77.0.12")]
        };
        let mut config = vipd::Config::new(&nodes, self.interval, &[]);
        config.vips = vec![("main".to_owned(), 51, self.with_prefixes()?)];
        // Every interface has the subnet of a link-local address.
        config.interface = self.v6.then(|| "eth0".to_owned());
        let version = if self.version == Version::V2 { 2 } else { 3 };
        let transport = if self.unicast { "unicast" } else { "multicast" };
        config.election = vec![format!("vrrp-version = {version}"), format!("transport = \"{transport}\"")];
        Vipd::start(&self.px2, &config.to_text())
    }

    /// Waits until `host` alone has every address.
    fn wait_for_owner(&self, host: &str) -> Result<()> {
        for address in self.addresses()? {
            self.lab.addresses().wait_for(address, &[host], PATIENCE)?;
        }
        Ok(())
    }

    /// One owner, and for a while nothing moves.
    fn rest(&self, owner: &str) -> Result<()> {
        let since = Instant::now();
        std::thread::sleep(self.interval * 4);
        for address in self.addresses()? {
            let moves = self.lab.addresses().changes(address, since);
            ensure!(moves.is_empty(), "at rest, {address} moved: {moves:?}");
            let holders = self.lab.addresses().holders(address);
            ensure!(holders == [owner], "at rest, {holders:?} hold {address}");
        }
        Ok(())
    }

    /// keepalived owns, stops, vipd takes over; keepalived comes back with a
    /// higher priority and takes the address again.
    fn keepalived_leads(&self) -> Result<()> {
        let ka = self.start_keepalived(200, false)?;
        self.wait_for_owner("ka")?;
        let vipd = self.start_vipd()?;
        vipd.wait_for_state("backup", PATIENCE)?;
        self.rest("ka").context("vipd as backup of keepalived")?;
        ka.signal(Signal::SIGTERM)?;
        ka.wait(PATIENCE)?;
        self.wait_for_owner("px2").context("vipd takes over from keepalived")?;
        self.rest("px2").context("vipd alone")?;
        let ka = self.start_keepalived(200, false)?;
        self.wait_for_owner("ka").context("vipd gives way to a higher priority")?;
        self.rest("ka").context("keepalived has come back")?;
        ka.signal(Signal::SIGTERM)?;
        ka.wait(PATIENCE)?;
        self.wait_for_owner("px2")?;
        stop(&vipd)
    }

    /// vipd owns, keepalived is its backup and takes over when it stops.
    fn vipd_leads(&self) -> Result<()> {
        let vipd = self.start_vipd()?;
        self.wait_for_owner("px2")?;
        let ka = self.start_keepalived(100, false)?;
        ka.wait_for_line("Entering BACKUP STATE", PATIENCE)?;
        self.rest("px2").context("keepalived as backup of vipd")?;
        stop(&vipd)?;
        self.wait_for_owner("ka").context("keepalived takes over from vipd")?;
        self.rest("ka").context("keepalived alone")
    }
}

fn stop(vipd: &Vipd) -> Result<()> {
    vipd.process().signal(Signal::SIGTERM)?;
    vipd.process().wait(PATIENCE)?;
    Ok(())
}
