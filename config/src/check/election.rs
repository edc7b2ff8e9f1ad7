//! `[election]`.

use super::etcd;
use crate::choice::Version;
use crate::duration::show;
use crate::report::{At, Problem, Report};
use crate::shape::{Field, Table};
use crate::spec::ElectionSpec;
use crate::value::Lease;
use std::ops::Range;
use std::time::Duration;
use vipd_core::settings::{ElectionSettings, OnNoQuorum, Quorum, Transport, VrrpVersion};

/// VRRPv3 counts hundredths of a second in 12 bits (RFC 9568, section 5.2.7).
const V3_STEP: Duration = Duration::from_millis(10);
const V3_MAX: Duration = Duration::from_millis(40_950);
const V3_DEFAULT: Duration = Duration::from_millis(250);
/// VRRPv2 counts seconds in 8 bits (RFC 3768, section 5.3.7).
const V2_STEP: Duration = Duration::from_secs(1);
const V2_MAX: Duration = Duration::from_secs(255);
const V2_DEFAULT: Duration = Duration::from_secs(1);

const SECOND: Duration = Duration::from_secs(1);
const MAX_LEASE: Duration = Duration::from_secs(3_600);
const MAX_PREEMPT_DELAY: Duration = Duration::from_secs(86_400);
const MAX_START_DELAY: Duration = Duration::from_secs(600);

/// The election, and how far it could be read.
pub(super) struct Election {
    pub(super) settings: ElectionSettings,
    /// Whether the version on the wire is as the settings say.
    pub(super) version_known: bool,
    /// Whether the transport is as the settings say.
    pub(super) transport_known: bool,
    /// Where the transport stands.
    pub(super) transport_place: Range<usize>,
    /// Whether the quorum is as the settings say.
    pub(super) quorum_known: bool,
    /// Where the quorum stands.
    pub(super) quorum_place: Range<usize>,
    /// Whether the interval is as the settings say.
    pub(super) interval_known: bool,
}

pub(super) fn judge(field: Field<Table<ElectionSpec>>, report: &mut Report<'_>) -> Election {
    let (spec, readable) = match field.get("[election]", report) {
        Ok(Some(table)) => (table.value.open(report), true),
        Ok(None) => (ElectionSpec::default(), true),
        Err(_) => (ElectionSpec::default(), false),
    };
    let ElectionSpec {
        advert_interval,
        vrrp_version,
        transport,
        preempt,
        preempt_delay,
        start_delay,
        lease,
        quorum,
        on_no_quorum,
    } = spec;
    let version = vrrp_version.get("vrrp-version", report);
    let version_known = readable && version.is_ok();
    let version = version.ok().flatten().map_or(VrrpVersion::V3, |At { value: Version(v), .. }| v);
    let transport = transport.get("transport", report);
    let transport_known = readable && transport.is_ok();
    let (transport, transport_place) = match transport.ok().flatten() {
        Some(At { value, span }) => (value, span),
        None => (Transport::Unicast, 0..0),
    };

    let default = match version {
        VrrpVersion::V2 => V2_DEFAULT,
        VrrpVersion::V3 => V3_DEFAULT,
    };
    let interval = match advert_interval.get("advert-interval", report) {
        Ok(None) if version_known => Ok(default),
        Ok(Some(At { value, span })) if version_known => {
            interval(value, version).map(|()| value).map_err(|problem| report.error(&span, problem))
        }
        // In which unit it would count is not known.
        Ok(Some(_) | None) | Err(_) => Err(()),
    };
    let interval_known = interval.is_ok();
    let lease = self::lease(lease.ok("lease", report), interval.ok(), report);
    let (quorum, quorum_place, quorum_known) = match quorum.get("quorum", report) {
        Ok(Some(At { value, span })) => (value, span, true),
        Ok(None) => (Quorum::None, 0..0, readable),
        Err(_) => (Quorum::None, 0..0, false),
    };
    let on_no_quorum = on_no_quorum.ok("on-no-quorum", report);
    if let (Some(At { span, .. }), Quorum::None, true) = (&on_no_quorum, quorum, quorum_known) {
        report.warning(span, Problem::new("on-no-quorum has no effect with quorum = \"none\""));
    }
    let preempt = preempt.get("preempt", report);
    let delay = self::preempt_delay(preempt_delay.ok("preempt-delay", report), &preempt, report);
    let start_delay = start_delay.ok("start-delay", report).map_or(Duration::ZERO, |At { value, span }| {
        within("start-delay", value, Duration::ZERO, MAX_START_DELAY, &span, report);
        value
    });
    Election {
        settings: ElectionSettings {
            advert_interval: interval.unwrap_or(default),
            version,
            transport,
            preempt: preempt.ok().flatten().is_some_and(|p| p.value),
            preempt_delay: delay,
            start_delay,
            lease,
            quorum,
            on_no_quorum: on_no_quorum.map_or(OnNoQuorum::Withdraw, |o| o.value),
            etcd_lease: etcd::auto_lease(interval.unwrap_or(default)),
        },
        version_known,
        transport_known,
        transport_place,
        quorum_known,
        quorum_place,
        interval_known,
    }
}

/// Whether a version can say this interval on the wire.
fn interval(wanted: Duration, version: VrrpVersion) -> Result<(), Problem> {
    let (step, max, number) = match version {
        VrrpVersion::V2 => (V2_STEP, V2_MAX, 2),
        VrrpVersion::V3 => (V3_STEP, V3_MAX, 3),
    };
    if wanted < step || wanted > max {
        let hint = match version {
            VrrpVersion::V2 if wanted < step => "vrrp-version = 3 allows intervals down to 10ms".to_owned(),
            VrrpVersion::V2 | VrrpVersion::V3 if wanted < step => {
                format!("the nearest is \"{}\"", show(step))
            }
            VrrpVersion::V2 | VrrpVersion::V3 => format!("the nearest is \"{}s\"", seconds(max)),
        };
        return Err(Problem::new(format!(
            "advert-interval: {} is out of range: VRRP version {number} allows {} to {}s",
            show(wanted),
            show(step),
            seconds(max),
        ))
        .hint(hint));
    }
    let below = step * u32::try_from(wanted.as_nanos() / step.as_nanos()).unwrap_or(u32::MAX);
    if below == wanted {
        return Ok(());
    }
    let above = below + step;
    Err(Problem::new(format!(
        "advert-interval: {} is too fine: VRRP version {number} counts in steps of {}",
        show(wanted),
        show(step)
    ))
    .hint(match above > max {
        true => format!("the nearest is \"{}\"", show(below)),
        false => format!("the nearest are \"{}\" and \"{}\"", show(below), show(above)),
    }))
}

/// Seconds with hundredths, as the standards write a version's limit.
fn seconds(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => duration.as_secs().to_string(),
        millis => format!("{}.{:02}", duration.as_secs(), millis / 10),
    }
}

/// Three adverts rounded down to whole seconds, as the kernel counts them: a
/// frozen owner has lost its addresses about when its backup takes them. But two
/// adverts at least, since one may come late.
fn auto_lease(interval: Duration) -> Duration {
    let two = (interval * 2).as_millis().div_ceil(1000);
    let least = Duration::from_secs(u64::try_from(two).unwrap_or(u64::MAX));
    least.max(Duration::from_secs((interval * 3).as_secs()))
}

fn lease(wanted: Option<At<Lease>>, interval: Option<Duration>, report: &mut Report<'_>) -> Duration {
    let auto = interval.map_or(SECOND, auto_lease);
    let Some(At { value: Lease::For(lease), span }) = wanted else { return auto };
    let mut refuse = |message: String, hint: String| {
        report.error(&span, Problem::new(format!("lease: {message}")).hint(hint));
        auto
    };
    if lease.subsec_nanos() != 0 || lease < SECOND {
        let below = lease.as_secs();
        let hint = match below {
            0 => "the shortest is \"1s\"".into(),
            _ => format!("the nearest are \"{below}s\" and \"{}s\"", below + 1),
        };
        return refuse(format!("the kernel counts whole seconds, not {}", show(lease)), hint);
    }
    if lease > MAX_LEASE {
        return refuse(format!("{} is longer than {}", show(lease), show(MAX_LEASE)), stay_auto(auto));
    }
    let Some(interval) = interval else { return lease };
    if lease < interval * 2 {
        // The backup waits three adverts: an address given up before the
        // second is nobody's, and a stall it would have survived costs it.
        return refuse(
            format!("{} is shorter than two adverts ({})", show(lease), show(interval * 2)),
            stay_auto(auto),
        );
    }
    if lease > auto {
        report.warning(
            &span,
            Problem::new(format!(
                "a frozen owner keeps its addresses for {} after its last renewal, its backup takes them after {}",
                show(lease),
                show(interval * 3)
            ))
            .hint(stay_auto(auto)),
        );
    }
    lease
}

fn stay_auto(auto: Duration) -> String {
    format!("\"auto\" is {} here", show(auto))
}

fn preempt_delay(
    delay: Option<At<Duration>>,
    preempt: &Result<Option<At<bool>>, crate::shape::Reported>,
    report: &mut Report<'_>,
) -> Duration {
    let Some(At { value, span }) = delay else { return Duration::ZERO };
    within("preempt-delay", value, Duration::ZERO, MAX_PREEMPT_DELAY, &span, report);
    if value > Duration::ZERO
        && let Ok(preempt) = preempt
        && !preempt.as_ref().is_some_and(|p| p.value)
    {
        report.warning(
            &span,
            Problem::new("preempt-delay has no effect without preempt = true")
                .hint("without preemption a node that comes back leaves the addresses where they are"),
        );
    }
    value
}

/// Reports a duration that is out of bounds.
pub(super) fn within(
    key: &str,
    value: Duration,
    min: Duration,
    max: Duration,
    span: &Range<usize>,
    report: &mut Report<'_>,
) {
    if !(min..=max).contains(&value) {
        report.error(
            span,
            Problem::new(format!(
                "{key}: {} is out of range: {} to {} is allowed",
                show(value),
                show(min),
                show(max)
            )),
        );
    }
}
