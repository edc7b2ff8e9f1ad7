//! keepalived's own adverts, for vipd-core's wire tests.
//!
//! `tests/vectors/keepalived.json` was written by this test with
//! `UPDATE_VECTORS=1`; without, it proves that the installed keepalived still
//! sends exactly that.

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use vipd_tests::lab::keepalived::{self, Config, Instance, Version};
use vipd_tests::lab::{Host, Lab, advert};
use vipd_tests::vector::Vector;

pub(crate) const CASES: &[Case] = &[Case {
    name: "vectors::keepalived_sends_what_is_on_file",
    needs: &[Need::Keepalived],
    run: keepalived_sends_what_is_on_file,
}];

struct Setup {
    name: &'static str,
    version: Version,
    v6: bool,
    unicast: bool,
    interval_ms: u64,
    addresses: &'static [&'static str],
}

const V4: &[&str] = &["10.77.0.100/24", "10.77.0.101/24"];
// The first address of a virtual router on IPv6 is link-local.
const V6: &[&str] = &["fe80::100/64", "fd77::100/64"];
const SETUPS: &[Setup] = &[
    Setup {
        name: "v2-ipv4-multicast",
        version: Version::V2,
        v6: false,
        unicast: false,
        interval_ms: 1000,
        addresses: V4,
    },
    Setup {
        name: "v2-ipv4-unicast",
        version: Version::V2,
        v6: false,
        unicast: true,
        interval_ms: 1000,
        addresses: V4,
    },
    Setup {
        name: "v3-ipv4-multicast",
        version: Version::V3,
        v6: false,
        unicast: false,
        interval_ms: 10,
        addresses: V4,
    },
    Setup {
        name: "v3-ipv4-unicast",
        version: Version::V3,
        v6: false,
        unicast: true,
        interval_ms: 250,
        addresses: V4,
    },
    Setup {
        name: "v3-ipv6-multicast",
        version: Version::V3,
        v6: true,
        unicast: false,
        interval_ms: 100,
        addresses: V6,
    },
    Setup {
        name: "v3-ipv6-unicast",
        version: Version::V3,
        v6: true,
        unicast: true,
        interval_ms: 1500,
        addresses: V6,
    },
];

fn keepalived_sends_what_is_on_file(lab: &Lab) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/keepalived.json");
    let mut captured = Vec::new();
    for (number, setup) in SETUPS.iter().enumerate() {
        captured.extend(capture(lab, number, setup)?);
    }
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&captured)? + "\n")?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let on_file: Vec<Vector> = serde_json::from_str(&text)?;
    for (captured, on_file) in captured.iter().zip(&on_file) {
        ensure!(captured == on_file, "captured: {captured:#?}\non file: {on_file:#?}");
    }
    ensure!(captured.len() == on_file.len(), "{} captured, {} on file", captured.len(), on_file.len());
    Ok(())
}

/// The first advert of an owner, and the one with priority 0 that it leaves with.
fn capture(lab: &Lab, number: usize, setup: &Setup) -> Result<[Vector; 2]> {
    let v6_end = 0x10 + number;
    let link_local = format!("fe80::77:{v6_end:x}/64");
    let v6 = [format!("fd77::{v6_end:x}/64"), format!("fd77::77:{v6_end:x}/64")];
    let (v4_own, v4_peer) = (format!("10.77.0.{}/24", 10 + number), format!("10.77.0.{}/24", 40 + number));
    let owner = lab.host(&format!("px{number}"), &[&v4_own, &v6[0], &link_local])?;
    let listener = lab.host(&format!("to{number}"), &[&v4_peer, &v6[1]])?;
    if setup.v6 {
        // keepalived takes the interface's first link-local address: leave it no choice.
        keep_link_local(&owner, &link_local)?;
    }
    let adverts = advert::Listener::start(&listener)?;
    let address = |text: &str| -> Result<IpAddr> {
        Ok(text.split_once('/').context("an address with a prefix")?.0.parse()?)
    };
    let (own, peer) = if setup.v6 { (&v6[0], &v6[1]) } else { (&v4_own, &v4_peer) };
    let vrid = 51 + u8::try_from(number)?;
    let config = Config {
        version: setup.version,
        interval: Duration::from_millis(setup.interval_ms),
        unicast_ttl: Some(255),
        instances: vec![Instance {
            vrid,
            priority: 255,
            addresses: setup.addresses.iter().map(ToString::to_string).collect(),
            unicast: if setup.unicast { Some((address(own)?, vec![address(peer)?])) } else { None },
            nopreempt: false,
        }],
    };
    let daemon = keepalived::start(&owner, &config)?;
    let first = adverts.wait_for(vrid, |_| true, Duration::from_secs(15))?;
    daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
    let last = adverts.wait_for(vrid, |payload| payload[2] == 0, Duration::from_secs(5))?;
    let vector = |what: &str, advert: advert::Seen, priority: u8| Vector {
        name: format!("{}-{what}", setup.name),
        source: advert.source,
        destination: advert.destination,
        ttl: advert.ttl,
        payload: advert.payload.iter().map(|b| format!("{b:02x}")).collect(),
        version: if setup.version == Version::V2 { 2 } else { 3 },
        vrid,
        priority,
        interval_ms: setup.interval_ms,
        addresses: setup.addresses.iter().filter_map(|a| address(a).ok()).collect(),
    };
    Ok([vector("owner", first, 255), vector("leaving", last, 0)])
}

/// Takes every link-local address but one from a host's `eth0`.
fn keep_link_local(host: &Host, wanted: &str) -> Result<()> {
    let listed = host.run("ip", &["-6", "-brief", "addr", "show", "dev", "eth0", "scope", "link"])?;
    for address in listed.split_whitespace().filter(|w| w.starts_with("fe80:") && *w != wanted) {
        host.run("ip", &["addr", "del", address, "dev", "eth0"])?;
    }
    Ok(())
}
