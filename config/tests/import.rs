//! Files of keepalived and HAProxy become a `vipd.toml`, as expected and good.

use proptest::prelude::*;
use std::error::Error;
use std::path::{Path, PathBuf};
use vipd_config::{Config, import};

type Outcome = Result<(), Box<dyn Error>>;
type Texts = Vec<(String, String)>;

/// Every case: its directory, and the files in it.
fn cases() -> Result<Vec<(PathBuf, Texts)>, Box<dyn Error>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import"))? {
        let folder = entry?.path();
        let mut texts = Vec::new();
        for file in std::fs::read_dir(&folder)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "conf" || e == "cfg") {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                texts.push((name, std::fs::read_to_string(&path)?));
            }
        }
        texts.sort();
        cases.push((folder, texts));
    }
    cases.sort();
    Ok(cases)
}

/// `VIPD_BLESS=1 cargo test -p vipd-config --test import` writes the expected
/// files anew; read the difference before you commit it.
#[test]
fn every_case_becomes_what_is_expected() -> Outcome {
    let cases = cases()?;
    assert!(cases.len() >= 15, "{}", cases.len());
    let mut differing = String::new();
    for (folder, texts) in cases {
        let found = import(&texts)?;
        let expected = folder.join("vipd.toml");
        if std::env::var_os("VIPD_BLESS").is_some() {
            std::fs::write(&expected, &found.text)?;
        }
        if found.text != std::fs::read_to_string(&expected).unwrap_or_default() {
            differing += &format!("--- {}\n{}", folder.display(), found.text);
        }
    }
    assert!(differing.is_empty(), "{differing}");
    Ok(())
}

#[test]
fn every_case_passes_the_check() -> Outcome {
    for (folder, texts) in cases()? {
        let found = import(&texts)?;
        let name = folder.display().to_string();
        assert_eq!(found.errors.map(|e| e.to_string()), None, "{name}");
        let warnings = Config::parse(&found.text, "vipd.toml")?.warnings;
        // What HAProxy did and vipd warns of is carried over as it was.
        let odd: Vec<_> = warnings.iter().filter(|w| !w.message.contains("trusts everybody")).collect();
        assert!(odd.is_empty(), "{name}: {odd:?}");
    }
    Ok(())
}

/// Each line that says something is carried over, or stands in a comment with its reason.
/// How many of each is printed (`-- --nocapture`).
#[test]
fn every_line_is_accounted_for() -> Outcome {
    let (mut carried, mut lines) = (0, 0);
    for (folder, texts) in cases()? {
        let found = import(&texts)?;
        let one_line = found.text.replace("\n#  ", "");
        let lost = one_line.matches("# NOT CARRIED OVER: ").count();
        assert_eq!(found.carried + lost, found.lines, "{}:\n{}", folder.display(), found.text);
        for secret in ["s3cret99", "hunter2", "verysecret", "toor"] {
            assert!(!found.text.contains(secret), "{}: {secret}", folder.display());
        }
        let name = folder.file_name().unwrap_or_default().display();
        eprintln!("{:4} of {:4} lines carried over: {name}", found.carried, found.lines);
        carried += found.carried;
        lines += found.lines;
    }
    eprintln!("{carried:4} of {lines:4} lines carried over: all");
    Ok(())
}

#[test]
fn a_file_of_something_else_is_refused() {
    let strange = vec![("nginx.conf".to_owned(), "server {\n  listen 80;\n}\n".to_owned())];
    let error = import(&strange).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("nginx.conf: neither a keepalived.conf"), "{error}");
}

fn texts() -> Vec<String> {
    cases().into_iter().flatten().flat_map(|(_, texts)| texts).map(|(_, text)| text).collect()
}

/// Pieces of files, to cut into others.
const PIECES: [&str; 22] = [
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "#",
    "!",
    "\n",
    "$",
    "${X}",
    "bind ",
    "server ",
    "vrrp_instance X {\n",
    "frontend x\n",
    "backend x\n",
    "listen x\n",
    " 99999999999999999999 ",
    "-1",
    "\u{0}",
    "ä",
    ":",
    "from x",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No text makes the import panic, and none makes it lose a line.
    #[test]
    fn no_text_makes_it_panic(
        text in prop::sample::select(texts()),
        cuts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..30, prop::sample::select(&PIECES[..])),
            1..8,
        ),
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, gone, piece) in cuts {
            let at = at.index(chars.len() + 1);
            let end = (at + gone).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Ok(found) = import(&[("f".to_owned(), text)]) {
            let lost = found.text.matches("# NOT CARRIED OVER: ").count();
            prop_assert_eq!(found.carried + lost, found.lines, "{}", found.text);
        }
    }
}
