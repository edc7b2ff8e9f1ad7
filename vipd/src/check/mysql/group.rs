//! What a member of MySQL's group replication says of its group. Pure.

use super::wire::Row;

/// Asks for the members, as this one sees them.
pub(super) const QUESTION: &str =
    "SELECT MEMBER_ID, MEMBER_STATE FROM performance_schema.replication_group_members";
/// The privilege that it needs.
pub(super) const PRIVILEGE: &str = "SELECT ON performance_schema.replication_group_members";
/// Why a server of the other dialect should not be used.
pub(super) const UNKNOWN: &str =
    "no member of a group, and group-replication = true asks for one: MariaDB has no group replication";

/// Why a member should not be used; `None` if it is online and its group has
/// its majority. `own` is its `server_uuid`.
///
/// A member that is cut off still calls itself ONLINE, and those that it does
/// not hear UNREACHABLE: the majority is counted.
pub(super) fn unready(members: &[Row], own: Option<&str>) -> Option<String> {
    // One that never joined has a row without a name, and the state OFFLINE.
    let unnamed = || members.iter().find(|row| id(row).is_none_or(str::is_empty));
    let row = members.iter().find(|row| id(row).is_some_and(|id| Some(id) == own)).or_else(unnamed);
    match row.map(state) {
        None => return Some("not a member of a group: group replication is not running".to_owned()),
        Some("ONLINE") => {}
        Some(other) => return Some(format!("MEMBER_STATE is {other}")),
    }
    let count = members.len();
    let heard = members.iter().filter(|row| matches!(state(row), "ONLINE" | "RECOVERING")).count();
    match heard * 2 > count {
        true => None,
        false => Some(format!("no majority of the group: {heard} of {count} members ONLINE or RECOVERING")),
    }
}

fn id(row: &Row) -> Option<&str> {
    row.get(&["MEMBER_ID"]).flatten()
}

fn state(row: &Row) -> &str {
    row.get(&["MEMBER_STATE"]).flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(states: &[&str]) -> Option<String> {
        let ids = ["a", "b", "c", "d"];
        let row = |(id, state): (&&str, &&str)| {
            Row::new(&[("MEMBER_ID", Some(*id)), ("MEMBER_STATE", Some(*state))])
        };
        let members: Vec<_> = ids.iter().zip(states).map(row).collect();
        unready(&members, Some("a"))
    }

    #[test]
    fn an_online_member_of_a_majority_is_ready() {
        assert_eq!(seen(&["ONLINE", "ONLINE", "ONLINE"]), None);
        assert_eq!(seen(&["ONLINE", "RECOVERING", "UNREACHABLE"]), None);
        assert_eq!(seen(&["ONLINE"]), None);
        let lost = "no majority of the group: 1 of 3 members ONLINE or RECOVERING";
        assert_eq!(seen(&["ONLINE", "UNREACHABLE", "UNREACHABLE"]).as_deref(), Some(lost));
        let half = "no majority of the group: 2 of 4 members ONLINE or RECOVERING";
        assert_eq!(seen(&["ONLINE", "ONLINE", "UNREACHABLE", "UNREACHABLE"]).as_deref(), Some(half));
    }

    #[test]
    fn any_other_state_of_its_own_is_named() {
        for state in ["RECOVERING", "OFFLINE", "ERROR", "UNREACHABLE"] {
            assert_eq!(seen(&[state, "ONLINE", "ONLINE"]), Some(format!("MEMBER_STATE is {state}")));
        }
    }

    #[test]
    fn one_that_never_joined_is_no_member() {
        let none = Some("not a member of a group: group replication is not running".to_owned());
        assert_eq!(seen(&[]), none);
        let idle = [Row::new(&[("MEMBER_ID", Some("")), ("MEMBER_STATE", Some("OFFLINE"))])];
        assert_eq!(unready(&idle, Some("a")).as_deref(), Some("MEMBER_STATE is OFFLINE"));
        let strangers = [Row::new(&[("MEMBER_ID", Some("b")), ("MEMBER_STATE", Some("ONLINE"))])];
        assert_eq!(unready(&strangers, Some("a")), none);
    }
}
