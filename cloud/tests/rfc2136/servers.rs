//! BIND, Knot and PowerDNS from Debian's packages, and our dnsd, each with a fresh
//! zone `corp.example.` on a loopback port of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tempfile::TempDir;
use vipd_cloud::rfc2136::{Key, KeyAlgorithm};

/// The zone that every server has.
pub(crate) const ZONE: &str = "corp.example.";

/// Key names, algorithms and secrets that every server knows. The last one may
/// do nothing with the zone.
pub(crate) const KEYS: [(&str, KeyAlgorithm, &str); 4] = [
    ("vipd", KeyAlgorithm::HmacSha256, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("vipd384", KeyAlgorithm::HmacSha384, "MTEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("vipd512", KeyAlgorithm::HmacSha512, "MjEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("stranger", KeyAlgorithm::HmacSha256, "MzEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
];

/// One of [`KEYS`].
pub(crate) fn key(index: usize) -> Key {
    let (name, algorithm, secret) = KEYS[index];
    Key::new(name, algorithm, secret).unwrap()
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Bind,
    Knot,
    PowerDns,
    Dnsd,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Bind, Self::Knot, Self::PowerDns, Self::Dnsd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Knot => "knot",
            Self::PowerDns => "powerdns",
            Self::Dnsd => "dnsd",
        }
    }

    /// Why it cannot run here, if so.
    pub(crate) fn obstacle(self) -> Option<String> {
        let needs: &[(&str, &str)] = match self {
            Self::Bind => &[("/usr/sbin/named", "bind9")],
            Self::Knot => &[("/usr/sbin/knotd", "knot")],
            Self::PowerDns => &[
                ("/usr/sbin/pdns_server", "pdns-server"),
                (POWERDNS_SCHEMA, "pdns-backend-sqlite3"),
                ("/usr/bin/sqlite3", "sqlite3"),
            ],
            Self::Dnsd if !dnsd_program().exists() => {
                return Some("dnsd is not built (cargo build -p dnsd)".to_owned());
            }
            Self::Dnsd => &[],
        };
        let tools = [("/usr/bin/nsupdate", "bind9-dnsutils")];
        let missing = needs.iter().chain(&tools).find(|(file, _)| !Path::new(file).exists());
        missing.map(|(_, package)| format!("{package} is not installed"))
    }
}

const POWERDNS_SCHEMA: &str = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";

/// A running server; dropped, it is gone.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    process: Child,
    log: Arc<Mutex<String>>,
    _dir: TempDir,
}

impl Server {
    /// Starts one and waits until it says that it answers.
    pub(crate) fn start(kind: Kind) -> Self {
        let dir = tempfile::Builder::new().prefix("vipd-dns-").tempdir().unwrap();
        let address = free_address();
        let (mut command, ready) = match kind {
            Kind::Bind => bind(dir.path(), address),
            Kind::Knot => knot(dir.path(), address),
            Kind::PowerDns => powerdns(dir.path(), address),
            Kind::Dnsd => dnsd(dir.path(), address),
        };
        // One pipe for both: programs differ in where they log.
        let (reader, writer) = std::io::pipe().unwrap();
        let mut process =
            command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
        drop(command);
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, told) = mpsc::channel();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(reader).lines().map_while(Result::ok) {
                    if line.contains(ready) {
                        let _ = tell.send(());
                    }
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        if told.recv_timeout(Duration::from_secs(30)).is_err() {
            let _ = process.kill();
            panic!("{kind:?} does not start:\n{}", log.lock().unwrap());
        }
        Self { kind, address, process, log, _dir: dir }
    }

    /// What a person does: `nsupdate` with these lines.
    pub(crate) fn nsupdate(&self, lines: &str) {
        let (name, algorithm, secret) = KEYS[0];
        let mut child = Command::new("nsupdate")
            .args(["-v", "-y", &format!("{}:{name}:{secret}", algorithm.name())])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let script =
            format!("server {} {}\nzone {ZONE}\n{lines}\nsend\n", self.address.ip(), self.address.port());
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{script}\n{}", self.log.lock().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.lock().unwrap());
        }
    }
}

/// A port below those that the kernel gives to clients, so that it is still
/// free when the server takes it. BIND listens on the interface's own address only.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + (step % 12_000) as u16));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

const ZONE_TEXT: &str = "$ORIGIN corp.example.\n$TTL 60\n\
    @ SOA ns1 hostmaster 1 3600 600 86400 5\n@ NS ns1\nns1 A 192.0.2.53\nalias CNAME ns1\n\
    static A 192.0.2.80\nsub NS ns1\n*.wild A 192.0.2.81\n*.wild TXT any\nown.wild A 192.0.2.82\n\
    *.star CNAME static\n";

fn bind(dir: &Path, address: SocketAddr) -> (Command, &'static str) {
    let (ip, port) = (address.ip(), address.port());
    fs::write(dir.join("zone"), ZONE_TEXT).unwrap();
    let mut text = format!(
        "options {{ directory \"{0}\"; pid-file none; session-keyfile none; recursion no; notify no;\n\
         dnssec-validation no; listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\n",
        dir.display()
    );
    for (name, algorithm, secret) in KEYS {
        text += &format!("key {name} {{ algorithm {}; secret \"{secret}\"; }};\n", algorithm.name());
    }
    text += &format!(
        "zone \"{ZONE}\" {{ type primary; file \"zone\"; \
         allow-update {{ key vipd; key vipd384; key vipd512; }}; }};\n"
    );
    fs::write(dir.join("named.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/named");
    command.args(["-g", "-4", "-n", "1", "-c"]).arg(dir.join("named.conf"));
    (command, "all zones loaded")
}

fn knot(dir: &Path, address: SocketAddr) -> (Command, &'static str) {
    fs::write(dir.join("zone"), ZONE_TEXT).unwrap();
    let (ip, port, path) = (address.ip(), address.port(), dir.display());
    let mut text = format!(
        "server:\n  listen: {ip}@{port}\n  rundir: {path}\n  udp-workers: 1\n  tcp-workers: 1\n\
         log:\n  - target: stderr\n    any: info\ndatabase:\n  storage: {path}\nkey:\n"
    );
    for (name, algorithm, secret) in KEYS {
        text += &format!("  - id: {name}\n    algorithm: {}\n    secret: {secret}\n", algorithm.name());
    }
    text += &format!(
        "acl:\n  - id: update\n    key: [vipd, vipd384, vipd512]\n    action: update\n\
         zone:\n  - domain: {ZONE}\n    storage: {path}\n    file: zone\n    acl: update\n"
    );
    fs::write(dir.join("knot.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/knotd");
    command.arg("-c").arg(dir.join("knot.conf"));
    (command, "server started")
}

fn powerdns(dir: &Path, address: SocketAddr) -> (Command, &'static str) {
    let database = dir.join("pdns.sqlite3");
    let (ip, port) = (address.ip(), address.port());
    fs::write(dir.join("zone"), ZONE_TEXT).unwrap();
    fs::write(
        dir.join("pdns.conf"),
        format!(
            "launch=gsqlite3\ngsqlite3-database={}\ngsqlite3-pragma-synchronous=0\nlocal-address={ip}\n\
             local-port={port}\ndnsupdate=yes\nsocket-dir={}\ndaemon=no\nguardian=no\nquery-cache-ttl=0\n\
             cache-ttl=0\nnegquery-cache-ttl=0\nallow-dnsupdate-from=127.0.0.0/8\n",
            database.display(),
            dir.display()
        ),
    )
    .unwrap();
    let run = |program: &str, arguments: &[&str], input: Stdio| {
        let output = Command::new(program).args(arguments).stdin(input).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    };
    let database = database.to_str().unwrap();
    run("sqlite3", &[database], fs::File::open(POWERDNS_SCHEMA).unwrap().into());
    let config = format!("--config-dir={}", dir.display());
    let pdnsutil =
        |arguments: &[&str]| run("pdnsutil", &[&[config.as_str()], arguments].concat(), Stdio::null());
    pdnsutil(&["load-zone", ZONE, dir.join("zone").to_str().unwrap()]);
    for (name, algorithm, secret) in KEYS {
        pdnsutil(&["import-tsig-key", name, algorithm.name(), secret]);
    }
    pdnsutil(&["set-meta", ZONE, "TSIG-ALLOW-DNSUPDATE", "vipd", "vipd384", "vipd512"]);
    let mut command = Command::new("/usr/sbin/pdns_server");
    command.arg(config);
    (command, "ready to distribute questions")
}

/// The program that `cargo build` has put beside the tests.
fn dnsd_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("dnsd")
}

fn dnsd(dir: &Path, address: SocketAddr) -> (Command, &'static str) {
    fs::write(dir.join("zone"), ZONE_TEXT).unwrap();
    let path = dir.display();
    let mut text = format!(
        "listen = [\"{address}\"]\nstate-dir = \"{path}/state\"\n[[zone]]\nname = \"{ZONE}\"\n\
         primary-ns = \"ns1.{ZONE}\"\ncontact = \"hostmaster.{ZONE}\"\nfile = \"{path}/zone\"\n"
    );
    for (name, algorithm, secret) in KEYS {
        fs::write(dir.join(name), secret).unwrap();
        let (algorithm, types) = (algorithm.name(), "types = [\"A\", \"AAAA\", \"TXT\"]");
        let grant = match name {
            "stranger" => String::new(),
            _ => {
                let names = [format!("db.{ZONE}"), format!("*.wild.{ZONE}"), format!("*.star.{ZONE}")];
                let grants = names.map(|name| format!("{{ name = \"{name}\", {types} }}"));
                format!("grant = [ {} ]\n", grants.join(", "))
            }
        };
        text += &format!(
            "[[key]]\nname = \"{name}.\"\nalgorithm = \"{algorithm}\"\nsecret-file = \"{path}/{name}\"\n{grant}"
        );
    }
    fs::write(dir.join("dnsd.toml"), text).unwrap();
    let mut command = Command::new(dnsd_program());
    command.args(["run", "--config"]).arg(dir.join("dnsd.toml"));
    (command, "ready")
}
