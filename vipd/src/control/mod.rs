//! What a running daemon tells of itself and takes orders by.
//!
//! * [`api`]: the messages: requests, responses, the status document, events.
//! * [`call`]: how they reach the daemon's one loop, and its answers come back.
//! * [`events`]: the newest events, and who follows them.
//! * `history`: events that survive a restart.
//! * [`hooks`]: commands that are run when something happens.
//! * [`instance`]: one daemon a host; the lock and the socket in the runtime directory.
//! * [`server`]: the Unix socket.
//! * [`http`]: `/status.json`, `/metrics`, `/healthz`.
//! * [`notify`]: what systemd is told.
//! * [`text`]: the status as a table for people.
//!
//! All of it runs beside the loop, on a runtime of its own: nothing here may
//! delay an advert.

pub mod api;
pub mod call;
mod convert;
pub(crate) mod difference;
pub mod events;
mod history;
pub mod hooks;
pub mod http;
pub mod instance;
mod metrics;
pub mod notify;
pub mod server;
mod stamp;
pub(crate) mod table;
pub mod text;

pub use table::clean;
