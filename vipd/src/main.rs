//! `vipd`: the daemon.

use anyhow::Context as _;
use clap::Parser as _;
use std::process::ExitCode;
use vipd::cli::{Cli, Command};
use vipd::peer::key::{ClusterKey, KeyError};
use vipd_config::Config;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(check) => judge(&check.config.path),
        Command::Keygen => keygen(),
        Command::Guard => vipd::guard::main(),
        Command::Run(run) => match vipd::daemon::run(&run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        },
    }
}

/// Says whether a file is right.
fn judge(path: &std::path::Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            if let Err(error) = look_at_key(&config) {
                complain(&error);
                return ExitCode::FAILURE;
            }
            let told = tell_right(path, &config).context("cannot write to standard output");
            told.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        Err(errors) => {
            complain(&errors);
            ExitCode::FAILURE
        }
    }
}

/// A key file that this host has must be right; where a file is only judged, there is none.
fn look_at_key(config: &Config) -> Result<(), KeyError> {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    let Some(key) = &config.key else { return Ok(()) };
    match ClusterKey::load(&key.file) {
        Err(KeyError::Unreadable { path, source })
            if matches!(source.kind(), NotFound | PermissionDenied) =>
        {
            eprintln!("warning: key-file {} was not looked at: {source}", path.display());
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Prints a new cluster key.
fn keygen() -> ExitCode {
    use std::io::Write as _;
    let printed = vipd::peer::key::generate().and_then(|key| writeln!(std::io::stdout(), "{key}"));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn tell_right(path: &std::path::Path, config: &Config) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for warning in &config.warnings {
        writeln!(out, "{warning}")?;
    }
    let counts = [
        count(config.cluster.nodes.len(), "node"),
        count(config.vips.len(), "VIP"),
        count(config.listeners.len(), "listener"),
        count(config.pools.len(), "pool"),
    ];
    writeln!(out, "{}: right ({})", path.display(), counts.join(", "))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn complain(what: &dyn std::fmt::Display) {
    eprintln!("{what}");
}
