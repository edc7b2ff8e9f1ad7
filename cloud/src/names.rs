//! The name that is published, checked once.

use crate::lease::LEASE_LABEL;
use hickory_proto::rr::Name;
use thiserror::Error;

/// A name or zone of the settings that cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadName {
    /// No name at all.
    #[error("{name:?} is no domain name: {reason}")]
    Malformed {
        /// As written.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name is not below the zone.
    #[error("{name} does not lie in the zone {zone}")]
    OutsideZone {
        /// The name.
        name: String,
        /// The zone.
        zone: String,
    },
}

/// A domain name, taken as absolute with or without its last dot.
pub(crate) fn parse(name: &str) -> Result<Name, BadName> {
    let malformed = |reason: String| BadName::Malformed { name: name.to_owned(), reason };
    let mut parsed = Name::from_ascii(name).map_err(|e| malformed(e.to_string()))?;
    if parsed.is_root() || name.is_empty() {
        return Err(malformed("the root is nobody's to publish".to_owned()));
    }
    parsed.set_fqdn(true);
    Ok(parsed.to_lowercase())
}

/// The name of the lease beside a name.
pub(crate) fn lease_name(name: &Name) -> Result<Name, BadName> {
    name.prepend_label(LEASE_LABEL)
        .map_err(|e| BadName::Malformed { name: format!("{LEASE_LABEL}.{name}"), reason: e.to_string() })
}
