//! dnsd's file: the example is good, the bad one is refused with everything
//! that is wrong with it, and no text makes the parser panic.

use proptest::prelude::*;
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use vipd_config::dnsd::{Config, Names, Peer, keys};

type Outcome = Result<(), Box<dyn Error>>;

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn the_example_says_what_it_means() -> Outcome {
    let config = Config::load(path("examples-dnsd/dnsd.toml"))?;
    assert_eq!(config.warnings, []);
    assert_eq!(config.listen.len(), 2);
    let zone = config.zones.first().ok_or("no zone")?;
    assert_eq!((zone.name.as_str(), zone.negative_ttl), ("corp.example.", 5));
    assert_eq!(zone.max_lease, Duration::from_secs(86_400));
    assert!(matches!(zone.allow_transfer.as_slice(), [Peer::Key(key), Peer::Network(_)] if key == "vipd."));
    let grant = config.keys.first().and_then(|key| key.grants.first()).ok_or("no grant")?;
    assert_eq!(grant.names, Names::One("db.corp.example.".into()));
    assert_eq!(grant.types, [1, 28, 16]);
    Ok(())
}

#[test]
fn the_example_has_every_key() -> Outcome {
    let text = std::fs::read_to_string(path("examples-dnsd/dnsd.toml"))?;
    for (section, keys) in keys() {
        for key in keys {
            assert!(text.contains(key), "{key} of {section} is not in the example");
        }
    }
    Ok(())
}

/// `VIPD_BLESS=1` writes the expected text anew; read the difference. Each line
/// has a `!` for each finding on it.
#[test]
fn the_bad_file_is_refused_with_every_error() -> Outcome {
    let text = std::fs::read_to_string(path("tests/bad-dnsd/everything.toml"))?;
    let errors = Config::parse(&text, "dnsd.toml").err().ok_or("accepted")?;
    let expected = path("tests/bad-dnsd/everything.expected");
    let found = format!("{errors}\n");
    if std::env::var_os("VIPD_BLESS").is_some() {
        std::fs::write(&expected, &found)?;
    }
    assert_eq!(found, std::fs::read_to_string(expected)?);
    for (line, text) in (1..).zip(text.lines()) {
        let marks = text.split_once("# !").map_or(0, |(_, more)| 1 + more.matches('!').count());
        assert_eq!(errors.as_slice().iter().filter(|e| e.line == line).count(), marks, "line {line}: {text}");
    }
    Ok(())
}

#[test]
fn nothing_to_serve_is_said() {
    let errors = Config::parse("", "dnsd.toml").map_err(|e| e.to_string());
    assert!(
        errors.is_err_and(|text| text.contains("listen is missing") && text.contains("there is no [[zone]]"))
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[\\[?(zone|key|status)\\]\\]?|name|listen|grant|=|\"[^\"]{0,9}\"|[\\[\\]{},\n .0-9a-z])*") {
        let _ = Config::parse(&text, "f");
    }
}
