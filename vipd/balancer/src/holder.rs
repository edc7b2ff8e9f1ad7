//! Who holds a port: what `ss -ltnp` would tell, for an error's text.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in /proc/net/tcp (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The process that listens where `address` cannot: "haproxy (pid 812)".
pub(crate) fn of(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| inode(line, address))
    })?;
    let link = format!("socket:[{inode}]");
    let holder = fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str())).then_some(pid)
    });
    let Some(pid) = holder else { return Some("a process that this user may not look into".into()) };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim_end()))
}

/// The inode of a line's socket, if that listens where `address` would.
fn inode(line: &str, address: SocketAddr) -> Option<u64> {
    // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let (state, inode) = (fields.nth(1)?, fields.nth(5)?);
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = parse(ip)?;
    let meets = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
    (state == LISTEN && port == address.port() && meets).then(|| inode.parse().ok())?
}

/// An address as the kernel prints it: words of 32 bits in the host's order.
fn parse(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "   1: 0B004D0A:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 f";
        assert_eq!(inode(line, SocketAddr::from(([10, 77, 0, 11], 3306))), Some(4711));
        assert_eq!(inode(line, SocketAddr::from(([10, 77, 0, 12], 3306))), None);
        assert_eq!(inode(line, SocketAddr::from(([10, 77, 0, 11], 3307))), None);
        assert_eq!(inode(&line.replace(" 0A ", " 01 "), SocketAddr::from(([10, 77, 0, 11], 3306))), None);
        assert_eq!(parse("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(parse("0000"), None);
    }
}
