//! The daemon's sockets, between two network namespaces.

mod namespaces;

use namespaces::{HERE, Net, Outcome, THERE, index, lab, mac};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use vipd::net::advert::{AdvertSocket, BUFFER, multicast_group, send_once};
use vipd::net::{Announcer, HOP_LIMIT, PeerSocket};
use vipd::shell::sockets::{Packet, Sockets, WAITING};
use vipd_core::settings::{Family, Transport};
use vipd_core::wire::{arp, ndp};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addresses(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (ip("10.9.0.1"), ip("10.9.0.2")),
        Family::V6 => (ip("fd09::1"), ip("fd09::2")),
    }
}

async fn roundtrip(net: &Net, family: Family, transport: Transport) -> Outcome {
    let here = AdvertSocket::open(index(HERE), family, transport)?;
    let there = net.there(|| AdvertSocket::open(index(THERE), family, transport))?;
    let (a, b) = addresses(family);
    let to = match transport {
        Transport::Unicast | Transport::Udp => b,
        Transport::Multicast => multicast_group(family),
    };
    here.send(a, to, b"an advert")?;
    let mut buffer = [0; BUFFER];
    let got = there.receive(&mut buffer).await?;
    assert_eq!((got.source, got.destination, got.hop_limit), (a, to, HOP_LIMIT));
    assert_eq!(got.payload, b"an advert");
    assert_eq!(got.interface, net.there(|| index(THERE)));

    // And back, without waiting for neighbour discovery of the first.
    there.send(b, a, b"an answer")?;
    let got = here.receive(&mut buffer).await?;
    assert_eq!((got.source, got.payload), (b, &b"an answer"[..]));
    Ok(())
}

#[test]
fn adverts_arrive_with_their_facts() {
    lab(|net| async move {
        for family in Family::ALL {
            for transport in [Transport::Unicast, Transport::Multicast] {
                roundtrip(&net, family, transport)
                    .await
                    .map_err(|e| format!("{family}, {transport:?}: {e}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_hop_limit_below_255_and_an_oversized_packet_are_reported() {
    lab(|net| async move {
        for family in Family::ALL {
            let here = AdvertSocket::open(index(HERE), family, Transport::Unicast)?;
            let (a, b) = addresses(family);
            let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
            let far = net.there(|| Socket::new(domain, Type::RAW, Some(Protocol::from(112))))?;
            far.set_ttl_v4(254).or_else(|_| far.set_unicast_hops_v6(254))?;
            if family == Family::V6 {
                far.set_unicast_hops_v6(254)?;
            }
            far.send_to(&[7; 1000], &SocketAddr::new(a, 0).into())?;
            let mut buffer = [0; 100];
            let got = here.receive(&mut buffer).await?;
            assert_eq!((got.source, got.hop_limit), (b, 254), "{family}");
            // Its beginning: the rest is cut off.
            assert!(!got.payload.is_empty() && got.payload.iter().all(|byte| *byte == 7), "{family}");
        }
        Ok(())
    });
}

#[test]
fn own_multicast_is_not_heard() {
    lab(|net| async move {
        for family in Family::ALL {
            let here = AdvertSocket::open(index(HERE), family, Transport::Multicast)?;
            let second = AdvertSocket::open(index(HERE), family, Transport::Multicast)?;
            let there = net.there(|| AdvertSocket::open(index(THERE), family, Transport::Multicast))?;
            let (a, b) = addresses(family);
            here.send(a, multicast_group(family), b"mine")?;
            net.there(|| send_once(index(THERE), b, multicast_group(family), b"theirs"))?;
            let mut buffer = [0; BUFFER];
            for socket in [&here, &second] {
                assert_eq!(socket.receive(&mut buffer).await?.payload, b"theirs");
            }
            assert_eq!(there.receive(&mut buffer).await?.payload, b"mine");
        }
        Ok(())
    });
}

#[test]
fn a_source_that_is_not_ours_is_refused() {
    lab(|_net| async move {
        let here = AdvertSocket::open(index(HERE), Family::V4, Transport::Unicast)?;
        assert!(here.send(ip("10.9.0.77"), ip("10.9.0.2"), b"x").is_err());
        here.send(ip("10.9.0.1"), ip("10.9.0.2"), b"x")?;
        Ok(())
    });
}

#[test]
fn nodes_talk_over_udp() {
    lab(|net| async move {
        for family in Family::ALL {
            let (a, b) = addresses(family);
            let (a, b) = (SocketAddr::new(a, 4112), SocketAddr::new(b, 4112));
            let here = PeerSocket::bind(a)?;
            let there = net.there(|| PeerSocket::bind(b))?;
            here.send(b, b"state")?;
            let mut buffer = [0; 1500];
            let got = there.receive(&mut buffer).await?;
            assert_eq!((got.source, got.hop_limit, got.payload), (a, HOP_LIMIT, &b"state"[..]));
            // An address that the host does not have yet can be bound.
            PeerSocket::bind(SocketAddr::new(
                if a.is_ipv4() { ip("10.9.0.9") } else { ip("fd09::9") },
                4113,
            ))?;
        }
        Ok(())
    });
}

#[test]
fn announcements_are_seen_at_the_other_end() {
    lab(|net| async move {
        let all = SockProtocol::EthAll;
        let mut sniffer: Socket =
            net.there(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all))?.into();
        setsockopt(&sniffer, sockopt::RcvBufForce, &(4 << 20))?;
        sniffer.set_read_timeout(Some(Duration::from_secs(2)))?;
        let vips: Vec<IpAddr> = (0..100)
            .map(|n| ip(&format!("10.9.0.{}", n + 100)))
            .chain((0..100).map(|n| ip(&format!("fd09::1:{n:x}"))))
            .collect();
        let mac = mac(HERE);
        let announcer = Announcer::open(index(HERE), mac)?;
        let start = Instant::now();
        let done = announcer.announce(&vips);
        let took = start.elapsed();
        eprintln!("announced {} addresses in {} frames: {took:?}", vips.len(), done.frames);
        assert!(done.unsent.is_empty() && done.error.is_none(), "{done:?}");
        assert_eq!(done.frames, 300);
        assert!(took < Duration::from_millis(20), "{took:?}");

        let mut expected: Vec<Vec<u8>> = Vec::new();
        for vip in &vips {
            match vip {
                IpAddr::V4(a) => {
                    expected.extend(arp::Form::ALL.map(|f| arp::gratuitous(mac, *a, f).to_vec()))
                }
                IpAddr::V6(a) => expected.push(ndp::unsolicited(mac, *a, *a).to_vec()),
            }
        }
        let mut buffer = [0; 2048];
        while !expected.is_empty() {
            let length = sniffer.read(&mut buffer)?;
            // The kernel's own chatter on a new link passes by.
            if buffer[..length] == expected[0][..] {
                expected.remove(0);
            }
        }
        Ok(())
    });
}

/// An owner of many addresses announces them, releases them, and another owns:
/// what was announced before must not be read after.
#[test]
fn claims_that_nobody_had_the_time_for_are_forgotten() {
    lab(|net| async move {
        let marker = ip("10.9.1.255");
        let many: Vec<IpAddr> = (0..225).map(|n| ip(&format!("10.9.1.{n}"))).collect();
        let (packets, mut heard) = mpsc::channel(WAITING);
        let mut sockets = Sockets::new(Transport::Unicast, BTreeSet::new(), packets);
        let watched = many.iter().copied().chain([marker]).collect();
        sockets.watch_claims(&BTreeMap::from([((index(HERE), Family::V4), watched)]))?;
        let announcer = net.there(|| Announcer::open(index(THERE), mac(THERE)))?;
        let (mut announced, mut claims) = (0, 0);
        for some in many.chunks(25) {
            announced += announcer.announce(some).frames;
            // As many as are looked at, at once, and then some that wait.
            while claims < announced.min(400) {
                heard.recv().await.ok_or("nothing is heard")?;
                claims += 1;
            }
        }
        assert_eq!(announced, 450);
        loop {
            tokio::select! {
                packet = heard.recv() => match packet {
                    Some(Packet::Claim { claim, .. }) if claim.address == marker => break,
                    Some(_) => claims += 1,
                    None => return Err("nothing is heard".into()),
                },
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    announcer.announce(&[marker]);
                }
            }
        }
        assert!(claims < 425, "{claims} of 450");
        Ok(())
    });
}

#[test]
fn a_neighbour_believes_the_announcement() {
    lab(|net| async move {
        // The neighbour knows the addresses at another MAC.
        net.there(|| {
            namespaces::sh(
                "ip neigh add 10.9.0.100 lladdr 02:00:00:00:00:99 dev vb nud stale
                 ip neigh add fd09::100 lladdr 02:00:00:00:00:99 dev vb nud stale",
            )
        })?;
        let (mac, text) = (mac(HERE), namespaces::output("ip -o link show va")?);
        let done = Announcer::open(index(HERE), mac)?.announce(&[ip("10.9.0.100"), ip("fd09::100")]);
        assert!(done.error.is_none(), "{done:?}");
        // veth delivers before send returns, or shortly after in its softirq.
        let own =
            text.split("link/ether ").nth(1).and_then(|t| t.split(' ').next()).ok_or("no MAC")?.to_owned();
        let known = |address: &str| net.there(|| namespaces::output(&format!("ip neigh show {address}")));
        for address in ["10.9.0.100", "fd09::100"] {
            let deadline = Instant::now() + Duration::from_secs(2);
            while !known(address)?.contains(&own) {
                assert!(Instant::now() < deadline, "{}", known(address)?);
            }
        }
        Ok(())
    });
}

#[test]
fn an_interface_that_is_down_or_absent_is_an_error_not_a_hang() {
    lab(|_net| async move {
        namespaces::sh("ip link set va down")?;
        let announcer = Announcer::open(index(HERE), [2; 6])?;
        let done = announcer.announce(&[ip("10.9.0.100"), ip("10.9.0.101")]);
        assert_eq!(done.unsent.len(), 2);
        assert!(done.error.is_some());
        assert!(Announcer::open(9999, [2; 6]).is_err());
        assert!(AdvertSocket::open(9999, Family::V4, Transport::Unicast).is_err());
        Ok(())
    });
}
