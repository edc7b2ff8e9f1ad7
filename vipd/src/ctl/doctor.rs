//! `vipctl doctor`: what is wrong on this host, or will be, each finding with
//! what mends it. It works before vipd runs, and tells more when it does.

mod clock;
mod commands;
mod daemon;
mod databases;
mod etcd;
mod files;
mod firewall;
mod host;
mod peers;
mod records;
mod sight;
pub(super) mod unit;
mod witness;

use super::client::{Client, ClientError};
use super::{Failure, Screen, consent};
use crate::control::clean;
use crate::control::table::{Tone, paint};
use serde::Serialize;
use sight::Sight;
use std::io::Write;
use std::path::Path;
use unit::Unit;
use vipd_config::Config;

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) config: &'a Path,
    pub(super) node: Option<&'a str>,
    /// Where the daemon keeps events, if not at the usual place.
    pub(super) state_dir: Option<&'a Path>,
    /// The unit that starts the daemon, where there is one.
    pub(super) unit: Option<Unit>,
    pub(super) json: bool,
}

/// How well something is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Good,
    /// It works, and may surprise.
    Warning,
    /// It does not work, or will not when it is needed.
    Bad,
    /// It could not be told.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Finding {
    verdict: Verdict,
    /// What it is about: a word or two.
    about: String,
    /// What was found, in a sentence.
    text: String,
    /// What mends it: a command, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// All findings, in the order in which they were made.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, verdict: Verdict, about: &str, text: impl Into<String>) {
        self.0.push(Finding { verdict, about: about.into(), text: text.into(), fix: None });
    }

    fn good(&mut self, about: &str, text: impl Into<String>) {
        self.add(Verdict::Good, about, text);
    }

    fn fix(&mut self, verdict: Verdict, about: &str, text: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { verdict, about: about.into(), text: text.into(), fix: Some(fix.into()) });
    }
}

/// Looks at everything and tells it.
///
/// # Errors
/// Something is bad; or the answer cannot be written.
pub(super) fn run(client: &Client, asked: Asked<'_>, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let config = match Config::load(asked.config) {
        Ok(config) => {
            findings.good("configuration", format!("{} is right", asked.config.display()));
            for warning in &config.warnings {
                findings.add(Verdict::Warning, "configuration", warning.to_string());
            }
            Some(config)
        }
        Err(errors) => {
            for error in &errors {
                findings.fix(
                    Verdict::Bad,
                    "configuration",
                    error.to_string(),
                    "correct the file, then `vipd check`",
                );
            }
            None
        }
    };
    if let Some(config) = &config
        && let Some(name) = witness::name(config, asked.node)
    {
        witness::look(config, name, client, asked.unit, &mut findings);
        return tell(&findings.0, asked.json, screen);
    }
    let status = match consent::status(client) {
        Ok(status) => Some(status),
        Err(Failure::Client(ClientError::Absent(_) | ClientError::Dead(_))) => {
            let text = "vipd does not run here, so that only the host was looked at";
            findings.fix(Verdict::Unknown, "daemon", text, "systemctl start vipd");
            None
        }
        Err(failure) => {
            findings.add(Verdict::Unknown, "daemon", vipd_config::chain(&failure));
            None
        }
    };
    if let Some(config) = &config
        && let Some(me) = host::node(config, asked.node, &mut findings)
    {
        host::look(config, me, &mut findings);
        let sight = Sight::find(client, asked.unit);
        files::look(config, &sight, asked.state_dir, &mut findings);
        commands::look(config, &sight, &mut findings);
        peers::look(config, me, status.as_ref(), &mut findings);
        clock::look(config, me, &mut findings);
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                databases::look(config, &runtime, &mut findings);
                etcd::look(config, &runtime, &mut findings);
                records::look(config, me, &runtime, &mut findings);
            }
            Err(error) => findings.add(Verdict::Unknown, "login", crate::words(&error)),
        }
        daemon::descriptors(config, client, &mut findings);
    }
    if let Some(status) = &status {
        daemon::look(status, client, &mut findings);
    }
    tell(&findings.0, asked.json, screen)
}

fn tell(findings: &[Finding], json: bool, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string_pretty(findings).map_err(|e| Failure::Output(e.into()))?;
        screen.line(&text)?;
    } else {
        for finding in findings {
            screen.line(&shown(finding, screen.colour))?;
        }
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let (bad, odd) = (count(Verdict::Bad), count(Verdict::Warning));
    if !json {
        let sum = format!(
            "{} looked at: {bad} wrong, {odd} to be thought of, {} not known",
            findings.len(),
            count(Verdict::Unknown)
        );
        screen.line(&sum)?;
    }
    if bad > 0 { Err(Failure::Unwell(bad)) } else { Ok(()) }
}

fn shown(finding: &Finding, colour: bool) -> String {
    let (word, tone) = match finding.verdict {
        Verdict::Good => ("good   ", Tone::Good),
        Verdict::Warning => ("warning", Tone::Odd),
        Verdict::Bad => ("wrong  ", Tone::Bad),
        Verdict::Unknown => ("unknown", Tone::Odd),
    };
    let about = &finding.about;
    let text = clean(&finding.text).replace('\n', "\n                        ");
    let mut line = format!("{}  {about:14}  {text}", paint(word, tone, colour));
    if let Some(fix) = &finding.fix {
        line.push_str(&format!("\n                        -> {}", clean(fix)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_with_what_mends_it() {
        let mut findings = Findings::default();
        findings.good("interface", "eth0 is up");
        findings.fix(Verdict::Bad, "subnet", "no address", "ip addr add 10.77.0.11/24 dev eth0");
        let mut screen = Screen { out: Vec::new(), terminal: false, colour: false };
        let told = tell(&findings.0, false, &mut screen);
        assert!(matches!(told, Err(Failure::Unwell(1))), "{told:?}");
        let text = String::from_utf8(screen.out).expect("text");
        let wanted = "good     interface       eth0 is up\n\
                      wrong    subnet          no address\n                        -> ip addr add 10.77.0.11/24 dev eth0\n\
                      2 looked at: 1 wrong, 0 to be thought of, 0 not known\n";
        assert_eq!(text, wanted);
    }
}
