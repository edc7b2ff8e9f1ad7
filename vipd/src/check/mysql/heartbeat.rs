//! A lag that is measured: the age of the newest heartbeat that the primary
//! wrote into a table (pt-heartbeat, or an event of MySQL's own). Pure.
//!
//! The age is against the replica's clock. A `TIMESTAMP` says in which zone it
//! stands; a `DATETIME` or a text, as pt-heartbeat writes it, does not: it may
//! be UTC or the servers' own zone. So the age is computed for both, and the
//! reading that once was close to now is kept. Until then the greater age
//! counts: a replica is never taken for fresher than it may be.

use super::wire::Row;
use std::time::Duration;
use vipd_core::probe::Lag;
use vipd_core::settings::Heartbeat;

const MICROSECONDS: i64 = 1_000_000;
/// How far a heartbeat may lie in the future before it is no difference
/// between two clocks any more.
const AHEAD: i64 = 60 * MICROSECONDS;
/// Zones differ by a quarter of an hour or more: of two ages between
/// -[`AHEAD`] and this, at most one reading can be meant.
const NEAR: i64 = 600 * MICROSECONDS;

/// Asks for the age of the newest heartbeat in microseconds, once for each zone.
pub(super) fn question(heartbeat: &Heartbeat) -> String {
    let age = |now: &str| format!("TIMESTAMPDIFF(MICROSECOND, newest, {now}(6))");
    let (utc, own) = (age("UTC_TIMESTAMP"), age("NOW"));
    let (column, table) = (quoted(&heartbeat.column), table(heartbeat));
    format!(
        "SELECT {utc} AS utc, {own} AS own FROM (SELECT MAX({column}) AS newest FROM {table}) AS heartbeat"
    )
}

/// The privilege that [`question`] needs.
pub(super) fn privilege(heartbeat: &Heartbeat) -> String {
    format!("SELECT ON {}", table(heartbeat))
}

fn table(heartbeat: &Heartbeat) -> String {
    format!("{}.{}", quoted(&heartbeat.schema), quoted(&heartbeat.table))
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The zone in which heartbeats are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Zone {
    Utc,
    Own,
}

/// Reads heartbeats, and remembers in which zone they are written.
#[derive(Debug, Default)]
pub(super) struct Clock {
    zone: Option<Zone>,
}

impl Clock {
    /// The lag, from the answer to [`question`].
    pub(super) fn lag(&mut self, row: Option<&Row>) -> Lag {
        let age = |name: &str| row?.get(&[name])??.parse::<i64>().ok();
        let (Some(utc), Some(own)) = (age("utc"), age("own")) else {
            return Lag::Unknown("the heartbeat table holds no time".to_owned());
        };
        let age = self.age(utc, own);
        if age < -AHEAD {
            let ahead = Duration::from_micros(age.unsigned_abs()).as_secs();
            return Lag::Unknown(format!(
                "the newest heartbeat is {ahead} s in the future: compare the servers' clocks"
            ));
        }
        Lag::Known(Duration::from_micros(u64::try_from(age).unwrap_or(0)))
    }

    fn age(&mut self, utc: i64, own: i64) -> i64 {
        let age_in = |zone| match zone {
            Zone::Utc => utc,
            Zone::Own => own,
        };
        // A heartbeat from the future proves the reading wrong.
        self.zone = self.zone.filter(|zone| age_in(*zone) >= -AHEAD).or_else(|| {
            let near = |age| (-AHEAD..NEAR).contains(&age);
            match (near(utc), near(own)) {
                (true, false) => Some(Zone::Utc),
                (false, true) => Some(Zone::Own),
                (true, true) | (false, false) => None,
            }
        });
        self.zone.map_or(utc.max(own), age_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    /// The lag seen of a heartbeat of this age, with zones this far apart.
    fn lag(clock: &mut Clock, utc: i64, own: i64) -> Lag {
        let text = |seconds: i64| (seconds * MICROSECONDS).to_string();
        clock.lag(Some(&Row::new(&[("utc", Some(&text(utc))), ("own", Some(&text(own)))])))
    }

    fn seconds(seconds: u64) -> Lag {
        Lag::Known(Duration::from_secs(seconds))
    }

    #[test]
    fn servers_in_utc_leave_no_doubt() {
        let mut clock = Clock::default();
        assert_eq!(lag(&mut clock, 3, 3), seconds(3));
        assert_eq!(lag(&mut clock, 9_000, 9_000), seconds(9_000));
        assert_eq!(lag(&mut clock, -5, -5), seconds(0));
    }

    #[test]
    fn the_zone_is_learned_and_kept() {
        for offset in [2 * HOUR, -5 * HOUR, HOUR / 4 + 5 * HOUR] {
            // Written in UTC: read as the servers' own time it is `offset` older.
            let mut clock = Clock::default();
            for age in [1, 500, 2 * HOUR, 5 * HOUR, 3] {
                assert_eq!(lag(&mut clock, age, age + offset), seconds(age.unsigned_abs()), "{offset} {age}");
            }
            // Written in the servers' own time: read as UTC it is `offset` younger.
            let mut clock = Clock::default();
            for age in [1, 500, 2 * HOUR, 5 * HOUR, 3] {
                assert_eq!(lag(&mut clock, age - offset, age), seconds(age.unsigned_abs()), "{offset} {age}");
            }
        }
    }

    #[test]
    fn until_it_is_learned_the_greater_age_counts() {
        let mut clock = Clock::default();
        assert_eq!(lag(&mut clock, HOUR, 3 * HOUR), seconds(3 * 3_600));
        assert_eq!(lag(&mut clock, -HOUR, HOUR), seconds(3_600));
        assert_eq!(lag(&mut clock, -2 * HOUR, 5), seconds(5));
        assert_eq!(clock.zone, Some(Zone::Own));
    }

    #[test]
    fn what_was_learned_wrongly_is_unlearned() {
        let mut clock = Clock::default();
        // Two hours of lag in the servers' own time look like none in UTC.
        assert_eq!(lag(&mut clock, 5, 2 * HOUR + 5), seconds(5));
        assert_eq!(lag(&mut clock, -100, 2 * HOUR - 100), seconds(7_100));
        assert_eq!(lag(&mut clock, -2 * HOUR, 0), seconds(0));
        assert_eq!(lag(&mut clock, 5, 2 * HOUR + 5), seconds(7_205));
    }

    #[test]
    fn nothing_and_the_future_are_unknown() {
        let mut clock = Clock::default();
        let empty = Lag::Unknown("the heartbeat table holds no time".to_owned());
        assert_eq!(clock.lag(None), empty);
        assert_eq!(clock.lag(Some(&Row::new(&[("utc", None), ("own", None)]))), empty);
        let future = "the newest heartbeat is 90 s in the future: compare the servers' clocks".to_owned();
        assert_eq!(lag(&mut clock, -90, -90), Lag::Unknown(future));
    }

    #[test]
    fn names_are_quoted() {
        let heartbeat =
            Heartbeat { schema: "percona".into(), table: "heart`beat".into(), column: "ts".into() };
        let question = question(&heartbeat);
        assert!(question.contains("(SELECT MAX(`ts`) AS newest FROM `percona`.`heart``beat`)"), "{question}");
        assert_eq!(privilege(&heartbeat), "SELECT ON `percona`.`heart``beat`");
    }
}
