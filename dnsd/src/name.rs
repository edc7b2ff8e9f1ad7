//! Domain names as the zone holds them: in wire form, in lower case, without
//! compression (RFC 1035, section 3.1; RFC 4034, section 6.2).

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// A name in wire form and lower case.
pub type Wire = Box<[u8]>;

/// The longest name with its length octets (RFC 1035, section 2.3.4).
pub const MAX_NAME: usize = 255;

/// The name that the configuration spells, in lower case and with a dot at the end.
#[must_use]
pub fn from_text(text: &str) -> Wire {
    let mut wire = Vec::with_capacity(text.len() + 1);
    for label in text.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        // The configuration's names have labels of at most 63 bytes.
        wire.push(u8::try_from(label.len()).unwrap_or(0));
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    wire.into()
}

/// A parsed name.
#[must_use]
pub fn of(name: &Name) -> Wire {
    let mut wire = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        wire.push(u8::try_from(label.len()).unwrap_or(0));
        wire.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    wire.push(0);
    wire.into()
}

/// The name as hickory has it.
#[must_use]
pub fn to_name(wire: &[u8]) -> Name {
    let mut name = Name::read(&mut BinDecoder::new(wire)).unwrap_or_default();
    name.set_fqdn(true);
    name
}

/// The name for people, with a dot at the end.
#[must_use]
pub fn show(wire: &[u8]) -> String {
    to_name(wire).to_ascii()
}

/// The name one label up; `None` for the root.
#[must_use]
pub fn parent(wire: &[u8]) -> Option<&[u8]> {
    match wire.first() {
        None | Some(0) => None,
        Some(length) => wire.get(1 + usize::from(*length)..),
    }
}

/// The name itself and the names above it, up to the root.
pub fn upwards(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(wire), |name| parent(name))
}

/// Whether a name is the other one or below it.
#[must_use]
pub fn within(wire: &[u8], above: &[u8]) -> bool {
    wire.len() >= above.len() && upwards(wire).any(|name| name == above)
}

/// `*` below a name.
#[must_use]
pub fn wildcard(wire: &[u8]) -> Wire {
    [b"\x01*", wire].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_know_what_is_above_them() {
        let name = from_text("db.corp.example.");
        assert_eq!(&*name, b"\x02db\x04corp\x07example\x00");
        assert_eq!(of(&to_name(&name)), name);
        assert_eq!(show(&name), "db.corp.example.");
        assert_eq!(upwards(&name).count(), 4);
        assert!(within(&name, &from_text("example.")));
        assert!(within(&name, &name));
        assert!(!within(&name, &from_text("xcorp.example.")));
        assert!(!within(&from_text("example."), &name));
        assert_eq!(&*from_text("."), b"\0");
    }
}
