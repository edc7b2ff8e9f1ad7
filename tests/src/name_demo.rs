//! `make demo DNS=1`: the story of the demo where no address floats. Two
//! proxies stand behind a name in dnsd, and somebody pulls the plug.
#![allow(clippy::print_stdout, reason = "what it shows on the terminal is its result")]

use crate::lab::vipd::{self, Vipd};
use crate::lab::{Host, Lab, Process, dnsd};
use crate::probe::named::NamedProbe;
use crate::probe::{Answer, DnsProbe, millis_text};
use crate::timeline::Timeline;
use anyhow::{Context, Result, ensure};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(20);
const NS1: &str = "10.77.0.53";
const ADDRESSES: [&str; 2] = ["10.77.0.11", "10.77.0.12"];
const BOTH: &str = "10.77.0.11 10.77.0.12";
const SERVERS: [(&str, &str); 3] = [("db1", "10.77.0.21"), ("db2", "10.77.0.22"), ("db3", "10.77.0.23")];
/// The plug stays out, and the first proxy is watched when it is back.
const WATCHED: Duration = Duration::from_secs(2);

/// Why it cannot be shown here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    dnsd::obstacle()
}

struct Demo {
    lab: Lab,
    proxies: [Host; 2],
    daemons: [Vipd; 2],
    names: DnsProbe,
    clients: NamedProbe,
    colour: bool,
    _helpers: Vec<Process>,
}

/// Shows it in a lab.
///
/// # Errors
/// If something does not come about.
pub fn show(lab: &Lab) -> Result<()> {
    let demo = Demo::set_up(lab)?;
    std::thread::sleep(500 * MS);
    println!("\nFour applications resolve the name, connect, ask and are answered, every 5 ms each.\n");
    for line in demo.daemons[0].ctl(&["status"])?.lines() {
        println!("  {line}");
    }
    demo.pull_the_plug()?;
    demo.bring_back()?;
    demo.maintain()?;
    let (answered, second_choice, failed) = demo.clients.totals();
    println!(
        "\nIn all:\n  {answered} connections answered, {second_choice} of them by the second address; {failed} not answered"
    );
    Ok(())
}

impl Demo {
    fn set_up(lab: &Lab) -> Result<Self> {
        println!("A small network: a client, a DNS server, two proxies, three servers. No address floats.\n");
        let client = lab.host("client", &["10.77.0.50/24"])?;
        let ns1 = lab.host("ns1", &[&format!("{NS1}/24")])?;
        let mut helpers = vec![dnsd::start(&ns1, NS1)?];
        for (name, address) in SERVERS {
            let host = lab.host(name, &[&format!("{address}/24")])?;
            helpers.push(host.tool(&["serve", name, &format!("{address}:3306")])?);
        }
        let proxies = [lab.host("px1", &["10.77.0.11/24"])?, lab.host("px2", &["10.77.0.12/24"])?];
        let texts = [config(&proxies[0])?, config(&proxies[1])?];
        println!("The same file on both proxies:\n");
        for line in texts[0].lines() {
            println!("  | {line}");
        }
        let first = Vipd::start(&proxies[0], &texts[0])?;
        first.wait_for_state("active", PATIENCE)?;
        let daemons = [first, Vipd::start(&proxies[1], &texts[1])?];
        let server: SocketAddr = format!("{NS1}:53").parse()?;
        let names = DnsProbe::start(&client, server, dnsd::NAME, 2 * MS)?;
        names.wait_for(BOTH, PATIENCE).context("the proxies do not come into the answers")?;
        println!("\n{} leads to {BOTH}.", dnsd::NAME);
        let clients = NamedProbe::start(&client, (server, dnsd::NAME), 3306, 4, 5 * MS)?;
        clients.wait_for_any(PATIENCE).context("the balancers answer nobody")?;
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Ok(Self { lab: lab.clone(), proxies, daemons, names, clients, colour, _helpers: helpers })
    }

    fn pull_the_plug(&self) -> Result<()> {
        println!("\n1. Pull the plug of px1, which writes the records.");
        let event = Instant::now();
        self.lab.cut(&self.proxies[0])?;
        let gone = self.names.wait_for(ADDRESSES[1], PATIENCE)?.at;
        self.draw(event, gone - event)?;
        println!("   Its address was gone from the answers after {}.", millis_text(gone - event));
        let gap = self.clients.longest_gap(event).context("no answers")?.length;
        println!("   The longest time without an answer to any application: {}.", millis_text(gap));
        Ok(())
    }

    fn bring_back(&self) -> Result<()> {
        println!("\n2. Plug px1 in again. It is in the answers again; px2 goes on writing.");
        std::thread::sleep(WATCHED);
        let (_, _, failed) = self.clients.totals();
        let event = Instant::now();
        self.lab.mend(&self.proxies[0])?;
        let back = self.names.wait_for(BOTH, PATIENCE)?.at;
        self.draw(event, back - event)?;
        println!("   Its address was back after {}.", millis_text(back - event));
        ensure!(self.clients.totals().2 == failed, "the return of px1 cost connections");
        Ok(())
    }

    fn maintain(&self) -> Result<()> {
        println!("\n3. Planned work on px2: vipctl maintenance on");
        std::thread::sleep(WATCHED);
        let (_, _, failed) = self.clients.totals();
        let event = Instant::now();
        self.daemons[1].ctl(&["maintenance", "on", "--yes"])?;
        self.names.wait_for(ADDRESSES[0], PATIENCE)?;
        let gone = self.names.since(event).into_iter().find(|a| &*a.by == ADDRESSES[0]);
        let gone = gone.context("px2 is still in the answers")?.at;
        self.draw(event, gone - event)?;
        println!("   Its address was gone from the answers after {}.", millis_text(gone - event));
        println!("   It keeps the sessions it has for three times the TTL, and then closes them.");
        std::thread::sleep(WATCHED);
        ensure!(self.clients.totals().2 == failed, "planned work cost connections");
        println!("   No connection failed.");
        Ok(())
    }

    /// Draws who was in the answers around `event`, and who served.
    fn draw(&self, event: Instant, took: Duration) -> Result<()> {
        let line = Timeline::around(event, took, self.colour);
        // What is drawn must have happened.
        std::thread::sleep((event + line.after).saturating_duration_since(Instant::now()));
        let since = event.checked_sub(line.before).unwrap_or(event);
        let (names, served) = (self.names.since(since), self.clients.since(since));
        println!("\n   in the answers of dnsd");
        for (hue, (proxy, address)) in self.proxies.iter().zip(ADDRESSES).enumerate() {
            let own: Vec<Answer> =
                names.iter().filter(|a| a.by.split(' ').any(|by| by == address)).cloned().collect();
            println!("{}", line.row(proxy.name(), hue, &own));
        }
        println!("   answered by");
        for (hue, (proxy, address)) in self.proxies.iter().zip(ADDRESSES).enumerate() {
            let own: Vec<Answer> = served.iter().filter(|a| &*a.by == address).cloned().collect();
            println!("{}", line.row(proxy.name(), hue, &own));
        }
        println!("{}\n", line.scale());
        Ok(())
    }
}

fn config(host: &Host) -> Result<String> {
    let nodes = [("px1", ADDRESSES[0]), ("px2", ADDRESSES[1])];
    let mut config = vipd::Config::new(&nodes, 250 * MS, &[]);
    config.vips.clear();
    let servers: Vec<String> =
        SERVERS.iter().map(|(n, a)| format!("{{ name = \"{n}\", address = \"{a}:3306\" }}")).collect();
    config.rest = format!(
        "{}\n[[listen]]\nname = \"write\"\nbind = \":3306\"\npool = \"servers\"\n\n\
         [[pool]]\nname = \"servers\"\nservers = [{}]\n\
         [pool.check]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"250ms\"\n",
        dnsd::settings(host, &[NS1], "")?,
        servers.join(", ")
    );
    Ok(config.to_text())
}
