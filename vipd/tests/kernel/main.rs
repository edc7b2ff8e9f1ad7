//! The owner of the kernel's addresses, in a network namespace.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one event and lets the others pass")]

#[path = "../namespaces/mod.rs"]
mod namespaces;
mod others;
mod passage;
mod silence;
mod speed;

use namespaces::{HERE, Net, Outcome, index, lab, output, sh};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use vipd::kernel::{self, KernelEvent, KernelHandle, KernelSettings, Leftover, Link, Released};
use vipd::net::clock;
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::Cidr;
use vipd_core::time::Time;

const V4: &str = "10.9.0.100/24";
const V6: &str = "fd09::100/64";

fn cidr(text: &str) -> Cidr {
    let (address, prefix) = text.split_once('/').expect("a prefix");
    Cidr::new(address.parse().expect("an address"), prefix.parse().expect("a length")).expect("not too long")
}

struct Rig {
    handle: KernelHandle,
    events: Receiver<KernelEvent>,
    actor: JoinHandle<()>,
    removed: Vec<Leftover>,
    dir: Rc<TempDir>,
    generation: u64,
    /// Of the next plan.
    until: Option<Time>,
}

impl Rig {
    async fn start(vips: &[&str]) -> Result<Self, Box<dyn std::error::Error>> {
        Self::start_in(Rc::new(tempfile::tempdir()?), vips).await
    }

    async fn start_in(dir: Rc<TempDir>, vips: &[&str]) -> Result<Self, Box<dyn std::error::Error>> {
        let addresses = vips.iter().map(|v| cidr(v).address()).collect();
        let settings = KernelSettings { runtime_dir: dir.path().to_owned(), addresses };
        let (handle, actor, events, removed) = kernel::start(settings).await?;
        Ok(Self {
            handle,
            events,
            actor: tokio::spawn(actor.run()),
            removed,
            dir,
            generation: 0,
            until: None,
        })
    }

    /// Submits a plan of group 0 and gives the kernel's answer to it.
    async fn hold(&mut self, hold: Hold, vips: &[&str], lease: Duration) -> Result<(), String> {
        let addresses = vips.iter().map(|v| cidr(v)).collect();
        self.plan(0, addresses, hold, lease).await
    }

    /// Owns with a quorum's lease.
    async fn hold_until(&mut self, until: Time, vips: &[&str], lease: Duration) -> Result<(), String> {
        self.until = Some(until);
        let held = self.hold(Hold::Owned, vips, lease).await;
        self.until = None;
        held
    }

    async fn plan(
        &mut self,
        group: usize,
        addresses: Vec<Cidr>,
        hold: Hold,
        lease: Duration,
    ) -> Result<(), String> {
        loop {
            self.generation += 1;
            let generation = self.generation;
            let addresses = addresses.clone();
            self.handle.submit(GroupPlan {
                group,
                generation,
                interface: index(HERE),
                addresses,
                hold,
                lease,
                until: self.until,
                former: vec![],
            });
            let answer = self.event(|event| match event {
                KernelEvent::Applied { generation: g, result, .. } if g == generation => Some(Some(result)),
                // This machine stood still: as the node does, plan again.
                KernelEvent::Stale { generation: g, .. } if g == generation => Some(None),
                _ => None,
            });
            if let Some(result) = answer.await {
                return result;
            }
        }
    }

    /// Waits for an event; others pass by.
    async fn event<T>(&mut self, mut pick: impl FnMut(KernelEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.events.recv().await.expect("the actor lives")) {
                return found;
            }
        }
    }

    async fn link(&mut self, mut pick: impl FnMut(&Link) -> bool) -> Link {
        self.event(|event| match event {
            KernelEvent::Links(links) => links.into_iter().find(|l| l.name == HERE && pick(l)),
            _ => None,
        })
        .await
    }

    async fn restored(&mut self) -> Vec<Cidr> {
        self.event(|event| match event {
            KernelEvent::Restored { addresses, .. } => Some(addresses),
            KernelEvent::Lost { reason, .. } => panic!("lost: {reason}"),
            _ => None,
        })
        .await
    }

    async fn hold_on(&mut self, interface: u32, vips: &[&str]) -> Result<(), String> {
        self.generation += 1;
        let (generation, addresses) = (self.generation, vips.iter().map(|v| cidr(v)).collect());
        let hold = Hold::Owned;
        self.handle.submit(GroupPlan {
            group: 0,
            generation,
            interface,
            addresses,
            hold,
            lease: LEASE,
            until: None,
            former: vec![],
        });
        self.event(|event| match event {
            KernelEvent::Applied { result, .. } => Some(result),
            _ => None,
        })
        .await
    }

    /// As a crash would: no word to the kernel.
    async fn crash(self) -> Rc<TempDir> {
        self.actor.abort();
        let _ = self.actor.await;
        self.dir
    }
}

const LEASE: Duration = Duration::from_secs(30);

fn addresses(device: &str) -> String {
    output(&format!("ip -o addr show dev {device}")).expect("the interface exists")
}

fn has(device: &str, address: &str) -> bool {
    addresses(device).contains(&format!(" {address} "))
}

fn switch(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{HERE}/{name}"))
        .expect("readable")
        .trim()
        .to_owned()
}

#[test]
fn an_address_lives_as_long_as_it_is_renewed() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        let routes = output("ip route; ip -6 route")?;
        let lease = Duration::from_secs(1);
        rig.hold(Hold::Owned, &[V4, V6], lease).await?;
        let listed = addresses(HERE);
        let line = |a: &str| listed.lines().find(|l| l.contains(a)).unwrap_or_default().to_owned();
        assert!(line(V4).contains("secondary"), "{listed}");
        assert!(line(V6).contains("deprecated") && line(V6).contains("nodad"), "{listed}");
        assert!(!listed.contains("tentative"), "{listed}");
        // Neither another route, nor another source.
        assert_eq!(output("ip route; ip -6 route")?, routes);
        assert!(output("ip route get 10.9.0.2")?.contains("src 10.9.0.1 "));
        assert!(output("ip route get fd09::2")?.contains("src fd09::1 "));

        let start = Instant::now();
        let mut pulse = tokio::time::interval(Duration::from_millis(300));
        while start.elapsed() < Duration::from_millis(2500) {
            pulse.tick().await;
            rig.hold(Hold::Owned, &[V4, V6], lease).await?;
            assert!(has(HERE, V4) && has(HERE, V6), "{}", addresses(HERE));
        }
        let last = Instant::now();
        rig.event(|event| match event {
            KernelEvent::Lost { reason, .. } => {
                assert!(reason.contains("lease"), "{reason}");
                Some(())
            }
            KernelEvent::Restored { .. } => panic!("an expired address was put back"),
            _ => None,
        })
        .await;
        // With the first of them the group is given up: nothing is said of the
        // other, which the kernel may remove a moment later.
        while has(HERE, V4) || has(HERE, V6) {
            pulse.tick().await;
        }
        // The kernel looks for expired addresses at most once a second.
        assert!(last.elapsed() < Duration::from_secs(3), "{:?}", last.elapsed());
        assert_eq!(output("ip route; ip -6 route")?, routes);
        assert!(has(HERE, "10.9.0.1/24") && has(HERE, "fd09::1/64"));
        Ok(())
    });
}

#[test]
fn a_deleted_address_is_back_within_50_ms() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        for vip in [V4, V6] {
            sh(&format!("ip addr del {vip} dev {HERE}"))?;
            let start = Instant::now();
            assert_eq!(rig.restored().await, [cidr(vip)]);
            eprintln!("{vip} back after {:?}", start.elapsed());
            assert!(start.elapsed() < Duration::from_millis(50));
            assert!(has(HERE, vip));
        }
        rig.hold(Hold::Silent, &[V4, V6], LEASE).await?;
        sh("ip addr del 10.9.0.100/32 dev lo")?;
        assert_eq!(rig.restored().await, [cidr("10.9.0.100/32")]);
        assert!(has("lo", "10.9.0.100/32"));
        Ok(())
    });
}

#[test]
fn a_frozen_process_brings_nothing_back() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        rig.hold(Hold::Owned, &[V4], Duration::from_secs(1)).await?;
        // A plan was on its way when the process froze for longer than the
        // lease: the thread of both tasks stands still.
        let frozen = GroupPlan {
            group: 0,
            generation: 99,
            interface: index(HERE),
            addresses: vec![cidr(V4)],
            hold: Hold::Owned,
            lease: Duration::from_secs(1),
            until: None,
            former: vec![],
        };
        rig.handle.submit(frozen);
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!has(HERE, V4));
        let (mut refused, mut lost) = (false, false);
        while !(refused && lost) {
            rig.event(|event| match event {
                KernelEvent::Stale { generation: 99, waited, .. } => {
                    assert!(waited >= Duration::from_millis(1500), "{waited:?}");
                    refused = true;
                    Some(())
                }
                KernelEvent::Lost { .. } => {
                    lost = true;
                    Some(())
                }
                KernelEvent::Restored { .. } => panic!("brought back"),
                _ => None,
            })
            .await;
        }
        assert!(!has(HERE, V4));
        // A fresh plan works again.
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        assert!(has(HERE, V4));
        Ok(())
    });
}

#[test]
fn what_an_earlier_run_left_is_removed() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        let other = vec![cidr("10.9.0.103/24")];
        rig.plan(1, other, Hold::Silent, LEASE).await?;
        assert_eq!(switch("arp_ignore"), "1");
        let dir = rig.crash().await;
        assert!(has(HERE, V4) && has("lo", "10.9.0.103/32"));
        let held = std::fs::read_to_string(dir.path().join("held"))?;
        let namespace = output("readlink /proc/self/ns/net")?;
        assert_eq!(held, format!("{namespace}lo 10.9.0.103/32\n{HERE} {V4}\n{HERE} {V6}\n"));

        // Another configuration, an address of its own that somebody set, and
        // one that only the list of an old kernel's daemon knows.
        sh(&format!("ip addr add 10.9.0.101/24 dev {HERE}; ip addr add 10.9.0.102/24 dev {HERE}"))?;
        std::fs::write(dir.path().join("held"), format!("{held}{HERE} 10.9.0.102/24\n"))?;
        let rig = Rig::start_in(dir, &["10.9.0.101/24"]).await?;
        let removed: Vec<_> = rig.removed.iter().map(|l| format!("{} {}", l.interface, l.address)).collect();
        let expected = [
            "lo 10.9.0.103/32",
            "va 10.9.0.100/24",
            "va 10.9.0.101/24",
            "va 10.9.0.102/24",
            "va fd09::100/64",
        ];
        assert_eq!(removed, expected);
        assert!(has(HERE, "10.9.0.1/24") && has(HERE, "fd09::1/64"));
        assert_eq!(addresses(HERE).matches("inet ").count(), 1);
        assert_eq!(switch("arp_ignore"), "0");
        Ok(())
    });
}

#[test]
fn another_daemons_addresses_are_left_alone() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        let second = Rig::start(&["10.9.0.150/24"]).await?;
        assert_eq!(second.removed, []);
        assert!(has(HERE, V4) && has(HERE, V6), "{}", addresses(HERE));
        Ok(())
    });
}

#[test]
fn release_needs_no_daemon() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        assert_eq!(switch("promote_secondaries"), "1");
        let dir = rig.crash().await;
        assert_eq!(removed(&dir).await?, [format!("va {V4}"), format!("va {V6}")]);
        assert!(!has(HERE, V4) && !has(HERE, V6) && has(HERE, "10.9.0.1/24"));
        assert_eq!(switch("promote_secondaries"), "0");
        assert_eq!(removed(&dir).await?, Vec::<String>::new());
        Ok(())
    });
}

/// What `vipctl release` removes.
async fn removed(dir: &TempDir) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    match kernel::release_all(dir.path()).await? {
        Released::Here(removed) => Ok(named(&removed)),
        elsewhere @ Released::Elsewhere { .. } => Err(format!("{elsewhere:?}").into()),
    }
}

fn named(all: &[Leftover]) -> Vec<String> {
    all.iter().map(|l| format!("{} {}", l.interface, l.address)).collect()
}

/// The daemon and its guard were killed together, and everything had ended by the
/// time that somebody looked.
#[test]
fn release_cleans_up_when_the_addresses_have_ended_by_themselves() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.plan(1, vec![cidr("10.9.0.101/24")], Hold::Silent, LEASE).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        let dir = rig.crash().await;
        sh(&format!("ip addr del {V4} dev va; ip addr del {V6} dev va; ip addr del 10.9.0.101/32 dev lo"))?;
        let switches = || ["arp_ignore", "arp_announce", "promote_secondaries"].map(switch);
        assert_eq!(switches(), ["1", "2", "1"]);
        assert_eq!(removed(&dir).await?, Vec::<String>::new());
        assert_eq!(switches(), ["0", "0", "0"]);
        assert!(!dir.path().join("sysctl").exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("held"))?, "");
        Ok(())
    });
}

#[test]
fn release_in_another_namespace_changes_nothing_and_says_what_is_on_record() {
    lab(|net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        let dir = rig.crash().await;
        // An address of the same name makes the other namespace no more the right one.
        net.there(|| {
            sh(&format!(
                "ip link add va type veth peer name third; ip link set va up; ip addr add {V4} dev va"
            ))
        })?;
        // A thread of its own may have a runtime of its own, and is born into the namespace.
        let path = dir.path();
        let release = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kernel::release_all(path)).map_err(std::io::Error::other)
        };
        let there = net.there(|| std::thread::scope(|s| s.spawn(release).join()));
        let Released::Elsewhere { namespace, addresses } = there.expect("no panic in the thread")? else {
            return Err("released in the wrong namespace".into());
        };
        assert_eq!(namespace, output("readlink /proc/self/ns/net")?.trim());
        assert_eq!(named(&addresses), [format!("va {V4}"), format!("va {V6}")]);
        assert!(net.there(|| has("va", V4)));
        assert_eq!(removed(&dir).await?.len(), 2, "the record is still there");
        Ok(())
    });
}

#[test]
fn a_refused_group_is_not_held_by_half() {
    lab(|_net| async move {
        sh("echo 1 > /proc/sys/net/ipv6/conf/va/disable_ipv6")?;
        let mut rig = Rig::start(&[V4, V6]).await?;
        let reason = rig.hold(Hold::Owned, &[V4, V6], LEASE).await.expect_err("IPv6 is off");
        eprintln!("{reason}");
        assert!(reason.contains(V6) && reason.contains(HERE), "{reason}");
        assert!(!has(HERE, V4), "{}", addresses(HERE));

        // What was held before stays.
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        assert!(rig.hold(Hold::Owned, &[V4, V6], LEASE).await.is_err());
        assert!(has(HERE, V4));
        Ok(())
    });
}

#[test]
fn after_a_reload_a_group_may_have_another_number() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.plan(0, vec![cidr(V6)], Hold::Owned, LEASE).await?;
        rig.plan(1, vec![cidr(V4)], Hold::Owned, LEASE).await?;
        // The first group is gone from the file; the second has its place.
        rig.plan(0, vec![cidr(V4)], Hold::Owned, LEASE).await?;
        assert!(has(HERE, V4) && !has(HERE, V6), "{}", addresses(HERE));
        rig.plan(0, vec![cidr(V4)], Hold::Absent, LEASE).await?;
        assert!(!has(HERE, V4));
        Ok(())
    });
}

#[test]
fn another_prefix_length_is_another_plan() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        for (v4, v6) in [("10.9.0.100/32", "fd09::100/128"), (V4, V6), ("10.9.0.100/25", "fd09::100/72")] {
            rig.hold(Hold::Owned, &[v4, v6], LEASE).await?;
            assert!(has(HERE, v4) && has(HERE, v6), "{}", addresses(HERE));
            assert_eq!(addresses(HERE).matches("::100/").count(), 1, "{}", addresses(HERE));
        }
        // Nobody deleted it, so nobody is told that it is back.
        sh("ip addr del 10.9.0.100/25 dev va")?;
        let told = rig
            .event(|event| match event {
                KernelEvent::Restored { addresses, .. } => Some(addresses),
                KernelEvent::Evicted { .. } | KernelEvent::Lost { .. } => panic!("{event:?}"),
                _ => None,
            })
            .await;
        assert_eq!(told, [cidr("10.9.0.100/25")]);

        // Somebody else's other length is no hindrance, and goes with ours.
        rig.hold(Hold::Absent, &[V4, V6], LEASE).await?;
        let mut rig = Rig::start_in(rig.crash().await, &[]).await?;
        sh("ip addr add fd09::100/96 dev va nodad")?;
        rig.link(|link| link.addresses.contains(&cidr("fd09::100/96"))).await;
        rig.hold(Hold::Owned, &[V6], LEASE).await?;
        assert!(has(HERE, V6) && !has(HERE, "fd09::100/96"), "{}", addresses(HERE));
        Ok(())
    });
}

#[test]
fn nothing_is_left_in_the_runtime_directory_but_the_list() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        rig.hold(Hold::Absent, &[V4], LEASE).await?;
        rig.hold(Hold::Absent, &[V4], LEASE).await?;
        assert_eq!(files(rig.dir.path())?, ["held"]);
        assert_eq!(std::fs::read_to_string(rig.dir.path().join("held"))?, "");
        Ok(())
    });
}

fn files(dir: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
