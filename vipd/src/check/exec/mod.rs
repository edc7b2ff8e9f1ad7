//! `kind = "exec"`: a command ends with status 0.
//!
//! It runs as its own user, without a shell, with an environment of ours and
//! none of our descriptors, in a process group of its own. The group is killed
//! as a whole when the command ends and when its time is over.

pub(crate) mod account;
pub(crate) mod process;

use super::text::Sample;
use super::{Endpoint, Progress};
use account::{Account, AccountError};
use process::Process;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use thiserror::Error;
use vipd_core::probe::Observation;
use vipd_core::settings::ExecCheck;

/// Where a command finds its programs, whatever the daemon's own PATH.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A command that writes more is at fault, and would cost us more than it tells.
const MAX_OUTPUT: usize = 64 << 10;

/// Why a probe failed.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    #[error("a command needs at least a program")]
    NoProgram,
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("running {program} as '{user}': {}", explain(.source))]
    Start { program: String, user: String, source: io::Error },
    #[error("watching {program}: {}", crate::words(.source))]
    Watch { program: String, source: io::Error },
    #[error("{program} wrote more than {MAX_OUTPUT} bytes; make it quieter")]
    Output { program: String },
    #[error("{program} {}{}", ended(*.status), said(.last))]
    Status { program: String, status: ExitStatus, last: Sample },
}

/// What stands in the way of a start, and what to do about it.
pub(crate) fn explain(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(nix::libc::ENOENT) => "is it there, and the interpreter that its first line names?",
        Some(nix::libc::EACCES) => "may that user execute it, and enter all the directories above it?",
        Some(nix::libc::EPERM) => {
            "to become another user vipd must be root, or have CAP_SETUID and CAP_SETGID; without user it runs as vipd's own"
        }
        Some(_) | None => return crate::words(error),
    };
    format!("{}; {hint}", crate::words(error))
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(nix::sys::signal::Signal::try_from)) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(Ok(signal))) => format!("was killed by {signal}"),
        (None, Some(Err(_)) | None) => format!("ended with {status}"),
    }
}

fn said(last: &Sample) -> String {
    if last.is_empty() { " and said nothing".to_owned() } else { format!(": {last}") }
}

/// The check of one server.
pub(super) struct Prober {
    check: ExecCheck,
    endpoint: Endpoint,
    /// The user, once the system has told who that is.
    account: Option<Account>,
}

impl Prober {
    pub(super) fn new(check: ExecCheck, endpoint: Endpoint) -> Self {
        Self { check, endpoint, account: None }
    }

    /// Runs the command once, for the server's first address.
    pub(super) async fn probe(
        &mut self,
        addresses: &[SocketAddr],
        progress: &Progress,
    ) -> Result<(SocketAddr, Observation), ExecError> {
        let (program, arguments) = self.check.command.split_first().ok_or(ExecError::NoProgram)?;
        // A lookup that succeeds has an address, and a name has one at least.
        let Some(address) = addresses.first() else { return Err(ExecError::NoProgram) };
        let user = self.check.user.as_deref();
        let account = match &self.account {
            Some(account) => account.clone(),
            None => {
                progress.set(format!("looking up the user '{}'", user.unwrap_or("nobody")));
                self.account.insert(Account::find(user).await?).clone()
            }
        };
        progress.set(format!("running {program}"));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", PATH)
            .env("VIPD_POOL", &self.endpoint.pool)
            .env("VIPD_SERVER", &self.endpoint.server)
            .env("VIPD_ADDRESS", address.ip().to_string())
            .env("VIPD_PORT", address.port().to_string());
        let user = account.name.clone();
        let start = Process::start(command, Stdio::null(), account);
        let program = || program.clone();
        let mut process = start.map_err(|source| {
            // It may have been changed meanwhile.
            self.account = None;
            ExecError::Start { program: program(), user, source }
        })?;
        let mut output = Output::default();
        let status = loop {
            let watched = |source| ExecError::Watch { program: program(), source };
            if let Some(status) = process.next(&mut output.0).await.map_err(watched)? {
                break status;
            }
            if output.0.len() > MAX_OUTPUT {
                return Err(ExecError::Output { program: program() });
            }
            progress.set(format!("running {}{}", program(), said(&output.last())));
        };
        if status.success() {
            return Ok((*address, Observation::default()));
        }
        Err(ExecError::Status { program: program(), status, last: output.last() })
    }
}

/// What a command wrote, to its standard output and error alike.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    /// The last line that says something: what a script fails at comes last.
    fn last(&self) -> Sample {
        let lines = self.0.split(|byte| *byte == b'\n').rev();
        lines.map(Sample::new).find(|line| !line.is_empty()).unwrap_or_else(|| Sample::new(b""))
    }
}
