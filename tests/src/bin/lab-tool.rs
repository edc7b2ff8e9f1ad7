//! The helper that runs on test hosts; see the subcommands.
#![allow(clippy::print_stdout, reason = "what it says on standard output is what it is for")]

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use vipd_tests::lab::Lab;

/// Helper of the lab: the processes that run on test hosts beside the daemons.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Job,
}

#[derive(Subcommand)]
enum Job {
    /// First process of a lab's PID namespace; ends when standard input does.
    Init,
    /// Stand-in server: answers each line with its name and counters.
    Serve {
        /// The name it answers with.
        name: String,
        /// Where it listens.
        bind: SocketAddr,
    },
    /// Stand-in server of thousands: greets each, and keeps it.
    Greet {
        /// Where it listens.
        bind: SocketAddr,
    },
    /// Thousands of clients, which stay until standard input ends.
    Crowd {
        /// Where they go.
        target: SocketAddr,
        /// How many they are.
        clients: usize,
    },
    /// Makes a lab with a daemonised process in it, prints the pids of the lab's
    /// init and of the daemon, and stays: something to be killed.
    Linger,
    /// A fake of Route 53: the API on port 4566, DNS on port 53.
    Route53 {
        /// Its address.
        address: IpAddr,
    },
    /// Answers ICMP timestamps as a host whose clock is ahead.
    Clock {
        /// By so many milliseconds.
        ahead: u32,
    },
    /// Answers each datagram from the address it was sent to.
    Echo {
        /// The name it answers with.
        name: String,
        /// The UDP port.
        port: u16,
    },
}

fn main() -> Result<()> {
    let ready = || println!("ready");
    match Arguments::parse().command {
        Job::Init => vipd_tests::lab::init::run(),
        Job::Linger => linger(),
        Job::Serve { name, bind } => vipd_tests::stand_in::serve(&name, bind, ready),
        Job::Greet { bind } => vipd_tests::crowd::serve(bind, ready),
        Job::Crowd { target, clients } => vipd_tests::crowd::come(target, clients, |text| println!("{text}")),
        Job::Route53 { address } => vipd_tests::route53::serve(address, ready),
        Job::Clock { ahead } => vipd_tests::stand_in::clock(ahead, ready),
        Job::Echo { name, port } => vipd_tests::stand_in::echo(&name, port, ready),
    }
}

fn linger() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("px1", &["10.77.0.11/24"])?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "setsid sleep 1000 & echo started"]);
    let shell = host.spawn("shell", &mut shell)?;
    shell.wait_for_line("started", Duration::from_secs(5))?;
    shell.wait(Duration::from_secs(5))?;
    // The orphan has come to the lab's init: its only child.
    let init = lab.init_pid();
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
    println!("{init} {}", children.trim());
    std::thread::sleep(Duration::MAX);
    Ok(())
}
