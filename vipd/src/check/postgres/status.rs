//! What a server is asked, and what its answer means.
//!
//! Functions are named with their schema: a check must not run what somebody
//! has put into `public` under the same name.

use std::time::Duration;
use tokio::time::Instant;
use vipd_core::probe::{Connections, Lag, Observation, ObservedRole, Upstream};
use vipd_core::settings::{PostgresCheck, Role};

/// The columns that every server is asked for: its role, and its connections.
///
/// Those that are in use are counted in the server's memory, without locks or
/// privileges, with the workers of the autovacuum among them. Replication has
/// slots of its own. `reserved_connections` came with PostgreSQL 16.
macro_rules! every_server {
    () => {
        "SELECT pg_catalog.pg_is_in_recovery(), \
         (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_db_numbackends(oid)) FROM pg_catalog.pg_database), \
         pg_catalog.current_setting('max_connections')::int \
         - pg_catalog.current_setting('superuser_reserved_connections')::int \
         - coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int"
    };
}

const ROLE: &str = every_server!();

/// And those that tell where a replica replicates from: for the day on which
/// that cannot be reached. PostgreSQL has these columns since 11.
const ROLE_AND_SOURCE: &str = concat!(
    every_server!(),
    ", r.status, pg_catalog.row_to_json(r)->>'sender_host', pg_catalog.row_to_json(r)->>'sender_port' \
     FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_stat_wal_receiver AS r ON true"
);

/// And those that tell a replica's lag: WAL positions as bytes, time as
/// milliseconds.
///
/// `latest_end_lsn` is, whatever its name, where the sender said its WAL ends:
/// what is on its way counts as not replayed.
const ROLE_AND_LAG: &str = concat!(
    every_server!(),
    ", pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::bigint, \
     pg_catalog.pg_wal_lsn_diff(greatest(pg_catalog.pg_last_wal_receive_lsn(), r.latest_end_lsn), '0/0')::bigint, \
     (1000 * extract(epoch FROM \
         pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()))::bigint, \
     r.pid, r.status \
     FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_stat_wal_receiver AS r ON true"
);

/// The question for what a pool needs to know. A privilege that it does not
/// need is not demanded.
pub(super) const fn question(check: &PostgresCheck) -> &'static str {
    match (check.role, check.max_lag) {
        (Role::Primary, _) => ROLE_AND_SOURCE,
        (Role::Any, None) => ROLE,
        (Role::Replica, _) | (Role::Any, Some(_)) => ROLE_AND_LAG,
    }
}

/// The answer makes no sense.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Nonsense(pub(super) &'static str);

/// Reads the answer to [`question`], which was sent at `asked`.
pub(super) fn observe(
    row: &[Option<String>],
    user: &str,
    replay: &mut Replay,
    asked: Instant,
) -> Result<Observation, Nonsense> {
    let text = |at: usize| row.get(at).and_then(Option::as_deref);
    let role = match text(0) {
        Some("f") => ObservedRole::Primary,
        Some("t") => ObservedRole::Replica,
        Some(_) | None => return Err(Nonsense("pg_is_in_recovery() is neither true nor false")),
    };
    let number = |at| text(at).and_then(|text| text.parse::<u32>().ok());
    let (Some(used), Some(max)) = (number(1), number(2)) else {
        return Err(Nonsense("a number of connections is none"));
    };
    let lag = match (role, row.get(3..)) {
        (ObservedRole::Replica, Some([replayed, received, age, receiver, status])) => {
            let number = |value: &Option<String>| value.as_deref().and_then(|v| v.parse::<i64>().ok());
            let age = number(age).map(|age| Duration::from_millis(age.max(0).unsigned_abs()));
            Some(match (receiver, status.as_deref()) {
                (None, _) => Lag::Unknown(
                    "no WAL receiver is running: look at its primary_conninfo, and into its log".to_owned(),
                ),
                (Some(_), None) => Lag::Unknown(format!(
                    "its WAL receiver cannot be seen; type on the primary: {}",
                    grant(user)
                )),
                (Some(_), Some("streaming")) => replay.lag(number(replayed), number(received), age, asked),
                (Some(_), Some(status)) => Lag::Unknown(format!("its WAL receiver is {status}")),
            })
        }
        (ObservedRole::Replica, Some(_) | None) | (ObservedRole::Primary, _) => None,
    };
    let upstream = match (role, row.get(3..)) {
        (ObservedRole::Replica, Some([status, host, port])) => {
            replay.upstream(status.as_deref(), host.as_deref(), port.as_deref())
        }
        (ObservedRole::Replica, Some(_) | None) | (ObservedRole::Primary, _) => None,
    };
    let connections = Some(Connections { used, max });
    Ok(Observation { role: Some(role), lag, connections, upstream, ..Observation::default() })
}

fn grant(user: &str) -> String {
    format!("GRANT pg_read_all_stats TO \"{}\";", user.replace('"', "\"\""))
}

/// How far the replay has come, from one probe to the next.
///
/// The age of the last transaction that was replayed is no lag where the
/// primary was idle before what is being replayed now. But what was received
/// by the time of an earlier probe, and has been replayed, bounds the lag too:
/// by the time since then.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// All that was received by then had been replayed at a later probe.
    caught_up: Option<Instant>,
    /// What was received by the time of a probe, and is waited for.
    mark: Option<(Instant, i64)>,
    /// Where it replicated from when that was last told: without a WAL
    /// receiver nobody tells.
    source: Option<(String, u16)>,
}

impl Replay {
    fn upstream(&mut self, status: Option<&str>, host: Option<&str>, port: Option<&str>) -> Option<Upstream> {
        if let (Some(host), Some(Ok(port))) = (host, port.map(str::parse)) {
            self.source = Some((host.to_owned(), port));
        }
        let (host, port) = self.source.clone()?;
        Some(Upstream { host, port, hears: status == Some("streaming") })
    }

    fn lag(
        &mut self,
        replayed: Option<i64>,
        received: Option<i64>,
        age: Option<Duration>,
        asked: Instant,
    ) -> Lag {
        let (Some(replayed), Some(received)) = (replayed, received) else {
            return Lag::Unknown("nothing was received since it started".to_owned());
        };
        match self.mark {
            Some((at, mark)) if replayed >= mark => {
                self.caught_up = Some(at);
                self.mark = Some((asked, received));
            }
            Some(_) => {}
            None => self.mark = Some((asked, received)),
        }
        if replayed >= received {
            return Lag::Known(Duration::ZERO);
        }
        let bound = self.caught_up.map(|at| at.elapsed());
        match (age, bound) {
            (Some(age), Some(bound)) => Lag::Known(age.min(bound)),
            (Some(lag), None) | (None, Some(lag)) => Lag::Known(lag),
            (None, None) => Lag::Unknown("no transaction was replayed since it started".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(row: &[Option<&str>]) -> Result<Observation, Nonsense> {
        let row: Vec<_> = row.iter().map(|value| value.map(str::to_owned)).collect();
        observe(&row, "vi\"pd", &mut Replay::default(), Instant::now())
    }

    fn lag(of: &[Option<&str>]) -> Option<Lag> {
        let row = [&[Some("t"), Some("3"), Some("97")], of].concat();
        seen(&row).ok()?.lag
    }

    fn unknown(text: &str) -> Option<Lag> {
        Some(Lag::Unknown(text.to_owned()))
    }

    #[test]
    fn a_primary_has_no_lag() {
        let expected = Observation {
            role: Some(ObservedRole::Primary),
            connections: Some(Connections { used: 3, max: 97 }),
            ..Observation::default()
        };
        assert_eq!(seen(&[Some("f"), Some("3"), Some("97")]), Ok(expected.clone()));
        let asked_for_lag = [Some("f"), Some("3"), Some("97"), None, None, None, None, None];
        assert_eq!(seen(&asked_for_lag), Ok(expected));
    }

    #[test]
    fn a_replica_that_has_replayed_all_does_not_lag_however_old_that_is() {
        let known = |ms| Some(Lag::Known(Duration::from_millis(ms)));
        let row = |replayed, age| [Some(replayed), Some("900"), age, Some("7"), Some("streaming")];
        assert_eq!(lag(&row("900", Some("3600000"))), known(0));
        assert_eq!(lag(&row("900", None)), known(0));
        assert_eq!(lag(&row("899", Some("2500"))), known(2500));
        assert_eq!(lag(&row("899", Some("-5"))), known(0), "clocks differ");
        assert_eq!(lag(&row("899", None)), unknown("no transaction was replayed since it started"));
    }

    #[test]
    fn a_lag_that_nobody_knows_is_never_zero() {
        let row = |pid, status| [Some("900"), Some("900"), Some("0"), pid, status];
        assert_eq!(
            lag(&row(None, None)),
            unknown("no WAL receiver is running: look at its primary_conninfo, and into its log")
        );
        assert_eq!(
            lag(&row(Some("7"), None)),
            unknown(
                "its WAL receiver cannot be seen; type on the primary: GRANT pg_read_all_stats TO \"vi\"\"pd\";"
            )
        );
        assert_eq!(lag(&row(Some("7"), Some("waiting"))), unknown("its WAL receiver is waiting"));
        let empty = [None, None, None, Some("7"), Some("streaming")];
        assert_eq!(lag(&empty), unknown("nothing was received since it started"));
    }

    #[test]
    fn a_replica_tells_its_source_and_remembers_it() {
        let mut replay = Replay::default();
        let mut ask = |of: [Option<&str>; 3]| {
            let row = [&[Some("t"), Some("3"), Some("97")], &of[..]].concat();
            let row: Vec<_> = row.iter().map(|value| value.map(str::to_owned)).collect();
            let seen = observe(&row, "vipd", &mut replay, Instant::now());
            seen.ok().and_then(|o| o.upstream).map(|u| (u.host, u.port, u.hears))
        };
        let source = |hears| Some(("10.77.0.21".to_owned(), 5432, hears));
        assert_eq!(ask([None, None, None]), None, "nothing was told yet");
        assert_eq!(ask([Some("streaming"), Some("10.77.0.21"), Some("5432")]), source(true));
        assert_eq!(ask([None, None, None]), source(false), "its WAL receiver has ended");
        assert_eq!(ask([Some("waiting"), Some("10.77.0.21"), Some("5432")]), source(false));
    }

    #[test]
    fn nonsense_is_no_answer() {
        for row in
            [&[][..], &[None], &[Some("yes"), Some("1"), Some("1")], &[Some("t"), Some("-1"), Some("9")]]
        {
            assert!(seen(row).is_err(), "{row:?}");
        }
        assert_eq!(lag(&[Some("900")]), None, "cut short");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_idle_primary_writes_does_not_make_its_replica_old() {
        let mut replay = Replay::default();
        let hour = Some(Duration::from_secs(3600));
        let mut ask = |replayed, received| replay.lag(Some(replayed), Some(received), hour, Instant::now());
        let second = || tokio::time::advance(Duration::from_secs(1));
        let known = |s| Lag::Known(Duration::from_secs(s));
        assert_eq!(ask(100, 100), known(0));
        second().await;
        assert_eq!(ask(100, 140), known(1), "what was there a second ago is replayed");
        second().await;
        assert_eq!(ask(139, 190), known(2), "not all that was there a second ago is");
        second().await;
        assert_eq!(ask(140, 190), known(2), "that is it now");
        second().await;
        assert_eq!(ask(140, 190), known(3), "it hangs");
        second().await;
        assert_eq!(ask(190, 190), known(0));
        assert_eq!(Replay::default().lag(Some(1), Some(2), hour, Instant::now()), known(3600));
    }
}
