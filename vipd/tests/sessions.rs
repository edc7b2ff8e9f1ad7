//! Sessions of a real balancer, listed and ended over the control socket.
#![allow(clippy::wildcard_enum_match_arm, reason = "a test wants one answer, and every other is a failure")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use vipd::control::api::{Request, Response, SOCKET, SessionState, SessionsDoc, Which};
use vipd::control::call::{self, Call};
use vipd::control::events::EventLog;
use vipd::control::instance::Instance;
use vipd::control::server;
use vipd::shell::calls;
use vipd_balancer::{Balancer, CloseCause};
use vipd_core::health::PoolsState;
use vipd_core::settings::{Bind, Host, Listener, Pool, Server};
use vipd_core::time::Time;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(20);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that answers everything with itself.
fn echo() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((HERE, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
        }
    });
    Ok(address)
}

/// A balancer's control plane: its sessions, and nothing else.
struct Daemon {
    dir: tempfile::TempDir,
    clients: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start() -> Outcome<Self> {
        let place = echo()?;
        let db1 = Server::new("db1", Host::Address(place.ip()), place.port());
        let pools = PoolsState::new(vec![Pool::new("primary", vec![db1])], Time::ZERO).build();
        let listener = Listener::new("write", Bind { address: Some(HERE), port: 0 }, 0);
        let balancer = Balancer::start(&[listener], pools, Some(2))?;
        let clients = balancer.stats().listeners[0].addresses[0];
        let dir = tempfile::tempdir()?;
        let instance = Instance::claim(dir.path())?;
        let socket = instance.listen()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (calls, mut received) = call::channel();
        let (log, store) = EventLog::new();
        let context = runtime.enter();
        runtime.spawn(server::serve(socket, calls, store));
        runtime.spawn(async move {
            let (aux, _instance, _log) = (tokio::runtime::Handle::current(), instance, log);
            while let Some(call) = received.recv().await {
                match call {
                    Call::Sessions { which, reply } => calls::sessions(&balancer, &aux, which, reply),
                    Call::Kill { which, reply } => calls::kill(&balancer, &aux, which, reply),
                    Call::Reload { reply, .. } => {
                        // How many were killed, for the test to read.
                        let closed = balancer.stats().listeners[0].closed(CloseCause::Killed);
                        drop(reply.send(Ok(closed.to_string())));
                    }
                    Call::Status { .. }
                    | Call::Why { .. }
                    | Call::Switchover { .. }
                    | Call::Maintenance { .. }
                    | Call::Server { .. }
                    | Call::Weight { .. } => panic!("nobody asks this here"),
                }
            }
        });
        drop(context);
        Ok(Self { dir, clients, _runtime: runtime })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    fn ask(&self, request: &Request) -> Outcome<Response> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&request.to_line()?)?;
        let mut line = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut line)?;
        Ok(Response::from_line(&line)?)
    }

    fn list(&self, which: Which) -> Outcome<SessionsDoc> {
        let response = self.ask(&Request::Sessions { which })?;
        let Response::Sessions(doc) = response else { return Err(format!("{response:?}").into()) };
        Ok(doc)
    }

    /// A session in which something was said.
    fn session(&self) -> Outcome<TcpStream> {
        let mut client = TcpStream::connect(self.clients)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"ping")?;
        client.read_exact(&mut [0; 4])?;
        Ok(client)
    }
}

fn is_reset(client: &mut TcpStream) -> bool {
    client.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn sessions_are_listed_and_killed() -> Outcome {
    let daemon = Daemon::start()?;
    let mut clients = (0..3).map(|_| daemon.session()).collect::<Result<Vec<_>, _>>()?;
    let doc = daemon.list(Which::All)?;
    assert_eq!((doc.sessions.len(), doc.left_out), (3, 0));
    let victim = clients[1].local_addr()?.to_string();
    let session = doc.sessions.iter().find(|s| s.client == victim).ok_or("it is not listed")?;
    assert_eq!((&*session.listener, session.state), ("write", SessionState::Relaying));
    assert_eq!((session.pool.as_deref(), session.server.as_deref()), (Some("primary"), Some("db1")));
    assert_eq!((session.bytes_in, session.bytes_out), (4, 4));
    for name in ["write", "primary"] {
        assert_eq!(daemon.list(Which::Named(name.into()))?.sessions.len(), 3, "{name}");
    }

    let kill = |which| daemon.ask(&Request::Kill { which });
    let done = |n: &str| Response::Done { message: format!("reset {n}") };
    assert_eq!(kill(Which::Id(session.id))?, done("1 session"));
    assert!(is_reset(&mut clients[1]));
    let db1 = Which::Server { pool: "primary".into(), server: "db1".into() };
    assert_eq!(kill(db1.clone())?, done("2 sessions"));
    assert!(is_reset(&mut clients[0]) && is_reset(&mut clients[2]));
    assert_eq!(daemon.list(db1)?, SessionsDoc::default(), "a server without sessions is no error");
    assert_eq!(daemon.ask(&Request::Reload { dry_run: false })?, Response::Done { message: "3".into() });
    Ok(())
}

#[test]
fn what_is_not_there_is_said_so() -> Outcome {
    let daemon = Daemon::start()?;
    let refused = |request: Request| -> Outcome<String> {
        let response = daemon.ask(&request)?;
        let Response::Refused { reason } = response else { return Err(format!("{response:?}").into()) };
        Ok(reason)
    };
    let db9 = Which::Server { pool: "primary".into(), server: "db9".into() };
    let name = refused(Request::Sessions { which: Which::Named("reed".into()) })?;
    assert_eq!(name, "there is no listener or pool `reed`; there is primary, write");
    let server = "there is no server `primary/db9`; there is primary/db1";
    assert_eq!(refused(Request::Sessions { which: db9.clone() })?, server);
    assert_eq!(refused(Request::Kill { which: db9 })?, server);
    assert_eq!(refused(Request::Kill { which: Which::Id(7) })?, "there is no session 7");
    Ok(())
}
