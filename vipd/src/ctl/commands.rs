//! What each command asks and prints.

use super::args::{Cli, Command, Consent, ServerCommand, ServerName, Switch, Weight};
use super::client::{Client, ClientError, Conversation, Next};
use super::consent::{self, status};
use super::{Failure, Screen, doctor, release, sessions, unexpected};
use crate::control::api::{ErrorCode, EventDoc, Request, Response, ServerOrder, StatusDoc};
use crate::control::{clean, text};
use jiff::Timestamp;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the configuration is when nothing says otherwise.
const DEFAULT_CONFIG: &str = "/etc/vipd/vipd.toml";
/// Where the control socket is when nothing says otherwise.
const RUNTIME_DIR: &str = "/run/vipd";

/// How often `--watch` draws without a reason.
const REDRAW: Duration = Duration::from_secs(1);

/// Events come in company: one drawing shows them all.
const SETTLE: Duration = Duration::from_millis(50);

pub(super) fn run(cli: &Cli, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    let client = Client::new(&cli.runtime_dir);
    match &cli.command {
        Command::Status { json, watch: false } => {
            let doc = status(&client)?;
            let text = if *json { pretty(&doc)? } else { table(&doc, screen.colour) };
            screen.line(text.trim_end())
        }
        Command::Status { json, watch: true } => watch(&client, *json, screen),
        Command::Why { subject } => {
            let response = client.ask(&Request::Why { subject: subject.clone() })?;
            let Response::Why { text } = response else { return Err(unexpected(response)) };
            screen.line(clean(&text).trim_end())
        }
        Command::Switchover { vip, to, consent } => {
            let what = || Ok(consent::of_switchover(&status(&client)?, vip.as_deref(), to.as_deref()));
            consent::ask(*consent, "switchover", what)?;
            switchover(&client, Request::Switchover { vip: vip.clone(), to: to.clone() }, screen)
        }
        Command::Events { follow, json } => events(&client, *follow, *json, screen),
        Command::Reload { dry_run } => reload(&client, *dry_run, screen),
        Command::Doctor { config, node, json } => {
            // What runs, or would be started, knows better than this shell who it is.
            let unit = doctor::unit::Unit::find().filter(|unit| {
                Path::new(unit.option("--runtime-dir").unwrap_or(RUNTIME_DIR)) == cli.runtime_dir
            });
            let told = |option| match client.pid() {
                Some(_) => client.option(option),
                None => unit.as_ref().and_then(|unit| unit.option(option)).map(OsString::from),
            };
            let file = |option| told(option).map(|path| client.cwd().join(path));
            let config = config.clone().or_else(|| file("--config")).unwrap_or_else(|| DEFAULT_CONFIG.into());
            let node = node.clone().or_else(|| told("--node").and_then(|name| name.into_string().ok()));
            let state_dir = file("--state-dir");
            let asked = doctor::Asked {
                config: &config,
                node: node.as_deref(),
                state_dir: state_dir.as_deref(),
                unit,
                json: *json,
            };
            doctor::run(&client, asked, screen)
        }
        Command::Maintenance { state, consent } => maintenance(&client, *state, *consent, screen),
        Command::Server { server, order, consent } => set_server(&client, server, *order, *consent, screen),
        Command::Sessions(asked) => sessions::run(&client, asked, screen),
        Command::Release { consent } => {
            consent::ask(*consent, "release", || Ok(consent::OF_RELEASE.into()))?;
            let released = release::release(&cli.runtime_dir)?;
            if released.is_empty() {
                return screen.line("No floating address was left on this host.");
            }
            released.iter().try_for_each(|what| screen.line(&format!("removed {}", clean(what))))
        }
    }
}

/// Shows what a reload changes, and has it done.
fn reload(client: &Client, dry_run: bool, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    let response = client.ask(&Request::Reload { dry_run: true })?;
    if let Response::Done { message } = response {
        screen.line(clean(&message).trim_end())?;
    } else if dry_run {
        return Err(unexpected(response));
    }
    // What is wrong with the file is told by the reload itself, which has it
    // noted; and a daemon of before does not know the question.
    if dry_run { Ok(()) } else { order(client, &Request::Reload { dry_run: false }, screen) }
}

/// An order whose answer is a sentence.
pub(super) fn order(
    client: &Client,
    request: &Request,
    screen: &mut Screen<impl Write>,
) -> Result<(), Failure> {
    let response = client.ask(request)?;
    let Response::Done { message } = response else { return Err(unexpected(response)) };
    screen.line(&clean(&message))
}

fn switchover(client: &Client, request: Request, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    let response = client.ask(&request)?;
    let Response::Switched { moves } = response else { return Err(unexpected(response)) };
    moves.iter().try_for_each(|m| {
        let took = text::micros(m.took_us);
        screen
            .line(&clean(&format!("{} owns {} now: it had it from {} after {took}", m.owner, m.vip, m.from)))
    })
}

fn maintenance(
    client: &Client,
    state: Switch,
    consent: Consent,
    screen: &mut Screen<impl Write>,
) -> Result<(), Failure> {
    let on = match state {
        Switch::On => {
            let what = || Ok(consent::of_maintenance(&status(client)?));
            consent::ask(consent, "maintenance on", what)?;
            true
        }
        Switch::Off => false,
    };
    order(client, &Request::Maintenance { on }, screen)
}

fn set_server(
    client: &Client,
    name: &ServerName,
    order: ServerCommand,
    consent: Consent,
    screen: &mut Screen<impl Write>,
) -> Result<(), Failure> {
    let ServerName { pool, server } = name.clone();
    let state = match order {
        ServerCommand::Ready => ServerOrder::Ready,
        ServerCommand::Drain => ServerOrder::Drain,
        ServerCommand::Maint => {
            let what = || Ok(consent::of_maint(&status(client)?, &pool, &server));
            consent::ask(consent, "server ... maint", what)?;
            ServerOrder::Maint
        }
        ServerCommand::Weight { weight: Weight(weight) } => {
            return self::order(client, &Request::Weight { pool, server, weight }, screen);
        }
    };
    self::order(client, &Request::Server { pool, server, state }, screen)
}

fn events(client: &Client, follow: bool, json: bool, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    let mut conversation = client.open(&Request::Events { follow, since: None })?;
    let patience = (!follow).then_some(conversation.patience());
    let mut last = None;
    // Heard first and shown then: a reader that stops, as a pager does, is no reason
    // for the daemon to hang up.
    let mut heard = vec![];
    loop {
        let response = match conversation.next(patience)? {
            Next::Response(response) => *response,
            Next::Quiet => return Err(ClientError::Silent.into()),
            Next::End => return Err(ClientError::Closed.into()),
        };
        if response == (Response::End {}) {
            return heard.iter().try_for_each(|line: &String| screen.line(line));
        }
        let Response::Event { event } = response else { return Err(unexpected(response)) };
        let missing = last.map_or(0, |last| event.seq.saturating_sub(last).saturating_sub(1));
        if missing > 0 && !json {
            screen.line(&format!("({missing} events were lost: they came too fast)"))?;
        }
        last = Some(event.seq);
        let line = event_line(&event, json, screen.colour)?;
        if follow {
            screen.line(&line)?;
        } else {
            heard.push(line);
        }
    }
}

fn event_line(event: &EventDoc, json: bool, colour: bool) -> Result<String, Failure> {
    if json { compact(event) } else { Ok(text::event(event, colour)) }
}

fn watch(client: &Client, json: bool, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    let mut doc = Ok(status(client)?);
    let mut follower = None;
    loop {
        match &doc {
            Ok(doc) if json => screen.line(&compact(doc)?)?,
            Ok(doc) => draw(&table(doc, screen.colour), screen)?,
            // What a program reads holds only documents.
            Err(_) if json => {}
            Err(failure) => draw(&format!("{}\n", clean(&vipd_config::chain(failure))), screen)?,
        }
        if follower.is_none() {
            // Only what is to come: it is a reason to look again.
            follower = client.open(&Request::Events { follow: true, since: Some(u64::MAX) }).ok();
        }
        if !settle(follower.as_mut()) {
            follower = None;
        }
        doc = status(client);
    }
}

/// Waits for the next time to draw; false if the follower has ended.
fn settle(follower: Option<&mut Conversation>) -> bool {
    let mut until = Instant::now() + REDRAW;
    let Some(follower) = follower else {
        std::thread::sleep(REDRAW);
        return false;
    };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        match follower.next(Some(left)) {
            Ok(Next::Response(response)) if matches!(*response, Response::Event { .. }) => {
                until = until.min(Instant::now() + SETTLE);
            }
            Ok(Next::Quiet) => return true,
            Ok(Next::Response(_) | Next::End) | Err(_) => {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                return false;
            }
        }
    }
}

/// Draws over what was there, without the flicker of an empty screen between.
fn draw(text: &str, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    if !screen.terminal {
        return screen.line(text);
    }
    let lines = text.replace('\n', "\x1b[K\n");
    write!(screen.out, "\x1b[H{lines}\x1b[J").and_then(|()| screen.out.flush()).map_err(Failure::Output)
}

fn table(doc: &StatusDoc, colour: bool) -> String {
    text::status(doc, Timestamp::now(), colour)
}

pub(super) fn pretty(doc: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(doc).map_err(no_json)
}

fn compact(doc: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(doc).map_err(no_json)
}

fn no_json(error: serde_json::Error) -> Failure {
    Failure::Daemon { code: ErrorCode::Other, message: format!("the answer has no form in JSON: {error}") }
}
