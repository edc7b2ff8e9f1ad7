//! `[etcd]`, where `quorum = "etcd"` keeps its lease.

use super::election::{Election, within};
use super::empty_list;
use crate::address::EtcdUrl;
use crate::duration::show;
use crate::report::{At, Problem, Report, quote};
use crate::shape::{Field, List, Table};
use crate::spec::EtcdSpec;
use crate::value::{FilePath, Lease, User};
use crate::{Etcd, EtcdEndpoint};
use std::path::PathBuf;
use std::time::Duration;
use vipd_core::lease::LONGEST;
use vipd_core::settings::Quorum;

const DEFAULT_PREFIX: &str = "/vipd";
/// A cluster of etcd has three or five members; more are mistaken for it.
const MAX_ENDPOINTS: usize = 16;
/// etcd has a new leader within two seconds of the old one's end, by its
/// defaults: an owner shall not withdraw for that.
const DEFAULT_LEASE: Duration = Duration::from_secs(3);
const MIN_LEASE: Duration = Duration::from_secs(1);

const MISSING: &str =
    "the members of the etcd cluster: endpoints = [\"https://10.77.0.31:2379\", \"https://10.77.0.32:2379\"]";

/// The lease where the file names none.
pub(super) fn auto_lease(interval: Duration) -> Duration {
    DEFAULT_LEASE.max(interval * 3).min(LONGEST)
}

/// Judges the table, and sets the election's lease by it.
pub(super) fn judge(
    field: Field<Table<EtcdSpec>>,
    election: &mut Election,
    report: &mut Report<'_>,
) -> Option<Etcd> {
    let wanted = election.settings.quorum == Quorum::Etcd;
    let Ok(table) = field.get("[etcd]", report) else { return None };
    let Some(At { value, span }) = table else {
        if wanted {
            let problem = Problem::new("quorum = \"etcd\" needs [etcd], which says where etcd is");
            report.error(
                &election.quorum_place,
                problem.hint("a table [etcd] with endpoints = [\"https://10.77.0.31:2379\"]"),
            );
        }
        return None;
    };
    if !wanted && election.quorum_known {
        let problem = Problem::new("[etcd] has no effect without quorum = \"etcd\" in [election]");
        report.error(&span, problem.hint("set quorum = \"etcd\", or take the table out"));
    }
    let spec = value.open(report);
    let endpoints = match spec.endpoints.need("endpoints", MISSING, &span, report) {
        Ok(list) => endpoints(list, report),
        Err(_) => vec![],
    };
    if let Some(lease) = lease(spec.lease, election, report) {
        election.settings.etcd_lease = lease;
    }
    let tls = endpoints.iter().any(|e| e.tls);
    let login = login(spec.user, spec.password_file, &endpoints, report);
    let files = [
        ("tls-ca-file", spec.tls_ca_file.ok("tls-ca-file", report)),
        ("tls-cert-file", spec.tls_cert_file.ok("tls-cert-file", report)),
        ("tls-key-file", spec.tls_key_file.ok("tls-key-file", report)),
    ];
    let name = spec.tls_name.ok("tls-name", report);
    let spans = files.iter().map(|(key, file)| (*key, file.as_ref().map(|f| &f.span)));
    for (key, span) in spans.chain([("tls-name", name.as_ref().map(|n| &n.span))]) {
        if let Some(span) = span.filter(|_| !tls && !endpoints.is_empty()) {
            let problem = Problem::new(format!("{key} has no effect: no endpoint is https://"));
            report.error(span, problem.hint("TLS is asked for by the endpoints: https://"));
        }
    }
    let [(_, ca_file), (_, cert), (_, key)] = files;
    Some(Etcd {
        endpoints,
        prefix: spec.prefix.ok("prefix", report).map_or_else(|| DEFAULT_PREFIX.to_owned(), |p| p.value.0),
        login,
        ca_file: ca_file.map(|f| f.value.0),
        tls_name: name.map(|n| n.value.0),
        identity: identity(cert, key, report),
    })
}

fn endpoints(list: At<List<EtcdUrl>>, report: &mut Report<'_>) -> Vec<EtcdEndpoint> {
    let At { value, span } = list;
    let urls = value.open("endpoints", report);
    if urls.is_empty() {
        empty_list("endpoints", &span, report);
    }
    if urls.len() > MAX_ENDPOINTS {
        let problem = format!("{} endpoints are too many: at most {MAX_ENDPOINTS}", urls.len());
        report.error(&span, Problem::new(problem));
    }
    let mut endpoints = vec![];
    for At { value: EtcdUrl { tls, at }, span } in urls.into_iter().flatten() {
        let endpoint = EtcdEndpoint { tls, host: at.host, port: at.port };
        if endpoints.contains(&endpoint) {
            let problem = format!("endpoints: {} stands here twice", quote(&endpoint.to_string()));
            report.error(&span, Problem::new(problem));
        } else {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

fn lease(field: Field<Lease>, election: &Election, report: &mut Report<'_>) -> Option<Duration> {
    let At { value: Lease::For(lease), span } = field.ok("lease", report)? else { return None };
    within("lease", lease, MIN_LEASE, LONGEST, &span, report);
    let adverts = election.settings.advert_interval * 3;
    if election.interval_known && (MIN_LEASE..=LONGEST).contains(&lease) && lease < adverts {
        let problem = format!("lease: {} is shorter than three adverts ({})", show(lease), show(adverts));
        let auto = show(election.settings.etcd_lease);
        report.error(&span, Problem::new(problem).hint(format!("\"auto\" is {auto} here")));
    }
    Some(lease)
}

fn login(
    user: Field<User>,
    password_file: Field<FilePath>,
    endpoints: &[EtcdEndpoint],
    report: &mut Report<'_>,
) -> Option<(String, PathBuf)> {
    let (user, password_file) = (user.get("user", report), password_file.get("password-file", report));
    match (user, password_file) {
        (Ok(Some(user)), Ok(Some(file))) => {
            if let Some(clear) = endpoints.iter().find(|e| !e.tls) {
                let problem = Problem::new(format!("the password goes to {clear} in the clear"));
                report.warning(&user.span, problem.hint("https:// keeps it secret"));
            }
            Some((user.value.0, file.value.0))
        }
        (Ok(Some(user)), Ok(None)) => {
            let problem = Problem::new("user without password-file: etcd asks for both");
            report.error(&user.span, problem.hint("password-file = \"/etc/vipd/etcd.password\""));
            None
        }
        (Ok(None), Ok(Some(file))) => {
            let problem = Problem::new("password-file without user: etcd asks for both");
            report.error(&file.span, problem.hint("user = \"vipd\""));
            None
        }
        (Ok(Some(_) | None) | Err(_), _) => None,
    }
}

fn identity(
    cert: Option<At<FilePath>>,
    key: Option<At<FilePath>>,
    report: &mut Report<'_>,
) -> Option<(PathBuf, PathBuf)> {
    match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.value.0, key.value.0)),
        (Some(cert), None) => {
            report.error(
                &cert.span,
                Problem::new("tls-cert-file without tls-key-file: one is of no use alone"),
            );
            None
        }
        (None, Some(key)) => {
            report
                .error(&key.span, Problem::new("tls-key-file without tls-cert-file: one is of no use alone"));
            None
        }
        (None, None) => None,
    }
}
