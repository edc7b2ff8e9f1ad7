//! The vipd daemon and its operator's command.

pub mod control;
