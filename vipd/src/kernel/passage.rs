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
//! the first packet that comes of a connection puts it into a set of the
//! kernel's. That is a client's SYN, or a server's answer to this host's own,
//! which with `source = "vip"` goes to the address, too. (An answer to the
//! former owner's, of the moment of the announcement, is taken for one: that
//! attempt of its is lost.) The kernel ends all of it by itself, when the
//! former owner lets the address go at the latest: what is left then matches
//! nothing.
//!
//! These are rules of nftables, at the interface's ingress, where nothing has
//! asked for a socket yet. Without the program `nft`, or a kernel that has
//! them, connections that are open at that moment are reset, as said.
//!
//! Nothing but the groups that are to be taken over waits for that program.
//! It is run once at a time, for all that wait when its turn comes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tracing::{debug, warn};
use vipd_core::settings::Family;

/// How long packets are passed on, counted from before the release: the
/// former owner takes them for as long from its release on. Were it longer, two
/// hosts that hand an address to and fro could pass a packet on to each other.
const OPEN_FOR: Duration = Duration::from_millis(500);
/// Then the rules are removed.
const REMOVE_AFTER: Duration = Duration::from_secs(1);
/// The owner waits for this host to be ready, and gives up after 300 ms: a group
/// waits for the program's turn and for the one before it.
const PATIENCE: Duration = Duration::from_millis(100);
/// A start waits no longer for what an earlier run left.
const AT_START: Duration = Duration::from_secs(1);
/// Nobody waits for a removal after a switchover.
const UNHURRIED: Duration = Duration::from_secs(10);
/// Connections that begin at the addresses meanwhile. Beyond that new ones go to
/// the former owner, too.
const BEGUN: usize = 65_536;
/// What the names of our tables begin with.
const PREFIX: &str = "vipd_";

/// Which packets of an interface are passed on, and where to.
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

    /// What takes it out of a table.
    fn closing(&self, table: &str) -> String {
        let element = |(address, former): &(IpAddr, IpAddr)| {
            let header = header(*address);
            format!("delete element netdev {table} former_{header} {{ {address} : {former} }}\n")
        };
        self.pairs.iter().map(element).collect()
    }
}

/// Groups, with their plans' generations.
pub(super) type Opened = Vec<(usize, u64)>;

/// The groups that wait for a passage: each once, by its newest plan.
#[derive(Debug)]
pub(super) struct Passages {
    nft: Nft,
    /// Their plans' generations, and what is to be opened.
    waiting: BTreeMap<usize, (u64, Passage)>,
    opening: Option<Opening>,
    /// How many tables there were.
    tables: u64,
}

/// What the program runs for now.
#[derive(Debug)]
struct Opening {
    /// The table's name.
    table: String,
    /// What was waiting.
    groups: BTreeMap<usize, (u64, Passage)>,
    task: JoinHandle<()>,
}

impl Passages {
    pub(super) fn new() -> Self {
        Self { nft: Nft::default(), waiting: BTreeMap::new(), opening: None, tables: 0 }
    }

    /// Opens a passage as soon as may be; [`Passages::opened`] tells when.
    pub(super) fn open(&mut self, group: usize, generation: u64, passage: Passage) {
        self.waiting.insert(group, (generation, passage));
    }

    /// A newer plan of a group says what is to be.
    pub(super) fn forget(&mut self, group: usize) {
        self.waiting.remove(&group);
    }

    /// Takes addresses out of a table: of a group that owns by now, its own
    /// connections would go to the former owner. Those of the others stay.
    fn close(&self, script: String) {
        let nft = self.nft.clone();
        tokio::spawn(async move {
            if let Err(error) = nft.run(&["-f", "-"], &script, UNHURRIED).await {
                debug!(%error, "cannot close a passage that came too late");
            }
        });
    }

    /// Runs the program for all that wait, unless it runs.
    pub(super) fn start(&mut self) {
        if self.opening.is_some() || self.waiting.is_empty() {
            return;
        }
        let groups = std::mem::take(&mut self.waiting);
        self.tables += 1;
        let passages: Vec<_> = groups.values().map(|(_, passage)| passage.clone()).collect();
        let Some(table) = Table::of(&passages, self.tables) else { return };
        let (nft, name) = (self.nft.clone(), table.name.clone());
        let task = tokio::spawn(async move { nft.open(table).await });
        self.opening = Some(Opening { table: name, groups, task });
    }

    /// The groups for which the program has run, with their plans' generations:
    /// what could be done is done. Never, while it runs for none. Those whose newest
    /// plan is another are left out, and nothing is passed on for their sake.
    pub(super) async fn opened(&mut self, newest: impl Fn(usize, u64) -> bool) -> Opened {
        let Some(opening) = &mut self.opening else { return std::future::pending().await };
        if let Err(error) = (&mut opening.task).await {
            debug!(%error, "opening a passage ended early");
        }
        let (mut opened, mut closing) = (Opened::new(), String::new());
        if let Some(Opening { table, groups, .. }) = self.opening.take() {
            for (group, (generation, passage)) in groups {
                if newest(group, generation) {
                    opened.push((group, generation));
                } else {
                    closing += &passage.closing(&table);
                }
            }
        }
        if !closing.is_empty() {
            self.close(closing);
        }
        self.start();
        opened
    }
}

/// The passages of several groups, as one table of nftables.
struct Table {
    name: String,
    script: String,
}

impl Table {
    /// `number` tells it from others of the same address; none if nothing is passed on.
    fn of(passages: &[Passage], number: u64) -> Option<Self> {
        let all = || passages.iter().flat_map(|p| &p.pairs);
        let name = format!("{}{number}", stem(all().next()?.0));
        let mut body = String::new();
        for (family, kind, header) in [(Family::V4, "ipv4_addr", "ip"), (Family::V6, "ipv6_addr", "ip6")] {
            let millis = OPEN_FOR.as_millis();
            let pairs = all().filter(|(address, _)| Family::of(*address) == family);
            let elements: Vec<_> = pairs.map(|(a, to)| format!("{a} timeout {millis}ms : {to}")).collect();
            if !elements.is_empty() {
                let _ = write!(
                    body,
                    "map former_{header} {{ type {kind} : {kind}; flags timeout; elements = {{ {} }}; }}\n\
                     set begun_{header} {{ type {kind} . inet_service . {kind} . inet_service; size {BEGUN}; \
                     flags dynamic,timeout; timeout {}s; }}\n",
                    elements.join(", "),
                    REMOVE_AFTER.as_secs()
                );
            }
        }
        let mut interfaces: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for passage in passages {
            let addresses = passage.pairs.iter().map(|(address, _)| *address);
            interfaces.entry(&passage.interface).or_default().extend(addresses);
        }
        for (position, (interface, addresses)) in interfaces.into_iter().enumerate() {
            let rules = rules(interface, &addresses);
            let _ = write!(
                body,
                "chain passage{position} {{\ntype filter hook ingress device \"{interface}\" priority 0; \
                 policy accept;\n{rules}}}\n"
            );
        }
        let script = format!("{}table netdev {name} {{\n{body}}}\n", removal(&name));
        Some(Self { name, script })
    }
}

fn rules(interface: &str, addresses: &[IpAddr]) -> String {
    let mut rules = String::new();
    for (family, header) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let ours = addresses.iter().filter(|a| Family::of(**a) == family);
        let ours: Vec<_> = ours.map(ToString::to_string).collect();
        if ours.is_empty() {
            continue;
        }
        let flow = format!("{header} saddr . tcp sport . {header} daddr . tcp dport");
        let _ = write!(
            rules,
            "{header} daddr != {{ {} }} accept\n\
             tcp flags & syn == syn add @begun_{header} {{ {flow} }} accept\n\
             {flow} @begun_{header} accept\n\
             meta l4proto tcp fwd {header} to {header} daddr map @former_{header} device \"{interface}\"\n",
            ours.join(", ")
        );
    }
    rules
}

/// What nftables calls an address's family.
fn header(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// What the names of an address's tables begin with; a number follows. An address
/// is of one group, and of one daemon.
fn stem(address: IpAddr) -> String {
    format!("{PREFIX}{}_", address.to_string().replace(':', "_"))
}

fn removal(table: &str) -> String {
    // Adding one that is there does nothing; deleting one that is not fails.
    format!("add table netdev {table}\ndelete table netdev {table}\n")
}

/// Removes tables that an earlier run left: those that are named after one of
/// these addresses, or all of vipd's. Without the program there are none.
pub(super) async fn remove_leftovers(addresses: Option<&BTreeSet<IpAddr>>) {
    Nft::default().remove_leftovers(addresses).await;
}

/// The program.
#[derive(Clone, Debug)]
struct Nft(Vec<String>);

impl Default for Nft {
    fn default() -> Self {
        Self(vec!["nft".to_owned()])
    }
}

impl Nft {
    /// Lets packets pass, and removes the rules when that is over, in a task of
    /// its own: nothing that happens here ends it.
    async fn open(self, table: Table) {
        let done = self.run(&["-f", "-"], &table.script, PATIENCE).await;
        if let Err(error) = &done {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let hint = if missing { " (this wants `nft`, of the package nftables)" } else { "" };
            warn!(
                "connections that are open when the address comes here are reset: packets cannot be passed on \
                 to the former owner: {error}{hint}"
            );
        }
        // Also if it took too long: the kernel may have it all the same.
        if done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(REMOVE_AFTER).await;
            if let Err(error) = self.run(&["-f", "-"], &removal(&table.name), UNHURRIED).await {
                debug!(%error, "cannot remove rules that match nothing any more");
            }
        });
    }

    async fn remove_leftovers(&self, addresses: Option<&BTreeSet<IpAddr>>) {
        let listed = match self.run(&["list", "tables", "netdev"], "", AT_START).await {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return debug!(%error, "cannot list what an earlier run left in nftables"),
        };
        let left: String = left(&listed, addresses).into_iter().map(removal).collect();
        if !left.is_empty()
            && let Err(error) = self.run(&["-f", "-"], &left, AT_START).await
        {
            warn!("what an earlier run left in nftables stays there, and does nothing: {error}");
        }
    }

    async fn run(&self, arguments: &[&str], input: &str, patience: Duration) -> io::Result<String> {
        let (program, before) = self.0.split_first().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(before).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let done = async {
            // It may have ended for a reason that it tells.
            let written = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            let output = child.wait_with_output().await?;
            if output.status.success() {
                return written.map(|()| String::from_utf8_lossy(&output.stdout).into_owned());
            }
            let text = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(text.lines().next().unwrap_or("nft failed and says nothing").to_owned()))
        };
        match tokio::time::timeout(patience, done).await {
            Ok(done) => done,
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("nft takes longer than {patience:?}")))
            }
        }
    }
}

/// The tables of a list (`table netdev NAME` a line) that an earlier run left.
fn left<'a>(listed: &'a str, addresses: Option<&BTreeSet<IpAddr>>) -> Vec<&'a str> {
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("table netdev "));
    let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let stems: Option<Vec<_>> = addresses.map(|all| all.iter().map(|address| stem(*address)).collect());
    let ours = |name: &&str| match &stems {
        Some(stems) => stems.iter().any(|stem| name.strip_prefix(stem.as_str()).is_some_and(number)),
        None => name.starts_with(PREFIX),
    };
    names.filter(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| unreachable!("an address"))
    }

    fn passage_of(interface: &str, vips: &[&str], former: &[&str]) -> Option<Passage> {
        let former: Vec<_> = former.iter().map(|f| address(f)).collect();
        let on_link = |a: IpAddr| !a.to_string().starts_with("10.88");
        Passage::new(interface, vips.iter().map(|a| address(a)), &former, on_link)
    }

    fn passage(former: &[&str]) -> Option<Passage> {
        passage_of("eth0", &["10.77.0.100", "fd77::100"], former)
    }

    fn script(passages: &[Option<Passage>]) -> String {
        let passages: Vec<_> = passages.iter().flatten().cloned().collect();
        Table::of(&passages, 7).map(|t| t.script).unwrap_or_default()
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
        let rules = script(&[passage(&["10.77.0.11"])]);
        assert!(rules.contains("{ 10.77.0.100 timeout 500ms : 10.77.0.11 }"), "{rules}");
        assert!(rules.contains("table netdev vipd_10.77.0.100_7 {") && !rules.contains("ip6"), "{rules}");
        let both = script(&[passage(&["10.77.0.11", "fd77::11"])]);
        assert!(both.contains("fd77::100 timeout 500ms : fd77::11"), "{both}");
    }

    #[test]
    fn many_groups_are_one_table_with_a_chain_for_each_interface() {
        let first = passage(&["10.77.0.11"]);
        let second = passage_of("eth0", &["10.77.0.101"], &["10.77.0.12"]);
        let third = passage_of("eth1", &["10.99.0.1"], &["10.99.0.12"]);
        let rules = script(&[first, second, third]);
        assert_eq!(rules.matches("chain passage").count(), 2, "{rules}");
        assert_eq!(rules.matches("\ntable netdev ").count(), 1, "{rules}");
        assert!(rules.contains("ip daddr != { 10.77.0.100, 10.77.0.101 } accept"), "{rules}");
        assert!(rules.contains("10.77.0.101 timeout 500ms : 10.77.0.12"), "{rules}");
    }

    #[test]
    fn only_what_is_ours_is_left_over() {
        let listed = "table netdev vipd_10.77.0.1_2\ntable netdev vipd_10.77.0.10_3\ntable netdev mine\n\
                      table netdev vipd_fd77__1_4\ntable netdev vipd_fd77__1_5_1\n";
        let of = |all: &[&str]| left(listed, Some(&all.iter().map(|a| address(a)).collect()));
        assert_eq!(of(&["10.77.0.1"]), ["vipd_10.77.0.1_2"]);
        assert_eq!(of(&["fd77::1", "10.77.0.10"]), ["vipd_10.77.0.10_3", "vipd_fd77__1_4"]);
        assert_eq!(of(&["10.77.0.2"]), Vec::<&str>::new());
        assert_eq!(left(listed, None).len(), 4);
    }

    /// A program in the place of `nft`, which keeps what it is given, a file a run.
    fn stand_in(dir: &Path, then: &str) -> io::Result<Passages> {
        let file = dir.join("nft");
        let text = format!("t=$(mktemp {0}/given.XXXXXX)\ncat > $t\n{then}\n", dir.display());
        std::fs::write(&file, text)?;
        let nft = Nft(vec!["sh".to_owned(), file.display().to_string()]);
        Ok(Passages { nft, ..Passages::new() })
    }

    fn given(dir: &Path) -> Vec<String> {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let files = files.filter(|f| f.file_name().to_string_lossy().starts_with("given"));
        files.filter_map(|f| std::fs::read_to_string(f.path()).ok()).collect()
    }

    fn wanted() -> Result<Passage, &'static str> {
        passage(&["10.77.0.11"]).ok_or("a passage")
    }

    #[tokio::test]
    async fn what_waits_is_opened_by_one_run_and_by_its_newest_plan() -> Outcome {
        let dir = tempfile::tempdir()?;
        let mut passages = stand_in(dir.path(), "")?;
        passages.open(0, 1, wanted()?);
        passages.start();
        // The program runs: the others wait, and are opened at one go.
        for group in 1..64 {
            passages.open(group, 1, wanted()?);
        }
        passages.open(5, 2, wanted()?);
        passages.start();
        assert_eq!(passages.opened(|_, _| true).await, [(0, 1)]);
        let then = passages.opened(|_, _| true).await;
        assert_eq!((then.len(), then.contains(&(5, 2)), then.contains(&(5, 1))), (63, true, false));
        assert_eq!(given(dir.path()).len(), 2);
        Ok(())
    }

    /// The group owns by now: what is opened would take its own connections away.
    #[tokio::test]
    async fn what_comes_too_late_is_closed_at_once() -> Outcome {
        let dir = tempfile::tempdir()?;
        let mut passages = stand_in(dir.path(), "")?;
        passages.open(3, 9, passage(&["10.77.0.11", "fd77::11"]).ok_or("a passage")?);
        passages.open(5, 9, passage_of("eth0", &["10.77.0.101"], &["10.77.0.11"]).ok_or("a passage")?);
        passages.start();
        // A newer plan of one that waits for the program's turn.
        passages.open(4, 9, wanted()?);
        passages.forget(4);
        assert_eq!(passages.opened(|group, _| group == 5).await, [(5, 9)]);
        // The other one's stay.
        let table = "delete element netdev vipd_10.77.0.100_1";
        let closing = format!(
            "{table} former_ip {{ 10.77.0.100 : 10.77.0.11 }}\n{table} former_ip6 {{ fd77::100 : fd77::11 }}\n"
        );
        let closed = async {
            while !given(dir.path()).contains(&closing) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(900), closed).await?;
        assert_eq!(given(dir.path()).len(), 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_not_waited_for_and_its_table_is_removed() -> Outcome {
        let dir = tempfile::tempdir()?;
        let mut passages = stand_in(dir.path(), "exec sleep 60")?;
        passages.open(3, 9, wanted()?);
        passages.start();
        let opened = tokio::time::timeout(Duration::from_secs(10), passages.opened(|_, _| true)).await?;
        assert_eq!(opened, [(3, 9)]);
        // Whatever becomes of the owner of the addresses.
        drop(passages);
        let removed = async {
            while !given(dir.path()).contains(&removal("vipd_10.77.0.100_1")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), removed).await?;
        Ok(())
    }

    #[tokio::test]
    async fn without_the_program_nobody_waits() -> Outcome {
        let mut passages = Passages { nft: Nft(vec!["/nonexistent/nft".to_owned()]), ..Passages::new() };
        passages.open(3, 9, wanted()?);
        passages.start();
        assert_eq!(passages.opened(|_, _| true).await, [(3, 9)]);
        Nft(vec!["/nonexistent/nft".to_owned()]).remove_leftovers(None).await;
        Ok(())
    }
}
