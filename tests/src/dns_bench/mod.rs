//! What `make bench-dns` is made of: the servers, the queries, the updates.

pub mod queries;
pub mod servers;
pub mod updates;
