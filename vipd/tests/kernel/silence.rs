//! Addresses that are held silently: local, and not answered for.

use super::*;

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
