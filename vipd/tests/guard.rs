//! The crash guard, beside a daemon that is killed.

mod namespaces;

use namespaces::{HERE, Net, Outcome, THERE, index, lab, output, sh};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use vipd::guard::Guard;
use vipd::kernel::{self, KernelEvent, KernelSettings, Released};
use vipd::net::AdvertSocket;
use vipd::net::advert::BUFFER;
use vipd_core::node::{GuardState, Transmit};
use vipd_core::plan::{GroupPlan, Hold};
use vipd_core::settings::{Cidr, Family, Transport};

/// The runtime directory of the daemon that [`daemon`] is to be.
const ROLE: &str = "VIPD_TEST_DAEMON";
/// Longer than any test: what goes away is the guard's work.
const LEASE: Duration = Duration::from_secs(600);

fn cidr(address: [u8; 4], prefix: u8) -> Cidr {
    Cidr::new(address.into(), prefix).expect("a valid length")
}

fn vip6() -> Cidr {
    Cidr::new("fd09::100".parse().expect("an address"), 64).expect("a valid length")
}

/// A daemon with a guard, in a process of its own.
struct Daemon {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--ignored", "--exact", "daemon", "--nocapture"])
            .env(ROLE, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("no stdin")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut daemon = Self { child, orders, answers, dir };
        assert!(daemon.guard()? > 0);
        Ok(daemon)
    }

    /// Asks for the guard's process id, as soon as everything is held.
    fn guard(&mut self) -> Result<i32, Box<dyn std::error::Error>> {
        self.ask("id")
    }

    fn ask(&mut self, order: &str) -> Result<i32, Box<dyn std::error::Error>> {
        self.order(order)?;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                return Err("the daemon has ended".into());
            }
            // Other lines are the test harness's.
            if let Some((_, id)) = line.split_once("guard is ") {
                return Ok(id.trim().parse()?);
            }
        }
    }

    fn order(&mut self, order: &str) -> std::io::Result<()> {
        self.orders.write_all(format!("{order}\n").as_bytes())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "the daemon of the other tests, which start it"]
fn daemon() -> Outcome {
    let Some(dir) = std::env::var_os(ROLE) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(Path::new(&dir)))
}

async fn serve(dir: &Path) -> Outcome {
    // A panic on purpose is to leave no core file behind.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    let guard = Guard::spawn_program(Path::new(env!("CARGO_BIN_EXE_vipd")), dir)?;
    guard.on_panic();
    let settings = KernelSettings { runtime_dir: dir.to_owned(), addresses: vec![] };
    let (handle, actor, mut events, _) = kernel::start(settings).await?;
    tokio::spawn(actor.run());
    let interface = index(HERE);
    let plan = |group, addresses, hold| GroupPlan {
        group,
        generation: 1,
        interface,
        addresses,
        hold,
        lease: LEASE,
        until: None,
        former: vec![],
    };
    let owned = vec![cidr([10, 9, 0, 100], 24), vip6()];
    let silent = vec![cidr([10, 9, 0, 101], 24)];
    handle.submit(plan(0, owned.clone(), Hold::Owned));
    handle.submit(plan(1, silent.clone(), Hold::Silent));
    let mut applied = 0;
    while applied < 2 {
        if let Some(KernelEvent::Applied { result, .. }) = events.recv().await {
            result?;
            applied += 1;
        }
    }
    let farewell = |source: &str, destination: &str, bytes: &[u8]| -> Result<_, std::net::AddrParseError> {
        let (source, destination) = (source.parse()?, destination.parse()?);
        Ok(Transmit { interface, source, destination, bytes: bytes.to_vec() })
    };
    // What was told earlier does not count.
    guard.update(
        &GuardState {
            addresses: vec![],
            farewells: vec![farewell("10.9.0.1", "10.9.0.2", b"early")?],
            ..GuardState::default()
        },
        None,
        vec![],
    );
    let last = GuardState {
        addresses: owned.into_iter().chain(silent).map(|address| (interface, address)).collect(),
        farewells: vec![
            farewell("10.9.0.1", "10.9.0.2", b"bye 4")?,
            farewell("fd09::1", "fd09::2", b"bye 6")?,
        ],
        ..GuardState::default()
    };
    guard.update(&last, None, vec![]);
    let listener = TcpListener::bind(("0.0.0.0", 7000))?;
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "id" => answer(&format!("guard is {}", guard.id()))?,
            "goodbye" => {
                guard.goodbye();
                std::process::exit(0);
            }
            "told" => {
                while !guard.is_told() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer("guard is 0")?;
            }
            "flood" => {
                // More than its socket takes while it is stopped; what counts comes last.
                let filler = |n: u8| GuardState {
                    addresses: vec![],
                    farewells: (0..200)
                        .map(|_| Transmit { bytes: vec![n; 1000], ..last.farewells[0].clone() })
                        .collect(),
                    ..GuardState::default()
                };
                for n in 0..40 {
                    guard.update(&filler(n), None, vec![]);
                }
                assert!(!guard.is_told(), "the socket takes everything");
                guard.update(&last, None, vec![]);
                answer("guard is 0")?;
            }
            "take over" => {
                drop(events);
                guard.take_over();
                return std::future::pending().await;
            }
            other => panic!("{other}"),
        }
    }
    Ok(())
}

fn answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}")?;
    out.flush()
}

fn listed() -> String {
    output("ip -o addr").expect("ip works")
}

fn held() -> bool {
    let listed = listed();
    ["10.9.0.100/24", "fd09::100/64", "10.9.0.101/32"].iter().any(|a| listed.contains(a))
}

struct Ears {
    v4: AdvertSocket,
    v6: AdvertSocket,
}

impl Ears {
    fn open(net: &Net) -> std::io::Result<Self> {
        net.there(|| {
            let open = |family| AdvertSocket::open(index(THERE), family, Transport::Unicast);
            Ok(Self { v4: open(Family::V4)?, v6: open(Family::V6)? })
        })
    }

    /// Waits for both farewells; the first tells the time.
    async fn hear(&self) -> std::io::Result<Instant> {
        let mut buffer = [0; BUFFER];
        assert_eq!(self.v4.receive(&mut buffer).await?.payload, b"bye 4");
        let first = Instant::now();
        assert_eq!(self.v6.receive(&mut buffer).await?.payload, b"bye 6");
        Ok(first)
    }
}

/// Waits for the end of a process that is no child of ours.
fn gone(process: i32) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    // A guard's parent is gone, too: whoever inherits it reaps it, or nobody
    // does, in a container without a first process; then it is a zombie.
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    while lives() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn sigkill_costs_milliseconds() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let guard = daemon.guard()?;
        assert!(held());
        let vip = SocketAddr::from(([10, 9, 0, 100], 7000));
        let mut client = net.there(|| TcpStream::connect(vip))?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        let start = Instant::now();
        daemon.child.kill()?;
        let heard = ears.hear().await?;
        eprintln!("from SIGKILL to the farewell: {:?}", heard - start);
        assert!(heard - start < Duration::from_millis(50), "{:?}", heard - start);
        assert!(!held(), "{}", listed());
        // The client knows at once: the address was there until its end was sent.
        match client.read(&mut [0; 1]) {
            Ok(length) => assert_eq!(length, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert!(gone(guard));
        let arp_ignore = std::fs::read_to_string("/proc/sys/net/ipv4/conf/va/arp_ignore")?;
        assert_eq!(arp_ignore.trim(), "0");
        assert!(!daemon.dir.path().join("sysctl").exists());
        // So that nobody looks for them: `vipctl release` has nothing to do.
        assert_eq!(std::fs::read_to_string(daemon.dir.path().join("held"))?, "");
        assert_eq!(kernel::release_all(daemon.dir.path()).await?, Released::Here(vec![]));
        Ok(())
    });
}

/// The daemon that would have evicted them stood still.
#[test]
fn copies_at_other_places_are_deleted_too() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        stop(i32::try_from(daemon.child.id())?)?;
        sh(
            "ip link add other type veth peer name third; ip link set other up; ip addr add 10.9.0.100/32 dev va; \
            ip addr add 10.9.0.101/24 dev other; ip addr del fd09::100/64 dev va; \
            ip addr add fd09::100/128 dev va nodad; ip addr add 10.9.0.77/32 dev va",
        )?;
        daemon.child.kill()?;
        ears.hear().await?;
        let listed = listed();
        for gone in ["10.9.0.100/", "10.9.0.101/", "fd09::100/"] {
            assert!(!listed.contains(gone), "{listed}");
        }
        assert!(listed.contains("10.9.0.77/32") && listed.contains("10.9.0.1/24"), "{listed}");
        Ok(())
    });
}

#[test]
fn after_a_goodbye_nothing_is_done() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let guard = daemon.guard()?;
        daemon.order("goodbye")?;
        assert!(daemon.child.wait()?.success());
        assert!(gone(guard));
        assert!(held(), "{}", listed());
        let mut buffer = [0; BUFFER];
        let silence = tokio::time::timeout(Duration::from_millis(20), ears.v4.receive(&mut buffer)).await;
        assert!(silence.is_err(), "{silence:?}");
        Ok(())
    });
}

#[test]
fn a_guard_that_is_stopped_does_not_hold_up_the_end() {
    lab(|_net| async move {
        let mut daemon = Daemon::start()?;
        let guard = daemon.guard()?;
        kill(Pid::from_raw(guard), Signal::SIGSTOP)?;
        daemon.order("goodbye")?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while daemon.child.try_wait()?.is_none() {
            assert!(Instant::now() < deadline, "the daemon waits for its guard");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(gone(guard));
        assert!(held(), "{}", listed());
        Ok(())
    });
}

#[test]
fn what_is_left_to_the_guard_is_done_while_the_daemon_lives() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let guard = daemon.guard()?;
        daemon.order("take over")?;
        ears.hear().await?;
        assert!(!held(), "{}", listed());
        assert!(gone(guard));
        assert!(daemon.child.try_wait()?.is_none(), "the daemon has something to drain");
        Ok(())
    });
}

fn blocks_signals(process: i32) -> Result<bool, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).ok_or("no mask")?;
    Ok(u64::from_str_radix(mask.trim(), 16)? & (1 << (Signal::SIGTERM as u64 - 1)) != 0)
}

#[test]
fn a_guard_that_dies_is_replaced_and_signals_do_not_end_it() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let first = daemon.guard()?;
        kill(Pid::from_raw(first), Signal::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut second = daemon.guard()?;
        while second == first {
            assert!(Instant::now() < deadline, "not replaced");
            second = daemon.guard()?;
        }
        // Signals in the first moment of its life would still end it.
        while !blocks_signals(second)? {
            assert!(Instant::now() < deadline, "signals are not blocked");
        }
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            kill(Pid::from_raw(second), signal)?;
        }
        assert!(held());
        daemon.child.kill()?;
        ears.hear().await?;
        assert!(!held(), "{}", listed());
        Ok(())
    });
}

#[test]
fn a_panic_is_a_crash() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let start = Instant::now();
        daemon.order("a broken invariant")?;
        let heard = ears.hear().await?;
        eprintln!("from panic to the farewell: {:?}", heard - start);
        assert!(!held(), "{}", listed());
        assert!(!daemon.child.wait()?.success());
        Ok(())
    });
}

/// Stops a process, and waits until it has stopped.
fn stop(process: i32) -> Outcome {
    kill(Pid::from_raw(process), Signal::SIGSTOP)?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let state = || std::fs::read_to_string(format!("/proc/{process}/stat"));
    while !state()?.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
        assert!(Instant::now() < deadline, "it does not stop");
        std::thread::yield_now();
    }
    Ok(())
}

/// The guard notices its daemon's end late: the next daemon owns the addresses
/// by then. (A guard that is merely stopped wakes when its daemon dies: the kernel
/// continues what an orphan stopped. So here the next daemon is there first.)
#[test]
fn a_guard_that_acts_after_the_next_daemon_has_started_does_nothing() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let guard = daemon.guard()?;
        let next = vipd::control::instance::Instance::claim(daemon.dir.path())?;
        daemon.child.kill()?;
        daemon.child.wait()?;
        assert!(gone(guard));
        assert!(held(), "{}", listed());
        let mut buffer = [0; BUFFER];
        let silence = tokio::time::timeout(Duration::from_millis(20), ears.v4.receive(&mut buffer)).await;
        assert!(silence.is_err(), "{silence:?}");
        drop(next);
        Ok(())
    });
}

#[test]
fn what_the_guard_could_not_take_is_told_again() {
    lab(|net| async move {
        let mut daemon = Daemon::start()?;
        let ears = Ears::open(&net)?;
        let guard = daemon.guard()?;
        stop(guard)?;
        daemon.ask("flood")?;
        kill(Pid::from_raw(guard), Signal::SIGCONT)?;
        daemon.ask("told")?;
        daemon.child.kill()?;
        ears.hear().await?;
        assert!(!held(), "{}", listed());
        Ok(())
    });
}
