//! A cluster in one thread: real [`Node`]s, a virtual clock, a network that
//! loses, delays, doubles and cuts, and a kernel that answers late. Everything
//! follows from a seed.

pub mod clock;
pub mod etcd;
pub mod host;
pub mod rng;
pub mod settings;
pub mod world;

pub use host::{Host, Power, WitnessHost};
pub use rng::Rng;
pub use world::{By, Fault, World};
