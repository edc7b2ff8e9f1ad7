//! Servers that stand in for databases, and the responder that shows where a
//! floating IP is.

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers each line with the server's name, the number of the connection,
/// the number of the line on it, and the line.
///
/// # Errors
/// If it cannot listen.
pub fn serve(name: &str, bind: SocketAddr, ready: impl FnOnce()) -> Result<()> {
    let socket =
        Socket::new(Domain::for_address(bind), Type::STREAM, None).context("cannot open a socket")?;
    socket.set_reuse_address(true).context("cannot set SO_REUSEADDR")?;
    socket.bind(&bind.into()).with_context(|| format!("cannot bind {bind}"))?;
    socket.listen(4096).with_context(|| format!("cannot listen on {bind}"))?;
    let listener = TcpListener::from(socket);
    ready();
    let name: Arc<str> = name.into();
    let connections = AtomicU64::new(0);
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let number = connections.fetch_add(1, Ordering::Relaxed) + 1;
        let name = Arc::clone(&name);
        // Thousands of connections: small stacks.
        let thread = std::thread::Builder::new().stack_size(128 * 1024);
        thread.spawn(move || converse(&name, number, stream)).context("cannot start a thread")?;
    }
    Ok(())
}

fn converse(name: &str, connection: u64, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    for (line, text) in (1_u64..).zip(BufReader::new(stream).lines()) {
        let Ok(text) = text else { return };
        if writer.write_all(format!("{name} {connection} {line} {text}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// Answers each datagram, from the address it was sent to, with its first
/// eight bytes and the responder's name.
///
/// # Errors
/// If it cannot listen.
pub fn echo(name: &str, port: u16, ready: impl FnOnce()) -> Result<()> {
    let v4 = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], port))).context("cannot bind UDP on IPv4")?;
    setsockopt(&v4, sockopt::Ipv4PacketInfo, &true).context("cannot set IP_PKTINFO")?;
    let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None)
        .and_then(|s| s.set_only_v6(true).map(|()| s))
        .and_then(|s| s.bind(&SocketAddr::from(([0_u16; 8], port)).into()).map(|()| s))
        .context("cannot bind UDP on IPv6")?;
    setsockopt(&v6, sockopt::Ipv6RecvPacketInfo, &true).context("cannot set IPV6_RECVPKTINFO")?;
    ready();
    std::thread::scope(|scope| {
        scope.spawn(|| echo_v4(name, &v4));
        scope.spawn(|| echo_v6(name, &v6));
    });
    Ok(())
}

fn echo_v4(name: &str, socket: &UdpSocket) {
    let mut buffer = [0; 64];
    let mut control = cmsg_space!(nix::libc::in_pktinfo);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        let Ok(received) = received else { continue };
        let asked =
            received.cmsgs().ok().into_iter().flatten().find_map(|c| {
                if let ControlMessageOwned::Ipv4PacketInfo(info) = c { Some(info) } else { None }
            });
        let (Some(mut info), Some(from), length) = (asked, received.address, received.bytes) else {
            continue;
        };
        info.ipi_spec_dst = info.ipi_addr;
        info.ipi_ifindex = 0;
        let parts = [IoSlice::new(&buffer[..length.min(8)]), IoSlice::new(name.as_bytes())];
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        // The address may have gone in between: then there is no answer.
        let _ = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&from));
    }
}

fn echo_v6(name: &str, socket: &Socket) {
    let mut buffer = [0; 64];
    let mut control = cmsg_space!(nix::libc::in6_pktinfo);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        let Ok(received) = received else { continue };
        let asked =
            received.cmsgs().ok().into_iter().flatten().find_map(|c| {
                if let ControlMessageOwned::Ipv6PacketInfo(info) = c { Some(info) } else { None }
            });
        let (Some(info), Some(from), length) = (asked, received.address, received.bytes) else { continue };
        let parts = [IoSlice::new(&buffer[..length.min(8)]), IoSlice::new(name.as_bytes())];
        let control = [ControlMessage::Ipv6PacketInfo(&info)];
        let _ = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&from));
    }
}
/// The mark of [`clock`]'s packets, by which a firewall tells them from the kernel's.
pub const CLOCK_MARK: u32 = 7;

/// Answers ICMP timestamps (RFC 792), which ask for the time of day, with one
/// that is ahead by so many milliseconds.
///
/// # Errors
/// If there can be no raw socket.
pub fn clock(ahead: u32, ready: impl FnOnce()) -> Result<()> {
    const DAY: u32 = 86_400_000;
    let socket =
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).context("cannot open a raw socket")?;
    socket.set_mark(CLOCK_MARK).context("cannot mark packets")?;
    ready();
    let mut packet = [0_u8; 512];
    loop {
        let length = (&socket).read(&mut packet)?;
        let header = usize::from(packet[0] & 0x0f) * 4;
        let Some(message) = packet[..length].get(header..header + 20).filter(|m| m[0] == 13) else {
            continue;
        };
        let mut answer = message.to_vec();
        let asked = u32::from_be_bytes([message[8], message[9], message[10], message[11]]);
        let time = ((asked + ahead) % DAY).to_be_bytes();
        (answer[0], answer[2], answer[3]) = (14, 0, 0);
        answer[12..16].copy_from_slice(&time);
        answer[16..20].copy_from_slice(&time);
        let sum: u32 = answer.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16));
        answer[2..4].copy_from_slice(&checksum.to_be_bytes()[2..]);
        let from = IpAddr::from([packet[12], packet[13], packet[14], packet[15]]);
        socket.send_to(&answer, &SocketAddr::new(from, 0).into())?;
    }
}
