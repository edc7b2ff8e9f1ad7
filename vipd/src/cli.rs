//! The command line of `vipd`.

use crate::log::LogFormat;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Keeps a floating IP alive, and balances connections over the healthy servers behind it.
#[derive(Debug, Parser)]
#[command(name = "vipd", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the daemon.
    Run(Run),
    /// Says whether a configuration file is right; exit status 1 and a line for each error if not.
    /// It may be another host's: what this host lacks is for `vipd run --check`.
    Check(Check),
    /// Prints a new cluster key, for the file that `key-file` in `[cluster]` names.
    Keygen,
    /// Writes a configuration file from those of keepalived and HAProxy.
    Import(Import),
    /// Cleans up after a daemon that was killed; started by `vipd run` alone.
    #[command(hide = true)]
    Guard,
}

/// `vipd run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The configuration file.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Which of the nodes this host is; found by its addresses when absent.
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Where the control socket and the lock are.
    #[arg(long, value_name = "DIR", default_value = "/run/vipd")]
    pub runtime_dir: PathBuf,
    /// Where is kept what must outlive a reboot.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vipd")]
    pub state_dir: PathBuf,
    /// How the log is written.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Says whether it would start, with these options and as this user, and ends: the file, its key
    /// and secrets, and which node this host is. What runs is not touched.
    #[arg(long)]
    pub check: bool,
}

/// `vipd check`.
#[derive(Args, Debug)]
pub struct Check {
    /// The configuration file.
    #[command(flatten)]
    pub config: ConfigFile,
}

/// `vipd import`.
#[derive(Args, Debug)]
pub struct Import {
    /// keepalived.conf of each host, and haproxy.cfg; told apart by what is in them.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where the new file is written, which must not be there yet; standard output when absent.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Which configuration file.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration file, the same on every host.
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/vipd/vipd.toml")]
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_packages_places() -> Result<(), clap::Error> {
        let Command::Run(run) = Cli::try_parse_from(["vipd", "run"])?.command else { panic!("not run") };
        assert_eq!(run.config.path.to_str(), Some("/etc/vipd/vipd.toml"));
        assert_eq!(run.runtime_dir.to_str(), Some("/run/vipd"));
        assert_eq!(run.state_dir.to_str(), Some("/var/lib/vipd"));
        assert_eq!(run.node, None);
        assert!(!run.check);
        Ok(())
    }
}
