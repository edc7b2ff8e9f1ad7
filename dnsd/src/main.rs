//! `dnsd`: the server.

use clap::Parser as _;
use dnsd::cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(config) => dnsd::daemon::run(&config.path).map_err(anyhow::Error::from),
        Command::Check(_) | Command::Keygen(_) => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
