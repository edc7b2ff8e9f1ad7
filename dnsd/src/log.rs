//! The log: lines on standard error, as much as `DNSD_LOG` asks for.

use std::io::{self, IsTerminal as _};
use tracing::warn;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Opens the log of this process. What is not understood is told, and means the default.
pub(crate) fn open() {
    let asked = std::env::var("DNSD_LOG").unwrap_or_default();
    let levels = levels(&asked);
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    // A second subscriber in one process (tests) is no harm.
    let filter = levels.clone().unwrap_or_else(usual);
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    if levels.is_none() {
        warn!("DNSD_LOG={asked} is not understood: write a level, such as debug, or info,dnsd::notify=debug");
    }
}

/// hickory says at INFO and WARN what clients do.
fn usual() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets([("hickory_server", LevelFilter::ERROR), ("hickory_proto", LevelFilter::ERROR)])
}

/// What `DNSD_LOG` asks for: the usual where it does not say; none if it is no such list.
fn levels(asked: &str) -> Option<Targets> {
    if asked.is_empty() {
        return Some(usual());
    }
    let levels: Targets = asked.parse().ok()?;
    if levels.default_level().is_some() {
        return Some(levels);
    }
    // A word alone is no level, but may be meant as one: nobody turns the whole log off by a slip.
    asked.split(',').all(|one| one.contains('=')).then(|| usual().with_targets(levels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_slip_in_the_level_does_not_silence_the_log() {
        for slip in ["inof", "warning", "debug,dnsd=lots", "dnsd", "verbose,dnsd=debug"] {
            assert_eq!(levels(slip), None, "{slip}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let tells =
            |asked: &str, target: &str, level| levels(asked).expect(asked).would_enable(target, &level);
        assert!(tells("", "dnsd::writer", Level::INFO) && !tells("", "dnsd::writer", Level::DEBUG));
        assert!(!tells("", "hickory_server::server", Level::WARN));
        assert!(tells("debug", "dnsd::writer", Level::DEBUG));
        assert!(!tells("error", "dnsd::writer", Level::WARN));
        let one = "dnsd::writer=debug";
        assert!(tells(one, "dnsd::writer", Level::DEBUG) && tells(one, "dnsd::udp", Level::INFO));
        assert!(!tells(one, "hickory_server::server", Level::WARN));
        assert!(tells("hickory_server=warn", "hickory_server::server", Level::WARN));
    }
}
