//! The command line of `dnsd`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use vipd_core::settings::KeyAlgorithm;

/// The internal authoritative DNS server: static records, dynamic updates, transfers.
#[derive(Debug, Parser)]
#[command(name = "dnsd", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the server.
    Run(ConfigFile),
    /// Says whether the configuration file, its zone files and its keys are right; exit status 1 and
    /// a line for each error if not.
    Check(ConfigFile),
    /// Prints a new TSIG key, and what to write where.
    Keygen(Keygen),
}

/// Which configuration file.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/dnsd/dnsd.toml")]
    pub path: PathBuf,
}

/// `dnsd keygen`.
#[derive(Args, Debug)]
pub struct Keygen {
    /// The key's name, the same on both sides, such as `vipd.`
    pub name: String,
    /// The hash.
    #[arg(long, value_enum, default_value_t)]
    pub algorithm: Hash,
}

/// A hash of TSIG, as the command line names it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Hash {
    /// HMAC with SHA-256
    #[default]
    HmacSha256,
    /// HMAC with SHA-384
    HmacSha384,
    /// HMAC with SHA-512
    HmacSha512,
}

impl From<Hash> for KeyAlgorithm {
    fn from(hash: Hash) -> Self {
        match hash {
            Hash::HmacSha256 => Self::HmacSha256,
            Hash::HmacSha384 => Self::HmacSha384,
            Hash::HmacSha512 => Self::HmacSha512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
