//! Judging: from what is written ([`Spec`]) to what is meant ([`Config`]).
//!
//! Every finding goes to the report and judging goes on, with a stand-in for
//! what was wrong; the result counts only when the report has no error. What
//! cannot be told because something else is wrong is not told: no finding is
//! the consequence of another.

mod checking;
mod cluster;
mod dns;
mod election;
mod etcd;
mod kinds;
mod listen;
mod notify;
mod pool;
mod reach;
mod servers;
mod vip;

use crate::Config;
use crate::report::{At, Problem, Report, did_you_mean, quote, quoted};
use crate::shape::{Field, List, Section, Table};
use crate::spec::Spec;
use std::ops::Range;
use vipd_core::settings::Bind;

/// Judges a whole file.
pub(crate) fn config(spec: Spec, report: &mut Report<'_>) -> Config {
    let Spec { cluster, election, etcd, vip, listen, pool, dns, status, notify } = spec;
    let cluster = cluster::judge(cluster, report);
    let mut election = election::judge(election, report);
    let etcd = etcd::judge(etcd, &mut election, report);
    cluster::sealed(&cluster, &election, report);
    cluster::quorum(&cluster, &election, report);
    let mut pools = pool::judge(open(pool, "pool", report), report);
    let status = notify::status(status, report);
    let http = status.as_ref().map(|s| At { value: s.value.http, span: s.span.clone() });
    let listeners = listen::judge(open(listen, "listen", report), &pools.names, http.as_ref(), report);
    let notify = notify::judge(open(notify, "notify", report), report);
    let drafts = open(vip, "vip", report);
    if drafts.is_empty() && listeners.names.is_empty() {
        report.error(
            &(0..0),
            Problem::new("nothing to do: there is neither a [[vip]] nor a [[listen]]").hint(
                "a [[vip]] is an address that moves between the nodes, a [[listen]] a port that is balanced",
            ),
        );
    }
    let mut vips = vip::judge(drafts, &cluster, &election, &listeners.names, report);
    reach::circles(&pools, report);
    reach::unused(&pools, &listeners, report);
    reach::vips(&pools, &vips, report);
    reach::loops(&pools, &listeners, &cluster, &vips, report);
    reach::sources(&pools, &cluster, report);
    reach::check_sources(&mut pools, &vips);
    listen::nowhere(&listeners, &cluster, &vips.settings, report);
    let dns = dns::judge(dns, &cluster, &listeners, &mut vips, report);
    Config {
        cluster: cluster.settings,
        key: cluster.key,
        election: election.settings,
        etcd,
        vips: vips.settings,
        listeners: listeners.settings,
        pools: pools.settings,
        dns,
        status: status.map(|s| s.value),
        notify,
        warnings: vec![],
    }
}

/// Opens a list of tables; `None` stands for one that could not be read.
pub(crate) fn open<S: Section>(
    field: Field<List<Table<S>>>,
    key: &str,
    report: &mut Report<'_>,
) -> Vec<Option<At<S>>> {
    let Ok(list) = field.get(key, report) else { return vec![None] };
    let Some(At { value, span }) = list else { return vec![] };
    let tables = value.open(key, report);
    if tables.is_empty() {
        empty_list(key, &span, report);
        return vec![None];
    }
    tables.into_iter().map(|t| t.map(|At { value, span }| At { value: value.open(report), span })).collect()
}

pub(crate) fn empty_list(key: &str, span: &Range<usize>, report: &mut Report<'_>) {
    report.error(span, Problem::new(format!("{key} is empty")).hint("put something in, or take the key out"));
}

/// The names of things of a kind, each at the position the thing has.
struct Names {
    /// A word for one of them: `pool`.
    what: &'static str,
    /// `None` where no name could be read.
    names: Vec<Option<At<String>>>,
}

impl Names {
    /// Takes the names and reports those that stand twice.
    fn new(what: &'static str, names: Vec<Option<At<String>>>, report: &mut Report<'_>) -> Self {
        for (i, name) in names.iter().enumerate() {
            let Some(name) = name else { continue };
            if let Some(first) = names[..i].iter().flatten().find(|n| n.value == name.value) {
                let line = report.line(&first.span);
                report.error(
                    &name.span,
                    Problem::new(format!("there is a {what} {} already (line {line})", quote(&name.value)))
                        .hint(format!("each {what} has a name of its own")),
                );
            }
        }
        Self { what, names }
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name of the thing at a position, for a sentence.
    fn show(&self, position: usize) -> String {
        match self.names.get(position) {
            Some(Some(name)) => quote(&name.value),
            Some(None) | None => format!("number {}", position + 1),
        }
    }

    /// The position of the thing that a key refers to.
    fn find(&self, key: &str, wanted: &At<String>, report: &mut Report<'_>) -> Option<usize> {
        let known = || self.names.iter().flatten().map(|n| n.value.as_str());
        let found = self.names.iter().position(|n| n.as_ref().is_some_and(|n| n.value == wanted.value));
        // One whose name could not be read may be the one that is meant.
        if found.is_none() && self.names.iter().all(Option::is_some) {
            let what = self.what;
            let hint = did_you_mean(&wanted.value, known()).unwrap_or_else(|| match self.names.len() {
                0 => format!("the file defines no {what}"),
                _ => format!("there is {}", quoted(known())),
            });
            report.error(
                &wanted.span,
                Problem::new(format!("{key}: there is no {what} {}", quote(&wanted.value))).hint(hint),
            );
        }
        found
    }

    /// The positions that a list refers to; `None` if any is wrong or twice.
    fn find_all(
        &self,
        key: &str,
        list: At<List<crate::value::Reference>>,
        report: &mut Report<'_>,
    ) -> Option<Vec<usize>> {
        let At { value, span } = list;
        let wanted = value.open(key, report);
        if wanted.is_empty() {
            empty_list(key, &span, report);
            return None;
        }
        let (count, mut all) = (wanted.len(), Vec::new());
        for wanted in wanted.into_iter().flatten() {
            let wanted = At { value: wanted.value.0, span: wanted.span };
            let Some(found) = self.find(key, &wanted, report) else { continue };
            if all.contains(&found) {
                let problem = format!("{key}: {} stands here twice", quote(&wanted.value));
                report.error(&wanted.span, Problem::new(problem));
            } else {
                all.push(found);
            }
        }
        (all.len() == count).then_some(all)
    }
}

/// Whether two listeners would get in each other's way.
fn clash(a: Bind, b: Bind) -> bool {
    a.port == b.port
        && match (a.address, b.address) {
            (None, _) | (_, None) => true,
            (Some(a), Some(b)) => {
                a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
            }
        }
}
