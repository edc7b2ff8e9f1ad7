//! The examples are good, the bad files are refused with every error they
//! contain, and no text at all makes the parser panic.

use proptest::prelude::*;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vipd_config::Config;

type Outcome = Result<(), Box<dyn Error>>;

fn toml_files(folder: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[test]
fn every_example_is_good_and_without_warnings() -> Outcome {
    let files = toml_files("examples")?;
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let config = Config::load(&file).map_err(|e| e.to_string())?;
        assert_eq!(config.warnings, [], "{}", name(&file));
    }
    Ok(())
}

/// `VIPD_BLESS=1 cargo test -p vipd-config` writes the expected texts anew;
/// read the difference before you commit it.
#[test]
fn every_bad_file_is_refused_as_expected() -> Outcome {
    let bless = std::env::var_os("VIPD_BLESS").is_some();
    let files = toml_files("tests/bad")?;
    assert!(files.len() >= 20, "{files:?}");
    let mut differing = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let found = match Config::parse(&text, &name(&file)) {
            Err(errors) => errors.to_string() + "\n",
            Ok(config) => {
                // A file whose name says so is only warned of.
                assert!(name(&file).starts_with("warn-"), "{} was accepted", name(&file));
                config.warnings.iter().fold(String::new(), |text, w| text + &w.to_string() + "\n")
            }
        };
        let expected = file.with_extension("expected");
        if bless {
            std::fs::write(&expected, &found)?;
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        assert!(!found.is_empty(), "{} has no finding", name(&file));
        if found != wanted {
            writeln!(differing, "--- {}: expected\n{wanted}--- found\n{found}", name(&file))?;
        }
    }
    assert!(differing.is_empty(), "{differing}");
    Ok(())
}

/// Guards the expected texts against a blessing that lost a finding: each line
/// of a bad file has a `# !` for each finding on it.
#[test]
fn every_finding_is_on_the_line_that_is_marked_for_it() -> Outcome {
    // Not where the syntax is wrong: there a comment may be part of the fault.
    for file in toml_files("tests/bad")?.into_iter().filter(|f| !name(f).starts_with("syntax-")) {
        let text = std::fs::read_to_string(&file)?;
        let marks = |(i, line): (usize, &str)| {
            let marks = line.split_once("# !").map_or(0, |(_, more)| 1 + more.matches('!').count());
            vec![i + 1; marks]
        };
        let marked: Vec<usize> = text.lines().enumerate().flat_map(marks).collect();
        let found: Vec<usize> = match Config::parse(&text, "f") {
            Err(errors) => errors.into_iter().map(|e| e.line).collect(),
            Ok(config) => config.warnings.into_iter().map(|w| w.line).collect(),
        };
        assert_eq!(found, marked, "{}: lines with findings, and lines marked \"# !\"", name(&file));
    }
    Ok(())
}

fn example_texts() -> Vec<String> {
    let files = toml_files("examples").into_iter().chain(toml_files("tests/bad")).flatten();
    files.filter_map(|f| std::fs::read_to_string(f).ok()).collect()
}

/// Reading never panics, and never refuses without saying where.
fn survives(text: &str) -> Result<(), TestCaseError> {
    match Config::parse(text, "f") {
        Ok(config) => {
            let _ = config.digests();
        }
        Err(errors) => {
            let lines = text.lines().count() + 1;
            prop_assert!(!errors.as_slice().is_empty());
            for error in &errors {
                prop_assert!((1..=lines).contains(&error.line), "{error}");
                prop_assert!(error.column >= 1, "{error}");
            }
        }
    }
    Ok(())
}

/// Pieces of files, to cut into others.
const PIECES: [&str; 24] = [
    "[",
    "]",
    "[[vip]]\n",
    "[[pool]]\n",
    "[pool.check]\n",
    "[election]\n",
    "\"",
    "'",
    "=",
    "{",
    "}",
    ",",
    "\n",
    ".",
    "-1",
    "99999999999999999999999999999999999999999999",
    "1e400",
    "1979-05-27",
    "\"250ms\"",
    "name = \"x\"\n",
    "fallback = \"x\"\n",
    "\u{0}",
    "ä",
    "nodes = [\"px1\"]\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        survives(&text)?;
    }

    #[test]
    fn arbitrary_values_do_not_panic(
        section in prop::sample::select(vipd_config::keys()),
        value in prop::sample::select(vec![
            "1", "-1", "0.5", "true", "\"\"", "\"x\"", "[]", "[1]", "[\"x\"]", "{}", "{ x = 1 }", "[{}]", "[[]]",
            "1979-05-27", "07:32:00", "nan", "0xffffffffffffffffffffffffffffffff", "\"10.77.0.1/24\"", "\":1\"",
        ]),
        key in any::<prop::sample::Index>(),
    ) {
        let (table, keys) = section;
        let key = keys[key.index(keys.len())];
        survives(&match table {
            "the file" => format!("{key} = {value}\n"),
            "a node of [cluster]" => format!("[cluster]\nnodes = [{{ {key} = {value} }}]\n"),
            "a server of [[pool]]" => format!("[[pool]]\nservers = [{{ {key} = {value} }}]\n"),
            "public addresses of [dns]" => format!("[dns]\npublic-addresses = [{{ {key} = {value} }}]\n"),
            "a health check of [dns.route53]" => format!("[dns.route53]\nhealth-checks = [{{ {key} = {value} }}]\n"),
            "on-demote of [[pool]]" => format!("[[pool]]\non-demote = {{ {key} = {value} }}\n"),
            "[pool.check]" => format!("[[pool]]\n[pool.check]\n{key} = {value}\n"),
            _ => format!("{table}\n{key} = {value}\n"),
        })?;
    }

    #[test]
    fn mutated_files_do_not_panic(
        text in prop::sample::select(example_texts()),
        cuts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..20, prop::sample::select(&PIECES[..])),
            1..6,
        ),
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, gone, piece) in cuts {
            let at = at.index(chars.len() + 1);
            let end = (at + gone).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        survives(&chars.into_iter().collect::<String>())?;
    }
}
