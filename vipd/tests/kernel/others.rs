//! What somebody else does to addresses and links.

use super::*;

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
                    KernelEvent::Evicted { group: 0, copies } => Some(copies),
                    _ => None,
                })
                .await;
            let (address, device) = stray.split_once(" dev ").ok_or("no device")?;
            assert_eq!(evicted, [(device.to_owned(), cidr(address))]);
            assert!(start.elapsed() < Duration::from_millis(50));
            assert!(!has(device, address), "{}", addresses(device));
        }
        Ok(())
    });
}

impl Rig {
    /// Adds an address as somebody else would, and waits until it is gone again.
    async fn evicts(&mut self, stray: &str) -> Outcome {
        let (address, device) = stray.split_once(" dev ").ok_or("no device")?;
        sh(&format!("ip addr add {stray}"))?;
        let start = Instant::now();
        assert_eq!(self.evicted().await, [(device.to_owned(), cidr(address))]);
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        assert!(!has(device, address), "{}", addresses(device));
        Ok(())
    }

    async fn evicted(&mut self) -> Vec<(String, Cidr)> {
        self.event(|event| match event {
            KernelEvent::Evicted { group: 0, copies } => Some(copies),
            KernelEvent::Restored { .. } | KernelEvent::Lost { .. } => panic!("{event:?}"),
            _ => None,
        })
        .await
    }
}

/// What is elsewhere than planned would outlive the release: this host would go on
/// answering for it beside the next owner.
#[test]
fn a_copy_is_evicted_also_while_the_address_is_held() {
    lab(|_net| async move {
        sh("ip link add other type veth peer name third; ip link set other up")?;
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4, V6], LEASE).await?;
        for stray in [
            "10.9.0.100/32 dev va",
            "10.9.0.100/24 dev other",
            "fd09::100/64 dev other",
            "fd09::100/128 dev lo",
        ] {
            rig.evicts(stray).await?;
            assert!(has(HERE, V4) && has(HERE, V6), "{}", addresses(HERE));
        }
        rig.hold(Hold::Silent, &[V4, V6], LEASE).await?;
        for stray in
            ["10.9.0.100/24 dev va", "10.9.0.100/32 dev other", "fd09::100/64 dev va", "10.9.0.100/8 dev lo"]
        {
            rig.evicts(stray).await?;
            assert!(has("lo", "10.9.0.100/32") && has("lo", "fd09::100/128"), "{}", addresses("lo"));
        }
        // Not with the address, and nobody else's.
        sh("ip addr add 10.9.0.77/32 dev va")?;
        rig.hold(Hold::Absent, &[V4, V6], LEASE).await?;
        assert!(has(HERE, "10.9.0.77/32") && !addresses("lo").contains(".100/"));
        Ok(())
    });
}

#[test]
fn a_link_local_address_is_another_one_on_each_link() {
    const LINK: &str = "fe80::100/64";
    lab(|_net| async move {
        sh(
            "ip link add other type veth peer name third; ip link set other up; ip addr add fe80::100/64 dev other nodad",
        )?;
        sh("ip addr add fe80::100/128 dev va nodad")?;
        let mut rig = Rig::start(&[LINK]).await?;
        assert!(has("other", LINK), "{}", addresses("other"));
        rig.hold(Hold::Absent, &[LINK], LEASE).await?;
        assert!(has("other", LINK) && !has(HERE, "fe80::100/128"), "{}", addresses(HERE));
        rig.hold(Hold::Owned, &[LINK], LEASE).await?;
        assert!(has("other", LINK) && has(HERE, LINK), "{}", addresses("other"));
        rig.evicts("fe80::100/128 dev lo").await?;
        // Both come in one turn: of the second nothing is told.
        sh("ip addr del fe80::100/64 dev other; ip addr add fe80::100/64 dev other nodad")?;
        rig.evicts("fe80::100/128 dev lo").await?;
        rig.hold(Hold::Silent, &[LINK], LEASE).await?;
        rig.hold(Hold::Absent, &[LINK], LEASE).await?;
        assert!(has("other", LINK) && !has(HERE, LINK), "{}", addresses("other"));
        Ok(())
    });
}

/// For the kernel an IPv6 address is one, whatever its prefix length: ours cannot
/// be put back beside it.
#[test]
fn an_ipv6_address_in_place_of_ours_is_replaced_by_ours() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V6]).await?;
        rig.hold(Hold::Owned, &[V6], LEASE).await?;
        // One after the other before anybody can act: the actor is on this thread.
        sh("ip addr del fd09::100/64 dev va; ip addr add fd09::100/128 dev va nodad")?;
        assert_eq!(rig.evicted().await, [(HERE.to_owned(), cidr("fd09::100/128"))]);
        assert_eq!(rig.restored().await, [cidr(V6)]);
        assert!(has(HERE, V6) && !has(HERE, "fd09::100/128"), "{}", addresses(HERE));
        // A plan that comes before the eviction leaves nothing on the interface.
        sh("ip addr del fd09::100/64 dev va; ip addr add fd09::100/128 dev va nodad")?;
        rig.hold(Hold::Silent, &[V6], LEASE).await?;
        while addresses(HERE).contains("fd09::100/") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(has("lo", "fd09::100/128"));
        Ok(())
    });
}

/// Plans are renewed once in a while, the quorum's lease with every advert.
#[test]
fn a_deleted_address_is_put_back_as_long_as_the_quorums_lease_lasts_by_now() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        let until = clock::now() + Duration::from_secs(1);
        rig.hold_until(until, &[V4], LEASE).await?;
        rig.handle.extend(0, clock::now() + LEASE);
        tokio::time::sleep(until - clock::now()).await;
        sh(&format!("ip addr del {V4} dev {HERE}"))?;
        assert_eq!(rig.restored().await, [cidr(V4)]);
        // A lease that nobody extends ends as it was planned.
        let until = clock::now() + Duration::from_secs(1);
        rig.hold_until(until, &[V4], LEASE).await?;
        tokio::time::sleep(until - clock::now()).await;
        sh(&format!("ip addr del {V4} dev {HERE}"))?;
        rig.event(|event| match event {
            KernelEvent::Lost { group: 0, .. } => Some(()),
            KernelEvent::Restored { .. } => panic!("put back beside the next owner"),
            _ => None,
        })
        .await;
        assert!(!has(HERE, V4));
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

/// Many addresses take long to read, and those that are to be held do not wait for it.
#[test]
fn plans_are_carried_out_while_everything_is_read_anew() {
    lab(|_net| async move {
        sh("ip link add many type veth peer name third; ip link set many up")?;
        let mut rig = Rig::start(&[V4, V6]).await?;
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        let others: String =
            (0..4_000).map(|n| format!("addr add 10.20.{}.{}/32 dev many\n", n / 250, n % 250)).collect();
        let flood: String =
            (0..12_000).map(|_| "addr add 192.0.2.1/32 dev lo\naddr del 192.0.2.1/32 dev lo\n").collect();
        let batch = format!("{others}{flood}addr del {V4} dev va\n");
        let file = rig.dir.path().join("batch");
        std::fs::write(&file, batch)?;
        sh(&format!("ip -batch {}", file.display()))?;
        assert!(dropped()? > 0, "nothing was dropped: the test shows nothing");
        // The first may be carried out before the loss is known, and only one of these.
        let mut carried_out = 0;
        loop {
            rig.generation += 1;
            let generation = rig.generation;
            rig.handle.submit(GroupPlan {
                group: 1,
                generation,
                interface: index(HERE),
                addresses: vec![cidr(V6)],
                hold: Hold::Owned,
                lease: LEASE,
                until: None,
                former: vec![],
            });
            let done = rig.event(|event| match event {
                KernelEvent::Applied { group: 1, result, .. } => Some(result.map(|()| false)),
                KernelEvent::Restored { addresses, .. } => {
                    assert_eq!(addresses, [cidr(V4)]);
                    Some(Ok(true))
                }
                _ => None,
            });
            if done.await? {
                break;
            }
            carried_out += 1;
        }
        assert!(carried_out >= 3, "{carried_out} plans were carried out meanwhile");
        assert!(has(HERE, V4) && has(HERE, V6));
        Ok(())
    });
}

/// What was queued before the kernel dropped the rest is read after it was told of
/// the loss: it must not undo what was read anew.
#[test]
fn what_was_notified_before_a_loss_undoes_nothing() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        let own = cidr("10.9.0.1/24");
        rig.link(|link| link.addresses.contains(&own)).await;
        let flood: String =
            (0..12_000).map(|_| "addr add 192.0.2.1/32 dev lo\naddr del 192.0.2.1/32 dev lo\n").collect();
        let batch = format!("addr del 10.9.0.1/24 dev va\n{flood}addr add 10.9.0.1/24 dev va\n");
        let file = rig.dir.path().join("batch");
        std::fs::write(&file, batch)?;
        sh(&format!("ip -batch {}", file.display()))?;
        assert!(dropped()? > 0, "nothing was dropped: the test shows nothing");
        // The dump and what was queued are behind this one.
        rig.hold(Hold::Owned, &[V4], LEASE).await?;
        sh("ip addr add 10.9.0.77/24 dev va")?;
        let link = rig.link(|link| link.addresses.contains(&cidr("10.9.0.77/24"))).await;
        assert!(link.addresses.contains(&own), "{link:?}");
        Ok(())
    });
}

/// Notifications that the kernel could not deliver to a socket of this process.
fn dropped() -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netlink")?;
    let column = |line: &str| line.split_whitespace().nth(8).and_then(|n| n.parse::<u64>().ok());
    Ok(text.lines().filter_map(column).sum())
}

/// What was raised under the old name is put back under the new one.
#[test]
fn a_renamed_interface_gets_its_switches_back() {
    lab(|_net| async move {
        let mut rig = Rig::start(&[V4]).await?;
        rig.hold(Hold::Silent, &[V4], LEASE).await?;
        assert_eq!(switch("arp_ignore"), "1");
        let interface = index(HERE);
        sh(&format!("ip link set {HERE} down; ip link set {HERE} name vz; ip link set vz up"))?;
        rig.event(|event| match event {
            KernelEvent::Links(links) => links.into_iter().find(|l| l.name == "vz"),
            _ => None,
        })
        .await;
        rig.hold_on(interface, &[V4]).await?;
        let of_new = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/vz/{name}"));
        assert_eq!((of_new("arp_ignore")?.as_str(), of_new("arp_announce")?.as_str()), ("0\n", "0\n"));
        Ok(())
    });
}
