//! keepalived's own adverts, as captured in the lab: what it sends is read,
//! and what vipd sends in its place is the same to the byte.

use std::time::Duration;
use vipd_core::settings::VrrpVersion;
use vipd_core::wire::advert::Advert;
use vipd_tests::vector::Vector;

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("two hexadecimal digits")).collect()
}

#[test]
fn keepalived_speaks_as_we_do() {
    let text = include_str!("../vectors/keepalived.json");
    let vectors: Vec<Vector> = serde_json::from_str(text).expect("a list of vectors");
    assert!(vectors.len() >= 8, "version 2 and 3, IPv4 and IPv6, unicast and multicast");
    for vector in vectors {
        let payload = bytes(&vector.payload);
        let advert = Advert::parse(&payload, vector.source, vector.destination)
            .unwrap_or_else(|e| panic!("{}: {e}", vector.name));
        assert_eq!(vector.ttl, 255, "{}", vector.name);
        let version = if vector.version == 2 { VrrpVersion::V2 } else { VrrpVersion::V3 };
        assert_eq!(advert.version, version, "{}", vector.name);
        assert_eq!(advert.vrid.get(), vector.vrid, "{}", vector.name);
        assert_eq!(advert.priority, vector.priority, "{}", vector.name);
        assert_eq!(advert.interval, Duration::from_millis(vector.interval_ms), "{}", vector.name);
        assert_eq!(advert.addresses, vector.addresses, "{}", vector.name);
        assert_eq!(advert.write(vector.source, vector.destination), payload, "{}", vector.name);
    }
}
