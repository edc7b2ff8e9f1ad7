//! `vipd`: the daemon; and `vipctl`, where it is called by that name.

use anyhow::Context as _;
use clap::Parser as _;
use std::path::Path;
use std::process::ExitCode;
use vipd::cli::{Cli, Command, Import, Run};
use vipd::peer::key::{ClusterKey, KeyError};
use vipd_config::{Config, chain};

fn main() -> ExitCode {
    // The packages hold one program under two names: two would hold almost all of it twice.
    if std::env::args_os().next().is_some_and(|name| Path::new(&name).ends_with("vipctl")) {
        return vipd::ctl::main();
    }
    match Cli::parse().command {
        Command::Check(check) => judge(&check.config.path),
        Command::Keygen => keygen(),
        Command::Import(import) => finish(carry_over(&import)),
        Command::Guard => vipd::guard::main(),
        Command::Run(run) if run.check => finish(would_run(&run)),
        Command::Run(run) => finish(vipd::daemon::run(&run).map_err(anyhow::Error::from)),
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&*error),
    }
}

/// The whole chain: what was tried, and what the system said.
fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{}", chain(error));
    ExitCode::FAILURE
}

/// Writes a configuration file from those of keepalived and HAProxy, and says how far that went.
fn carry_over(command: &Import) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut texts = Vec::new();
    for path in &command.files {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        texts.push((name, String::from_utf8_lossy(&bytes).into_owned()));
    }
    let found = vipd_config::import(&texts)?;
    let place = match &command.output {
        None => {
            std::io::stdout()
                .lock()
                .write_all(found.text.as_bytes())
                .context("cannot write to standard output")?;
            "the output".to_owned()
        }
        Some(path) => {
            let name = path.display().to_string();
            let mut file = std::fs::File::create_new(path).with_context(|| {
                format!("cannot write {name} (a file that is there is never overwritten)")
            })?;
            file.write_all(found.text.as_bytes()).with_context(|| format!("cannot write {name}"))?;
            name
        }
    };
    eprintln!(
        "carried {} of {} lines; the others, and what to know, stand in comments in {place}",
        found.carried, found.lines
    );
    if let Some(errors) = found.errors {
        eprintln!("{errors}");
        anyhow::bail!("`vipd check` refuses this until it is mended by hand");
    }
    Ok(())
}

/// Says whether a file is right.
fn judge(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            look_at_key(&config);
            finish(tell_right(path, &config).context("cannot write to standard output"))
        }
        Err(errors) => complain(&errors),
    }
}

/// Says whether the daemon would start here.
fn would_run(run: &Run) -> anyhow::Result<()> {
    use std::io::Write as _;
    vipd::daemon::would_run(run)?;
    let path = run.config.path.display();
    writeln!(std::io::stdout(), "{path}: vipd would start by it").context("cannot write to standard output")
}

/// The file is judged alone, so that any machine can do it, and any user: whether a
/// daemon would start with this host's key says `vipd run --check`.
fn look_at_key(config: &Config) {
    let Some(key) = &config.key else { return };
    match ClusterKey::load(&key.file) {
        Ok(_) => {}
        Err(KeyError::Unreadable { path, source }) => {
            eprintln!("warning: key-file {} was not looked at: {source}", path.display());
        }
        Err(error @ (KeyError::Open { .. } | KeyError::NoKey { .. })) => {
            eprintln!("warning: vipd would not start by it on this host: {error}");
        }
    }
}

/// Prints a new cluster key.
fn keygen() -> ExitCode {
    use std::io::Write as _;
    let printed = vipd::peer::key::generate().and_then(|key| writeln!(std::io::stdout(), "{key}"));
    finish(printed.context("cannot print a key"))
}

fn tell_right(path: &Path, config: &Config) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for warning in &config.warnings {
        writeln!(out, "{warning}")?;
    }
    // The election of who writes the name's records is none that anybody asked for.
    let vips = config.vips.iter().filter(|vip| !vip.addresses.is_empty()).count();
    let mut counts = vec![count(config.cluster.nodes.len(), "node")];
    if vips > 0 || config.dns.is_none() {
        counts.push(count(vips, "VIP"));
    }
    if let Some(dns) = &config.dns {
        let places = dns.rfc2136.as_ref().map_or(0, |r| r.servers.len()) + usize::from(dns.route53.is_some());
        counts.push(format!("the name {} in {}", dns.name, count(places, "place")));
    }
    counts.push(count(config.listeners.len(), "listener"));
    counts.push(count(config.pools.len(), "pool"));
    writeln!(out, "{}: right ({})", path.display(), counts.join(", "))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
