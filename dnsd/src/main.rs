//! `dnsd`: the server.

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use dnsd::cli::{Cli, Command};
use dnsd::{daemon, tools};
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(config) => daemon::run(&config.path).map_err(anyhow::Error::from),
        Command::Check(config) => tools::check(&config.path).map_err(|e| anyhow!(e)).and_then(|t| tell(&t)),
        Command::Keygen(order) => tools::keygen(&order).map_err(|e| anyhow!(e)).and_then(|t| tell(&t)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", vipd_config::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn tell(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}
