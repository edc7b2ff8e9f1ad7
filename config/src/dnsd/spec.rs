//! The file as it is written: a struct for each table, a field for each key.

use super::value::{DnsName, GrantNames, PeerText, RrType};
use crate::address::{Network, Socket};
use crate::shape::{Field, List, Section, Table, keys_of};
use crate::value::{FilePath, Number};
use serde::Deserialize;
use std::time::Duration;
use vipd_core::settings::KeyAlgorithm;

macro_rules! sections {
    ($($section:ident = $name:literal;)*) => {
        $(impl Section for $section {
            const NAME: &'static str = $name;
            const LATER: &'static [(&'static str, Option<&'static str>)] = &[];

            fn homes(key: &str) -> Vec<&'static str> {
                sections().into_iter().filter(|(_, keys)| keys.contains(&key)).map(|(name, _)| name).collect()
            }
        })*

        /// Every section with its keys.
        pub(super) fn sections() -> Vec<(&'static str, &'static [&'static str])> {
            vec![$(($name, keys_of::<$section>())),*]
        }
    };
}

sections! {
    Spec = "the file";
    ZoneSpec = "[[zone]]";
    KeySpec = "[[key]]";
    GrantSpec = "a grant of [[key]]";
    RateLimitSpec = "[rate-limit]";
    StatusSpec = "[status]";
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Spec {
    pub(super) listen: Field<List<Socket>>,
    pub(super) state_dir: Field<FilePath>,
    pub(super) zone: Field<List<Table<ZoneSpec>>>,
    pub(super) key: Field<List<Table<KeySpec>>>,
    pub(super) rate_limit: Field<Table<RateLimitSpec>>,
    pub(super) status: Field<Table<StatusSpec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct ZoneSpec {
    pub(super) name: Field<DnsName>,
    pub(super) primary_ns: Field<DnsName>,
    pub(super) contact: Field<DnsName>,
    pub(super) negative_ttl: Field<Duration>,
    pub(super) file: Field<FilePath>,
    pub(super) allow_transfer: Field<List<PeerText>>,
    pub(super) notify: Field<List<Socket>>,
    pub(super) min_lease: Field<Duration>,
    pub(super) max_lease: Field<Duration>,
    pub(super) expire_last: Field<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct KeySpec {
    pub(super) name: Field<DnsName>,
    pub(super) algorithm: Field<KeyAlgorithm>,
    pub(super) secret_file: Field<FilePath>,
    pub(super) grant: Field<List<Table<GrantSpec>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct GrantSpec {
    pub(super) name: Field<GrantNames>,
    pub(super) types: Field<List<RrType>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RateLimitSpec {
    pub(super) responses_per_second: Field<Number<0, 1_000_000>>,
    pub(super) slip: Field<Number<0, 100>>,
    pub(super) exempt: Field<List<Network>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct StatusSpec {
    pub(super) http: Field<Socket>,
}
