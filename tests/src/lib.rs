//! Simulation, lab, interop, demo and benchmarks of vipd.

pub mod sim;
