//! Durations as people write them: `"250ms"`, `"1.5s"`, `"2m"`, `"1h"`.

use crate::report::{Problem, quote};
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The units, with their nanoseconds.
const UNITS: [(&str, u64); 4] = [
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
];

/// Reads a number with a unit; exact, a fraction included.
pub(crate) fn parse(text: &str) -> Result<Duration, Problem> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let bad = || Problem::new(format!("{} is not a duration", quote(text)));
    if number.is_empty() {
        return Err(bad().hint("a number and a unit: \"250ms\", \"5s\", \"2m\" or \"1h\""));
    }
    let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match (unit, meant(unit)) {
            ("", _) => Problem::new(format!("{} has no unit", quote(text)))
                .hint(format!("units are ms, s, m and h: \"{number}ms\" or \"{number}s\"")),
            (_, Some(meant)) => bad().hint(format!("write \"{number}{meant}\"")),
            (_, None) => bad().hint("units are ms, s, m and h, one to a duration"),
        });
    };
    exact(number, *nanos).ok_or_else(|| bad().hint("the number is malformed or out of any range"))
}

/// The unit somebody means by another word for it.
fn meant(unit: &str) -> Option<&'static str> {
    match unit.trim().to_lowercase().as_str() {
        "ms" | "msec" | "msecs" | "milliseconds" => Some("ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        _ => None,
    }
}

/// `number` units of `nanos` nanoseconds, if that is a whole number of
/// nanoseconds below 2^64.
fn exact(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let mut total = whole.parse::<u64>().ok()?.checked_mul(nanos)?;
    if let Some(fraction) = fraction {
        let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = fraction.parse::<u64>().ok()?.checked_mul(nanos)?;
        if part % scale != 0 {
            return None;
        }
        total = total.checked_add(part / scale)?;
    }
    Some(Duration::from_nanos(total))
}

/// A duration as it would be written in the file.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    let whole = |unit: u64| nanos.is_multiple_of(u128::from(unit));
    let (name, unit) = match UNITS {
        [ms, _, _, _] if nanos < u128::from(NANOS_PER_SECOND) => ms,
        [_, _, _, h] if whole(h.1) => h,
        [_, _, m, _] if whole(m.1) => m,
        [_, s, _, _] => s,
    };
    let (units, rest) = (nanos / u128::from(unit), nanos % u128::from(unit));
    if rest == 0 {
        return format!("{units}{name}");
    }
    let digits = if name == "ms" { 6 } else { 9 };
    let fraction = format!("{rest:0digits$}");
    format!("{units}.{}{name}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_exact() {
        for (text, nanos) in [
            ("250ms", 250_000_000),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("2m", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("40.95s", 40_950_000_000),
            ("0.5ms", 500_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
            assert_eq!(show(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(parse("1.50s"), Ok(Duration::from_millis(1500)));
        assert_eq!(show(Duration::from_secs(90)), "90s");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "5", "s", "-5s", "5 s", "1m30s", "1.2.3s", ".5s", "5.s", "5d", "0.0000000001s", "1e3s", "٣s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("99999999999999999999h").is_err());
        assert!(parse("18446744073709551615h").is_err());
    }

    #[test]
    fn the_hint_says_what_to_write() {
        let hint = |text| parse(text).err().and_then(|p| p.hint).unwrap_or_default();
        assert_eq!(hint("250"), "units are ms, s, m and h: \"250ms\" or \"250s\"");
        assert_eq!(hint("5 s"), "write \"5s\"");
        assert_eq!(hint("5sec"), "write \"5s\"");
    }
}
