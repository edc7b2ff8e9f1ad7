//! Two network namespaces joined by a veth pair, for one test, on a thread of
//! its own; they vanish with the thread.
#![allow(dead_code, reason = "every test file uses its part of it")]

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::future::Future;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The interface of this side.
pub(crate) const HERE: &str = "va";
/// The interface of the other side.
pub(crate) const THERE: &str = "vb";

/// A test that takes longer waits for something that will not come.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Net {
    here: File,
    there: File,
}

/// Runs a test with the namespaces, on a current-thread runtime.
pub(crate) fn lab<F, Fut>(test: F)
where
    F: FnOnce(Rc<Net>) -> Fut + Send + 'static,
    Fut: Future<Output = Outcome>,
{
    let body = move || -> Result<(), String> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let net = Rc::new(Net::new().map_err(|e| format!("{e}: these tests need root"))?);
        runtime.block_on(async {
            let limited = tokio::time::timeout(LIMIT, test(Rc::clone(&net))).await;
            limited.map_err(|_| format!("not done after {LIMIT:?}"))?.map_err(|e| e.to_string())
        })
    };
    match std::thread::spawn(body).join() {
        Ok(Ok(())) => {}
        Ok(Err(text)) => panic!("{text}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Net {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let own = || File::open("/proc/thread-self/ns/net");
        unshare(CloneFlags::CLONE_NEWNET)?;
        let there = own()?;
        prepare()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let here = own()?;
        prepare()?;
        let net = Self { here, there };
        let tid = nix::unistd::gettid();
        net.there(|| {
            sh(&format!("ip link add {THERE} type veth peer name {HERE}"))?;
            let target = format!("/proc/{}/fd/{}", nix::unistd::getpid(), std::os::fd::AsRawFd::as_raw_fd(&net.here));
            sh(&format!("ip link set {HERE} netns {target}"))?;
            sh(&format!("ip link set {THERE} up; ip addr add 10.9.0.2/24 dev {THERE}; ip addr add fd09::2/64 dev {THERE} nodad"))
        })
        .map_err(|e| format!("{e} (thread {tid})"))?;
        sh(&format!(
            "ip link set {HERE} up; ip addr add 10.9.0.1/24 dev {HERE}; ip addr add fd09::1/64 dev {HERE} nodad"
        ))?;
        net.there(|| carries(THERE))?;
        carries(HERE)?;
        Ok(net)
    }

    /// Runs `what` in the other namespace: sockets opened there stay there.
    pub(crate) fn there<T>(&self, what: impl FnOnce() -> T) -> T {
        setns(&self.there, CloneFlags::CLONE_NEWNET).expect("the namespace is held open");
        let result = what();
        setns(&self.here, CloneFlags::CLONE_NEWNET).expect("the namespace is held open");
        result
    }
}

/// Waits until an interface carries: a while after both its ends are up, what
/// is sent by it is lost without an error.
fn carries(interface: &str) -> Result<(), String> {
    sh(&format!("until ip -br link show {interface} | grep -q ' UP '; do sleep 0.01; done"))
}

/// Loopback up, and no duplicate address detection to wait for.
fn prepare() -> Result<(), Box<dyn std::error::Error>> {
    sh("ip link set lo up")?;
    for place in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{place}/accept_dad"), "0")?;
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{place}/router_solicitations"), "0")?;
    }
    Ok(())
}

/// Runs a shell command in the present namespace and gives what it printed.
pub(crate) fn output(command: &str) -> Result<String, String> {
    let out = Command::new("sh").args(["-ec", command]).output().map_err(|e| e.to_string())?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("{command}: {}", String::from_utf8_lossy(&out.stderr)))
    }
}

/// Runs a shell command in the present namespace.
pub(crate) fn sh(command: &str) -> Result<(), String> {
    output(command).map(|_| ())
}

/// The index of an interface of the present namespace.
pub(crate) fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the interface exists")
}

/// The Ethernet address of an interface of the present namespace.
pub(crate) fn mac(name: &str) -> [u8; 6] {
    let text = output(&format!("ip -o link show {name}")).expect("the interface exists");
    let place = text.find("link/ether ").expect("an Ethernet interface") + "link/ether ".len();
    let mut mac = [0; 6];
    for (byte, hex) in mac.iter_mut().zip(text[place..place + 17].split(':')) {
        *byte = u8::from_str_radix(hex, 16).expect("hexadecimal");
    }
    mac
}
