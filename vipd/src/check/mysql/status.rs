//! What a server says of its replication, and what that means.
//! Pure: rows in, observations out.

use super::wire::Row;
use std::time::Duration;
use vipd_core::probe::{Lag, ObservedRole, Upstream};

const NAME: [&str; 2] = ["Channel_Name", "Connection_name"];
const IO_RUNNING: [&str; 2] = ["Replica_IO_Running", "Slave_IO_Running"];
const SQL_RUNNING: [&str; 2] = ["Replica_SQL_Running", "Slave_SQL_Running"];
const BEHIND: [&str; 2] = ["Seconds_Behind_Source", "Seconds_Behind_Master"];
const SOURCE_HOST: [&str; 2] = ["Source_Host", "Master_Host"];
const SOURCE_PORT: [&str; 2] = ["Source_Port", "Master_Port"];
const IO_ERROR: &str = "Last_IO_Error";
const SQL_ERROR: &str = "Last_SQL_Error";
/// Channels that MySQL's group replication keeps for itself: their IO threads
/// rest while the group is well.
const GROUP_CHANNELS: &str = "group_replication_";

/// Which of two families a server is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dialect {
    MySql,
    MariaDb,
}

/// A server's dialect and version, which decide what it can be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Version {
    pub(super) dialect: Dialect,
    /// Major, minor, patch; zeros where the text holds no number.
    pub(super) number: (u16, u16, u16),
}

impl Version {
    /// Reads `@@version`, or a greeting's version (MariaDB before 11 prefixes
    /// it with "5.5.5-", so that old replicas do not take it for MySQL 10).
    pub(super) fn parse(text: &str) -> Self {
        let dialect = match text.to_ascii_lowercase().contains("mariadb") {
            true => Dialect::MariaDb,
            false => Dialect::MySql,
        };
        let text = text.strip_prefix("5.5.5-").unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = text.split_at(end).0.split('.').map(|p| p.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        Self { dialect, number: (part(), part(), part()) }
    }

    /// Ways to ask for the replication status, newest first: a server that
    /// does not know one answers with error 1064. MySQL 8.4 knows only the
    /// first; MariaDB's second form leaves out named connections.
    pub(super) fn status_statements(self) -> &'static [&'static str] {
        match self.dialect {
            Dialect::MySql => &["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"],
            Dialect::MariaDb => &["SHOW ALL SLAVES STATUS", "SHOW SLAVE STATUS"],
        }
    }

    /// The privilege that those statements need.
    pub(super) fn status_privilege(self) -> &'static str {
        match self.dialect {
            Dialect::MySql => "REPLICATION CLIENT ON *.*",
            Dialect::MariaDb if self.number >= (10, 5, 9) => "REPLICA MONITOR ON *.*",
            Dialect::MariaDb if self.number >= (10, 5, 2) => "REPLICATION SLAVE ADMIN ON *.*",
            Dialect::MariaDb => "REPLICATION CLIENT ON *.*",
        }
    }
}

/// The `GRANT` that gives `account` (as `CURRENT_USER()` writes it) a
/// privilege, which names what it is on.
pub(super) fn grant(privilege: &str, account: &str) -> String {
    let quoted = |part: &str| format!("'{}'", part.replace('\\', "\\\\").replace('\'', "''"));
    // A user's name may hold an '@', a host's may not.
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    format!("GRANT {privilege} TO {}@{};", quoted(user), quoted(host))
}

/// The lag, from the rows of the replication status, one a channel: the worst
/// counts, and a channel that nobody can tell the lag of is the worst.
/// `None` if the server does not replicate.
///
/// `member`: whether it is one of a cluster (Galera, group replication), which
/// keeps it up to date without a channel.
pub(super) fn lag(rows: &[Row], role: ObservedRole, member: bool) -> Option<Lag> {
    let text = |row: &Row, names: &[&str]| row.get(names).flatten().unwrap_or_default().to_owned();
    let channels: Vec<&Row> =
        rows.iter().filter(|row| !text(row, &NAME).starts_with(GROUP_CHANNELS)).collect();
    let stopped = |row: &&Row| text(row, &IO_RUNNING) == "No" && text(row, &SQL_RUNNING) == "No";
    match role {
        // A promoted server often keeps its stopped channel: it replicates no more.
        ObservedRole::Primary if channels.iter().all(stopped) => return None,
        ObservedRole::Replica if channels.is_empty() && member => return None,
        // Aurora's readers are such: a pool without `max-lag` takes them.
        ObservedRole::Replica if channels.is_empty() => {
            return Some(Lag::Unknown("read-only, but no replication is configured".to_owned()));
        }
        ObservedRole::Primary | ObservedRole::Replica => {}
    }
    let mut worst = Duration::ZERO;
    let mut unknown = Vec::new();
    for row in channels {
        match channel(row) {
            Ok(lag) => worst = worst.max(lag),
            Err(reason) => match text(row, &NAME).as_str() {
                "" => unknown.push(reason),
                name => unknown.push(format!("channel '{name}': {reason}")),
            },
        }
    }
    match unknown.is_empty() {
        true => Some(Lag::Known(worst)),
        false => Some(Lag::Unknown(unknown.join("; "))),
    }
}

/// Where a replica replicates from, by the rows of the replication status;
/// nothing if it has several sources, of which none is *the* one.
pub(super) fn upstream(rows: &[Row]) -> Option<Upstream> {
    let text = |row: &Row, names: &[&str]| row.get(names).flatten().unwrap_or_default().to_owned();
    let mut channels = rows.iter().filter(|row| !text(row, &NAME).starts_with(GROUP_CHANNELS));
    let (Some(row), None) = (channels.next(), channels.next()) else { return None };
    let port = text(row, &SOURCE_PORT).parse().ok()?;
    let host = Some(text(row, &SOURCE_HOST)).filter(|h| !h.is_empty())?;
    Some(Upstream { host, port, hears: text(row, &IO_RUNNING) == "Yes" })
}

/// One channel's lag, or why it is unknown. Seconds behind say nothing unless
/// both threads run.
fn channel(row: &Row) -> Result<Duration, String> {
    for (thread, names, error) in [("IO", IO_RUNNING, IO_ERROR), ("SQL", SQL_RUNNING, SQL_ERROR)] {
        let running = row.get(&names).flatten();
        if running != Some("Yes") {
            let state = running.unwrap_or("unknown");
            let error = row.get(&[error]).flatten().filter(|e| !e.is_empty());
            let cause = error.map(|e| format!(": {}", super::wire::printable(e.as_bytes())));
            return Err(format!("replication {thread} thread {state}{}", cause.unwrap_or_default()));
        }
    }
    match row.get(&BEHIND) {
        Some(Some(seconds)) => seconds
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| "the seconds behind its source are no number".to_owned()),
        Some(None) => Err("the seconds behind its source are NULL".to_owned()),
        None => Err("the replication status has no column Seconds_Behind_Source".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mariadb(name: &str, io: &str, sql: &str, behind: Option<&str>) -> Row {
        Row::new(&[
            ("Connection_name", Some(name)),
            ("Slave_IO_Running", Some(io)),
            ("Slave_SQL_Running", Some(sql)),
            ("Seconds_Behind_Master", behind),
            ("Last_IO_Error", Some("error connecting to master")),
            ("Last_SQL_Error", Some("")),
        ])
    }

    fn mysql(name: &str, io: &str, behind: Option<&str>) -> Row {
        Row::new(&[
            ("Replica_IO_Running", Some(io)),
            ("Replica_SQL_Running", Some("Yes")),
            ("Seconds_Behind_Source", behind),
            ("Channel_Name", Some(name)),
        ])
    }

    fn unknown(text: &str) -> Option<Lag> {
        Some(Lag::Unknown(text.to_owned()))
    }

    #[test]
    fn a_replica_tells_its_source_and_whether_it_hears_it() {
        let mariadb = |io| {
            Row::new(&[
                ("Connection_name", Some("")),
                ("Master_Host", Some("10.77.0.21")),
                ("Master_Port", Some("3306")),
                ("Slave_IO_Running", Some(io)),
            ])
        };
        let source = |hears| Some(Upstream { host: "10.77.0.21".into(), port: 3306, hears });
        assert_eq!(upstream(&[mariadb("Yes")]), source(true));
        assert_eq!(upstream(&[mariadb("Connecting")]), source(false));
        assert_eq!(upstream(&[mariadb("Yes"), mariadb("Yes")]), None, "of several sources none");
        assert_eq!(upstream(&[]), None);
        let newer = Row::new(&[
            ("Source_Host", Some("10.77.0.21")),
            ("Source_Port", Some("3306")),
            ("Replica_IO_Running", Some("Yes")),
            ("Channel_Name", Some("")),
        ]);
        let group = Row::new(&[("Channel_Name", Some("group_replication_applier"))]);
        assert_eq!(upstream(&[newer, group]), source(true));
        assert_eq!(upstream(&[Row::new(&[("Master_Host", Some("db1"))])]), None);
    }

    #[test]
    fn the_worst_channel_counts() {
        let seconds = |s| Some(Lag::Known(Duration::from_secs(s)));
        let replica = ObservedRole::Replica;
        assert_eq!(lag(&[mariadb("", "Yes", "Yes", Some("0"))], replica, false), seconds(0));
        let rows =
            [mysql("a", "Yes", Some("3")), mysql("b", "Yes", Some("40")), mysql("c", "Yes", Some("5"))];
        assert_eq!(lag(&rows, replica, false), seconds(40));
        let rows = [mysql("a", "Yes", Some("3")), mysql("b", "No", Some("0"))];
        assert_eq!(lag(&rows, replica, false), unknown("channel 'b': replication IO thread No"));
    }

    #[test]
    fn a_lag_that_nobody_knows_is_never_zero() {
        let replica = ObservedRole::Replica;
        assert_eq!(
            lag(&[mariadb("", "Connecting", "Yes", Some("0"))], replica, false),
            unknown("replication IO thread Connecting: error connecting to master")
        );
        assert_eq!(
            lag(&[mariadb("", "Yes", "No", None)], replica, false),
            unknown("replication SQL thread No")
        );
        assert_eq!(
            lag(&[mariadb("", "Yes", "Yes", None)], replica, false),
            unknown("the seconds behind its source are NULL")
        );
        assert_eq!(
            lag(&[Row::new(&[("surprise", Some("Yes"))])], replica, false),
            unknown("replication IO thread unknown")
        );
        assert_eq!(lag(&[], replica, false), unknown("read-only, but no replication is configured"));
    }

    #[test]
    fn a_writable_server_lags_only_if_it_replicates() {
        let primary = ObservedRole::Primary;
        assert_eq!(lag(&[], primary, false), None);
        assert_eq!(lag(&[mariadb("", "No", "No", None)], primary, false), None);
        assert_eq!(
            lag(&[mariadb("", "No", "Yes", None)], primary, false),
            unknown("replication IO thread No: error connecting to master")
        );
        let circular = [mariadb("", "Yes", "Yes", Some("2"))];
        assert_eq!(lag(&circular, primary, false), Some(Lag::Known(Duration::from_secs(2))));
    }

    #[test]
    fn channels_of_group_replication_are_its_own() {
        let rows = [mysql("", "Yes", Some("1")), mysql("group_replication_recovery", "No", None)];
        assert_eq!(lag(&rows, ObservedRole::Replica, true), Some(Lag::Known(Duration::from_secs(1))));
        assert_eq!(lag(&rows[1..], ObservedRole::Replica, true), None);
    }

    #[test]
    fn each_version_is_asked_in_its_own_words() {
        let version = |text, dialect, number| assert_eq!(Version::parse(text), Version { dialect, number });
        version("5.5.5-10.11.6-MariaDB-0+deb12u1", Dialect::MariaDb, (10, 11, 6));
        version("11.4.2-MariaDB-log", Dialect::MariaDb, (11, 4, 2));
        version("8.0.36", Dialect::MySql, (8, 0, 36));
        version("8.4.0-debug", Dialect::MySql, (8, 4, 0));
        version("garbage", Dialect::MySql, (0, 0, 0));
        version("99999999.1", Dialect::MySql, (0, 1, 0));
        let privilege = |text| Version::parse(text).status_privilege();
        assert_eq!(privilege("8.4.0"), "REPLICATION CLIENT ON *.*");
        assert_eq!(privilege("10.4.30-MariaDB"), "REPLICATION CLIENT ON *.*");
        assert_eq!(privilege("10.5.8-MariaDB"), "REPLICATION SLAVE ADMIN ON *.*");
        assert_eq!(privilege("10.11.6-MariaDB"), "REPLICA MONITOR ON *.*");
    }

    #[test]
    fn a_grant_can_be_typed_as_it_is() {
        let monitor = grant("REPLICA MONITOR ON *.*", "vipd@%");
        assert_eq!(monitor, "GRANT REPLICA MONITOR ON *.* TO 'vipd'@'%';");
        assert_eq!(grant("X ON d.t", "o'neill@home@10.%"), "GRANT X ON d.t TO 'o''neill@home'@'10.%';");
    }
}
