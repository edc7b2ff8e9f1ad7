//! The lease of a name: the TXT record `_vipd.<name>` that tells which records
//! were written last, by whom, and as which epoch. Writers change it and the
//! records in one step, and only from the exact state that they have read.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use thiserror::Error;

/// No epoch above it is believed; there is room for as many again.
const LAST_EPOCH: u64 = u64::MAX / 2;

/// The label before a name under which its lease stands.
pub const LEASE_LABEL: &str = "_vipd";

/// The longest string within a TXT record (RFC 1035, section 3.3).
const MAX_CHARACTER_STRING: usize = 255;

/// A node's name as it stands in a lease: visible ASCII without quotes and
/// backslashes, so that every store gives it back as it was written.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Owner(String);

/// A node's name that cannot stand in a lease.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} cannot stand in a lease: 1 to 63 visible ASCII characters without quotes and backslashes")]
pub struct BadOwner(String);

impl Owner {
    /// The owner of this name.
    ///
    /// # Errors
    /// The name is empty, too long, or has characters other than those allowed.
    pub fn new(name: &str) -> Result<Self, BadOwner> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
            return Err(BadOwner(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was written last. It is also the order to write: the records of a name
/// are `addresses` with `ttl` from the moment its lease says so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Grows by one with every write; at most half of `u64::MAX`.
    pub epoch: u64,
    /// The node that wrote.
    pub owner: Owner,
    /// The records' time to live, in seconds.
    pub ttl: u32,
    /// The addresses of the A and AAAA records.
    pub addresses: BTreeSet<IpAddr>,
}

impl Lease {
    /// The lease as the character strings of one TXT record.
    pub(crate) fn to_strings(&self) -> Vec<String> {
        strings(&self.to_string())
    }
}

/// A text as the character strings of a TXT record.
pub(crate) fn strings(text: &str) -> Vec<String> {
    // Leases are ASCII: they may be cut anywhere.
    let chunks = text.as_bytes().chunks(MAX_CHARACTER_STRING);
    chunks.map(|c| String::from_utf8_lossy(c).into_owned()).collect()
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch={} owner={} ttl={} set=", self.epoch, self.owner, self.ttl)?;
        for (i, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A text that is no lease.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("not `epoch=N owner=NODE ttl=SECONDS set=ADDRESS,...`")]
pub struct BadLease;

impl FromStr for Lease {
    type Err = BadLease;

    fn from_str(text: &str) -> Result<Self, BadLease> {
        let mut words = text.split(' ');
        let mut value = |key: &str| {
            let word = words.next().ok_or(BadLease)?;
            word.strip_prefix(key).and_then(|w| w.strip_prefix('=')).ok_or(BadLease)
        };
        let epoch: u64 = value("epoch")?.parse().map_err(|_| BadLease)?;
        let owner = Owner::new(value("owner")?).map_err(|_| BadLease)?;
        let ttl = value("ttl")?.parse().map_err(|_| BadLease)?;
        let addresses = match value("set")? {
            "" => BTreeSet::new(),
            list => list.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| BadLease)?,
        };
        // Nobody has come so far by writing: somebody's edit, after which no epoch
        // would follow for long.
        if words.next().is_some() || epoch > LAST_EPOCH {
            return Err(BadLease);
        }
        Ok(Self { epoch, owner, ttl, addresses })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    pub(crate) fn any_lease() -> impl Strategy<Value = Lease> {
        let addresses = prop::collection::btree_set(any_address(), 0..20);
        (0..=LAST_EPOCH, "[!#-\\[\\]-~]{1,63}", any::<u32>(), addresses)
            .prop_map(|(epoch, owner, ttl, addresses)| Lease { epoch, owner: Owner(owner), ttl, addresses })
    }

    proptest! {
        #[test]
        fn a_lease_is_read_as_it_was_written(lease in any_lease()) {
            let strings = lease.to_strings();
            prop_assert!(strings.iter().all(|s| s.len() <= MAX_CHARACTER_STRING));
            prop_assert_eq!(strings.concat().parse::<Lease>(), Ok(lease));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Lease>();
        }
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        for text in [
            "",
            "epoch=1",
            "epoch=1 owner=px1 ttl=5",
            "epoch=-1 owner=px1 ttl=5 set=",
            "epoch=18446744073709551615 owner=px1 ttl=5 set=",
            "epoch=1 owner= ttl=5 set=",
            "epoch=1 owner=px1 ttl=5 set=10.0.0.1,",
            "epoch=1 owner=px1 ttl=5 set=10.0.0.1 more",
            "owner=px1 epoch=1 ttl=5 set=",
        ] {
            assert_eq!(text.parse::<Lease>(), Err(BadLease), "{text}");
        }
        for name in ["", "a b", "a\"", "a\\", "ü", &"a".repeat(64)] {
            assert!(Owner::new(name).is_err(), "{name}");
        }
    }
}
