//! Whole plays of a node: time, adverts, messages, claims, probes.
#![no_main]
#![allow(dead_code)] // the other targets'

#[path = "../../src/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::node(data));
