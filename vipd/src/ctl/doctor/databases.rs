//! The checks' users: each logs in to each server once, as the check does, and
//! asks all that it will ever be asked for. A privilege that is missing on the
//! primary would be missed only when that is a replica.

use super::{Findings, Verdict};
use crate::check::{Checker, Report};
use crate::resolve::Resolver;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use vipd_config::Config;
use vipd_core::probe::{Lag, Probe};
use vipd_core::settings::{Check, CheckKind, MysqlCheck, Own, Pool, PostgresCheck, Resolve, Role};

/// More than a check needs to begin, and to look names up.
const MARGIN: Duration = Duration::from_secs(3);
/// Statements that a database's error or ours may end with.
const STATEMENTS: [&str; 4] = ["GRANT ", "CREATE ROLE ", "CREATE USER ", "ACL SETUSER "];

/// Looks at every server of every pool whose check logs in.
pub(super) fn look(config: &Config, runtime: &Runtime, findings: &mut Findings) {
    let pools: Vec<Pool> = config.pools.iter().filter_map(with_login).collect();
    let mut waiting: Vec<(usize, usize)> = Vec::new();
    for (at, pool) in pools.iter().enumerate() {
        for (number, server) in pool.servers.iter().enumerate() {
            if matches!(server.resolve, Resolve::All | Resolve::Srv) {
                let text = format!(
                    "{}/{}: it stands for several; what vipd itself found is told below",
                    pool.name, server.name
                );
                findings.add(Verdict::Unknown, "login", text);
            } else {
                waiting.push((at, number));
            }
        }
    }
    let own = Own::of(&config.cluster, &config.vips, &config.listeners, &config.pools);
    let reports = runtime.block_on(ask(runtime, &pools, own, waiting.len()));
    for (at, number) in waiting {
        let Some((pool, server)) = pools.get(at).and_then(|p| Some((p, p.servers.get(number)?))) else {
            continue;
        };
        let name = format!("{}/{}", pool.name, server.name);
        let Some(check) = &pool.check else { continue };
        match reports.iter().find(|r| (r.pool, r.server) == (at, number)) {
            Some(report) => judge(&name, check, &report.probe, findings),
            None => findings.add(Verdict::Unknown, "login", format!("{name}: no answer in time")),
        }
    }
}

/// A pool with a check that logs in and asks everything.
fn with_login(pool: &Pool) -> Option<Pool> {
    let mut check = pool.check.clone()?;
    match &mut check.kind {
        CheckKind::Mysql(mysql) => {
            if mysql.role == Role::Replica || mysql.max_lag.is_some() {
                mysql.role = Role::Any;
                mysql.max_lag = Some(mysql.max_lag.unwrap_or(Duration::MAX));
            }
        }
        CheckKind::Postgres(_) | CheckKind::Redis(_) => {}
        CheckKind::Tcp(_) | CheckKind::Http(_) | CheckKind::Exec(_) => return None,
    }
    // Once is enough.
    check.interval = check.interval.max(check.timeout + MARGIN);
    check.fast_interval = None;
    check.down_interval = None;
    Some(Pool { check: Some(check), ..pool.clone() })
}

/// The first report of each server, as far as they come in time.
async fn ask(runtime: &Runtime, pools: &[Pool], own: Own, servers: usize) -> Vec<Report> {
    let mut told: Vec<Report> = Vec::new();
    if servers == 0 {
        return told;
    }
    let longest = pools.iter().filter_map(|p| Some(p.check.as_ref()?.timeout)).max().unwrap_or_default();
    let until = Instant::now() + longest + MARGIN;
    let (reports, mut reports_in) = mpsc::channel(servers);
    let (found, mut found_in) = mpsc::channel(servers);
    let resolver = Resolver::start(runtime.handle().clone(), pools, own, found);
    let _checker = Checker::start(runtime.handle().clone(), pools, &resolver, reports);
    let gather = async {
        while told.len() < servers {
            tokio::select! {
                report = reports_in.recv() => {
                    let Some(report) = report else { return };
                    if !told.iter().any(|r| (r.pool, r.server) == (report.pool, report.server)) {
                        told.push(report);
                    }
                }
                // What names lead to is the checker's to know.
                _ = found_in.recv() => {}
            }
        }
    };
    let _ = timeout_at(until, gather).await;
    told
}

fn judge(name: &str, check: &Check, probe: &Probe, findings: &mut Findings) {
    match probe {
        Probe::Answered(seen) => {
            if let Some(Lag::Unknown(why)) = &seen.lag
                && let Some(statement) = statement(why)
            {
                findings.fix(Verdict::Bad, "privileges", format!("{name}: {why}"), statement);
                return;
            }
            findings
                .good("login", format!("{name}: {} logs in, and may ask what the check asks", user(check)));
        }
        Probe::Failed(why) | Probe::Full(why) => {
            let text = format!("{name}: {why}");
            match (statement(why), mend(check, why)) {
                (Some(statement), _) => findings.fix(Verdict::Bad, "privileges", text, statement),
                (None, Some(fix)) => findings.fix(Verdict::Bad, "login", text, fix),
                (None, None) => findings.fix(Verdict::Bad, "login", text, format!("vipctl why {name}")),
            }
        }
        Probe::Unable(why) => findings.add(Verdict::Unknown, "login", format!("{name}: {why}")),
    }
}

/// The statement in a text, up to its end.
pub(super) fn statement(why: &str) -> Option<&str> {
    let at = STATEMENTS.iter().find_map(|word| why.find(word))?;
    // Not the words that stand for what only the operator knows.
    let statement = why[at..].split_inclusive(';').next().unwrap_or(&why[at..]);
    (!statement.contains("...")).then_some(statement)
}

fn user(check: &Check) -> String {
    match &check.kind {
        CheckKind::Mysql(MysqlCheck { user, .. }) | CheckKind::Postgres(PostgresCheck { user, .. }) => {
            user.clone()
        }
        CheckKind::Redis(redis) => redis.user.clone().unwrap_or_else(|| "default".to_owned()),
        CheckKind::Tcp(_) | CheckKind::Http(_) | CheckKind::Exec(_) => "nobody".to_owned(),
    }
}

/// What to type where the text itself has no statement to copy.
fn mend(check: &Check, why: &str) -> Option<String> {
    if let Some(rest) = why.split("reading password-file ").nth(1) {
        let file = rest.split(':').next().unwrap_or(rest);
        return Some(format!("install -m 640 -g vipd /dev/stdin {file}"));
    }
    match &check.kind {
        CheckKind::Mysql(_) => {
            let denied = why.contains("(ERROR 1045)") || why.contains("(ERROR 1698)");
            let account = why.split(" for user '").nth(2)?;
            let account = account.split(" (").next()?;
            denied.then(|| {
                format!(
                    "there: CREATE USER IF NOT EXISTS '{account} IDENTIFIED BY '<what password-file holds>'; \
                     ALTER USER '{account} IDENTIFIED BY '<the same>';"
                )
            })
        }
        CheckKind::Postgres(check) => postgres(check, why),
        CheckKind::Redis(_) => why.contains("WRONGPASS").then(|| {
            format!("there: ACL SETUSER {} on ><what password-file holds> +info +ping", user(check))
        }),
        CheckKind::Tcp(_) | CheckKind::Http(_) | CheckKind::Exec(_) => None,
    }
}

fn postgres(check: &PostgresCheck, why: &str) -> Option<String> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let (user, database) = (quoted(&check.user), quoted(&check.database));
    if why.contains("SQLSTATE 42501") {
        return Some(format!("GRANT CONNECT ON DATABASE {database} TO {user};"));
    }
    if why.contains("CREATE ROLE ") {
        return Some(format!("there: CREATE ROLE {user} LOGIN PASSWORD '<what password-file holds>';"));
    }
    if why.contains("SQLSTATE 28P01") {
        return Some(format!("there: ALTER ROLE {user} PASSWORD '<what password-file holds>';"));
    }
    why.contains("pg_hba.conf, and reload").then(|| {
        format!("there, into pg_hba.conf: host {database} {user} <this host>/32 scram-sha-256; then SELECT pg_reload_conf();")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;
    use vipd_core::probe::Observation;

    fn mysql() -> Check {
        Check::new(CheckKind::Mysql(MysqlCheck::new("vipd")))
    }

    fn judged(check: &Check, probe: Probe) -> Finding {
        let mut findings = Findings::default();
        judge("replicas/db1", check, &probe, &mut findings);
        findings.0.remove(0)
    }

    #[test]
    fn a_privilege_that_is_missing_comes_with_its_grant() {
        let why = "user 'vipd' may not ask 10.77.0.21:3306 for its replication status (ERROR 1227: no); \
                   type there: GRANT REPLICA MONITOR ON *.* TO 'vipd'@'%';";
        let found = judged(&mysql(), Probe::Failed(why.into()));
        assert_eq!((found.verdict, &*found.about), (Verdict::Bad, "privileges"));
        assert_eq!(found.fix.as_deref(), Some("GRANT REPLICA MONITOR ON *.* TO 'vipd'@'%';"));
        let why =
            "its WAL receiver cannot be seen; type on the primary: GRANT pg_read_all_stats TO \"vipd\";";
        let seen = Observation { lag: Some(Lag::Unknown(why.into())), ..Observation::default() };
        let found = judged(&mysql(), Probe::Answered(seen));
        assert_eq!(found.fix.as_deref(), Some("GRANT pg_read_all_stats TO \"vipd\";"));
    }

    #[test]
    fn an_account_that_is_refused_is_named_as_the_server_knows_it() {
        let why = "access denied for user 'vipd' at 10.77.0.21:3306: Access denied for user 'vipd'@'10.77.0.11' \
                   (using password: YES) (ERROR 1045): compare user, password-file and tls";
        let fix = judged(&mysql(), Probe::Failed(why.into())).fix.expect("a statement");
        assert!(fix.contains("CREATE USER IF NOT EXISTS 'vipd'@'10.77.0.11' IDENTIFIED BY"), "{fix}");
        let why = "reading password-file /etc/vipd/mysql.password: no such file or directory";
        let fix = judged(&mysql(), Probe::Failed(why.into())).fix;
        assert_eq!(fix.as_deref(), Some("install -m 640 -g vipd /dev/stdin /etc/vipd/mysql.password"));
    }

    #[test]
    fn a_role_that_may_not_connect_gets_its_grant() {
        let check = Check::new(CheckKind::Postgres(PostgresCheck {
            user: "vipd".into(),
            password_file: None,
            database: "postgres".into(),
            tls: None,
            role: Role::Any,
            max_lag: None,
        }));
        let why = "logging in to 10.77.0.21:5432 as 'vipd': permission denied for database \"postgres\" \
                   (SQLSTATE 42501); grant that role the privilege";
        let fix = judged(&check, Probe::Failed(why.into())).fix;
        assert_eq!(fix.as_deref(), Some("GRANT CONNECT ON DATABASE \"postgres\" TO \"vipd\";"));
        let why = "logging in to 10.77.0.21:5432 as 'vipd': role \"vipd\" does not exist (SQLSTATE 28000); \
                   type there: CREATE ROLE ... LOGIN";
        let fix = judged(&check, Probe::Failed(why.into())).fix;
        assert_eq!(
            fix.as_deref(),
            Some("there: CREATE ROLE \"vipd\" LOGIN PASSWORD '<what password-file holds>';")
        );
    }

    #[test]
    fn all_that_will_ever_be_asked_is_asked() {
        let pool = |kind| Pool { check: Some(Check::new(kind)), ..Pool::new("replicas", vec![]) };
        let mut replica = MysqlCheck::new("vipd");
        replica.role = Role::Replica;
        let asked = with_login(&pool(CheckKind::Mysql(replica))).and_then(|p| p.check).expect("it logs in");
        let CheckKind::Mysql(asked) = asked.kind else { panic!("another kind") };
        assert_eq!((asked.role, asked.max_lag.is_some()), (Role::Any, true), "also of a primary");
        let mut primary = MysqlCheck::new("vipd");
        primary.role = Role::Primary;
        let asked = with_login(&pool(CheckKind::Mysql(primary))).and_then(|p| p.check).expect("it logs in");
        let CheckKind::Mysql(asked) = asked.kind else { panic!("another kind") };
        assert_eq!(asked.role, Role::Primary, "what a pool does not need is not demanded");
    }
}
