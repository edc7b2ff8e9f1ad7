//! The short version of `make fuzz`: the corpus, and mutations of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vipd_tests::fuzz::{TARGETS, Target};
use vipd_tests::sim::Rng;
use vipd_tests::vector::Vector;

/// Mutations of each target; a play takes longer than a packet.
const PACKETS: u64 = 60_000;
const PLAYS: u64 = 3_000;
/// Longer inputs are not made: the longest message is a few thousand bytes.
const LONGEST: usize = 6_000;

fn corpus(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name)
}

/// The corpus of a target, by name.
fn inputs(target: Target) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(corpus(target)).into_iter().flatten().filter_map(Result::ok);
    files
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).expect("a file of ours"))
        })
        .collect()
}

/// Tells which input it was.
struct Trying<'a>(&'a str, &'a [u8]);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex = self.1.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            eprintln!("{}: {hex}", self.0);
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What keepalived sends, as captured.
fn captures() -> Vec<(String, Vec<u8>)> {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../vectors/keepalived.json")).expect("a list of vectors");
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len() / 2).filter_map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).ok()).collect()
    };
    // Its checksum is put right for the addresses of the target.
    let flags = |v: &Vector| 2 | u8::from(v.source.is_ipv6());
    let input = |v: &Vector| [vec![flags(v)], bytes(&v.payload)].concat();
    vectors.iter().map(|v| (format!("keepalived-{}", v.name), input(v))).collect()
}

/// A seed's file that differs is a change of the wire format: the old one stays
/// in the corpus under another name. `VIPD_BLESS=1` writes what is missing.
#[test]
fn the_corpus_has_every_kind_of_input() {
    for target in TARGETS {
        let mut seeds = (target.seeds)();
        if target.name == "advert" {
            seeds.extend(captures());
        }
        for (name, bytes) in seeds {
            let path = corpus(target).join(&name);
            if std::env::var_os("VIPD_BLESS").is_some() && !path.exists() {
                std::fs::create_dir_all(corpus(target)).expect("ours");
                std::fs::write(&path, &bytes).expect("ours");
            }
            let kept = std::fs::read(&path).unwrap_or_default();
            assert!(kept == bytes, "{}/{name} is not what is made now", target.name);
        }
    }
}

#[test]
fn the_corpus_holds() {
    for target in TARGETS {
        let inputs = inputs(target);
        assert!(inputs.len() > 4, "{}: {} inputs", target.name, inputs.len());
        for (name, bytes) in &inputs {
            let _trying = Trying(name, bytes);
            (target.run)(bytes);
        }
    }
}

/// `FUZZ_SEED=n FUZZ_ROUNDS=1` repeats one, `FUZZ_ROUNDS=1000000` tries more.
#[test]
fn mutations_of_the_corpus_hold() {
    for target in TARGETS {
        let inputs: Vec<Vec<u8>> = inputs(target).into_values().collect();
        let usual = if target.name == "node" { PLAYS } else { PACKETS };
        let first = number("FUZZ_SEED", 0);
        for seed in first..first + number("FUZZ_ROUNDS", usual) {
            let bytes = mutated(&inputs, &mut Rng::new(seed));
            let name = format!("{}, FUZZ_SEED={seed}", target.name);
            let _trying = Trying(&name, &bytes);
            (target.run)(&bytes);
        }
    }
}

/// An input of the corpus after some changes.
fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.index(corpus.len())].clone();
    for _ in 0..=rng.below(6) {
        mutate(&mut bytes, corpus, rng);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.index(bytes.len().max(1));
    let length = 1 + rng.index(8.max(bytes.len() / 4));
    let end = (at + length).min(bytes.len());
    match rng.below(9) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        2 | 3 => {
            let odd = [0, 1, 2, 16, 63, 64, 127, 128, 254, 255];
            if let Some(byte) = bytes.get_mut(at) {
                *byte = odd[rng.index(odd.len())];
            }
        }
        4 => {
            let large = [0, 1, u64::from(u32::MAX), u64::MAX, rng.next()][rng.index(5)];
            for (byte, new) in bytes.iter_mut().skip(at).zip(large.to_be_bytes().into_iter().rev()) {
                *byte = new;
            }
        }
        5 => bytes.truncate(at),
        6 => {
            bytes.drain(at.min(end)..end);
        }
        7 => {
            // A piece twice.
            let piece = bytes[at.min(end)..end].to_vec();
            bytes.splice(at.min(end)..at.min(end), piece);
        }
        _ => {
            let other = &corpus[rng.index(corpus.len())];
            let from = rng.index(other.len().max(1)).min(other.len());
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
    }
}
