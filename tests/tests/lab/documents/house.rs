//! The hosts on which the documents' commands are typed: two proxies and a
//! name server, each with the places that the packages use.

use anyhow::{Context, Result, ensure};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use vipd_tests::documents::root;
use vipd_tests::lab::vipd::program;
use vipd_tests::lab::{Host, Lab, Process, dnsd, poll_until};

const PATIENCE: Duration = Duration::from_secs(20);
const CONFIG: &str = r#"
[cluster]
name = "orders"
nodes = [{ name = "px1", address = "10.77.0.11" }, { name = "px2", address = "10.77.0.12" }]
[election]
advert-interval = "100ms"
[[vip]]
name = "main"
addresses = ["10.77.0.100/16"]
[[listen]]
name = "write"
bind = "10.77.0.100:3306"
pool = "primary"
[[pool]]
name = "primary"
servers = [{ name = "db1", address = "10.77.0.21:3306" }, { name = "db2", address = "10.77.0.22:3306" }]
[pool.check]
kind = "tcp"
interval = "100ms"
timeout = "100ms"
[dns]
name = "db.corp.example."
ttl = "1s"
[dns.rfc2136]
servers = ["10.77.0.53:53"]
zone = "corp.example."
key-name = "vipd."
key-file = "/etc/vipd/tsig.key"
[status]
http = "127.0.0.1:9112"
"#;
const DNSD: &str = r#"
listen = ["10.77.0.53:53"]
[[zone]]
name = "corp.example."
primary-ns = "ns1.corp.example."
contact = "hostmaster.corp.example."
[[key]]
name = "vipd."
secret-file = "/etc/dnsd/vipd.key"
grant = [{ name = "db.corp.example.", types = ["A", "AAAA", "TXT"] }]
"#;
/// What stands in the way of the host's own /etc and /var/lib: changes go to memory.
const PLACES: &str = r#"
set -e
for place in etc var/lib usr/share; do
    mkdir -p "$HOME/over/$place" "$HOME/work/$place"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$HOME/over/$place,workdir=$HOME/work/$place" "/$place"
done
mkdir -p /run/vipd /etc/vipd /etc/dnsd /var/lib/vipd /var/lib/dnsd /usr/share/doc/vipd/examples
mount --bind "$HOME/runtime" /run/vipd
"#;

/// Where a command is typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// A proxy; it owns everything at first.
    Px1,
    /// The name server.
    Ns1,
    /// A proxy that is not set up yet, with the old files in its directory.
    Fresh,
    /// A client.
    Client,
}

/// All of it, running.
pub(super) struct House {
    px1: Host,
    ns1: Host,
    fresh: Host,
    client: Host,
    /// px1's vipd, px2's, dnsd.
    daemons: Vec<Process>,
    _servers: Vec<Process>,
    /// Of a client at 10.77.3.9.
    _sessions: Vec<TcpStream>,
}

impl House {
    pub(super) fn set_up(lab: &Lab) -> Result<Self> {
        let host = |name: &str, address: &str| lab.host(name, &[&format!("{address}/16")]);
        let (px1, px2) = (host("px1", "10.77.0.11")?, host("px2", "10.77.0.12")?);
        let (ns1, fresh) = (host("ns1", "10.77.0.53")?, host("px3", "10.77.0.13")?);
        let client = host("client", "10.77.3.9")?;
        let mut servers = Vec::new();
        for (name, address) in [("db1", "10.77.0.21"), ("db2", "10.77.0.22")] {
            servers.push(host(name, address)?.tool(&["serve", name, &format!("{address}:3306")])?);
        }
        for own in [&px1, &px2, &ns1, &fresh] {
            shell(own, PLACES)?;
        }
        shell(
            &ns1,
            &format!("cat > /etc/dnsd/dnsd.toml <<'E'\n{DNSD}E\necho {} > /etc/dnsd/vipd.key", dnsd::SECRET),
        )?;
        let mut daemons = Vec::new();
        let dns = start(&ns1, "dnsd run --config /etc/dnsd/dnsd.toml")?;
        dns.wait_for_line("ready", PATIENCE)?;
        for (proxy, line) in [(&px1, "vipd run"), (&px2, "vipd run --log-format json")] {
            let key = dnsd::SECRET;
            shell(
                proxy,
                &format!("cat > /etc/vipd/vipd.toml <<'E'\n{CONFIG}E\necho {key} > /etc/vipd/tsig.key"),
            )?;
            daemons.push(start(proxy, line)?);
            let first = proxy.name() == "px1";
            let state = if first { "\"active\"" } else { "\"backup\"" };
            poll_until(&format!("{} is {state}", proxy.name()), PATIENCE, || {
                let status = try_shell(proxy, "vipctl status --json")?;
                let text = String::from_utf8_lossy(&status.stdout);
                Ok(text.matches(&format!("\"state\": {state}")).count() >= 2
                    && text.contains("\"state\": \"up\""))
            })?;
        }
        daemons.push(dns);
        let connect = || Ok(TcpStream::connect(("10.77.0.100", 3306))?);
        let sessions = (0..4).map(|_| client.inside(connect)).collect::<Result<_>>()?;
        poll_until("the sessions are there", PATIENCE, || {
            let listed = try_shell(&px1, "vipctl sessions")?;
            Ok(String::from_utf8_lossy(&listed.stdout).matches("relaying").count() == 4)
        })?;
        let house = Self { px1, ns1, fresh, client, daemons, _servers: servers, _sessions: sessions };
        house.files()?;
        Ok(house)
    }

    /// What a reader has before: the examples of the package, the old daemons' files.
    fn files(&self) -> Result<()> {
        let import = root().join("config/tests/import");
        let examples = root().join("packaging/examples");
        let script = format!(
            "cp {0}/keepalived-both-hosts/lb1.conf keepalived-px1.conf\n\
             cp {0}/keepalived-both-hosts/lb2.conf keepalived-px2.conf\n\
             cp {0}/mysql-read-pool/haproxy-1.cfg haproxy.cfg\n\
             cp {1}/* /usr/share/doc/vipd/examples/\n",
            import.display(),
            examples.display()
        );
        shell(&self.fresh, &script)?;
        Ok(())
    }

    fn host(&self, place: Place) -> &Host {
        match place {
            Place::Px1 => &self.px1,
            Place::Ns1 => &self.ns1,
            Place::Fresh => &self.fresh,
            Place::Client => &self.client,
        }
    }

    /// Types a command, which exits so and prints this.
    pub(super) fn type_in(&self, place: Place, typed: &str, status: i32, prints: &str) -> Result<()> {
        let output = try_shell(self.host(place), typed)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(output.status.code() == Some(status), "{}: {said}", output.status);
        ensure!(said.contains(prints), "it does not print '{prints}': {said}");
        Ok(())
    }

    /// Types it at a terminal, and `y` to the question that it asks.
    pub(super) fn answer_yes(&self, place: Place, typed: &str, prints: &str) -> Result<()> {
        let at_terminal = format!("echo y | script --quiet --return --command '{typed}' /dev/null");
        let output = try_shell(self.host(place), &at_terminal)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {said}", output.status);
        ensure!(
            said.contains("Go on? [y/N]") && said.contains(prints),
            "no question, or no '{prints}': {said}"
        );
        Ok(())
    }

    /// One of the daemons, started as the documents say, has said this.
    pub(super) fn said(&self, line: &str) -> Result<()> {
        let said = self.daemons.iter().any(|d| d.wait_for_line(line, Duration::ZERO).is_ok());
        ensure!(said, "no daemon has said '{line}'");
        Ok(())
    }
}

/// Starts a daemon in the words of the documents.
fn start(host: &Host, line: &str) -> Result<Process> {
    let mut daemon = command(host, &format!("exec {line}"))?;
    host.spawn(line.split(' ').next().unwrap_or(line), &mut daemon)
}

fn command(host: &Host, script: &str) -> Result<Command> {
    let programs = program("vipctl")?;
    let programs = programs.parent().context("vipctl is in no directory")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.env("PATH", format!("{}:/usr/sbin:/sbin:{path}", programs.display())).env("HOME", host.dir());
    command.args(["-c", &format!("cd && {script}")]);
    Ok(command)
}

fn try_shell(host: &Host, script: &str) -> Result<std::process::Output> {
    let process = command(host, script)?;
    host.output(process)
}

fn shell(host: &Host, script: &str) -> Result<String> {
    let output = try_shell(host, script)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{script} on {}: {error}", host.name());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
