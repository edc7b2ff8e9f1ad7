//! A third host that only votes.

use crate::machine::{self, Machine, wait_for};
use crate::story::{CONFIG, SOON, VIP, first_again, planned, seen_on, under_load};
use anyhow::{Result, ensure};
use std::fs;

/// What docs/install.md says of a witness.
pub(crate) fn votes(hosts: &mut [Machine; 2]) -> Result<()> {
    let base = machine::base(&crate::root().join("target"))?;
    let w1 = Machine::start("w1", 13, &base, &crate::debs()?)?;
    let voting = CONFIG.replace(
        "\n[[vip]]",
        "\nwitnesses = [{ name = \"w1\", address = \"10.77.0.13\" }]\n[election]\nquorum = \"majority\"\n[[vip]]",
    );
    w1.sh("dpkg -i /debs/vipd_0.1.0-1_*.deb 2>&1")?;
    let key = hosts[0].sh("cat /etc/vipd/cluster.key")?;
    w1.sh(&format!("echo {key} | install -m 640 -g vipd /dev/stdin /etc/vipd/cluster.key"))?;
    for host in hosts.iter().chain([&w1]) {
        fs::write(host.path("/etc/vipd/vipd.toml"), &voting)?;
    }
    w1.sh("vipd check && systemctl start vipd")?;
    let told = w1.sh("vipctl doctor")?;
    ensure!(told.contains("this host is the witness w1") && told.contains(" looked at: 0 wrong"), "{told}");
    for host in hosts.iter() {
        host.sh("systemctl restart vipd")?;
    }
    first_again(hosts)?;
    // Without the other node the witness is the majority's second voice.
    let notice = under_load(|| {
        hosts[0].sh("systemctl stop vipd")?;
        seen_on(&hosts[1])
    })?;
    planned("systemctl stop of the owner, with a witness", &notice)?;
    ensure!(!w1.sh("ip -o address")?.contains(VIP), "a witness has the address");
    // And without the witness there is none.
    w1.sh("systemctl stop vipd")?;
    wait_for(
        SOON,
        || "the last voter to let go".into(),
        || Ok((!hosts[1].sh("ip -o address show dev host0")?.contains(VIP)).then_some(())),
    )?;
    // Who has just fallen silent is no silent voter yet.
    wait_for(
        SOON,
        || "why it has no majority to name the silent voter".into(),
        || Ok(hosts[1].sh("vipctl why main")?.contains("w1").then_some(())),
    )?;
    let told = w1.try_sh("vipctl doctor; vipctl status")?;
    ensure!(told.contains("this witness does not vote") && told.contains("or it is a witness"), "{told}");
    w1.sh("systemctl start vipd")?;
    seen_on(&hosts[1])?;
    for host in hosts.iter() {
        fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG)?;
        host.sh("systemctl restart vipd")?;
    }
    first_again(hosts)
}
