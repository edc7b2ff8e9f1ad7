//! Every command that README.md and docs/ show is typed, on hosts where the
//! daemons run from the packages' own places, or the table says why not here.

mod house;
mod table;

use crate::{Case, Need};
use anyhow::{Context, Result, ensure};
use house::House;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use table::{COMMANDS, Proof};
use vipd_tests::documents::{self, root};
use vipd_tests::lab::Lab;

pub(crate) const CASES: &[Case] = &[Case {
    name: "documents::every_command_holds",
    needs: &[Need::Vipd, Need::Dnsd],
    run: every_command_holds,
}];

/// Programs that the documents tell readers to type.
const PROGRAMS: &[&str] = &[
    "apt",
    "aws",
    "bench-balancer",
    "cargo",
    "chronyc",
    "cp",
    "dnsd",
    "editor",
    "etcdctl",
    "install",
    "ip",
    "journalctl",
    "make",
    "man",
    "networkctl",
    "openssl",
    "perf",
    "promtool",
    "scp",
    "ssh",
    "systemctl",
    "systemd-analyze",
    "vipctl",
    "vipd",
];
/// First words of what stands between backquotes and is nothing to type: lines
/// of HAProxy's files, and what the daemons say.
const OTHERS: &[&str] = &[
    "access",
    "balance",
    "bind",
    "check",
    "external-check",
    "hash-type",
    "http-check",
    "maintenance",
    "maxconn",
    "maxqueue",
    "no",
    "observe",
    "on-marked-down",
    "on-marked-up",
    "option",
    "px2",
    "retries",
    "server",
    "server-template",
    "set",
    "show",
    "shutdown",
    "source",
    "stats",
    "stick-table",
    "sum",
    "tcp-check",
    "tcp-request",
    "the",
    "there",
    "this",
    "timeout",
    "unreachable",
    "w1",
    "another",
    "px1",
    "not",
    "two",
];

fn every_command_holds(lab: &Lab) -> Result<()> {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for found in documents::commands(PROGRAMS, OTHERS)? {
        let pages = shown.entry(found.command).or_default();
        let _ = write!(pages, " {}", found.page);
    }
    ensure!(shown.len() > 60, "commands are found at all: {shown:?}");
    for (command, pages) in &shown {
        let known = COMMANDS.iter().any(|(text, _)| text == command);
        ensure!(known, "`{command}` is shown in{pages}, and the table of this test does not know it");
    }
    for (command, _) in COMMANDS {
        ensure!(shown.contains_key(*command), "no page shows `{command}`: take it out of the table");
    }
    let house = House::set_up(lab)?;
    let mut wrong = String::new();
    for (command, proof) in COMMANDS {
        if let Err(error) = prove(&house, command, proof) {
            let _ = writeln!(wrong, "`{command}`: {error:#}");
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

fn prove(house: &House, command: &str, proof: &Proof) -> Result<()> {
    match proof {
        Proof::Typed(place, prints) => house.type_in(*place, command, 0, prints),
        Proof::TypedAs(place, typed, prints) => house.type_in(*place, typed, 0, prints),
        Proof::Answered(place, typed, prints) => house.answer_yes(*place, typed, prints),
        Proof::Exits(place, typed, status, prints) => house.type_in(*place, typed, *status, prints),
        Proof::Started(line) => house.said(line),
        Proof::Target => target(command),
        Proof::OnHosts(typed) => ensure_in("packaging/tests/packages/story.rs", typed),
        Proof::Elsewhere(file, typed) => ensure_in(file, typed),
        Proof::Parsed => parses(command),
        Proof::NotHere(reason) => {
            ensure!(!reason.is_empty(), "no reason is given");
            let own = ["vipd", "vipctl", "dnsd"].iter().any(|p| command.split(' ').next() == Some(p));
            ensure!(!own, "a command of our own is always typed");
            Ok(())
        }
    }
}

/// A target of the Makefile: make knows what it would do.
fn target(command: &str) -> Result<()> {
    let output = Command::new("sh")
        .args(["-c", &command.replacen("make", "make --dry-run", 1)])
        .current_dir(root())
        .env_remove("MAKEFLAGS")
        .output()
        .context("cannot run make")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Another test types it, in these words.
fn ensure_in(file: &str, typed: &str) -> Result<()> {
    let text = std::fs::read_to_string(root().join(file)).with_context(|| file.to_owned())?;
    ensure!(text.contains(typed), "{file} does not run it any more: {typed}");
    Ok(())
}

fn parses(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-n", "-c", command]).output().context("cannot run sh")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
