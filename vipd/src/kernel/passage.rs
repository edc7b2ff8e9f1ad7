//! At a planned switchover: packets of connections that the former owner has
//! are passed on to it, while both hosts take packets for the addresses.
//!
//! ```text
//!   client ──► next owner ─┬─ it began here, or is no TCP ──► this host
//!      ▲                   └─ it did not ──► former owner ─┐
//!      └───────────────────────────────────────────────────┘
//! ```
//! Without it the next owner's kernel resets whoever is in the middle of a
//! request when the announcement comes. What began here is what was seen to:
//! the first packet of each connection puts it into a set of the kernel's. The
//! kernel ends all of it by itself, when the former owner lets the address go
//! at the latest: what is left then matches nothing.
//!
//! These are rules of nftables, at the interface's ingress, where nothing has
//! asked for a socket yet. Without the program `nft`, or a kernel that has
//! them, connections that are open at that moment are reset, as said.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use vipd_core::settings::Family;

/// How long packets are passed on, counted from before the release: the
/// former owner takes them for as long from its release on. Were it longer, two
/// hosts that hand an address to and fro could pass a packet on to each other.
const OPEN_FOR: Duration = Duration::from_millis(500);
/// Then the rules are removed.
const REMOVE_AFTER: Duration = Duration::from_secs(1);
/// The owner waits for this host to be ready, and gives up after 300 ms.
const PATIENCE: Duration = Duration::from_millis(100);
/// Connections that begin on the interface meanwhile. Beyond that new ones go to
/// the former owner, too.
const BEGUN: usize = 65_536;

/// Which packets are passed on, and where to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Passage {
    /// The interface's name.
    interface: String,
    /// Each address, and the former owner's own.
    pairs: Vec<(IpAddr, IpAddr)>,
}

impl Passage {
    /// For these addresses on an interface; `None` if the former owner is in no
    /// subnet of it.
    pub(super) fn new(
        interface: &str,
        addresses: impl Iterator<Item = IpAddr>,
        former: &[IpAddr],
        on_link: impl Fn(IpAddr) -> bool,
    ) -> Option<Self> {
        let former = |a: IpAddr| {
            former.iter().copied().find(|f| Family::of(*f) == Family::of(a) && on_link(*f)).map(|f| (a, f))
        };
        let pairs: Vec<_> = addresses.filter_map(former).collect();
        // What an interface may be called and no text of nftables can hold.
        let named = !interface.contains(['"', '\\']);
        (named && !pairs.is_empty()).then(|| Self { interface: interface.to_owned(), pairs })
    }

    /// Lets packets pass, and removes the rules when that is over, in a task.
    ///
    /// # Errors
    /// What `nft` says, or why it cannot be run.
    pub(super) async fn open(&self) -> io::Result<tokio::task::JoinHandle<()>> {
        run(&self.rules()).await?;
        let remove = self.removal();
        Ok(tokio::spawn(async move {
            tokio::time::sleep(REMOVE_AFTER).await;
            if let Err(error) = run(&remove).await {
                tracing::debug!(%error, "cannot remove rules that match nothing any more");
            }
        }))
    }

    /// The name of the table: an address is of one group, and of one daemon.
    fn table(&self) -> String {
        let first = self.pairs.first().map(|(address, _)| address.to_string()).unwrap_or_default();
        format!("vipd_{}", first.replace(':', "_"))
    }

    fn removal(&self) -> String {
        let table = self.table();
        // Adding one that is there does nothing; deleting one that is not fails.
        format!("add table netdev {table}\ndelete table netdev {table}\n")
    }

    fn rules(&self) -> String {
        let (mut sets, mut rules) = (String::new(), String::new());
        for (family, kind, header) in [(Family::V4, "ipv4_addr", "ip"), (Family::V6, "ipv6_addr", "ip6")] {
            let pairs = self.pairs.iter().filter(|(address, _)| Family::of(*address) == family);
            let millis = OPEN_FOR.as_millis();
            let elements: Vec<_> = pairs.map(|(a, to)| format!("{a} timeout {millis}ms : {to}")).collect();
            if elements.is_empty() {
                continue;
            }
            let flow = format!("{header} saddr . tcp sport . {header} daddr . tcp dport");
            let _ = write!(
                sets,
                "map former_{header} {{ type {kind} : {kind}; flags timeout; elements = {{ {} }}; }}\n\
                 set begun_{header} {{ type {kind} . inet_service . {kind} . inet_service; size {BEGUN}; \
                 flags dynamic,timeout; timeout {}s; }}\n",
                elements.join(", "),
                REMOVE_AFTER.as_secs()
            );
            let _ = write!(
                rules,
                "tcp flags & (syn | ack) == syn add @begun_{header} {{ {flow} }} accept\n\
                 {flow} @begun_{header} accept\n\
                 meta l4proto tcp fwd {header} to {header} daddr map @former_{header} device \"{}\"\n",
                self.interface
            );
        }
        format!(
            "{}table netdev {} {{\n{sets}chain passage {{\ntype filter hook ingress device \"{}\" priority 0; \
             policy accept;\n{rules}}}\n}}\n",
            self.removal(),
            self.table(),
            self.interface
        )
    }
}

async fn run(script: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let done = async {
        // It may have ended for a reason that it tells.
        let written = stdin.write_all(script.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return written;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(text.lines().next().unwrap_or("nft failed and says nothing").to_owned()))
    };
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nft takes longer than {PATIENCE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| unreachable!("an address"))
    }

    fn passage(former: &[&str]) -> Option<Passage> {
        let former: Vec<_> = former.iter().map(|f| address(f)).collect();
        let vips = ["10.77.0.100", "fd77::100"].map(address);
        let on_link = |a: IpAddr| !a.to_string().starts_with("10.88");
        Passage::new("eth0", vips.into_iter(), &former, on_link)
    }

    #[test]
    fn each_family_goes_to_the_former_owners_address_of_it() {
        let pairs = |former: &[&str]| passage(former).map(|p| p.pairs);
        let (v4, v6) = (address("10.77.0.11"), address("fd77::11"));
        let both = vec![(address("10.77.0.100"), v4), (address("fd77::100"), v6)];
        assert_eq!(pairs(&["10.88.0.11", "10.77.0.11", "fd77::11"]), Some(both));
        assert_eq!(pairs(&["fd77::11"]), Some(vec![(address("fd77::100"), v6)]));
        // Behind a router nobody takes it for us.
        assert_eq!(pairs(&["10.88.0.11"]), None);
        assert_eq!(pairs(&[]), None);
    }

    #[test]
    fn the_rules_end_by_themselves() {
        let rules = passage(&["10.77.0.11"]).map(|p| p.rules()).unwrap_or_default();
        assert!(rules.contains("{ 10.77.0.100 timeout 500ms : 10.77.0.11 }"), "{rules}");
        assert!(rules.contains("table netdev vipd_10.77.0.100 {") && !rules.contains("ip6"), "{rules}");
        let both = passage(&["10.77.0.11", "fd77::11"]).map(|p| p.rules()).unwrap_or_default();
        assert!(both.contains("fd77::100 timeout 500ms : fd77::11"), "{both}");
    }
}
