//! What `make bench-balancer` is made of: the load, and the proxies between.

pub mod load;
pub mod proxies;
