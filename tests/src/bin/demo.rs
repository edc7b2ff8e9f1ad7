//! `make demo`: two proxies, one floating IP, three servers, real traffic, and
//! somebody who pulls the plug.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it shows on the terminal is its result")]

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vipd_tests::lab::vipd::{self, Vipd};
use vipd_tests::lab::{self, Host, Lab, Process, mariadb};
use vipd_tests::name_demo;
use vipd_tests::picture;
use vipd_tests::probe::connect::Summary;
use vipd_tests::probe::sql::Work;
use vipd_tests::probe::{Answers, ConnectProbe, EchoProbe, SqlClient, millis_text};
use vipd_tests::timeline::Timeline;

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(20);
const VIP: &str = "10.77.0.100";
const SERVERS: [(&str, &str); 3] = [("db1", "10.77.0.21"), ("db2", "10.77.0.22"), ("db3", "10.77.0.23")];
/// The cable stays out for this long, and the first proxy is watched for as
/// long when it is back: a second outage would come with its election.
const WATCHED: Duration = Duration::from_secs(3);

/// Shows a failover and a planned switchover in a small network of its own.
#[derive(Parser)]
struct Arguments {
    /// What the three servers are.
    #[arg(long, value_enum, default_value_t = Db::StandIn)]
    db: Db,
    /// Shows a name that leads to the proxies instead of a floating address.
    #[arg(long, conflicts_with = "db")]
    dns: bool,
    /// Draws what clients saw into this directory, too: failover.svg and switchover.svg.
    #[arg(long, value_name = "DIR", conflicts_with = "dns")]
    pictures: Option<PathBuf>,
}

#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
enum Db {
    /// Built-in servers that answer a line with a line.
    StandIn,
    /// A MariaDB primary and two replicas of it.
    Mariadb,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    lab::become_root()?;
    if let Some(reason) = lab::obstacle() {
        bail!("this machine lets me make no test hosts: {reason}");
    }
    if let Some(reason) = vipd::obstacle() {
        bail!("{reason}");
    }
    ensure!(
        arguments.db == Db::StandIn || mariadb::is_installed(),
        "MariaDB's server is not installed: apt-get install mariadb-server"
    );
    if let Some(reason) = arguments.dns.then(name_demo::obstacle).flatten() {
        bail!("{reason}");
    }
    let lab = Lab::new()?;
    let shown = if arguments.dns {
        name_demo::show(&lab)
    } else {
        Demo::set_up(&lab, arguments).and_then(|mut demo| demo.show())
    };
    if shown.is_err() {
        println!("\nIt went wrong. The last words of everybody:\n{}", lab.report());
    }
    drop(lab);
    shown?;
    println!("\nDone. The network and everything in it are gone.");
    Ok(())
}

/// Real clients: what they do, and what they saw.
enum Clients {
    /// A new connection every millisecond.
    Connections(ConnectProbe),
    /// Applications with connections of their own.
    Sql { writer: SqlClient, readers: Vec<SqlClient>, servers: Vec<mariadb::Server> },
}

struct Demo {
    lab: Lab,
    proxies: [Host; 2],
    daemons: [Vipd; 2],
    /// Shows which proxy the floating IP leads to.
    whereabouts: EchoProbe,
    clients: Clients,
    colour: bool,
    pictures: Option<PathBuf>,
    _helpers: Vec<Process>,
}

impl Demo {
    fn set_up(lab: &Lab, arguments: &Arguments) -> Result<Self> {
        let db = arguments.db;
        println!("A small network: a client, two proxies, three servers.\n");
        let client = lab.host("client", &["10.77.0.50/24"])?;
        let proxies = [lab.host("px1", &["10.77.0.11/24"])?, lab.host("px2", &["10.77.0.12/24"])?];
        let mut helpers = Vec::new();
        let mut hosts = Vec::new();
        for (name, address) in SERVERS {
            hosts.push((lab.host(name, &[&format!("{address}/24")])?, address.parse::<IpAddr>()?));
        }
        let databases = match db {
            Db::StandIn => {
                for (host, address) in &hosts {
                    helpers.push(host.tool(&["serve", host.name(), &format!("{address}:3306")])?);
                }
                Vec::new()
            }
            Db::Mariadb => {
                println!("  starting MariaDB: a primary and two replicas ...");
                mariadb::replicated(&hosts.iter().map(|(h, a)| (h, *a)).collect::<Vec<_>>())?
            }
        };
        for proxy in &proxies {
            helpers.push(proxy.tool(&["echo", proxy.name(), "7"])?);
        }
        let text = config(&proxies, db)?;
        println!("The same file on both proxies:\n");
        for line in text.lines() {
            println!("  | {line}");
        }
        let daemons = [Vipd::start(&proxies[0], &text)?, Vipd::start(&proxies[1], &text)?];
        let vip: IpAddr = VIP.parse()?;
        let start = lab.addresses().wait_for_one(vip, PATIENCE).context("nobody takes the floating IP")?;
        println!("\n{start} owns {VIP}.");
        for daemon in &daemons {
            daemon.wait_for_servers(&SERVERS.map(|(name, _)| name), "up", PATIENCE)?;
        }
        let whereabouts = EchoProbe::start(&client, SocketAddr::new(vip, 7), MS)?;
        let clients = start_clients(&client, vip, databases)?;
        whereabouts.wait_for(&start, PATIENCE)?;
        clients.main().wait_for_any(PATIENCE).context("the balancer answers nobody")?;
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let pictures = arguments.pictures.clone();
        Ok(Self {
            lab: lab.clone(),
            proxies,
            daemons,
            whereabouts,
            clients,
            colour,
            pictures,
            _helpers: helpers,
        })
    }

    fn show(&mut self) -> Result<()> {
        let start = Instant::now();
        std::thread::sleep(500 * MS);
        println!("\n{}\n", self.clients.describe());
        print_indented(&self.daemons[self.owner()?].ctl(&["status"])?);

        let (first, second) = self.pull_the_plug()?;
        self.bring_back(first, second)?;
        self.switch_over(second, first)?;
        self.clients.sum_up(start)
    }

    /// The proxy that owns the floating IP.
    fn owner(&self) -> Result<usize> {
        let name = self.lab.addresses().wait_for_one(VIP.parse()?, PATIENCE)?;
        self.proxies.iter().position(|p| p.name() == name).context("somebody else owns the floating IP")
    }

    fn pull_the_plug(&self) -> Result<(usize, usize)> {
        let first = self.owner()?;
        let second = 1 - first;
        let (old, new) = (self.proxies[first].name(), self.proxies[second].name());
        println!("\n1. Pull the plug of {old}, which owns the address.");
        let event = Instant::now();
        self.lab.cut(&self.proxies[first])?;
        self.whereabouts.wait_for(new, PATIENCE)?;
        self.clients.main().wait_for_any(PATIENCE)?;
        let noticed =
            self.draw(event, "failover", &format!("The plug of {old} is pulled; {new} takes over"))?;
        println!("   {new} took over. Clients had no answer for {}.", millis_text(noticed));
        Ok((first, second))
    }

    fn bring_back(&self, first: usize, second: usize) -> Result<()> {
        let (old, new) = (self.proxies[first].name(), self.proxies[second].name());
        println!("\n2. Plug {old} in again. It stays backup: no second outage.");
        std::thread::sleep(WATCHED / 3);
        let event = Instant::now();
        self.lab.mend(&self.proxies[first])?;
        self.daemons[first].wait_for_state("backup", PATIENCE)?;
        std::thread::sleep(WATCHED);
        let gap = self.clients.main().longest_gap(event).context("no answers")?;
        println!("   In {} s no client waited longer than {}.", WATCHED.as_secs(), millis_text(gap.length));
        ensure!(self.owner()? == second, "{new} does not own the address any more");
        Ok(())
    }

    fn switch_over(&self, from: usize, to: usize) -> Result<()> {
        let (old, new) = (self.proxies[from].name(), self.proxies[to].name());
        println!("\n3. A planned switchover: vipctl switchover main --to {new}");
        let event = Instant::now();
        self.daemons[from].ctl(&["switchover", "main", "--to", new, "--yes"])?;
        self.whereabouts.wait_for(new, PATIENCE)?;
        self.lab.addresses().wait_for(VIP.parse()?, &[new], PATIENCE)?;
        let noticed = self.draw(event, "switchover", &format!("vipctl switchover main --to {new}"))?;
        println!("   From {old} to {new}. The longest time without an answer: {}.", millis_text(noticed));
        if let Clients::Connections(probe) = &self.clients {
            let summary = Summary::of(&probe.attempts(event));
            println!(
                "   Of {} new connections {} were refused or lost; the slowest took {}. {} were open at the very moment \
                 and cut off.",
                summary.attempts,
                summary.refused + summary.lost,
                millis_text(Duration::from_micros(summary.slowest_us)),
                summary.broken
            );
            ensure!(
                summary.refused + summary.lost == 0,
                "a planned switchover cost connections: {summary:?}"
            );
        }
        Ok(())
    }

    /// Draws what happened around `event`; gives the longest time for which
    /// clients had no answer.
    fn draw(&self, event: Instant, name: &str, title: &str) -> Result<Duration> {
        let gap = self.clients.main().longest_gap(event).context("no answers")?;
        let gone = gap.from.saturating_duration_since(event) + gap.length;
        let line = Timeline::around(event, gone, self.colour);
        // What is drawn must have happened.
        std::thread::sleep((event + line.after).saturating_duration_since(Instant::now()));
        let answers = self.whereabouts.since(event.checked_sub(line.before).unwrap_or(event));
        let mut rows: Vec<picture::Row<'_>> = Vec::new();
        for proxy in &self.proxies {
            let own = answers.iter().filter(|a| &*a.by == proxy.name()).cloned().collect();
            rows.push((proxy.name(), own));
        }
        rows.push(("clients", self.clients.main().since(event.checked_sub(line.before).unwrap_or(event))));
        println!();
        for (hue, (name, answers)) in rows.iter().enumerate() {
            println!("{}", line.row(name, hue, answers));
        }
        println!("{}\n", line.scale());
        if let Some(dir) = &self.pictures {
            let source =
                "make demo PICTURES=docs: bars where a client that asks each millisecond was answered";
            let path = dir.join(format!("{name}.svg"));
            std::fs::write(&path, picture::svg(&line, title, source, &rows))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(gap.length)
    }
}

fn config(proxies: &[Host; 2], db: Db) -> Result<String> {
    let nodes = [(proxies[0].name(), "10.77.0.11"), (proxies[1].name(), "10.77.0.12")];
    let mut config = vipd::Config::new(&nodes, 250 * MS, &[&format!("{VIP}/24")]);
    let servers: Vec<String> =
        SERVERS.iter().map(|(n, a)| format!("{{ name = \"{n}\", address = \"{a}:3306\" }}")).collect();
    let servers = servers.join(", ");
    config.rest = match db {
        Db::StandIn => format!(
            "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"servers\"\n\n\
             [[pool]]\nname = \"servers\"\nbalance = \"round-robin\"\nservers = [{servers}]\n\
             [pool.check]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"250ms\"\n"
        ),
        Db::Mariadb => {
            let password = mariadb::password_file(proxies[0].lab())?;
            let check = |role: &str| {
                format!(
                    "[pool.check]\nkind = \"mysql\"\ninterval = \"250ms\"\ntimeout = \"250ms\"\nuser = \"{}\"\n\
                     password-file = {password:?}\nrole = \"{role}\"\n",
                    mariadb::CHECK_USER
                )
            };
            format!(
                "[[listen]]\nname = \"write\"\nbind = \"{VIP}:3306\"\npool = \"primary\"\n\n\
                 [[listen]]\nname = \"read\"\nbind = \"{VIP}:3307\"\npool = \"replicas\"\n\n\
                 [[pool]]\nname = \"primary\"\nservers = [{servers}]\n{}\n\
                 [[pool]]\nname = \"replicas\"\nservers = [{servers}]\nfallback = \"primary\"\n{}",
                check("primary"),
                check("replica")
            )
        }
    };
    Ok(config.to_text())
}

fn start_clients(client: &Host, vip: IpAddr, servers: Vec<mariadb::Server>) -> Result<Clients> {
    if servers.is_empty() {
        let target = SocketAddr::new(vip, 3306);
        return Ok(Clients::Connections(ConnectProbe::start(client, target, MS, Duration::from_secs(5))?));
    }
    let writer = SqlClient::start(client, SocketAddr::new(vip, 3306), Work::Write, 2 * MS);
    let reader = |_| SqlClient::start(client, SocketAddr::new(vip, 3307), Work::Read, 5 * MS);
    Ok(Clients::Sql { writer, readers: (0..4).map(reader).collect(), servers })
}

impl Clients {
    /// The answers that tell how long clients noticed.
    fn main(&self) -> &Answers {
        match self {
            Self::Connections(probe) => probe.answers(),
            Self::Sql { writer, .. } => writer,
        }
    }

    fn describe(&self) -> &'static str {
        match self {
            Self::Connections(_) => {
                "A client opens a connection to it every millisecond, asks and is answered."
            }
            Self::Sql { .. } => {
                "A writer inserts a row every 2 ms, four readers read; each keeps its connection."
            }
        }
    }

    fn sum_up(&mut self, start: Instant) -> Result<()> {
        println!("\nIn all:");
        match self {
            Self::Connections(probe) => {
                let attempts = probe.attempts(start);
                let summary = Summary::of(&attempts);
                let mut by_server: BTreeMap<&str, usize> = BTreeMap::new();
                for name in attempts.iter().filter_map(|a| a.by.as_deref()) {
                    *by_server.entry(name).or_default() += 1;
                }
                let shares: Vec<String> = by_server.iter().map(|(n, c)| format!("{n} {c}")).collect();
                println!(
                    "  {} connections, {} answered: {}",
                    summary.attempts,
                    summary.answered,
                    shares.join(", ")
                );
                println!(
                    "  not answered: {} cut off, {} refused, {} lost (under way when the plug was pulled)",
                    summary.broken, summary.refused, summary.lost
                );
            }
            Self::Sql { writer, readers, servers } => {
                writer.stop()?;
                let acknowledged = writer.acknowledged();
                let list = acknowledged.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                let primary = servers.first().context("a primary")?;
                let found = primary.sql(&format!("SELECT COUNT(*) FROM app.t WHERE id IN ({list})"))?;
                println!(
                    "  {} rows acknowledged, {} of them in the primary",
                    acknowledged.len(),
                    found.trim()
                );
                let reads: usize = readers.iter().map(|r| r.since(start).len()).sum();
                let connections: u64 = readers.iter().map(SqlClient::connections).sum();
                println!("  {reads} reads, over {connections} connections of {} readers", readers.len());
                ensure!(found.trim() == acknowledged.len().to_string(), "acknowledged rows are missing");
            }
        }
        Ok(())
    }
}

fn print_indented(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
}
