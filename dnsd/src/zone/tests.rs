use super::*;
use crate::name::from_text;

fn soa() -> Soa {
    let primary = from_text("ns1.corp.example.");
    Soa { contact: primary.clone(), primary, refresh: 1, retry: 1, expire: 1, minimum: 5 }
}

fn zone() -> Zone {
    Zone::new(from_text("corp.example."), soa(), 7)
}

fn set(rtype: u16, data: &[u8]) -> Option<RrSet> {
    RrSet::new(rtype, 5, [data])
}

fn find<'z>(zone: &'z Zone, name: &str, rtype: u16) -> Found<'z> {
    zone.find(&from_text(name), rtype)
}

#[test]
fn names_between_exist_as_long_as_something_is_below_them() {
    let mut zone = zone();
    let deep = from_text("a.b.c.corp.example.");
    zone.put(&deep, 1, set(1, b"\x0a\0\0\x01"));
    assert!(matches!(find(&zone, "a.b.c.corp.example.", 1), Found::Set(_)));
    assert_eq!(find(&zone, "b.c.corp.example.", 1), Found::NoData);
    assert_eq!(find(&zone, "c.corp.example.", 1), Found::NoData);
    assert_eq!(find(&zone, "x.c.corp.example.", 1), Found::NoName);
    zone.put(&from_text("b.c.corp.example."), 1, set(1, b"\x0a\0\0\x02"));
    zone.put(&deep, 1, None);
    assert!(matches!(find(&zone, "b.c.corp.example.", 1), Found::Set(_)));
    assert_eq!(find(&zone, "a.b.c.corp.example.", 1), Found::NoName);
    zone.put(&from_text("b.c.corp.example."), 1, None);
    assert_eq!(find(&zone, "c.corp.example.", 1), Found::NoName);
    assert_eq!(zone.names(), 1, "only the apex is left");
}

#[test]
fn aliases_wildcards_and_delegations() {
    let mut zone = zone();
    zone.put(&from_text("www.corp.example."), CNAME, set(CNAME, b"\x02db\x04corp\x07example\0"));
    zone.put(&from_text("*.wild.corp.example."), 1, set(1, b"\x0a\0\0\x01"));
    zone.put(&from_text("there.wild.corp.example."), 16, set(16, b"\x01x"));
    zone.put(&from_text("sub.corp.example."), NS, set(NS, b"\x02ns\x03sub\x04corp\x07example\0"));
    zone.put(&from_text("ns.sub.corp.example."), 1, set(1, b"\x0a\0\0\x02"));
    assert!(matches!(find(&zone, "www.corp.example.", 1), Found::Alias(_)));
    assert!(matches!(find(&zone, "www.corp.example.", CNAME), Found::Set(_)));
    assert!(matches!(find(&zone, "a.wild.corp.example.", 1), Found::Wildcard(_)));
    assert!(matches!(find(&zone, "a.b.wild.corp.example.", 1), Found::Wildcard(_)));
    assert_eq!(find(&zone, "a.wild.corp.example.", 16), Found::NoData);
    assert_eq!(
        find(&zone, "there.wild.corp.example.", 1),
        Found::NoData,
        "a name that exists is not covered"
    );
    assert!(matches!(find(&zone, "x.sub.corp.example.", 1), Found::Delegated(..)));
    assert!(matches!(find(&zone, "ns.sub.corp.example.", 1), Found::Delegated(..)));
    assert!(matches!(find(&zone, "sub.corp.example.", NS), Found::Delegated(..)));
    assert_eq!(find(&zone, "sub.corp.example.", DS), Found::NoData, "this side of the cut");
    zone.put(&from_text("sub.corp.example."), NS, None);
    assert!(matches!(find(&zone, "ns.sub.corp.example.", 1), Found::Set(_)));
    assert_eq!((zone.cuts, zone.wildcards), (0, 1));
}

#[test]
fn a_set_that_is_as_the_file_says_is_the_files_again() {
    let mut zone = zone();
    let name = from_text("db.corp.example.");
    zone.put(&name, 1, set(1, b"\x0a\0\0\x01"));
    let change = |data| Changes::from([((name.clone(), 1), set(1, data))]);
    zone.apply(&change(b"\x0a\0\0\x02"), 8);
    assert_eq!((zone.changed_sets(), zone.serial()), (1, 8));
    let kept = zone.changed();
    let mut fresh = self::zone();
    fresh.put(&name, 1, set(1, b"\x0a\0\0\x09"));
    fresh.restore(&kept);
    assert_eq!(fresh.get(&name, 1), set(1, b"\x0a\0\0\x02").as_ref());
    zone.apply(&change(b"\x0a\0\0\x01"), 9);
    assert_eq!(zone.changed_sets(), 0);
    let steps = zone.history.since(7).unwrap();
    assert_eq!(steps.len(), 2);
    assert_eq!((steps[0].removed.len(), steps[0].added.len()), (2, 2), "a SOA record and an address each");
}

#[test]
fn the_digest_knows_content_but_no_order_and_no_serial() {
    let (mut one, mut two) = (zone(), zone());
    let names = ["a.corp.example.", "b.corp.example.", "c.corp.example."].map(from_text);
    names.iter().for_each(|name| one.put(name, 16, set(16, b"\x01x")));
    names.iter().rev().for_each(|name| two.put(name, 16, set(16, b"\x01x")));
    two.set_serial(99);
    assert_eq!(one.digest(), two.digest());
    assert!(one.difference(&two).is_empty());
    two.put(&names[0], 16, set(16, b"\x01y"));
    assert_ne!(one.digest(), two.digest());
    assert_eq!(one.difference(&two).len(), 1);
}

#[test]
fn serials_go_round() {
    assert_eq!(next_serial(u32::MAX), 1);
    assert!(newer(1, u32::MAX) && !newer(u32::MAX, 1) && !newer(5, 5));
}

/// Every record but the SOA record, with its whole owner.
fn records(zone: &Zone) -> std::collections::BTreeSet<Vec<u8>> {
    let others = zone.iter().filter(|(_, set)| set.rtype() != SOA);
    others
        .flat_map(|(name, set)| set.records().map(|r| [name, &r[2..]].concat()).collect::<Vec<_>>())
        .collect()
}

proptest::proptest! {
    /// Whoever follows the steps has what the zone has; whoever restores what
    /// updates changed upon the file has it too.
    #[test]
    fn steps_lead_from_one_serial_to_the_other(
        file in proptest::collection::vec((0..4_u8, 0..2_u16, 0..3_u8), 0..6),
        changes in proptest::collection::vec(proptest::collection::vec((0..4_u8, 0..2_u16, 0..4_u8), 1..4), 1..12),
    ) {
        let name = |n: u8| from_text(&format!("{}.x.corp.example.", char::from(b'a' + n)));
        let data = |count: u8| (0..count).map(|i| vec![1, i]).collect::<Vec<_>>();
        let fresh = || {
            let mut zone = zone();
            for (n, t, count) in &file {
                zone.put(&name(*n), 16 + t, RrSet::new(16 + t, 5, data(*count)));
            }
            zone
        };
        let mut zone = fresh();
        let mut follower = records(&zone);
        for (serial, change) in (8..).zip(&changes) {
            let sets = change.iter().map(|(n, t, count)| ((name(*n), 16 + t), RrSet::new(16 + t, 5, data(*count))));
            zone.apply(&sets.collect(), serial);
        }
        for step in zone.history.since(7).unwrap() {
            for record in &step.removed[1..] {
                assert!(follower.remove(record));
            }
            for record in &step.added[1..] {
                assert!(follower.insert(record.clone()));
            }
        }
        assert_eq!(&follower, &records(&zone));
        let mut restored = fresh();
        restored.restore(&zone.changed());
        assert_eq!(records(&restored), follower);
        assert_eq!((restored.digest(), restored.names()), (zone.digest(), zone.names()));
    }
}
