//! The state of a node as text for people: one screen, the worst first.

use super::api::{
    DnsDoc, DnsStoreDoc, EtcdDoc, EventDoc, Level, LinkDoc, ListenerDoc, PeerDoc, PeerState, PoolDoc,
    Rejected, ServerDoc, ServerState, StatusDoc, Steps, VipDoc, VipState, WitnessDoc,
};
use super::table::{self, Cell, Tone, clean, paint};
use jiff::Timestamp;
use std::fmt::Write;
use vipd_core::explain::count;

mod sessions;

pub use sessions::{session, sessions};

/// The status as tables, as of `now`.
#[must_use]
pub fn status(doc: &StatusDoc, now: Timestamp, colour: bool) -> String {
    let mut out = String::new();
    let title = format!("{} on {}, vipd {}", doc.cluster, doc.node, doc.version);
    let _ = writeln!(out, "{}", clean(&title));
    if doc.maintenance {
        let text = "This node is in maintenance: it takes no VIP until `vipctl maintenance off`.";
        let _ = writeln!(out, "{}", paint(text, Tone::Odd, colour));
    }
    if !doc.config_errors.is_empty() {
        let text = "The newest configuration was refused, the one before is in force:";
        let _ = writeln!(out, "{}", paint(text, Tone::Bad, colour));
        for error in &doc.config_errors {
            let _ = writeln!(out, "  {}", clean(error));
        }
    }
    vips(&mut out, &doc.vips, now, colour);
    section(
        &mut out,
        &["PEER", "ADDRESS", "STATE", "LAST HEARD", "CONFIGURATION", "LINK"],
        &doc.peers,
        peer,
        colour,
    );
    section(
        &mut out,
        &["WITNESS", "ADDRESS", "LAST HEARD", "CONFIGURATION"],
        &doc.witnesses,
        witness,
        colour,
    );
    section(&mut out, &["ETCD", "ROUND TRIP", "ANSWERS", "FAILURES", "WHY"], &doc.etcd, etcd, colour);
    section(
        &mut out,
        &["LISTENER", "BIND", "SESSIONS", "TOTAL", "IN", "OUT"],
        &doc.listeners,
        listener,
        colour,
    );
    pools(&mut out, &doc.pools, colour);
    dns(&mut out, &doc.dns, colour);
    rejects(&mut out, &doc.counters.adverts_rejected, colour);
    out
}

fn section<T>(out: &mut String, heads: &[&str], items: &[T], row: fn(&T) -> Vec<Cell>, colour: bool) {
    if !items.is_empty() {
        out.push('\n');
        table::write(out, heads, items.iter().map(row).collect(), colour);
    }
}

fn vips(out: &mut String, vips: &[VipDoc], now: Timestamp, colour: bool) {
    if vips.is_empty() {
        return;
    }
    out.push('\n');
    let heads = ["VIP", "STATE", "OWNER", "PRIORITY", "SINCE", "ADDRESSES", "WHY"];
    table::write(out, &heads, vips.iter().map(|v| vip(v, now)).collect(), colour);
    for (vip, conflict) in vips.iter().flat_map(|v| v.conflicts.iter().map(move |c| (v, c))) {
        let (other, address, name) = (clean(&conflict.mac), clean(&conflict.address), clean(&vip.name));
        let other = conflict.node.as_ref().map_or(other.clone(), |node| format!("{} ({other})", clean(node)));
        let text = format!("Duplicate in {name}: {other} claims {address}, too.");
        let _ = writeln!(out, "{}", paint(&text, Tone::Bad, colour));
    }
    for vip in vips {
        if let Some(steps) = vip.steps {
            let _ = writeln!(out, "Last takeover of {}: {}.", clean(&vip.name), self::steps(steps));
        }
    }
}

fn vip(vip: &VipDoc, now: Timestamp) -> Vec<Cell> {
    let tone = match vip.state {
        VipState::Init => Tone::Odd,
        VipState::Backup => Tone::Plain,
        VipState::Active => Tone::Good,
        VipState::Fault => Tone::Bad,
    };
    let owner = match &vip.owner {
        Some(owner) => Cell::plain(owner),
        None => Cell::new("none", Tone::Bad),
    };
    let addresses = match vip.addresses.as_slice() {
        [first, _, rest @ ..] => format!("{first} and {} more", rest.len().saturating_add(1)),
        [only] => only.clone(),
        [] => String::new(),
    };
    vec![
        Cell::plain(&vip.name),
        Cell::new(vip.state.to_string(), tone),
        owner,
        Cell::plain(vip.priority.to_string()),
        Cell::plain(ago(now, vip.since)),
        Cell::plain(addresses),
        Cell::plain(&vip.why),
    ]
}

fn peer(peer: &PeerDoc) -> Vec<Cell> {
    let tone = match peer.state {
        PeerState::Unknown | PeerState::Init => Tone::Odd,
        PeerState::Backup => Tone::Plain,
        PeerState::Active => Tone::Good,
        PeerState::Fault => Tone::Bad,
    };
    let heard = match (peer.last_heard_ms, peer.hears_this) {
        (Some(ms), Some(false)) => {
            Cell::new(format!("{} ago, does not hear this node", millis(ms)), Tone::Bad)
        }
        (Some(ms), Some(true) | None) => Cell::plain(format!("{} ago", millis(ms))),
        (None, _) => Cell::new("never", Tone::Odd),
    };
    let config = configuration(peer.config_match, &peer.config_differs);
    vec![
        Cell::plain(&peer.name),
        Cell::plain(&peer.address),
        Cell::new(peer.state.to_string(), tone),
        heard,
        config,
        link(peer.link.as_ref()),
    ]
}

fn configuration(same: Option<bool>, differs: &[String]) -> Cell {
    match same {
        Some(true) => Cell::plain("same"),
        Some(false) if differs.is_empty() => Cell::new("differs", Tone::Bad),
        Some(false) => Cell::new(format!("differs: {}", differs.join(", ")), Tone::Bad),
        None => Cell::new("not known", Tone::Faint),
    }
}

fn witness(witness: &WitnessDoc) -> Vec<Cell> {
    let heard = match witness.last_heard_ms {
        Some(ms) => Cell::plain(format!("{} ago", millis(ms))),
        None => Cell::new("never", Tone::Odd),
    };
    let config = configuration(witness.config_match, &witness.config_differs);
    vec![Cell::plain(&witness.name), Cell::plain(&witness.address), heard, config]
}

fn etcd(member: &EtcdDoc) -> Vec<Cell> {
    let took = member
        .round_trip_us
        .map_or_else(|| "-".to_owned(), |us| format!("{}.{:03} ms", us / 1000, us % 1000));
    let state = match &member.problem {
        Some(problem) => Cell::new(problem, Tone::Bad),
        None if member.answers > 0 => Cell::plain("answers"),
        None => Cell::new("not asked yet", Tone::Faint),
    };
    let count = |number: u64| Cell::plain(number.to_string());
    vec![
        Cell::plain(&member.endpoint),
        Cell::plain(took),
        count(member.answers),
        count(member.failures),
        state,
    ]
}

/// A problem is told while there is no link; later it is history, and `why` has it.
fn link(link: Option<&LinkDoc>) -> Cell {
    match link {
        None => Cell::new("not sealed", Tone::Faint),
        Some(LinkDoc { sealed_since: Some(_), .. }) => Cell::new("sealed", Tone::Good),
        Some(LinkDoc { problem: Some(problem), .. }) => Cell::new(problem.as_str(), Tone::Bad),
        Some(_) => Cell::new("none", Tone::Odd),
    }
}

fn listener(listener: &ListenerDoc) -> Vec<Cell> {
    vec![
        Cell::plain(&listener.name),
        if listener.removed { Cell::new("removed", Tone::Odd) } else { Cell::plain(&listener.bind) },
        Cell::plain(listener.sessions.to_string()),
        Cell::plain(listener.total.to_string()),
        Cell::plain(bytes(listener.bytes_in)),
        Cell::plain(bytes(listener.bytes_out)),
    ]
}

fn pools(out: &mut String, pools: &[PoolDoc], colour: bool) {
    if pools.is_empty() {
        return;
    }
    out.push('\n');
    let heads = ["POOL", "SERVER", "ADDRESS", "STATE", "ROLE", "LAG", "WEIGHT", "SESSIONS", "WHY"];
    let rows = pools.iter().flat_map(|pool| {
        // The name stands beside the pool's first server only.
        let names = std::iter::once(pool.name.as_str()).chain(std::iter::repeat(""));
        pool.servers.iter().zip(names).map(|(s, name)| server(name, s))
    });
    table::write(out, &heads, rows.collect(), colour);
    for pool in pools.iter().filter(|p| p.queue.waiting > 0) {
        let clients = count(pool.queue.waiting.into(), "client");
        let text = format!("In the queue of {}: {clients} that no server has room for.", clean(&pool.name));
        let _ = writeln!(out, "{}", paint(&text, Tone::Odd, colour));
    }
    for pool in pools.iter().filter(|p| !p.disagreeing.is_empty()) {
        let (name, others) = (clean(&pool.name), clean(&pool.disagreeing.join(", ")));
        let incumbent = clean(pool.incumbent.as_deref().unwrap_or("no server"));
        let text = format!("The nodes disagree on the primary of {name}: here {incumbent}, {others}.");
        let _ = writeln!(out, "{}", paint(&text, Tone::Bad, colour));
    }
    for pool in pools.iter().filter(|p| !p.conflict.is_empty()) {
        let (name, others) = (clean(&pool.name), clean(&pool.conflict.join(" and ")));
        let incumbent = clean(pool.incumbent.as_deref().unwrap_or("no server"));
        let text = format!(
            "Conflict in {name}: {others} can be written to beside {incumbent}, which stays the primary."
        );
        let _ = writeln!(out, "{}", paint(&text, Tone::Bad, colour));
    }
}

fn dns(out: &mut String, names: &[DnsDoc], colour: bool) {
    for name in names {
        out.push('\n');
        let heads = ["NAME", "PLACE", "STATE", "EPOCH", "ADDRESSES", "WHY"];
        // The name stands beside its first place only.
        let first = std::iter::once(name.name.as_str()).chain(std::iter::repeat(""));
        let rows = name.stores.iter().zip(first).map(|(store, called)| place(called, name, store));
        table::write(out, &heads, rows.collect(), colour);
        let writer = match &name.writer {
            Some(writer) => format!("{} writes", clean(writer)),
            None => "nobody writes".to_owned(),
        };
        let _ = writeln!(out, "{writer}; {}", clean(&name.why.join("; ")));
    }
}

fn place(called: &str, name: &DnsDoc, store: &DnsStoreDoc) -> Vec<Cell> {
    let (state, why) = match (&store.error, &store.drift) {
        (Some(error), _) => (Cell::new("error", Tone::Bad), error.clone()),
        (None, Some(drift)) => (Cell::new("edited", Tone::Bad), drift.clone()),
        (None, None) if store.in_sync => (Cell::new("in sync", Tone::Good), String::new()),
        (None, None) => (Cell::new("behind", Tone::Odd), format!("should have {}", name.desired.join(", "))),
    };
    vec![
        Cell::plain(called),
        Cell::plain(&store.place),
        state,
        Cell::plain(store.epoch.to_string()),
        Cell::plain(store.published.join(", ")),
        Cell::plain(&why),
    ]
}

/// The weight that counts, and that of full service where it differs.
fn weight(server: &ServerDoc) -> Cell {
    match (server.slow_start_percent, server.weight_given) {
        (Some(percent), _) => Cell::new(format!("{percent}% of {}", server.weight), Tone::Odd),
        (None, true) => Cell::new(server.weight.to_string(), Tone::Odd),
        (None, false) => Cell::plain(server.weight.to_string()),
    }
}

fn server(pool: &str, server: &ServerDoc) -> Vec<Cell> {
    let tone = match server.state {
        ServerState::Up => Tone::Good,
        ServerState::Down | ServerState::Unreachable => Tone::Bad,
        ServerState::Drain | ServerState::Maint | ServerState::Unknown => Tone::Odd,
    };
    vec![
        Cell::plain(pool),
        Cell::plain(&server.name),
        Cell::plain(&server.address),
        Cell::new(server.state.to_string(), tone),
        Cell::plain(server.role.map_or_else(|| "-".into(), |r| r.to_string())),
        Cell::plain(server.lag_ms.map_or_else(|| "-".into(), millis)),
        weight(server),
        Cell::plain(server.sessions.to_string()),
        Cell::plain(&server.why),
    ]
}

/// Rows of packets that were not accepted; the others share one.
const REJECTED: usize = 5;

fn rejects(out: &mut String, all: &[Rejected], colour: bool) {
    let (first, rest) = all.split_at(all.len().min(REJECTED));
    let sum = Rejected {
        cause: "various".into(),
        sender: format!("{} others", rest.len()),
        count: rest.iter().map(|r| r.count).fold(0, u64::saturating_add),
        ago_ms: rest.iter().map(|r| r.ago_ms).min().unwrap_or(0),
    };
    let rows: Vec<Rejected> = first.iter().cloned().chain((!rest.is_empty()).then_some(sum)).collect();
    section(out, &["REJECTED ADVERTS", "SENDER", "COUNT", "LAST"], &rows, rejected, colour);
}

fn rejected(rejected: &Rejected) -> Vec<Cell> {
    vec![
        Cell::new(&rejected.cause, Tone::Odd),
        Cell::plain(&rejected.sender),
        Cell::plain(rejected.count.to_string()),
        Cell::plain(format!("{} ago", millis(rejected.ago_ms))),
    ]
}

/// An event in one line, without its end.
#[must_use]
pub fn event(doc: &EventDoc, colour: bool) -> String {
    let tone = match doc.event.level {
        Level::Info => Tone::Plain,
        Level::Warning => Tone::Odd,
        Level::Error => Tone::Bad,
    };
    let level = paint(&format!("{:7}", doc.event.level.to_string()), tone, colour);
    let message = clean(&doc.event.message).replace('\n', " ");
    let steps = doc.event.steps.map(|s| format!(" ({})", steps(s))).unwrap_or_default();
    format!("{:.3}  {level}  {message}{steps}", doc.time)
}

fn steps(steps: Steps) -> String {
    let (detected, sign) = match steps.detected_us {
        Some(detected) => (format!("detected {}", micros(detected)), "the last sign of the owner"),
        None => ("start".to_owned(), "it"),
    };
    format!(
        "{detected}, decided {}, address in {}, announced {} after {sign}",
        micros(steps.decided_us),
        micros(steps.address_in_us),
        micros(steps.announced_us)
    )
}

/// Microseconds as milliseconds: `3031.245 ms`.
#[must_use]
pub fn micros(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// Milliseconds, coarser the longer.
fn millis(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { seconds(ms / 1000) }
}

/// Seconds, coarser the longer.
fn seconds(s: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match s {
        0..MINUTE => format!("{s}s"),
        MINUTE..HOUR => format!("{}m", s / MINUTE),
        HOUR..DAY => format!("{}h", s / HOUR),
        DAY.. => format!("{}d", s / DAY),
    }
}

/// How long ago; a time that is still to come (a clock was set back) is now.
fn ago(now: Timestamp, since: Timestamp) -> String {
    let s = now.duration_since(since).as_secs();
    format!("{} ago", seconds(u64::try_from(s).unwrap_or(0)))
}

/// Bytes in decimal units with one digit behind the point.
fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{}.{} {unit}", n / size, n % size / (size / 10)),
        None => format!("{n} B"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
