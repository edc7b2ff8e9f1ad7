//! A captured advert, as `tests/vectors/keepalived.json` keeps it.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An advert as it came over the wire, and what was configured.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vector {
    /// What is special about it.
    pub name: String,
    /// Its IP source.
    pub source: IpAddr,
    /// Its IP destination.
    pub destination: IpAddr,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// What follows the IP header, in hexadecimal digits.
    pub payload: String,
    /// The VRRP version.
    pub version: u8,
    /// The virtual router's number.
    pub vrid: u8,
    /// The sender's priority.
    pub priority: u8,
    /// The sender's interval, in milliseconds.
    pub interval_ms: u64,
    /// The virtual router's addresses.
    pub addresses: Vec<IpAddr>,
}
