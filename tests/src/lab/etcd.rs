//! Real etcd members on test hosts.

use super::{Host, Lab, Process, poll_until};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The port for clients.
pub const PORT: u16 = 2379;

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether etcd and its client are installed.
#[must_use]
pub fn is_installed() -> bool {
    let runs = |program: &str, argument: &str| {
        Command::new(program).arg(argument).output().is_ok_and(|o| o.status.success())
    };
    runs("etcd", "--version") && runs("etcdctl", "version")
}

/// Certificates that every host of a lab sees at the same place.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// Another CA's, which has signed nothing here.
    pub other_ca: PathBuf,
    /// The members' certificate, and its key.
    pub member: (PathBuf, PathBuf),
    /// A client's, without a common name.
    pub client: (PathBuf, PathBuf),
}

/// An etcd cluster, a member on each host.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    tls: Option<Certificates>,
    /// Bytes of its database at the most; etcd's default when absent.
    quota: Option<u64>,
}

#[derive(Debug)]
struct Member {
    host: Host,
    address: String,
    process: Process,
}

impl Etcd {
    /// Starts a cluster of so many members on hosts of their own, `e1` and so
    /// on, and waits until it answers.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn start(lab: &Lab, members: usize, tls: Option<Certificates>) -> Result<Self> {
        Self::launch(hosts(lab, members)?, tls, None)
    }

    /// One member whose database takes no more bytes than this.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn start_small(lab: &Lab, quota: u64) -> Result<Self> {
        Self::launch(hosts(lab, 1)?, None, Some(quota))
    }

    /// The same on these hosts, with the address of each.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn start_on(hosts: Vec<(Host, String)>, tls: Option<Certificates>) -> Result<Self> {
        Self::launch(hosts, tls, None)
    }

    fn launch(hosts: Vec<(Host, String)>, tls: Option<Certificates>, quota: Option<u64>) -> Result<Self> {
        let cluster: Vec<String> =
            hosts.iter().map(|(h, address)| format!("{}=http://{address}:2380", h.name())).collect();
        let cluster = cluster.join(",");
        let mut members = Vec::new();
        for (host, address) in hosts {
            let process = launch(&host, &address, &cluster, tls.as_ref(), quota)?;
            members.push(Member { host, address, process });
        }
        let etcd = Self { members, tls, quota };
        poll_until("etcd answers", PATIENCE, || Ok(etcd.try_ctl(&["get", "nothing"])?.status.success()))?;
        Ok(etcd)
    }

    /// The members' endpoints, as `[etcd]` has them.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.members.iter().map(|m| format!("{scheme}://{}:{PORT}", m.address)).collect()
    }

    /// A member's host.
    #[must_use]
    pub fn host(&self, member: usize) -> &Host {
        &self.members[member].host
    }

    /// A member's process.
    #[must_use]
    pub fn process(&self, member: usize) -> &Process {
        &self.members[member].process
    }

    /// Starts a member that has ended again, with what it has stored.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        let cluster: Vec<String> =
            self.members.iter().map(|m| format!("{}=http://{}:2380", m.host.name(), m.address)).collect();
        let Member { host, address, process } = &mut self.members[member];
        *process = launch(host, address, &cluster.join(","), self.tls.as_ref(), self.quota)?;
        Ok(())
    }

    /// Which member leads.
    ///
    /// # Errors
    /// If none of them says so.
    pub fn leader(&self) -> Result<usize> {
        for member in 0..self.members.len() {
            let output = self.ctl_at(member, &["endpoint", "status", "--write-out=json"])?;
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let status = &json[0]["Status"];
            if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                return Ok(member);
            }
        }
        anyhow::bail!("no member of etcd leads")
    }

    /// Runs `etcdctl` against the first member.
    ///
    /// # Errors
    /// If it cannot be run, or says that it failed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_ctl(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "etcdctl {}: {error}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn try_ctl(&self, arguments: &[&str]) -> Result<std::process::Output> {
        self.ctl_at(0, arguments)
    }

    fn ctl_at(&self, member: usize, arguments: &[&str]) -> Result<std::process::Output> {
        let at = &self.members[member];
        let endpoint = &self.endpoints()[member];
        let mut all = vec!["--endpoints", endpoint, "--dial-timeout=1s", "--command-timeout=2s"];
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let files = self.tls.as_ref().map(|t| [text(&t.ca), text(&t.client.0), text(&t.client.1)]);
        if let Some([ca, cert, key]) = &files {
            all.extend(["--cacert", ca, "--cert", cert, "--key", key]);
        }
        all.extend(arguments);
        at.host.try_run("etcdctl", &all)
    }
}

/// Hosts for so many members, with their addresses.
fn hosts(lab: &Lab, members: usize) -> Result<Vec<(Host, String)>> {
    let address = |n: usize| format!("10.77.0.{}", 31 + n);
    let make =
        |n: usize| Ok((lab.host(&format!("e{}", n + 1), &[&format!("{}/16", address(n))])?, address(n)));
    (0..members).map(make).collect()
}

fn launch(
    host: &Host,
    address: &str,
    cluster: &str,
    tls: Option<&Certificates>,
    quota: Option<u64>,
) -> Result<Process> {
    let (client, peer) = match tls {
        Some(_) => (format!("https://{address}:{PORT}"), format!("http://{address}:2380")),
        None => (format!("http://{address}:{PORT}"), format!("http://{address}:2380")),
    };
    let mut command = Command::new("etcd");
    command.arg("--name").arg(host.name()).arg("--data-dir").arg(host.dir().join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", cluster, "--logger", "zap", "--log-outputs", "stderr"]);
    command.args(["--log-level", "warn"]);
    if let Some(quota) = quota {
        command.arg("--quota-backend-bytes").arg(quota.to_string());
    }
    if let Some(tls) = tls {
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
        command.arg("--cert-file").arg(&tls.member.0).arg("--key-file").arg(&tls.member.1);
    }
    host.spawn("etcd", &mut command)
}

impl Certificates {
    /// Makes them, for members with these addresses.
    ///
    /// # Errors
    /// If they cannot be made or written.
    pub fn make(lab: &Lab, addresses: &[&str]) -> Result<Self> {
        use rcgen::{
            BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        };
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = Path::new(super::init::SCRATCH).join(name);
            let outside = lab.outside(&path);
            std::fs::write(&outside, text).with_context(|| format!("cannot write {}", outside.display()))?;
            Ok(path)
        };
        let ca = || -> Result<(CertificateParams, KeyPair)> {
            let mut params = CertificateParams::new(Vec::<String>::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "CA of the lab");
            Ok((params, KeyPair::generate()?))
        };
        let (params, key) = ca()?;
        let own = write("etcd-ca.pem", params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let (params, key) = ca()?;
        let other_ca = write("etcd-other-ca.pem", params.self_signed(&key)?.pem())?;
        let signed = |name: &str, addresses: &[&str]| -> Result<(PathBuf, PathBuf)> {
            let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            // With logins the gateway takes no client's certificate that has a common name.
            let kind = if addresses.is_empty() { DnType::OrganizationName } else { DnType::CommonName };
            params.distinguished_name.push(kind, name);
            // A member's gateway is a client of the member.
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?.pem();
            Ok((
                write(&format!("{name}.pem"), certificate)?,
                write(&format!("{name}.key"), key.serialize_pem())?,
            ))
        };
        Ok(Self {
            ca: own,
            other_ca,
            member: signed("etcd-member", addresses)?,
            client: signed("vipd", &[])?,
        })
    }
}
