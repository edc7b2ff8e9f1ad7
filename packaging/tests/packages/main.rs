//! The packages, installed on two hosts with a real systemd.
//!
//! By default the packages are built of the programs that cargo has built
//! already, unoptimised: what is tested is the packages. `make test-packages`
//! takes the release's (`VIPD_DEBS`): its figures count.

mod load;
mod machine;
mod story;
mod witness;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn main() -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    // The hosts share this process's namespaces, and threads must not be forked.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("lintian_finds_nothing", lintian_finds_nothing),
        trial("the_same_sources_give_the_same_packages", same_bytes),
        trial("whoever_builds_is_named", whoever_builds_is_named),
        trial("two_hosts_install_fail_over_upgrade_and_remove", story::tell),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &'static str, test: fn() -> Result<()>) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = machine::obstacle() {
            // `make test` has installed everything: there it is no excuse.
            if std::env::var_os("LAB_NEEDS_ARE_MET").is_some() {
                return Err(Failed::from(reason));
            }
            return Ok(Completion::ignored_with(reason));
        }
        test().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:#}")))
    })
}

/// Whether the packages are the release's.
fn released() -> bool {
    std::env::var_os("VIPD_DEBS").is_some()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Packages of this version and of a later one, in a directory of their own.
fn debs() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = std::env::var_os("VIPD_DEBS") {
        return std::path::absolute(dir).context("VIPD_DEBS is no path");
    }
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let out = root().join("target/deb-of-tests");
    let _ = std::fs::remove_dir_all(&out);
    build(&out, &[])?;
    build(&out, &["--version", story::NEXT])?;
    Ok(BUILT.get_or_init(|| out).clone())
}

fn build(out: &Path, options: &[&str]) -> Result<()> {
    machine::run(&mut command(out, options)).context("packaging/build-deb")?;
    Ok(())
}

fn command(out: &Path, options: &[&str]) -> Command {
    let mut build = Command::new(root().join("packaging/build-deb"));
    let profile = if released() { "release" } else { "dev" };
    build.args(["--profile", profile, "--out"]).arg(out).args(options);
    // What cargo tells a test would make cargo build anew.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if name != "CARGO_HOME" {
            build.env_remove(name);
        }
    }
    build.env_remove("DEBFULLNAME").env_remove("DEBEMAIL");
    build
}

fn lintian_finds_nothing() -> Result<()> {
    let debs = debs()?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    for deb in std::fs::read_dir(debs)? {
        let deb = deb?.path();
        if !deb.to_string_lossy().contains(story::NEXT) {
            lintian.arg(deb);
        }
    }
    let found = machine::run(&mut lintian).context("lintian")?;
    let count = found.lines().filter(|l| l.starts_with(['E', 'W'])).count();
    story::say(&format!("lintian: {count} errors and warnings"));
    Ok(())
}

fn whoever_builds_is_named() -> Result<()> {
    let out = root().join("target/deb-of-somebody");
    let _ = std::fs::remove_dir_all(&out);
    let mut build = command(&out, &[]);
    build.env("DEBFULLNAME", "Ada Example").env("DEBEMAIL", "ada@example.org");
    machine::run(&mut build).context("packaging/build-deb")?;
    for deb in std::fs::read_dir(&out)? {
        let field = machine::run(Command::new("dpkg-deb").arg("--field").arg(deb?.path()).arg("Maintainer"))?;
        ensure!(field.trim() == "Ada Example <ada@example.org>", "{field}");
    }
    std::fs::remove_dir_all(&out)?;
    Ok(())
}

fn same_bytes() -> Result<()> {
    let first = debs()?;
    let again = root().join("target/deb-of-tests-again");
    let _ = std::fs::remove_dir_all(&again);
    // Of another time, and by a person with other habits.
    let mut build = command(&again, &[]);
    build.env("TZ", "Pacific/Auckland").env("LC_ALL", "C").env("LANG", "C");
    machine::run(&mut build).context("packaging/build-deb")?;
    let names = |dir: &Path| -> Result<BTreeSet<String>> {
        let all = std::fs::read_dir(dir)?.map(|deb| Ok(deb?.file_name().to_string_lossy().into_owned()));
        let all = all.collect::<Result<BTreeSet<_>>>()?;
        Ok(all.into_iter().filter(|name| name.ends_with(".deb") && !name.contains(story::NEXT)).collect())
    };
    let built = names(&again)?;
    ensure!(built.len() == 2 && built == names(&first)?, "{built:?} are not the packages of before");
    for deb in &built {
        let (one, other) = (std::fs::read(first.join(deb))?, std::fs::read(again.join(deb))?);
        ensure!(one == other, "{deb} differs from build to build");
    }
    std::fs::remove_dir_all(&again)?;
    Ok(())
}
