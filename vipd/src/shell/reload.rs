//! A new configuration for the running daemon: all of it, or nothing.

use super::{Shell, addresses, orphans, settings};
use crate::control::api::{self, EventKind};
use crate::control::call::{Refusal, Reply};
use crate::control::difference::difference;
use tracing::{error, info};
use vipd_config::Config;
use vipd_core::discover::expand;
use vipd_core::node::{Node, Settings};

/// What a reload has read, and who waits for it.
pub(super) struct Loaded {
    /// Which of the reloads that were asked for: the later ones may be read earlier.
    number: u64,
    /// The file, with its text.
    config: Result<(Config, String), vipd_config::Errors>,
    reply: Option<Reply<Result<String, Refusal>>>,
    /// Nothing is changed, only told.
    dry_run: bool,
}

impl Shell {
    /// Reads the configuration file, away from this thread.
    pub(super) fn reload(&mut self, reply: Option<Reply<Result<String, Refusal>>>, dry_run: bool) {
        self.reloads.0 += 1;
        let number = self.reloads.0;
        let (path, loaded) = (self.config.clone(), self.loaded.clone());
        self.aux.spawn_blocking(move || {
            let text = std::fs::read_to_string(&path);
            let name = path.display().to_string();
            // What cannot be read is refused by whoever can say it well.
            let config = match text {
                Ok(text) => Config::parse(&text, &name).map(|config| (config, text)),
                Err(_) => Config::load(&path).map(|config| (config, String::new())),
            };
            // The loop has ended if nobody takes it.
            let _ = loaded.blocking_send(Loaded { number, config, reply, dry_run });
        });
    }

    pub(super) fn reloaded(&mut self, Loaded { number, config, reply, dry_run }: Loaded) {
        if dry_run {
            let outcome = match config {
                Ok((config, text)) => self.preview(config, &text),
                Err(errors) => Err(errors.to_string()),
            };
            if let Some(reply) = reply {
                let _ = reply.send(outcome.map_err(Refusal));
            }
            return;
        }
        if number < self.reloads.1 {
            // What it read is older than what is in force.
            let refusal = Refusal("a later reload was read before this one; that one counts".to_owned());
            if let Some(reply) = reply {
                let _ = reply.send(Err(refusal));
            }
            return;
        }
        let outcome = match config {
            Ok((config, text)) => self.take_over(config).inspect(|_| self.in_force = text),
            Err(errors) => Err(errors.to_string()),
        };
        match &outcome {
            Ok(done) => {
                self.reloads.1 = number;
                self.config_errors.clear();
                // Warnings have been told.
                self.tell_config(api::Level::Info, done.lines().next().unwrap_or_default());
            }
            Err(errors) => {
                self.config_errors = errors.lines().map(str::to_owned).collect();
                self.tell_config(api::Level::Error, &format!("the configuration stays as it was: {errors}"));
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(outcome.map_err(Refusal));
        }
    }

    fn tell_config(&self, level: api::Level, message: &str) {
        match level {
            api::Level::Info => info!(kind = ?EventKind::Config, "{message}"),
            api::Level::Warning | api::Level::Error => error!(kind = ?EventKind::Config, "{message}"),
        }
        self.events.push(api::Event::new(level, EventKind::Config, message));
    }

    /// What a reload would change, line by line.
    fn preview(&self, config: Config, text: &str) -> Result<String, String> {
        self.restartable(&config, &settings(config.clone()))?;
        let difference = difference(&self.in_force, text);
        Ok(if difference.is_empty() { "nothing changes".into() } else { difference })
    }

    /// Refuses what only a restart can change.
    fn restartable(&self, config: &Config, new: &Settings) -> Result<(), String> {
        let mut keys = Node::needs_restart(self.node.settings(), new);
        if config.status != self.status {
            keys.push("status");
        }
        if config.key.as_ref().map(|k| &k.file) != self.key.as_ref().map(|k| &k.file) {
            keys.push("cluster.key-file");
        }
        if config.etcd.as_ref() != self.etcd.as_ref().map(|(settings, _)| settings) {
            keys.push("etcd");
        }
        if keys.is_empty() {
            return Ok(());
        }
        Err(format!("{} cannot change while vipd runs: restart it", keys.join(", ")))
    }

    /// Takes over changed settings, all of them or none.
    fn take_over(&mut self, config: Config) -> Result<String, String> {
        let (notify, key) = (config.notify.clone(), config.key.clone());
        let mut new = settings(config.clone());
        let file = std::mem::take(&mut new.pools);
        let old = self.node.settings();
        let targets = self.found.follow(&file, &old.pools);
        new.pools = expand(&file, &targets);
        self.restartable(&config, &new)?;
        let done = match changes(old, &new).as_slice() {
            [] if *old == new && key == self.key && *self.hooks.borrow() == notify => {
                "reloaded: nothing changed".to_owned()
            }
            [] => "reloaded".to_owned(),
            keys => format!("reloaded: changed {}", keys.join(", ")),
        };
        let before = old.clone();
        self.put_in_use(new)?;
        let warnings = orphans::warnings(&before, &self.node, &self.balancer.stats().servers);
        warnings.iter().for_each(|text| self.tell_config(api::Level::Warning, text));
        let done = warnings.iter().fold(done, |done, text| format!("{done}\nwarning: {text}"));
        self.hooks.send_replace(notify);
        self.publishing.reconfigure(self.node.settings(), self.node.me());
        if let (Some(links), Some(key)) = (&mut self.sealing, &key) {
            links.set_accept_unsealed(key.accept_unsealed);
        }
        self.key = key;
        self.found.update(file, targets);
        self.kernel.forget(None, addresses(self.node.settings()));
        self.relink();
        Ok(done)
    }
}

/// The keys in which two settings differ, for people: those that must agree
/// between nodes, by their digests, and then the others.
fn changes(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let digests = old.digests.iter().zip(&new.digests);
    let mut keys: Vec<&str> = digests.filter(|(a, b)| a != b).map(|((key, _), _)| *key).collect();
    let others = [
        ("election.preempt-delay", old.election.preempt_delay != new.election.preempt_delay),
        ("election.start-delay", old.election.start_delay != new.election.start_delay),
        ("election.lease", old.election.lease != new.election.lease),
        ("vip", old.vips != new.vips),
        ("listen", old.listeners != new.listeners),
        ("pool", old.pools != new.pools),
        ("dns", old.dns != new.dns),
    ];
    for (key, changed) in others {
        if changed && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}
