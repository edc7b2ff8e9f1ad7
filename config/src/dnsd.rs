//! The configuration file of dnsd, `/etc/dnsd/dnsd.toml`: text to checked types.

mod check;
mod spec;
mod value;

pub(crate) use value::DnsName;

use crate::report::{Errors, Warning};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vipd_core::settings::{Cidr, KeyAlgorithm};

/// A file that was found good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The addresses that are served, UDP and TCP, one socket each.
    pub listen: Vec<SocketAddr>,
    /// Where the journals are.
    pub state_dir: PathBuf,
    /// `[[zone]]`, in the file's order.
    pub zones: Vec<Zone>,
    /// `[[key]]`, in the file's order.
    pub keys: Vec<Key>,
    /// `[rate-limit]`.
    pub rate_limit: RateLimit,
    /// `[status]`: where metrics are served; off when absent.
    pub status: Option<SocketAddr>,
    /// What is allowed and probably not meant, sorted by place.
    pub warnings: Vec<Warning>,
}

/// A zone. Names are in lower case and end with a dot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Zone {
    /// The apex.
    pub name: String,
    /// MNAME of the SOA record, and the NS record when the file has none.
    pub primary_ns: String,
    /// RNAME of the SOA record.
    pub contact: String,
    /// How long "there is no such name" may be kept, in whole seconds.
    pub negative_ttl: u32,
    /// Static records in master-file form.
    pub file: Option<PathBuf>,
    /// Who may transfer the zone.
    pub allow_transfer: Vec<Peer>,
    /// Secondaries that are told of changes.
    pub notify: Vec<SocketAddr>,
    /// Update leases shorter than this are lengthened.
    pub min_lease: Duration,
    /// Update leases longer than this are shortened.
    pub max_lease: Duration,
    /// Whether an expired lease may take the last record of a set.
    pub expire_last: bool,
}

/// Who may transfer a zone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Whoever signs with this key.
    Key(String),
    /// Whoever asks from this network.
    Network(Cidr),
}

/// A TSIG key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// Its name, in lower case, with a dot at the end.
    pub name: String,
    /// The hash.
    pub algorithm: KeyAlgorithm,
    /// The file with the secret in base64.
    pub secret_file: PathBuf,
    /// What it may change.
    pub grants: Vec<Grant>,
}

/// What a key may change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The names.
    pub names: Names,
    /// The types, as their numbers; empty: every type.
    pub types: Vec<u16>,
}

/// The names of a grant, in lower case, with a dot at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Names {
    /// This name, and the names directly below it that begin with an
    /// underscore: they say something about it (RFC 8552).
    One(String),
    /// Every name below this one: `*.NAME`.
    Below(String),
}

/// `[rate-limit]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// Equal answers a second to a network (/24 or /56) over UDP; 0 is no limit.
    pub responses_per_second: u32,
    /// Every how manieth answer above the limit is a truncated one, so that an
    /// honest client comes back over TCP; 0: none.
    pub slip: u32,
    /// Networks without a limit.
    pub exempt: Vec<Cidr>,
}

impl Config {
    /// Reads and judges the text of a file that is called `file_name` in messages.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the text, sorted by place.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Errors> {
        let (config, warnings) = crate::read(text, file_name, check::config)?;
        Ok(Self { warnings, ..config })
    }

    /// Reads and judges a file.
    ///
    /// # Errors
    ///
    /// One error about the file as a whole when it cannot be read or is not
    /// UTF-8; else as [`Config::parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Errors> {
        crate::load(path.as_ref(), Self::parse)
    }
}

/// Every table of the file with the keys that it may hold, as the file spells
/// them: for documentation and completion.
#[must_use]
pub fn keys() -> Vec<(&'static str, &'static [&'static str])> {
    spec::sections()
}
