//! The owner of the kernel's addresses, in a network namespace.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one event and lets the others pass")]

mod namespaces;

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
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::Cidr;

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
}

impl Rig {
    async fn start(vips: &[&str]) -> Result<Self, Box<dyn std::error::Error>> {
        Self::start_in(Rc::new(tempfile::tempdir()?), vips).await
    }

    async fn start_in(dir: Rc<TempDir>, vips: &[&str]) -> Result<Self, Box<dyn std::error::Error>> {
        let addresses = vips.iter().map(|v| cidr(v).address()).collect();
        let settings = KernelSettings { runtime_dir: dir.path().to_owned(), addresses };
        let (handle, actor, events, removed) = kernel::start(settings).await?;
        Ok(Self { handle, events, actor: tokio::spawn(actor.run()), removed, dir, generation: 0 })
    }

    /// Submits a plan of group 0 and gives the kernel's answer to it.
    async fn hold(&mut self, hold: Hold, vips: &[&str], lease: Duration) -> Result<(), String> {
        let addresses = vips.iter().map(|v| cidr(v)).collect();
        self.plan(0, addresses, hold, lease).await
    }

    async fn plan(
        &mut self,
        group: usize,
        addresses: Vec<Cidr>,
        hold: Hold,
        lease: Duration,
    ) -> Result<(), String> {
        self.generation += 1;
        let generation = self.generation;
        self.handle.submit(GroupPlan { group, generation, interface: index(HERE), addresses, hold, lease });
        self.event(|event| match event {
            KernelEvent::Applied { generation: g, result, .. } if g == generation => Some(result),
            _ => None,
        })
        .await
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
        let mut lost = 0;
        while lost < 2 {
            lost += rig
                .event(|event| match event {
                    KernelEvent::Lost { addresses, reason, .. } => {
                        assert!(reason.contains("lease"), "{reason}");
                        Some(addresses.len())
                    }
                    KernelEvent::Restored { .. } => panic!("an expired address was put back"),
                    _ => None,
                })
                .await;
            // Of the second, nothing more is said: the group was given up.
            lost = if has(HERE, V4) || has(HERE, V6) { lost } else { 2 };
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
        };
        rig.handle.submit(frozen);
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!has(HERE, V4));
        let (mut refused, mut lost) = (false, false);
        while !(refused && lost) {
            rig.event(|event| match event {
                KernelEvent::Applied { generation: 99, result, .. } => {
                    let reason = result.expect_err("an old plan");
                    assert!(reason.contains("stood still"), "{reason}");
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
        assert_eq!(held, format!("lo 10.9.0.103/32\n{HERE} {V4}\n{HERE} {V6}\n"));

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
        let released = kernel::release_all(dir.path()).await?;
        assert_eq!(released.removed.len(), 2, "{released:?}");
        assert!(!has(HERE, V4) && !has(HERE, V6) && has(HERE, "10.9.0.1/24"));
        assert_eq!(switch("promote_secondaries"), "0");
        assert_eq!(kernel::release_all(dir.path()).await?, Released::default());
        Ok(())
    });
}

#[test]
fn release_in_another_namespace_changes_nothing_and_says_what_is_on_record() {
    lab(|net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        let dir = rig.crash().await;
        // A thread of its own may have a runtime of its own, and is born into the namespace.
        let path = dir.path();
        let release = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kernel::release_all(path)).map_err(std::io::Error::other)
        };
        let there = net.there(|| std::thread::scope(|s| s.spawn(release).join()));
        let there = there.expect("no panic in the thread")?;
        let elsewhere: Vec<_> =
            there.elsewhere.iter().map(|l| format!("{} {}", l.interface, l.address)).collect();
        assert_eq!((there.removed, elsewhere), (vec![], vec![format!("va {V4}"), format!("va {V6}")]));
        let released = kernel::release_all(dir.path()).await?;
        assert_eq!((released.removed.len(), released.elsewhere.len()), (2, 0), "the record is still there");
        Ok(())
    });
}

/// A TCP connection from the other side to a VIP, both ends.
fn connect(net: &Net, vip: &str) -> std::io::Result<(TcpStream, TcpStream)> {
    let address = SocketAddr::new(cidr(vip).address(), 0);
    let listener = TcpListener::bind(SocketAddr::new(any(address.ip()), 0))?;
    let to = SocketAddr::new(address.ip(), listener.local_addr()?.port());
    let client = net.there(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(2)))?;
    }
    Ok((client, server))
}

fn any(family: IpAddr) -> IpAddr {
    if family.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

fn talk((client, server): &mut (TcpStream, TcpStream)) -> std::io::Result<()> {
    let mut buffer = [0; 4];
    client.write_all(b"ping")?;
    server.read_exact(&mut buffer)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut buffer)
}

fn forget_neighbours(net: &Net) -> Outcome {
    net.there(|| sh("ip neigh flush dev vb"))?;
    Ok(())
}

/// Failed resolutions are known in tenths of a second instead of three seconds.
fn hurry(net: &Net) -> Outcome {
    for family in ["ipv4", "ipv6"] {
        let file = format!("/proc/sys/net/{family}/neigh/vb/retrans_time_ms");
        net.there(|| std::fs::write(file, "40"))?;
    }
    Ok(())
}

#[test]
fn a_silent_address_is_local_but_not_answered_for() {
    lab(|net| async move {
        hurry(&net)?;
        let vips = [V4, V6];
        let mut rig = Rig::start(&vips).await?;
        rig.hold(Hold::Owned, &vips, LEASE).await?;
        let mut old: Vec<_> = vips.iter().map(|vip| connect(&net, vip)).collect::<Result<_, _>>()?;

        rig.hold(Hold::Silent, &vips, LEASE).await?;
        assert!(!has(HERE, V4) && !has(HERE, V6) && has("lo", "10.9.0.100/32") && has("lo", "fd09::100/128"));
        // Who knows the way still arrives.
        for vip in vips {
            talk(&mut connect(&net, vip).map_err(|e| format!("{vip}: {e}"))?)?;
        }
        old.iter_mut().try_for_each(talk)?;
        // Who asks for it gets no answer; the host's own addresses answer.
        forget_neighbours(&net)?;
        for vip in vips {
            let error = connect(&net, vip).err().ok_or_else(|| format!("{vip} answered"))?;
            assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{vip}: {error}");
        }
        connect(&net, "10.9.0.1/24")?;
        connect(&net, "fd09::1/64")?;

        rig.hold(Hold::Owned, &vips, LEASE).await?;
        assert!(has(HERE, V4) && has(HERE, V6) && !has("lo", "10.9.0.100/32") && !has("lo", "fd09::100/128"));
        forget_neighbours(&net)?;
        old.iter_mut().try_for_each(talk)?;
        for vip in vips {
            talk(&mut connect(&net, vip)?)?;
        }
        assert_eq!((switch("arp_ignore"), switch("arp_announce")), ("0".into(), "0".into()));

        rig.hold(Hold::Absent, &vips, LEASE).await?;
        assert!(!has(HERE, V4) && !has(HERE, V6) && !has("lo", "10.9.0.100/32"));
        // A backup that becomes silent never answers either.
        rig.hold(Hold::Silent, &vips, LEASE).await?;
        forget_neighbours(&net)?;
        for vip in vips {
            assert!(connect(&net, vip).is_err(), "{vip} answered");
        }
        rig.hold(Hold::Absent, &vips, LEASE).await?;
        assert_eq!(switch("arp_ignore"), "0");
        assert!(!rig.dir.path().join("sysctl").exists());
        Ok(())
    });
}

#[test]
fn a_silent_address_is_no_sender_of_arp_requests() {
    lab(|net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        let mut connection = connect(&net, V4)?;
        rig.hold(Hold::Silent, &[V4], LEASE).await?;
        // The host must look for the client anew to answer it; the client
        // would learn the sender's address from that.
        sh("ip neigh flush dev va")?;
        net.there(|| {
            sh("ip neigh flush dev vb; ip neigh add 10.9.0.100 lladdr 02:00:00:00:00:99 dev vb nud stale")
        })?;
        connection.1.write_all(b"pong")?;
        connection.0.read_exact(&mut [0; 4])?;
        let known = net.there(|| output("ip neigh show 10.9.0.100"))?;
        assert!(known.contains("02:00:00:00:00:99"), "{known}");
        Ok(())
    });
}

#[test]
fn without_the_arp_switches_nothing_is_silent() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        // As in most containers. The mounts of this thread are its own then.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        sh("mount --make-rprivate /; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys")?;
        let reason = rig.hold(Hold::Silent, &[V4], LEASE).await.expect_err("ARP would be answered");
        eprintln!("{reason}");
        assert!(reason.contains("conf/va/arp_ignore"), "{reason}");
        assert!(!has("lo", "10.9.0.100/32"));
        // What needs no switch works.
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        assert!(rig.hold(Hold::Silent, &[V4], LEASE).await.is_err());
        assert!(has(HERE, V4) && !has("lo", "10.9.0.100/32"));
        rig.hold(Hold::Absent, &[V4], LEASE).await?;
        assert!(!has(HERE, V4));
        Ok(())
    });
}

#[test]
fn an_earlier_arp_setting_stays() {
    lab(|_net| async move {
        sh("echo 2 > /proc/sys/net/ipv4/conf/va/arp_ignore")?;
        let mut rig = Rig::start(&[V4]).await?;
        rig.hold(Hold::Silent, &[V4], LEASE).await?;
        assert_eq!((switch("arp_ignore"), switch("arp_announce")), ("2".into(), "2".into()));
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        assert_eq!((switch("arp_ignore"), switch("arp_announce")), ("2".into(), "0".into()));
        Ok(())
    });
}

#[test]
fn the_hosts_own_address_may_come_and_go() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, "10.9.0.101/24"]).await?;
        rig.hold(Hold::Owned, &[V4, "10.9.0.101/24"], LEASE).await?;
        sh("ip addr del 10.9.0.1/24 dev va")?;
        rig.link(|link| !link.addresses.contains(&cidr("10.9.0.1/24"))).await;
        assert!(has(HERE, V4) && has(HERE, "10.9.0.101/24"), "{}", addresses(HERE));
        sh("ip addr add 10.9.0.1/24 dev va")?;
        rig.link(|link| link.addresses.contains(&cidr("10.9.0.1/24"))).await;
        let listed = addresses(HERE);
        assert!(has(HERE, V4) && has(HERE, "10.9.0.101/24"), "{listed}");
        assert_eq!(listed.matches("secondary").count(), 2, "{listed}");
        assert!(output("ip route get 10.9.0.2")?.contains("src 10.9.0.1 "), "{}", output("ip route")?);
        rig.hold(Hold::Absent, &[V4, "10.9.0.101/24"], LEASE).await?;
        assert!(has(HERE, "10.9.0.1/24"));

        // Where the switch is off, as if the daemon had not set it: the
        // floating ones vanish with the own one, and are put back.
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        sh("echo 0 > /proc/sys/net/ipv4/conf/va/promote_secondaries; ip addr del 10.9.0.1/24 dev va")?;
        assert_eq!(rig.restored().await, [cidr(V4)]);
        assert!(has(HERE, V4));
        Ok(())
    });
}

#[test]
fn an_address_that_somebody_configured_is_taken_over_or_evicted() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        sh(&format!("ip addr add {V4} dev va; ip addr add {V6} dev va"))?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        let listed = addresses(HERE);
        assert_eq!(listed.lines().filter(|l| l.contains(".100/24") || l.contains("::100/64")).count(), 2);
        assert!(!listed.lines().any(|l| l.contains("100/") && l.contains("valid_lft forever")), "{listed}");

        rig.hold(Hold::Absent, &[V4, V6], LEASE).await?;
        for stray in ["10.9.0.100/32 dev va", "10.9.0.100/24 dev lo", "fd09::100/128 dev va"] {
            sh(&format!("ip addr add {stray}"))?;
            let start = Instant::now();
            let evicted = rig
                .event(|event| match event {
                    KernelEvent::Evicted { group: 0, addresses } => Some(addresses),
                    _ => None,
                })
                .await;
            let (address, device) = stray.split_once(" dev ").ok_or("no device")?;
            assert_eq!(evicted, [cidr(address)]);
            assert!(start.elapsed() < Duration::from_millis(50));
            assert!(!has(device, address), "{}", addresses(device));
        }
        Ok(())
    });
}

/// Who looks for an interface finds it, or knows that it is not there.
#[test]
fn the_first_event_tells_of_all_links() {
    lab(|_net| async move {
        sh("ip link add second type veth peer name third")?;
        let mut rig = Rig::start(&[V4]).await?;
        let Some(KernelEvent::Links(links)) = rig.events.recv().await else { panic!("no links") };
        let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
        assert!(["lo", HERE, "second", "third"].iter().all(|name| names.contains(name)), "{names:?}");
        Ok(())
    });
}

#[test]
fn links_are_told_of() {
    lab(|net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        let own = |link: &Link| {
            link.addresses
                .iter()
                .filter(|a| a.prefix() != 64 || a.contains("fd09::".parse().expect("an address")))
                .count()
        };
        let link = rig.link(|link| link.up && own(link) == 2).await;
        assert_eq!((link.mac, link.index), (Some(namespaces::mac(HERE)), index(HERE)));
        assert!(
            link.addresses.iter().any(|a| matches!(a.address(), IpAddr::V6(a) if a.is_unicast_link_local()))
        );
        // A floating address is none of the host's own, and no news.
        rig.hold(Hold::Owned, &[V4], LEASE).await?;

        net.there(|| sh("ip link set vb down"))?;
        let start = Instant::now();
        let down = rig.link(|link| !link.up).await;
        assert!(start.elapsed() < Duration::from_millis(50));
        assert!(!down.addresses.contains(&cidr(V4)));
        net.there(|| sh("ip link set vb up"))?;
        rig.link(|link| link.up).await;
        sh("ip link del va")?;
        let name = rig
            .event(|event| match event {
                KernelEvent::LinkRemoved { name, .. } => Some(name),
                _ => None,
            })
            .await;
        assert_eq!(name, HERE);
        let reason = rig.hold_on(9999, &[V4]).await.expect_err("no such interface");
        assert!(reason.contains("9999"), "{reason}");
        Ok(())
    });
}

impl Rig {
    async fn hold_on(&mut self, interface: u32, vips: &[&str]) -> Result<(), String> {
        self.generation += 1;
        let (generation, addresses) = (self.generation, vips.iter().map(|v| cidr(v)).collect());
        let hold = Hold::Owned;
        self.handle.submit(GroupPlan { group: 0, generation, interface, addresses, hold, lease: LEASE });
        self.event(|event| match event {
            KernelEvent::Applied { result, .. } => Some(result),
            _ => None,
        })
        .await
    }
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
fn lost_notifications_are_made_up_for() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        rig.plan(1, vec![cidr(V6)], Hold::Absent, LEASE).await?;
        let batch: String =
            (0..12_000).map(|_| "addr add 192.0.2.1/32 dev lo\naddr del 192.0.2.1/32 dev lo\n").collect();
        let batch = batch + "addr del 10.9.0.100/24 dev va\naddr add fd09::100/64 dev va\n";
        let file = rig.dir.path().join("batch");
        std::fs::write(&file, batch)?;
        // The actor stands still meanwhile: it is on this thread.
        sh(&format!("ip -batch {}", file.display()))?;
        assert!(dropped()? > 0, "nothing was dropped: the test shows nothing");
        assert_eq!(rig.restored().await, [cidr(V4)]);
        let evicted = |event| matches!(event, KernelEvent::Evicted { group: 1, .. }).then_some(());
        rig.event(evicted).await;
        assert!(has(HERE, V4) && !has(HERE, V6));
        Ok(())
    });
}

/// Notifications that the kernel could not deliver to a socket of this process.
fn dropped() -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netlink")?;
    let column = |line: &str| line.split_whitespace().nth(8).and_then(|n| n.parse::<u64>().ok());
    Ok(text.lines().filter_map(column).sum())
}

fn cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    Duration::from(time)
}

#[test]
fn two_hundred_addresses_take_well_under_50_ms() {
    lab(|_net| async move {
        let v4: Vec<Cidr> = (0..200).map(|n| cidr(&format!("10.9.1.{n}/16"))).collect();
        let v6: Vec<Cidr> = (0..200).map(|n| cidr(&format!("fd09::1:{n:x}/64"))).collect();
        let mut rig = Rig::start(&[]).await?;
        for (name, vips) in [("IPv4", v4), ("IPv6", v6)] {
            for hold in [Hold::Owned, Hold::Owned, Hold::Silent, Hold::Owned, Hold::Absent] {
                let start = Instant::now();
                rig.plan(0, vips.clone(), hold, LEASE).await?;
                let took = start.elapsed();
                eprintln!("{name}, 200 addresses, {hold:?}: {took:?}");
                assert!(took < Duration::from_millis(50), "{took:?}");
            }
        }
        assert!(!has(HERE, "10.9.1.7/16"));
        Ok(())
    });
}

#[test]
fn a_renewal_costs_little() {
    lab(|_net| async move {
        const GROUPS: usize = 64;
        const ROUNDS: u32 = 30;
        let mut rig = Rig::start(&[]).await?;
        let vips: Vec<Cidr> = (0..GROUPS).map(|n| cidr(&format!("10.9.0.{}/24", n + 100))).collect();
        let mut start = (Instant::now(), cpu_time());
        for round in 0..=ROUNDS {
            if round == 1 {
                start = (Instant::now(), cpu_time());
            }
            for (group, vip) in vips.iter().enumerate() {
                rig.plan(group, vec![*vip], Hold::Owned, LEASE).await?;
            }
        }
        let renewals = ROUNDS * u32::try_from(GROUPS)?;
        let (wall, cpu) = (start.0.elapsed() / renewals, (cpu_time() - start.1) / renewals);
        eprintln!("a renewal: {wall:?}, {cpu:?} of CPU (this build's profile)");
        assert!(cpu < Duration::from_millis(1));
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
