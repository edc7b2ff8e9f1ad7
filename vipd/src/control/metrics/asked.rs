//! What alerts and the dashboard ask for is what the metrics have.

use super::tests::families;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const RULES: &str = include_str!("../../../../packaging/prometheus/vipd.rules.yml");
const RULES_TESTS: &str = include_str!("../../../../packaging/prometheus/vipd.test.yml");
const DASHBOARD: &str = include_str!("../../../../packaging/grafana/vipd.json");
/// What Prometheus gives every sample, and what each query takes from `vipd_info`.
const OF_ALL: [&str; 4] = ["instance", "job", "cluster", "node"];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The metrics of a text.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    words(text).filter(|word| word.starts_with("vipd_"))
}

fn labels() -> BTreeMap<String, BTreeSet<String>> {
    families().into_iter().map(|(name, labels, ..)| (name, labels)).collect()
}

#[test]
fn nobody_asks_for_a_metric_that_is_not() {
    let known = labels();
    for file in [RULES, RULES_TESTS, DASHBOARD] {
        for name in metrics(file) {
            assert!(known.contains_key(name), "{name}");
        }
    }
}

struct Panel {
    title: String,
    kind: String,
    unit: Option<String>,
    /// Left, top, right, bottom.
    place: [u64; 4],
    /// Queries and what their lines are called.
    queries: Vec<(String, String)>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn panels() -> Vec<Panel> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut ids = BTreeSet::new();
    let of = |panel: &Value| {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{title}: its id is another's, too");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        let targets = panel["targets"].as_array().expect("queries");
        for source in std::iter::once(&panel["datasource"]).chain(targets.iter().map(|t| &t["datasource"])) {
            assert_eq!(
                (&*text(&source["type"]), &*text(&source["uid"])),
                ("prometheus", "${datasource}"),
                "{title}"
            );
        }
        Panel {
            kind: text(&panel["type"]),
            unit: panel["fieldConfig"]["defaults"]["unit"].as_str().map(str::to_owned),
            place: [at("x"), at("y"), at("x") + at("w"), at("y") + at("h")],
            queries: targets.iter().map(|t| (text(&t["expr"]), text(&t["legendFormat"]))).collect(),
            title,
        }
    };
    dashboard["panels"].as_array().expect("panels").iter().map(of).collect()
}

#[test]
fn every_variable_of_the_dashboard_is_declared() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let declared: Vec<(String, String)> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .map(|v| (text(&v["name"]), text(&v["type"])))
        .collect();
    assert!(declared.contains(&("datasource".into(), "datasource".into())), "{declared:?}");
    for used in DASHBOARD.split('$').skip(1).filter_map(|rest| words(rest).next()) {
        let known = declared.iter().any(|(name, _)| name == used);
        assert!(known, "${used} is declared nowhere");
    }
}

#[test]
fn every_panel_asks_for_what_it_shows() {
    let labels = labels();
    let panels = panels();
    assert!(panels.len() > 10);
    for Panel { title, queries, .. } in &panels {
        assert!(!title.is_empty() && !queries.is_empty(), "{title}");
        for (query, legend) in queries {
            let mut known: BTreeSet<&str> = OF_ALL.into();
            let asked: Vec<&str> = metrics(query).collect();
            assert!(asked.iter().any(|name| *name != "vipd_info"), "{title}: {query}");
            known.extend(asked.iter().flat_map(|name| &labels[*name]).map(String::as_str));
            // What a sum is by is what is left.
            for by in query.split(" by (").skip(1).filter_map(|rest| rest.split(')').next()) {
                for label in words(by) {
                    assert!(known.contains(label), "{title}: by {label}");
                }
            }
            let left: BTreeSet<&str> =
                match query.split(" by (").nth(1).and_then(|rest| rest.split(')').next()) {
                    Some(by) => words(by).collect(),
                    None => known,
                };
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(left.contains(label), "{title}: {{{{{label}}}}} is empty in {query}");
            }
            assert!(query.contains("cluster=\"$cluster\""), "{title} shows other clusters, too");
        }
    }
}

#[test]
fn every_unit_is_that_of_its_metric() {
    for Panel { title, kind, unit, queries, .. } in panels() {
        let unit = unit.as_deref();
        if kind == "state-timeline" {
            assert_eq!(unit, None, "{title}: states are words");
            continue;
        }
        for (query, _) in queries {
            let name = metrics(&query).find(|name| *name != "vipd_info").unwrap_or_default();
            let rate = query.contains("rate(");
            assert_eq!(rate, name.ends_with("_total"), "{title}: counters, and nothing else, have a rate");
            let wanted = match (rate, name) {
                (true, name) if name.ends_with("_bytes_total") => "Bps",
                (true, _) => "cps",
                (false, name) if name.ends_with("_seconds") => "s",
                (false, _) => "short",
            };
            assert_eq!(unit, Some(wanted), "{title}: {query}");
        }
    }
}

#[test]
fn no_panel_covers_another() {
    let panels = panels();
    for (i, one) in panels.iter().enumerate() {
        let [left, top, right, bottom] = one.place;
        assert!(left < right && top < bottom && right <= 24, "{}: {:?}", one.title, one.place);
        for other in &panels[i + 1..] {
            let [l, t, r, b] = other.place;
            let apart = r <= left || right <= l || b <= top || bottom <= t;
            assert!(apart, "{} and {}", one.title, other.title);
        }
    }
}
