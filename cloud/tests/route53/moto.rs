//! moto, others' imitation of AWS: its metadata service and its STS. `make test`
//! installs it into an environment of its own (`tests/install-python`).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The keys of the instance's role, as moto gives them to everybody.
pub(crate) const ROLE: (&str, &str) = ("test-key", "test-session-token");

/// A running moto; dropped, it is gone.
pub(crate) struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `target/python`, beside the build's profiles.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("python/bin/moto_server")
}

/// Why it cannot run here, if so.
pub(crate) fn obstacle() -> Option<String> {
    let program = program();
    let missing = !program.exists();
    missing.then(|| format!("{} is missing (`make test` installs moto from PyPI)", program.display()))
}

impl Moto {
    /// Starts one and waits until it can be connected to.
    pub(crate) fn start() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // It does not outlive a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program());
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut moto = Self { process: process.unwrap(), address };
        let end = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(address).is_err() {
            assert!(moto.process.try_wait().unwrap().is_none(), "moto has ended");
            assert!(Instant::now() < end, "moto does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        moto
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its metadata service, with the header that moto 5.2 leaves out and the SDK
    /// wants: how long a token is good.
    pub(crate) async fn metadata_url(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let moto = self.address;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, moto));
            }
        });
        url
    }
}

/// One request, of which nothing but the head matters, and its answer.
async fn relay(mut client: tokio::net::TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let mut moto = tokio::net::TcpStream::connect(to).await?;
    moto.write_all(&head).await?;
    let mut answer = Vec::new();
    moto.read_to_end(&mut answer).await?;
    let line = answer.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let ttl = b"x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
    client.write_all(&[&answer[..line], ttl, &answer[line..]].concat()).await
}
