//! `vipctl`, the operator's command.
//!
//! * [`args`]: its command line.
//! * [`client`]: its end of the control socket.
//! * `commands`: what each command asks and prints.
//! * `consent`: asking before something that clients may notice.
//! * `doctor`: what is wrong on this host.
//! * `sessions`: those of clients.
//! * `release`: what works without a daemon.

pub mod args;
pub mod client;
mod commands;
mod consent;
mod doctor;
mod release;
mod sessions;

use crate::control::api::{ErrorCode, Response};
use crate::control::clean;
use crate::control::instance::ClaimError;
use args::Cli;
use clap::Parser;
use client::ClientError;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use vipd_config::chain;

/// Runs `vipctl` with this process's arguments, terminal and environment.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let stdout = io::stdout();
    let mut screen =
        Screen { colour: takes_colour(&stdout), terminal: stdout.is_terminal(), out: stdout.lock() };
    let failure = match commands::run(&cli, &mut screen) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let code = failure.exit_code();
    if let Failure::Output(error) = &failure
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        // Whoever read has had enough, as in `vipctl events | head`.
        return ExitCode::SUCCESS;
    }
    // Without standard error, the exit code has to do.
    let _ = writeln!(io::stderr(), "vipctl: {}", clean(&chain(&failure)));
    ExitCode::from(code)
}

/// Where answers are printed.
struct Screen<W> {
    out: W,
    terminal: bool,
    colour: bool,
}

impl<W: Write> Screen<W> {
    fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").and_then(|()| self.out.flush()).map_err(Failure::Output)
    }
}

/// Colours are for terminals, and for people who want them (no-color.org).
fn takes_colour(out: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
    out.is_terminal() && !unwanted && !dumb
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("refused:{gap}{0}", gap = if .0.starts_with('\n') { "" } else { " " })]
    Refused(String),
    #[error("nothing was changed")]
    Declined,
    #[error("{message}")]
    Daemon { code: ErrorCode, message: String },
    #[error("{0}")]
    Usage(String),
    #[error("not well: {0} wrong")]
    Unwell(usize),
    #[error("vipd is running on this host: use `vipctl switchover` or stop it first")]
    Running,
    #[error("cannot see whether a vipd is running: run this as root")]
    Claim(#[source] ClaimError),
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
}

impl Failure {
    /// 1 refused or not so, 2 usage, 3 no daemon.
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => match error {
                ClientError::Absent(_) | ClientError::Dead(_) | ClientError::Silent | ClientError::Closed => {
                    3
                }
                ClientError::Forbidden(_) | ClientError::Strange(_) | ClientError::Io(..) => 1,
            },
            Self::Daemon { code, .. } => match code {
                ErrorCode::Stopping => 3,
                ErrorCode::Version
                | ErrorCode::Malformed
                | ErrorCode::TooLong
                | ErrorCode::Busy
                | ErrorCode::Timeout
                | ErrorCode::Lagged
                | ErrorCode::Other => 1,
            },
            Self::Usage(_) => 2,
            Self::Refused(_)
            | Self::Declined
            | Self::Unwell(_)
            | Self::Running
            | Self::Claim(_)
            | Self::Output(_) => 1,
        }
    }
}

/// A response that is no answer to what was asked.
fn unexpected(response: Response) -> Failure {
    match response {
        // Several lines, such as a configuration's errors, stand by themselves.
        Response::Refused { reason } if reason.contains('\n') => Failure::Refused(format!("\n{reason}")),
        Response::Refused { reason } => Failure::Refused(reason),
        // What this program asks is always well-formed, for a daemon that knows the question.
        Response::Error { code: code @ ErrorCode::Malformed, .. } => Failure::Daemon {
            code,
            message: format!(
                "this vipd does not know what vipctl {} asks of it, so it is of another version: restart vipd if it \
                 was just updated, or use the vipctl that came with it",
                env!("CARGO_PKG_VERSION")
            ),
        },
        Response::Error { code, message } => Failure::Daemon { code, message },
        Response::Status { .. }
        | Response::Why { .. }
        | Response::Switched { .. }
        | Response::Sessions(_)
        | Response::Done { .. }
        | Response::Event { .. }
        | Response::End {} => Failure::Daemon {
            code: ErrorCode::Other,
            message: "vipd answered another question: use the vipctl that came with it".into(),
        },
    }
}
