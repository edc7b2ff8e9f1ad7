//! The lab: real daemons on test hosts made of network namespaces.

mod agreement;
mod balancer;
mod dns;
mod documents;
mod etcd;
mod failover;
mod interop;
mod itself;
mod names;
mod neighbours;
mod nemesis;
mod operators;
mod pools;
mod quorum;
mod sealed;
mod upkeep;
mod vectors;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use vipd_tests::lab::{self, Lab};

/// A test in a lab of its own.
pub(crate) struct Case {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it needs beside the lab.
    pub(crate) needs: &'static [Need],
    /// The test.
    pub(crate) run: fn(&Lab) -> anyhow::Result<()>,
}

/// What a test needs beside the lab.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// `dnsd` is built.
    Dnsd,
    /// etcd and etcdctl are installed.
    Etcd,
    /// keepalived is installed.
    Keepalived,
    /// MariaDB's server is installed.
    Mariadb,
    /// BIND's server is installed.
    Named,
    /// BIND's nsupdate is installed.
    Nsupdate,
    /// `vipd` and `vipctl` are built.
    Vipd,
}

impl Need {
    /// Why it is not met here, if so.
    fn obstacle(self) -> Option<String> {
        match self {
            Self::Keepalived => {
                (!lab::keepalived::is_installed()).then(|| "keepalived is not installed".to_owned())
            }
            Self::Etcd => {
                (!lab::etcd::is_installed()).then(|| "etcd-server or etcd-client is not installed".to_owned())
            }
            Self::Mariadb => {
                (!lab::mariadb::is_installed()).then(|| "mariadb-server is not installed".to_owned())
            }
            Self::Dnsd => lab::dnsd::obstacle(),
            Self::Named => (!lab::named::is_installed()).then(|| "named is not installed (bind9)".to_owned()),
            Self::Nsupdate => {
                (!lab::dnsd::has_nsupdate()).then(|| "nsupdate is not installed (bind9-dnsutils)".to_owned())
            }
            Self::Vipd => lab::vipd::obstacle(),
        }
    }
}

fn main() -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests measure time: more at once would disturb each other.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let obstacle = if arguments.list {
        None
    } else {
        lab::become_root().err().map(|e| format!("{e:#}")).or_else(lab::obstacle)
    };
    let cases = [
        itself::CASES,
        agreement::CASES,
        failover::CASES,
        quorum::CASES,
        etcd::CASES,
        nemesis::CASES,
        neighbours::CASES,
        sealed::CASES,
        upkeep::CASES,
        balancer::CASES,
        pools::CASES,
        names::CASES,
        dns::CASES,
        documents::CASES,
        operators::CASES,
        interop::CASES,
        vectors::CASES,
    ];
    let trials = cases.into_iter().flatten().map(|case| trial(case, obstacle.clone())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(case: &'static Case, obstacle: Option<String>) -> Trial {
    Trial::ignorable_test(case.name, move || {
        if let Some(reason) = obstacle {
            return Ok(Completion::ignored_with(reason));
        }
        if let Some(reason) = case.needs.iter().find_map(|n| n.obstacle()) {
            // `make test` has installed and built everything: there it is no excuse.
            if std::env::var_os("LAB_NEEDS_ARE_MET").is_some() {
                return Err(Failed::from(reason));
            }
            return Ok(Completion::ignored_with(reason));
        }
        let lab = Lab::new().map_err(|e| Failed::from(format!("{e:#}")))?;
        match (case.run)(&lab) {
            Ok(()) => Ok(Completion::Completed),
            Err(e) => Err(Failed::from(format!("{e:#}\n{}", lab.report()))),
        }
    })
}
