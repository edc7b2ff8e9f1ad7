//! Bytes as adverts.
#![no_main]
#![allow(dead_code)] // the other targets'

#[path = "../../src/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::advert(data));
