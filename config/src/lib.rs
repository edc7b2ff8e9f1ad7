//! The configuration file of vipd: text to checked types.
//!
//! This is the only place that knows TOML. [`Config::parse`] reads the text
//! into structs of the file's shape, in which nothing is missing or wrong yet,
//! judges them, and hands out a [`Config`] that holds no bad value, or every
//! error that was found, each with its line, its column and what to do.
//!
//! The file is judged alone, so that it can be judged on any machine: no
//! interface, no address of this host and no other file is looked at.

mod address;
mod check;
mod choice;
mod digest;
pub mod dnsd;
mod duration;
mod import;
mod other_name;
mod report;
mod shape;
mod spec;
mod value;

pub use import::{Import, ImportError, import};
pub use report::{Error, Errors, Warning, chain};

use report::{Problem, Report, did_you_mean, quote, quoted};
use serde::Deserialize as _;
use shape::{Section, Table};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;
use vipd_core::settings::{ClusterSettings, Dns, ElectionSettings, Host, Listener, Member, Pool, VipGroup};

/// A file that was found good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// `[cluster]`.
    pub cluster: ClusterSettings,
    /// `[cluster] key-file`; nothing is sealed when absent.
    pub key: Option<Key>,
    /// `[election]`.
    pub election: ElectionSettings,
    /// `[etcd]`; there with `quorum = "etcd"` alone.
    pub etcd: Option<Etcd>,
    /// `[[vip]]`, in the file's order.
    pub vips: Vec<VipGroup>,
    /// `[[listen]]`, in the file's order.
    pub listeners: Vec<Listener>,
    /// `[[pool]]`, in the file's order.
    pub pools: Vec<Pool>,
    /// `[dns]`; the election of who writes is the last of [`Config::vips`] then.
    pub dns: Option<Dns>,
    /// `[status]`; off when absent.
    pub status: Option<Status>,
    /// `[[notify]]`, in the file's order.
    pub notify: Vec<Notify>,
    /// What is allowed and probably not meant, sorted by place.
    pub warnings: Vec<Warning>,
}

/// `[cluster] key-file` and how strictly it is taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// The file that holds the cluster key.
    pub file: PathBuf,
    /// Whether what is not sealed counts, too: while a key is brought in or changed.
    pub accept_unsealed: bool,
}

/// `[etcd]`: where the quorum is kept. How long its lease lasts is among the
/// settings of the election.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Etcd {
    /// The members of the etcd cluster, one at least.
    pub endpoints: Vec<EtcdEndpoint>,
    /// What all keys begin with; no slash at its end.
    pub prefix: String,
    /// Who logs in, and the file of the password.
    pub login: Option<(String, PathBuf)>,
    /// The certificates that those of `https` endpoints must stem from; the
    /// system's when absent.
    pub ca_file: Option<PathBuf>,
    /// The name that they must have; the endpoint's host when absent.
    pub tls_name: Option<String>,
    /// This host's own certificate and its key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Where a member of an etcd cluster serves its clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EtcdEndpoint {
    /// Whether by `https`.
    pub tls: bool,
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

/// `[status]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// Where the status page listens.
    pub http: SocketAddr,
    /// The file of the secret that readers must know.
    pub token_file: Option<PathBuf>,
}

/// `[[notify]]`: a command that is run when something happens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notify {
    /// Its name.
    pub name: String,
    /// The program, by its absolute path, and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// What it is run for.
    pub on: Vec<On>,
    /// The system's user that runs it; when absent the daemon's own, or `nobody` where that is root.
    pub user: Option<String>,
    /// It is killed if it takes longer.
    pub timeout: Duration,
}

/// What a command is run for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum On {
    /// A VIP became this node's.
    Active,
    /// A VIP is another's, or nobody's.
    Backup,
    /// This node cannot own a VIP.
    Fault,
    /// A VIP's election has not begun here, or has ended.
    Init,
    /// A takeover is complete; the facts have its steps.
    Takeover,
    /// A planned switchover begins, or did not come about.
    Switchover,
    /// An address was refused, deleted or put back.
    Address,
    /// Another node was heard, lost, or differs.
    Peer,
    /// A server's state or role changed.
    Server,
    /// The configuration was read again.
    Config,
    /// Maintenance began or ended.
    Maintenance,
}

impl On {
    /// The states of a VIP that matter to others.
    pub const STATES: [Self; 3] = [Self::Active, Self::Backup, Self::Fault];
}

/// Why it cannot be told which node a host is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NodeError {
    /// No node has one of the host's addresses.
    #[error(
        "this host is none of the nodes in [cluster]: it has none of their addresses ({nodes}); \
         give it one of them, add it to nodes, or say which it is with --node"
    )]
    NoneLocal {
        /// The nodes with their addresses.
        nodes: String,
    },
    /// Several nodes have one of the host's addresses.
    #[error(
        "this host has the addresses of several nodes in [cluster] ({nodes}); say which it is with --node"
    )]
    SeveralLocal {
        /// Those nodes with their addresses.
        nodes: String,
    },
    /// No node has this name.
    #[error("there is no node {wanted} in [cluster]; {known}")]
    NoSuchName {
        /// The name, quoted.
        wanted: String,
        /// The nearest name, or all of them.
        known: String,
    },
}

impl Config {
    /// Reads and judges the text of a file that is called `file_name` in messages.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the text, sorted by place.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Errors> {
        let (config, warnings) = read(text, file_name, check::config)?;
        Ok(Self { warnings, ..config })
    }

    /// Reads and judges a file.
    ///
    /// # Errors
    ///
    /// One error about the file as a whole when it cannot be read or is not
    /// UTF-8; else as [`Config::parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Errors> {
        load(path.as_ref(), Self::parse)
    }

    /// Which of the nodes the host with these addresses is, as a position in
    /// [`ClusterSettings::nodes`].
    ///
    /// # Errors
    ///
    /// When none of the nodes has one of these addresses, or several have.
    pub fn find_node(&self, local_addresses: &[IpAddr]) -> Result<usize, NodeError> {
        let nodes = &self.cluster.nodes;
        let local = |m: &Member| m.addresses.iter().any(|a| local_addresses.contains(a));
        let found: Vec<usize> = (0..nodes.len()).filter(|i| local(&nodes[*i])).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(NodeError::NoneLocal { nodes: show(nodes.iter()) }),
            several => Err(NodeError::SeveralLocal { nodes: show(several.iter().map(|i| &nodes[*i])) }),
        }
    }

    /// Which of the witnesses the host with these addresses is, as a position
    /// in the list of voters.
    #[must_use]
    pub fn find_witness(&self, local_addresses: &[IpAddr]) -> Option<usize> {
        let local = |m: &Member| m.addresses.iter().any(|a| local_addresses.contains(a));
        self.cluster.witnesses.iter().position(local).map(|w| self.cluster.nodes.len() + w)
    }

    /// The witness with a name, as a position in the list of voters.
    #[must_use]
    pub fn witness_named(&self, name: &str) -> Option<usize> {
        self.cluster.witnesses.iter().position(|w| w.name == name).map(|w| self.cluster.nodes.len() + w)
    }

    /// The node with a name, as a position in [`ClusterSettings::nodes`].
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn node_named(&self, name: &str) -> Result<usize, NodeError> {
        let names = || self.cluster.nodes.iter().map(|n| n.name.as_str());
        names().position(|n| n == name).ok_or_else(|| NodeError::NoSuchName {
            wanted: quote(name),
            known: did_you_mean(name, names()).unwrap_or_else(|| format!("there is {}", quoted(names()))),
        })
    }

    /// A digest of each key that must agree between nodes, at most 16, always
    /// in the same order. Equal settings have equal digests on every machine
    /// and, as long as their meaning stays, in every version; the order in
    /// which groups, listeners and pools stand in the file does not matter.
    #[must_use]
    pub fn digests(&self) -> Vec<(&'static str, u32)> {
        digest::digests(self)
    }
}

/// Every table of the file with the keys that it may hold, as the file spells
/// them: for documentation and completion.
#[must_use]
pub fn keys() -> Vec<(&'static str, &'static [&'static str])> {
    spec::sections()
}

/// Reads a text into the sections of a file and has them judged.
fn read<S: Section, T>(
    text: &str,
    file_name: &str,
    judge: impl FnOnce(S, &mut Report<'_>) -> T,
) -> Result<(T, Vec<Warning>), Errors> {
    let mut report = Report::new(file_name, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    syntax(&errors, text, &mut report);
    if !errors.is_empty() {
        // What was salvaged lacks what could not be read: judging it would
        // find faults that the file does not have.
        return report.finish().and_then(|_| Err(unreadable(file_name, "its syntax is wrong")));
    }
    let deserializer = toml::Deserializer::from(document);
    let spec = match shape::Field::<Table<S>>::deserialize(deserializer) {
        Ok(field) => field,
        Err(error) => return Err(unreadable(file_name, error.message())),
    };
    let spec = spec.ok("the file", &mut report).map(|table| table.value.open(&mut report));
    let judged = spec.map(|spec| judge(spec, &mut report));
    let warnings = report.finish()?;
    match judged {
        Some(judged) => Ok((judged, warnings)),
        None => Err(unreadable(file_name, "it is no table")),
    }
}

/// Reads a file and has its text parsed.
fn load<T>(path: &Path, parse: impl FnOnce(&str, &str) -> Result<T, Errors>) -> Result<T, Errors> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| unreadable(&name, &error.to_string()))?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &name),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            let mut report = Report::new(&name, &text);
            report.error(&(good..good), Problem::new("the file is not UTF-8 from here on"));
            report.finish().and_then(|_| Err(unreadable(&name, "it is not UTF-8")))
        }
    }
}

/// Reports errors of TOML itself.
fn syntax(errors: &[toml::de::Error], text: &str, report: &mut Report<'_>) {
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let problem = Problem::new(error.message());
        let (before, rest) = text.split_at_checked(span.start).unwrap_or((text, ""));
        let first_on_line = before.rsplit('\n').next().is_some_and(|l| l.trim().is_empty());
        // A new key or table inside a list: the list's end is missing, and all
        // that follows would be taken for its elements.
        let element = rest.starts_with(['"', '\'', '{', ']', ',', '#']);
        if error.message().contains("between array elements") && first_on_line && !element {
            report.error(&span, problem.hint("the list above has no end: close it with ]"));
            return;
        }
        report.error(&span, problem);
    }
}

fn unreadable(file: &str, why: &str) -> Errors {
    Errors::whole_file(file, Problem::new(format!("cannot read the file: {why}")))
}

fn show<'a>(nodes: impl Iterator<Item = &'a Member>) -> String {
    let one = |m: &Member| {
        let addresses: Vec<_> = m.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", m.name, addresses.join(" "))
    };
    nodes.map(one).collect::<Vec<_>>().join(", ")
}
