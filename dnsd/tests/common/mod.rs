//! A real dnsd on loopback, and the programs that talk to it.

#![allow(dead_code, reason = "each test program uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

pub(crate) mod leased;

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const SECRET: &str = "dGhpcyBpcyBhIHNlY3JldCBmb3IgdGVzdHMgb25seSE=";
pub(crate) const KEY: &str = "hmac-sha256:vipd.:dGhpcyBpcyBhIHNlY3JldCBmb3IgdGVzdHMgb25seSE=";

/// Whether programs of Debian's packages are there. Where the caller says that
/// they are, a missing one is a failure.
pub(crate) fn has(programs: &[&str], package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&str| {
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).exists())
    };
    let there = programs.iter().all(found);
    assert!(there || std::env::var_os("LAB_NEEDS_ARE_MET").is_none(), "{programs:?} of {package} is missing");
    if !there {
        eprintln!("skipped: {programs:?} not installed (apt-get install {package})");
    }
    there
}

/// A port that is free for UDP and TCP on loopback.
pub(crate) fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A program whose lines are read; killed when dropped.
pub(crate) struct Program {
    pub(crate) child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: vec![] }
    }

    /// Waits for a line that contains all of these words.
    pub(crate) fn wait_for(&mut self, words: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if words.iter().all(|word| line.contains(word)) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {words:?} in:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The lines so far and those that come until it ends.
    pub(crate) fn all_lines(&mut self) -> Vec<String> {
        self.seen.extend(self.lines.iter());
        self.seen.clone()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

/// A home for a dnsd: its files, and the server when it runs.
pub(crate) struct Dnsd {
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    pub(crate) program: Option<Program>,
}

impl Dnsd {
    /// With a master file and lines more in `[[zone]]` and at the end.
    pub(crate) fn new(zone_file: &str, in_zone: &str, more: &str) -> Self {
        let dnsd = Self { dir: tempfile::tempdir().unwrap(), port: free_port(), program: None };
        std::fs::write(dnsd.path("vipd.key"), SECRET).unwrap();
        std::fs::set_permissions(dnsd.path("vipd.key"), Permissions::from_mode(0o640)).unwrap();
        std::fs::write(dnsd.path("zone"), zone_file).unwrap();
        dnsd.configure(in_zone, more);
        dnsd
    }

    pub(crate) fn configure(&self, in_zone: &str, more: &str) {
        let (dir, port) = (self.dir.path().display(), self.port);
        let text = format!(
            r#"listen = ["127.0.0.1:{port}"]
state-dir = "{dir}/state"
[[zone]]
name = "corp.example."
primary-ns = "ns1.corp.example."
contact = "hostmaster.corp.example."
file = "{dir}/zone"
allow-transfer = ["vipd."]
min-lease = "1s"
{in_zone}
[[key]]
name = "vipd."
algorithm = "hmac-sha256"
secret-file = "{dir}/vipd.key"
grant = [
  {{ name = "db.corp.example.", types = ["A", "AAAA", "TXT", "CNAME", "MX"] }},
  {{ name = "*.dyn.corp.example.", types = ["ANY"] }},
]
{more}
"#
        );
        std::fs::write(self.path("dnsd.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dnsd"));
        command.arg(subcommand).arg("--config").arg(self.path("dnsd.toml"));
        command
    }

    pub(crate) fn start(&mut self) -> &mut Self {
        let mut program = Program::start(&mut self.command("run"));
        program.wait_for(&["ready"]);
        self.program = Some(program);
        self
    }

    pub(crate) fn running(zone_file: &str) -> Self {
        let mut dnsd = Self::new(zone_file, "", "");
        dnsd.start();
        dnsd
    }

    pub(crate) fn log(&mut self) -> &mut Program {
        self.program.as_mut().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.program = None;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What dig prints.
    pub(crate) fn dig(&self, words: &str) -> String {
        dig(self.port, words)
    }

    /// The short answers, sorted.
    pub(crate) fn short(&self, words: &str) -> Vec<String> {
        let mut lines: Vec<_> = self.dig(&format!("+short {words}")).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    pub(crate) fn serial(&self) -> u32 {
        serial(self.port)
    }

    /// Runs nsupdate with a key; whether it was done, and what it said.
    pub(crate) fn nsupdate(&self, key: Option<&str>, lines: &str) -> (bool, String) {
        nsupdate(self.port, key, lines)
    }

    /// An update that must be done.
    pub(crate) fn update(&self, lines: &str) {
        let (done, said) = self.nsupdate(Some(KEY), lines);
        assert!(done, "{lines}: {said}");
    }
}

pub(crate) fn dig(port: u16, words: &str) -> String {
    let port = port.to_string();
    let fixed = ["@127.0.0.1", "-p", &port, "+norec", "+time=5", "+tries=2"];
    text(Command::new("dig").args(fixed).args(words.split_whitespace()).output().unwrap())
}

pub(crate) fn serial(port: u16) -> u32 {
    let soa = dig(port, "+short corp.example SOA");
    soa.split_whitespace().nth(2).and_then(|serial| serial.parse().ok()).unwrap_or_else(|| panic!("{soa}"))
}

pub(crate) fn nsupdate(port: u16, key: Option<&str>, lines: &str) -> (bool, String) {
    let key = key.map(|key| ["-y", key]);
    let mut child = Command::new("nsupdate")
        .args(key.iter().flatten())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = format!("server 127.0.0.1 {port}\nzone corp.example.\n{lines}\nsend\n");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), text(output))
}

pub(crate) fn text(output: Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether a file is there and what it says; for programs that write one.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What is served at a path, head and body.
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}
