//! The scene of most tests: a client and two proxy hosts that share a floating
//! IP, with vipd or with keepalived.

use crate::lab::keepalived::{self, Instance, Version};
use crate::lab::vipd::{self, Vipd};
use crate::lab::{Host, Lab, Process, poll_until};
use anyhow::{Context, Result};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The floating IP of the scene.
pub const VIP: &str = "10.77.0.100";
/// The proxies' own addresses.
pub const PROXIES: [&str; 2] = ["10.77.0.11", "10.77.0.12"];
/// The port of the responder that shows where the floating IP is.
pub const ECHO_PORT: u16 = 7;

/// Which daemon moves the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// keepalived.
    Keepalived,
    /// vipd.
    Vipd,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Vipd => "vipd",
        }
    }

    /// Why it cannot be run here, if so.
    #[must_use]
    pub fn obstacle(self) -> Option<String> {
        match self {
            Self::Keepalived if keepalived::is_installed() => None,
            Self::Keepalived => Some("keepalived is not installed".to_owned()),
            Self::Vipd => vipd::obstacle(),
        }
    }
}

/// What the daemons are told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time between adverts.
    pub interval: Duration,
    /// Each group: VRID and addresses with prefix lengths.
    pub groups: Vec<(u8, Vec<String>)>,
    /// For vipd: listeners, pools and the rest.
    pub rest: String,
    /// For vipd: the cluster key of each proxy.
    pub keys: [Option<String>; 2],
    /// For vipd: further lines of `[cluster]`.
    pub cluster: Vec<String>,
    /// For vipd: further lines of `[election]`.
    pub election: Vec<String>,
    /// Whether the nodes are given their IPv6 addresses too.
    pub both_families: bool,
    /// For vipd: descriptors that it gets, if not as many as the test has.
    pub descriptors: Option<u32>,
}

impl Plan {
    /// One group with the scene's floating IP.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            groups: vec![(51, vec![format!("{VIP}/16")])],
            rest: String::new(),
            keys: [None, None],
            cluster: Vec::new(),
            election: Vec::new(),
            both_families: false,
            descriptors: None,
        }
    }

    /// The text of vipd's configuration file.
    #[must_use]
    pub fn vipd_config(&self) -> String {
        let nodes = [("px1", PROXIES[0]), ("px2", PROXIES[1])];
        let mut config = vipd::Config::new(&nodes, self.interval, &[]);
        let named =
            self.groups.iter().map(|(vrid, addresses)| (format!("g{vrid}"), *vrid, addresses.clone()));
        config.vips = named.collect();
        if self.both_families {
            for ((_, own), v6) in config.nodes.iter_mut().zip(["fd77::11", "fd77::12"]) {
                own.push(v6.to_owned());
            }
        }
        config.cluster.clone_from(&self.cluster);
        config.election.clone_from(&self.election);
        config.rest.clone_from(&self.rest);
        config.to_text()
    }

    fn keepalived(&self, own: usize) -> Result<keepalived::Config> {
        let addresses = PROXIES.map(str::parse::<IpAddr>);
        let [first, second] = addresses;
        let (own_address, peer) = if own == 0 { (first?, second?) } else { (second?, first?) };
        let instances = self.groups.iter().map(|(vrid, addresses)| Instance {
            vrid: *vrid,
            // What vipd gives to the first two of its nodes.
            priority: if own == 0 { 200 } else { 150 },
            addresses: addresses.clone(),
            unicast: Some((own_address, vec![peer])),
            nopreempt: true,
        });
        Ok(keepalived::Config {
            version: Version::V3,
            interval: self.interval,
            unicast_ttl: None,
            instances: instances.collect(),
        })
    }
}

/// A daemon on a proxy host.
#[derive(Debug)]
pub enum Daemon {
    /// keepalived's parent process.
    Keepalived(Process),
    /// vipd.
    Vipd(Vipd),
}

impl Daemon {
    /// Its process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        match self {
            Self::Keepalived(process) => process,
            Self::Vipd(vipd) => vipd.process(),
        }
    }

    /// Waits until it is backup of all `groups`.
    fn wait_for_backup(&self, groups: usize, patience: Duration) -> Result<()> {
        match self {
            Self::Vipd(vipd) => vipd.wait_for_state("backup", patience),
            Self::Keepalived(process) => {
                for group in 0..groups {
                    process.wait_for_line(&format!("(v{group}) Entering BACKUP STATE"), patience)?;
                }
                Ok(())
            }
        }
    }
}

/// A client, two proxy hosts, and a daemon on each.
#[derive(Debug)]
pub struct Scene {
    /// The lab.
    pub lab: Lab,
    /// The client.
    pub client: Host,
    /// `px1`, which owns at first, and `px2`.
    pub proxies: [Host; 2],
    /// Their daemons.
    pub daemons: [Daemon; 2],
    /// What the daemons were told.
    pub plan: Plan,
    kind: Kind,
    _echoes: [Process; 2],
}

impl Scene {
    /// Sets it up in a lab and waits until `px1` owns and `px2` is its backup.
    ///
    /// # Errors
    /// If that does not come about.
    pub fn new(lab: &Lab, kind: Kind, plan: Plan) -> Result<Self> {
        let client = lab.host("client", &["10.77.0.50/16", "fd77::50/64"])?;
        let px1 = lab.host("px1", &[&format!("{}/16", PROXIES[0]), "fd77::11/64"])?;
        let px2 = lab.host("px2", &[&format!("{}/16", PROXIES[1]), "fd77::12/64"])?;
        let port = ECHO_PORT.to_string();
        let echoes = [px1.tool(&["echo", "px1", &port])?, px2.tool(&["echo", "px2", &port])?];
        let patience = plan.interval * 4 + Duration::from_secs(5);
        let first = start(&px1, kind, &plan, 0)?;
        for (_, addresses) in &plan.groups {
            for address in addresses {
                let address = address.split('/').next().unwrap_or(address).parse()?;
                lab.addresses().wait_for(address, &["px1"], patience)?;
            }
        }
        let second = start(&px2, kind, &plan, 1)?;
        second.wait_for_backup(plan.groups.len(), patience)?;
        if let Daemon::Vipd(first) = &first {
            first.wait_for_peers(patience)?;
        }
        Ok(Self {
            lab: lab.clone(),
            client,
            proxies: [px1, px2],
            daemons: [first, second],
            plan,
            kind,
            _echoes: echoes,
        })
    }

    /// The floating IP.
    ///
    /// # Panics
    /// Never: the constant is an address.
    #[must_use]
    pub fn vip() -> IpAddr {
        IpAddr::from([10, 77, 0, 100])
    }

    /// The floating IP's responder.
    #[must_use]
    pub fn echo() -> SocketAddr {
        SocketAddr::new(Self::vip(), ECHO_PORT)
    }

    /// The `vipd` of a proxy.
    ///
    /// # Errors
    /// If the scene runs keepalived.
    pub fn vipd(&self, proxy: usize) -> Result<&Vipd> {
        match self.daemons.get(proxy) {
            Some(Daemon::Vipd(vipd)) => Ok(vipd),
            Some(Daemon::Keepalived(_)) | None => None.context("no vipd runs there"),
        }
    }

    /// Starts a proxy's daemon again, as at first; a `vipd` answers by then.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self, proxy: usize) -> Result<()> {
        self.daemons[proxy] = start(&self.proxies[proxy], self.kind, &self.plan, proxy)?;
        if let Ok(vipd) = self.vipd(proxy) {
            poll_until("it answers", Duration::from_secs(10), || Ok(vipd.status().is_ok()))?;
        }
        Ok(())
    }
}

/// Gives a host its cluster key.
///
/// # Errors
/// If the file cannot be written.
pub fn write_key(host: &Host, key: &str) -> Result<PathBuf> {
    let path = host.write_file("cluster.key", key)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(host.lab().outside(&path), private)?;
    Ok(path)
}

fn start(host: &Host, kind: Kind, plan: &Plan, own: usize) -> Result<Daemon> {
    Ok(match kind {
        Kind::Keepalived => Daemon::Keepalived(keepalived::start(host, &plan.keepalived(own)?)?),
        Kind::Vipd => {
            let mut config = plan.vipd_config();
            if let Some(key) = &plan.keys[own] {
                let line = format!("[cluster]\nkey-file = {:?}", write_key(host, key)?);
                config = config.replacen("[cluster]", &line, 1);
            }
            Daemon::Vipd(match plan.descriptors {
                Some(descriptors) => Vipd::start_with_descriptors(host, &config, descriptors)?,
                None => Vipd::start(host, &config)?,
            })
        }
    })
}
