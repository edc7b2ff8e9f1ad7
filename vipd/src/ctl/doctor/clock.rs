//! The other nodes' clocks. They are asked by ICMP (RFC 792, timestamp): that
//! works whether vipd runs there or not. Elections need no wall clock; TSIG,
//! certificates, and whoever compares the hosts' logs do.

use super::{Findings, Verdict};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vipd_config::Config;

const ABOUT: &str = "clock";
/// Neighbours answer in less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
/// From here on the order of two hosts' log lines is a guess.
const ODD_MS: i64 = 1000;
/// TSIG and AWS refuse from 300 s on.
const BAD_MS: i64 = 240_000;
const DAY_MS: i64 = 86_400_000;
const REQUEST: u8 = 13;
const REPLY: u8 = 14;

/// Compares this host's clock with every other node's.
pub(super) fn look(config: &Config, me: usize, findings: &mut Findings) {
    for (_, member) in config.cluster.nodes.iter().enumerate().filter(|(n, _)| *n != me) {
        let v4 = member.addresses.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
        let name = &member.name;
        let Some(address) = v4 else {
            let text = format!("{name}'s cannot be asked: that takes IPv4");
            findings.fix(Verdict::Unknown, ABOUT, text, "timedatectl on both");
            continue;
        };
        match ask(address) {
            Ok(ahead) => judge(name, address, ahead, findings),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("{name}'s: asking for it needs the right to open raw sockets");
                findings.fix(Verdict::Unknown, ABOUT, text, "sudo vipctl doctor");
            }
            Err(error) => {
                let text = format!(
                    "{name}'s is not known: it does not answer ICMP timestamps ({})",
                    crate::words(&error)
                );
                findings.fix(Verdict::Unknown, ABOUT, text, format!("date -u; ssh {address} date -u"));
            }
        }
    }
}

fn judge(name: &str, address: Ipv4Addr, ahead: i64, findings: &mut Findings) {
    let off = ahead.unsigned_abs();
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let text = format!("{name}'s is {}.{:03} s {way} this host's", off / 1000, off % 1000);
    let verdict = match ahead.abs() {
        0..ODD_MS => return findings.good(ABOUT, text),
        ODD_MS..BAD_MS => Verdict::Warning,
        _ => Verdict::Bad,
    };
    let fix = format!("timedatectl set-ntp true; ssh {address} timedatectl set-ntp true");
    findings.fix(verdict, ABOUT, text, fix);
}

/// Milliseconds by which another host's clock is ahead of this one's.
fn ask(address: Ipv4Addr) -> io::Result<i64> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.connect(&SockAddr::from(SocketAddr::from((address, 0))))?;
    let id = std::process::id().to_be_bytes();
    let sent = now();
    socket.send(&request([id[2], id[3]], sent))?;
    let until = Instant::now() + PATIENCE;
    let mut packet = [0; 512];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = match (&socket).read(&mut packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            length => length?,
        };
        if let Some(ahead) = reply(&packet[..length], [id[2], id[3]], now()) {
            return Ok(ahead);
        }
    }
}

/// Milliseconds since midnight, UTC, as the message has them.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_millis() % u128::from(DAY_MS.unsigned_abs())).unwrap_or(0)
}

fn request(id: [u8; 2], sent: u32) -> [u8; 20] {
    let mut message = [0; 20];
    message[0] = REQUEST;
    message[4..6].copy_from_slice(&id);
    message[8..12].copy_from_slice(&sent.to_be_bytes());
    let sum = message.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// What an IP packet that came at `now` says, if it is the reply: half of the
/// difference of both ways, so that the way itself does not count.
fn reply(packet: &[u8], id: [u8; 2], now: u32) -> Option<i64> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let message = packet.get(header..header + 20)?;
    if message[0] != REPLY || message[4..6] != id {
        return None;
    }
    let time = |at: usize| {
        let ms = u32::from_be_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        // The highest bit: no time since midnight (RFC 792).
        (ms >> 31 == 0).then_some(i64::from(ms))
    };
    let (sent, received, answered) = (time(8)?, time(12)?, time(16)?);
    let twice = wrapped(received - sent) + wrapped(answered - i64::from(now));
    Some(twice / 2)
}

/// Midnight may lie between two times.
fn wrapped(difference: i64) -> i64 {
    (difference + DAY_MS / 2).rem_euclid(DAY_MS) - DAY_MS / 2
}

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;

    fn packet(received: u32, answered: u32, sent: u32) -> Vec<u8> {
        let mut message = request([1, 2], sent).to_vec();
        message[0] = REPLY;
        message[12..16].copy_from_slice(&received.to_be_bytes());
        message[16..20].copy_from_slice(&answered.to_be_bytes());
        [vec![0x45; 1], vec![0; 19], message].concat()
    }

    #[test]
    fn the_way_does_not_count_and_midnight_does_not_either() {
        let of = |received, answered, sent, now| reply(&packet(received, answered, sent), [1, 2], now);
        assert_eq!(of(1_005, 1_005, 1_000, 1_010), Some(0), "ten milliseconds there and back");
        assert_eq!(of(91_005, 91_005, 1_000, 1_010), Some(90_000));
        assert_eq!(of(86_399_900, 86_399_900, 100, 100), Some(-200), "yesterday there");
        assert_eq!(of(100, 100, 86_399_900, 86_399_900), Some(200), "tomorrow there");
        assert_eq!(of(1 << 31, 5, 5, 5), None, "no time since midnight");
        assert_eq!(reply(&packet(1, 1, 1), [1, 3], 1), None, "another's");
        for cut in 0..40 {
            assert_eq!(reply(&packet(1, 1, 1)[..cut], [1, 2], 1), None);
        }
    }

    /// RFC 1071: the sum over a message with its checksum is all ones.
    #[test]
    fn the_checksum_is_right() {
        let sum: u32 = request([0xab, 0xcd], 86_399_999)
            .chunks(2)
            .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much() {
        let mut findings = Findings::default();
        for ahead in [999, -2_500, 300_000] {
            judge("px2", Ipv4Addr::new(10, 77, 0, 12), ahead, &mut findings);
        }
        let told: Vec<(Verdict, &str)> = findings.0.iter().map(|f: &Finding| (f.verdict, &*f.text)).collect();
        let wanted = [
            (Verdict::Good, "px2's is 0.999 s ahead of this host's"),
            (Verdict::Warning, "px2's is 2.500 s behind this host's"),
            (Verdict::Bad, "px2's is 300.000 s ahead of this host's"),
        ];
        assert_eq!(told, wanted);
    }
}
