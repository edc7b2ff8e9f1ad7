//! The servers of a pool.

use super::{Names, empty_list};
use crate::address::{Endpoint, srv_name};
use crate::report::{At, Problem, Report};
use crate::shape::{Field, List, Reported, Shape as _};
use crate::spec::{ServerEntry, ServerSpec};
use crate::value::{Number, Text};
use std::ops::Range;
use vipd_core::settings::{Host, Resolve, Server};

/// The servers of the pool at `pool`, each with its place.
pub(super) fn judge(
    field: Field<List<ServerEntry>>,
    max_rate: Option<u32>,
    pool: &Range<usize>,
    report: &mut Report<'_>,
) -> (Vec<Server>, Vec<Range<usize>>) {
    let missing = "each with its port: servers = [\"db1.internal:3306\", \"db2.internal:3306\"]";
    let Ok(At { value, span }) = field.need("servers", missing, pool, report) else {
        return (vec![], vec![]);
    };
    let entries = value.open("servers", report);
    if entries.is_empty() {
        empty_list("servers", &span, report);
    }
    let drafts: Vec<_> = entries.into_iter().flatten().filter_map(|e| draft(e, report)).collect();
    let names = names(&drafts, report);
    let mut servers: Vec<Server> = Vec::new();
    let mut places: Vec<Range<usize>> = Vec::new();
    for (draft, name) in drafts.into_iter().zip(names) {
        let Draft { server, place, .. } = draft;
        let twin = servers.iter().zip(&places).find(|(s, _)| s.host == server.host && s.port == server.port);
        if let Some((_, first)) = twin {
            let line = report.line(first);
            report.error(
                &place,
                Problem::new(format!("{} is a server of this pool already (line {line})", show(&server)))
                    .hint("a weight gives a server a greater share"),
            );
        }
        servers.push(Server { name, max_rate: server.max_rate.or(max_rate), ..server });
        places.push(place);
    }
    if !servers.is_empty() && servers.iter().all(|s| s.weight == 0) {
        report.warning(
            &span,
            Problem::new("every server of the pool has weight 0: none takes connections")
                .hint("weights go from 1 to 256; 0 is for a server that is being taken out"),
        );
    }
    (servers, places)
}

/// A server before each has a name.
struct Draft {
    name: Option<At<String>>,
    server: Server,
    /// Where its address stands.
    place: Range<usize>,
}

/// A server, unless its address could not be read.
fn draft(entry: At<ServerEntry>, report: &mut Report<'_>) -> Option<Draft> {
    let At { value, span } = entry;
    let table = match value {
        ServerEntry::Short(Endpoint { host, port }) => {
            return Some(Draft { name: None, server: Server::new("", host, port), place: span });
        }
        ServerEntry::Long(table) => table,
    };
    let ServerSpec { name, address, resolve, weight, max_connections, max_rate, backup } = table.open(report);
    let name = name.ok("name", report).map(|At { value, span }| At { value: value.0, span });
    let resolve = resolve.get("resolve", report);
    let missing = "address = \"db1.internal:3306\"";
    let address = address.need("address", missing, &span, report);
    let max_connections = max_connections.ok("max-connections", report).map(|m| m.value.0);
    let max_rate = max_rate.ok("max-rate", report).map(|m| m.value.0);
    let weight = weight.ok("weight", report);
    let backup = backup.ok("backup", report);
    let (resolve, address) = (resolve.ok()?, address.ok()?);
    let place = address.span.clone();
    let (Endpoint { host, port }, resolve) = self::address(address, resolve, report).ok()?;
    let defaults = Server::new("", host, port);
    let server = Server {
        weight: weight
            .and_then(|At { value: Number(w), .. }| u16::try_from(w).ok())
            .unwrap_or(defaults.weight),
        max_connections,
        max_rate,
        backup: backup.map_or(defaults.backup, |b| b.value),
        resolve: resolve.unwrap_or(defaults.resolve),
        ..defaults
    };
    Some(Draft { name, server, place })
}

/// Where a server is found; what its address looks like depends on how it is
/// looked up.
fn address(
    address: At<Text>,
    resolve: Option<At<Resolve>>,
    report: &mut Report<'_>,
) -> Result<(Endpoint, Option<Resolve>), Reported> {
    let At { value: Text(text), span } = address;
    let read = match resolve.as_ref().map(|r| r.value) {
        Some(Resolve::Srv) => srv(&text),
        Some(Resolve::One | Resolve::All) | None => Endpoint::text(&text),
    };
    let endpoint = read.map_err(|problem| {
        report.error(&span, problem.of("address"));
        Reported
    })?;
    let several = resolve.as_ref().filter(|r| r.value != Resolve::One);
    if let (Host::Address(ip), Some(At { span, .. })) = (&endpoint.host, several) {
        report.error(
            span,
            Problem::new(format!("resolve: {ip} is an address, there is nothing to look up"))
                .hint("resolve is for names, which may stand for several servers"),
        );
    }
    Ok((endpoint, resolve.map(|r| r.value)))
}

/// A name without a port; an address is read too, to be refused for what it is.
fn srv(text: &str) -> Result<Endpoint, Problem> {
    match Endpoint::text(text) {
        Ok(endpoint @ Endpoint { host: Host::Address(_), .. }) => Ok(endpoint),
        Ok(Endpoint { host: Host::Name(_), .. }) | Err(_) => {
            srv_name(text).map(|host| Endpoint { host, port: 0 })
        }
    }
}

/// A server without a name is called by its host, or by host and port where
/// that name is taken; names that the file gives come first.
fn names(drafts: &[Draft], report: &mut Report<'_>) -> Vec<String> {
    let given = drafts.iter().filter_map(|d| d.name.clone());
    let mut taken: Vec<String> = given.clone().map(|n| n.value).collect();
    Names::new("server", given.map(Some).collect(), report);
    let mut names = Vec::new();
    for draft in drafts {
        let name = match &draft.name {
            Some(name) => name.value.clone(),
            None => {
                let host = draft.server.host.to_string();
                let name = if taken.contains(&host) { show(&draft.server) } else { host };
                taken.push(name.clone());
                name
            }
        };
        names.push(name);
    }
    names
}

/// Where a server is found, as the file says it.
pub(super) fn show(server: &Server) -> String {
    match server.resolve {
        Resolve::One | Resolve::All => format!("{}:{}", server.host, server.port),
        Resolve::Srv => server.host.to_string(),
    }
}
