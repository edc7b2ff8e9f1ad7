//! What the tests, the demo and the benchmarks share.
//!
//! * [`forge`]: adverts as an attacker or a broken router would send them.
//! * [`lab`]: test hosts, as network namespaces on a bridge.
//! * [`model`]: every state that election and lease can reach.
//! * [`probe`]: clients that measure what an outage costs.
//! * [`relay_bench`]: load and proxies of the balancer's benchmark.
//! * [`scene`]: a client and two proxies that share a floating IP.
//! * [`sim`]: the cluster in one thread, with a virtual clock.
//! * [`stand_in`]: servers that stand in for databases.
//! * [`timeline`]: what clients saw, drawn in a terminal.
//! * [`vector`]: adverts of keepalived, as captured.

pub mod forge;
pub mod lab;
pub mod model;
pub mod probe;
pub mod relay_bench;
pub mod scene;
pub mod sim;
pub mod stand_in;
pub mod timeline;
pub mod vector;
