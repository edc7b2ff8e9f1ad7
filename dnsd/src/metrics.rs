//! Counters, in the text format of Prometheus.

use crate::served::{Serving, Shared};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! metrics {
    ($($field:ident: $name:literal, $labels:literal, $help:literal;)*) => {
        /// Everything that is counted.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: Counter,)*
        }

        impl Metrics {
            fn each(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$(($name, $labels, $help, self.$field.get())),*]
            }
        }
    };
}

metrics! {
    udp: "dnsd_requests_total", "transport=\"udp\"", "Requests that came";
    tcp: "dnsd_requests_total", "transport=\"tcp\"", "Requests that came";
    noerror: "dnsd_responses_total", "rcode=\"NOERROR\"", "Answers by response code";
    formerr: "dnsd_responses_total", "rcode=\"FORMERR\"", "Answers by response code";
    servfail: "dnsd_responses_total", "rcode=\"SERVFAIL\"", "Answers by response code";
    nxdomain: "dnsd_responses_total", "rcode=\"NXDOMAIN\"", "Answers by response code";
    refused: "dnsd_responses_total", "rcode=\"REFUSED\"", "Answers by response code";
    notauth: "dnsd_responses_total", "rcode=\"NOTAUTH\"", "Answers by response code";
    other: "dnsd_responses_total", "rcode=\"other\"", "Answers by response code";
    truncated: "dnsd_truncated_total", "", "Answers with TC";
    limited: "dnsd_rate_limited_total", "", "Answers that the rate limit held back";
    malformed: "dnsd_malformed_total", "", "Messages that were no request";
    updates: "dnsd_updates_total", "result=\"applied\"", "Dynamic updates by result";
    updates_same: "dnsd_updates_total", "result=\"nothing-to-do\"", "Dynamic updates by result";
    updates_lost: "dnsd_updates_total", "result=\"prerequisite\"", "Dynamic updates by result";
    updates_refused: "dnsd_updates_total", "result=\"refused\"", "Dynamic updates by result";
    updates_failed: "dnsd_updates_total", "result=\"failed\"", "Dynamic updates by result";
    expired: "dnsd_leases_expired_total", "", "Records that went because their lease ran out";
    axfr: "dnsd_transfers_total", "kind=\"axfr\"", "Zone transfers by kind";
    ixfr: "dnsd_transfers_total", "kind=\"ixfr\"", "Zone transfers by kind";
    transfers_refused: "dnsd_transfers_total", "kind=\"refused\"", "Zone transfers by kind";
    notifies: "dnsd_notifies_total", "result=\"acknowledged\"", "NOTIFY messages by result";
    notifies_lost: "dnsd_notifies_total", "result=\"unanswered\"", "NOTIFY messages by result";
    journal_errors: "dnsd_journal_errors_total", "", "Writes to a journal that failed";
}

impl Metrics {
    /// Counts an answer.
    pub fn answer(&self, message: &[u8]) {
        let (Some(high), Some(low)) = (message.get(2), message.get(3)) else { return };
        match low & 0x0f {
            0 => &self.noerror,
            1 => &self.formerr,
            2 => &self.servfail,
            3 => &self.nxdomain,
            5 => &self.refused,
            9 => &self.notauth,
            _ => &self.other,
        }
        .add();
        if high & 2 != 0 {
            self.truncated.add();
        }
    }
}

/// All of it as text.
#[must_use]
pub fn render(shared: &Shared) -> String {
    let (mut text, mut last) = (String::new(), "");
    for (name, labels, help, value) in shared.metrics.each() {
        if name != last {
            let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter");
            last = name;
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}{labels} {value}");
    }
    let name = "dnsd_config_last_reload_successful";
    let reloaded = u8::from(shared.reload_error().is_none());
    let _ = writeln!(
        text,
        "# HELP {name} Whether the last reload was done.\n# TYPE {name} gauge\n{name} {reloaded}"
    );
    let served = shared.served.load();
    let zones: Vec<_> = served.zones();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Serving) -> u64| {
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
        for serving in &zones {
            let _ = writeln!(text, "{name}{{zone=\"{}\"}} {}", serving.settings.name, value(serving));
        }
    };
    gauge("dnsd_zone_serial", "Serial of the zone", &|serving| serving.zone.read().serial().into());
    gauge("dnsd_zone_names", "Names in the zone", &|serving| serving.zone.read().names() as u64);
    gauge("dnsd_zone_changed_sets", "Record sets that updates have changed", &|serving| {
        serving.zone.read().changed_sets() as u64
    });
    gauge("dnsd_zone_journal_writable", "Whether the last write to the journal was done", &|serving| {
        serving.zone.journal_error().is_none().into()
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::Cookies;
    use crate::served::Served;
    use crate::state::tests::{opened, settings};
    use crate::tsig::Keys;
    use vipd_config::dnsd::RateLimit;

    /// What the alerts ask for exists, with the labels that they name.
    #[test]
    fn nobody_asks_for_a_metric_that_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = opened(dir.path(), &settings(None));
        let limit = RateLimit { responses_per_second: 0, slip: 0, exempt: vec![] };
        let served = Served::new([state.serving.clone()], Keys::default(), limit);
        let text = render(&Shared::new(served, Cookies::new().unwrap()));
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let rules = include_str!("../../packaging/prometheus/vipd.rules.yml");
        let asked = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
        let mut seen = 0;
        for query in asked.filter(|query| query.contains("dnsd_")) {
            let begin = query.find("dnsd_").unwrap();
            let end = query[begin..].find([' ', '[', '}', ')']).map_or(query.len(), |end| begin + end);
            // A selector is the beginning of a sample.
            let wanted = &query[begin..end];
            assert!(samples.iter().any(|sample| sample.starts_with(wanted)), "{wanted} is not in\n{text}");
            seen += 1;
        }
        assert!(seen >= 3, "the alerts ask for {seen} of them");
    }
}
