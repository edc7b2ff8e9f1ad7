//! What the tests, the demo and the benchmarks share.
//!
//! * [`lab`]: test hosts, as network namespaces on a bridge.
//! * [`scene`]: a client and two proxies that share a floating IP.
//! * [`probe`]: clients that measure what an outage costs.
//! * [`stand_in`]: servers that stand in for databases.
//! * [`forge`]: adverts as an attacker or a broken router would send them.

pub mod forge;
pub mod lab;
pub mod probe;
pub mod scene;
pub mod stand_in;
