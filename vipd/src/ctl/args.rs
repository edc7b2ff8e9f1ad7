//! The command line of `vipctl`.

use crate::control::api::MAX_WEIGHT;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// Asks a running vipd, and gives it orders.
#[derive(Debug, Parser)]
#[command(name = "vipctl", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Where vipd keeps its control socket.
    #[arg(long, value_name = "DIR", default_value = "/run/vipd")]
    pub runtime_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit status: 0 done, 1 refused or not so, 2 wrong usage, 3 no vipd is running.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows VIPs, peers, listeners, pools and servers.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        /// Again each second, and when something happens.
        #[arg(long)]
        watch: bool,
    },
    /// Says why things are as they are.
    Why {
        /// A VIP, a pool or a server; everything when absent.
        #[arg(value_name = "VIP|POOL|POOL/SERVER")]
        subject: Option<String>,
    },
    /// Hands a VIP to another node.
    Switchover {
        /// The VIP; every VIP this node owns when absent.
        vip: Option<String>,
        /// The node that takes it; the next by preference when absent.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
    },
    /// Shows what happened.
    Events {
        /// Go on with what happens next.
        #[arg(long)]
        follow: bool,
        /// As JSON, an object a line, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Makes vipd read its configuration file again.
    Reload {
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Takes this node out of the election, or puts it back.
    Maintenance {
        /// Out, or back.
        state: Switch,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
    },
    /// Takes a server out of its pool, puts it back, or weighs it anew.
    Server {
        /// The server.
        #[arg(value_name = "POOL/SERVER", value_parser = parse_server)]
        server: ServerName,
        /// What it is to be.
        #[command(subcommand)]
        order: ServerCommand,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
    },
    /// Lists the sessions of clients, or ends some.
    Sessions(Sessions),
    /// Looks for what is wrong, or will be, and says how to mend it.
    Doctor {
        /// The configuration file; when absent, that of the vipd that runs with the runtime
        /// directory, or of the unit that starts it, or else /etc/vipd/vipd.toml.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Which of the nodes this host is; when absent, what the vipd that runs, or the unit that
        /// starts it, was told, or else found by its addresses.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Removes what a vipd that is no longer running left on this host.
    Release {
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
    },
}

/// What is wanted of sessions.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sessions {
    /// Those of a listener, a pool or a server; all when absent.
    #[arg(value_name = "LISTENER|POOL|POOL/SERVER")]
    pub of: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// What is to happen to them, if anything.
    #[command(subcommand)]
    pub order: Option<SessionsCommand>,
}

/// What is to happen to sessions.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// Resets sessions, on both sides.
    Kill(Kill),
}

/// The sessions that are to end.
#[derive(Args, Debug)]
pub struct Kill {
    /// Which.
    #[command(flatten)]
    pub victims: Victims,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
}

/// One of several ways to say which sessions.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Victims {
    /// The session of this number.
    pub id: Option<u64>,
    /// Those on a server.
    #[arg(long, value_name = "POOL/SERVER", value_parser = parse_server)]
    pub server: Option<ServerName>,
    /// Those of a client, by its address.
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,
}

/// Whether to ask before something that clients may notice.
#[derive(Args, Clone, Copy, Debug)]
pub struct Consent {
    /// Do not ask.
    #[arg(long, global = true)]
    pub yes: bool,
}

/// What is wanted of a server (HAProxy's words).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Subcommand)]
pub enum ServerCommand {
    /// What its check says of it counts.
    Ready,
    /// No new connections; those that are there go on.
    Drain,
    /// No connections at all; those that are there are closed.
    Maint,
    /// Its share of new connections, until vipd ends; reloads keep it.
    Weight {
        /// 0 to 256, or `auto` for that of the file.
        #[arg(value_name = "N|auto", value_parser = parse_weight)]
        weight: Weight,
    },
}

/// A weight that is given, or that of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Weight(pub Option<u16>);

/// On or off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// A server and its pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerName {
    /// The pool.
    pub pool: String,
    /// The server in it.
    pub server: String,
}

fn parse_server(text: &str) -> Result<ServerName, String> {
    match text.split_once('/') {
        Some((pool, server)) if !pool.is_empty() && !server.is_empty() => {
            Ok(ServerName { pool: pool.into(), server: server.into() })
        }
        Some(_) | None => Err("a server is named by its pool and itself, as in `primary/db1`".into()),
    }
}

fn parse_weight(text: &str) -> Result<Weight, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Weight(None)),
        Ok(weight) if weight <= MAX_WEIGHT => Ok(Weight(Some(weight))),
        Ok(_) | Err(_) => Err(format!("a weight is a number from 0 to {MAX_WEIGHT}, or `auto`")),
    }
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
    fn a_server_has_a_pool() {
        assert!(parse_server("p/s").is_ok_and(|n| n.pool == "p" && n.server == "s"));
        for bad in ["db1", "/db1", "primary/", "/"] {
            assert!(parse_server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_weight_is_a_small_number_or_the_files() {
        for (text, weight) in [("auto", None), ("0", Some(0)), ("256", Some(256))] {
            assert_eq!(parse_weight(text), Ok(Weight(weight)));
        }
        for bad in ["", "-1", "257", "65536", "1.5", "AUTO"] {
            assert!(parse_weight(bad).is_err(), "{bad}");
        }
    }
}
