//! What the tests, the demo and the benchmarks share.
//!
//! * [`crowd`]: thousands of clients, and a server that has patience with them.
//! * [`dns_bench`]: load and servers of dnsd's benchmark.
//! * [`documents`]: the commands that the documents show.
//! * [`forge`]: adverts as an attacker or a broken router would send them.
//! * [`fuzz`]: what holds whatever the network brings; the targets of `make fuzz`.
//! * [`lab`]: test hosts, as network namespaces on a bridge.
//! * [`name_demo`]: the demo where no address floats.
//! * [`model`]: every state that election and lease can reach.
//! * [`nemesis`]: random faults against real daemons, and who owned meanwhile.
//! * [`picture`]: the same as [`timeline`], for the documents.
//! * [`probe`]: clients that measure what an outage costs.
//! * [`relay_bench`]: load and proxies of the balancer's benchmark.
//! * [`route53`]: the fake of Route 53 as a process of the lab.
//! * [`scene`]: a client and two proxies that share a floating IP.
//! * [`sim`]: the cluster in one thread, with a virtual clock.
//! * [`stand_in`]: servers that stand in for databases.
//! * [`timeline`]: what clients saw, drawn in a terminal.
//! * [`vector`]: adverts of keepalived, as captured.

pub mod crowd;
pub mod dns_bench;
pub mod documents;
pub mod forge;
pub mod fuzz;
pub mod lab;
pub mod model;
pub mod name_demo;
pub mod nemesis;
pub mod picture;
pub mod probe;
pub mod relay_bench;
pub mod route53;
pub mod scene;
pub mod sim;
pub mod stand_in;
pub mod timeline;
pub mod vector;
