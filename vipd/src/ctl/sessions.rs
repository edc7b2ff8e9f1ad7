//! `vipctl sessions`.

use super::args::{Kill, ServerName, Sessions, SessionsCommand, Victims};
use super::client::Client;
use super::commands::{order, pretty};
use super::{Failure, Screen, consent, unexpected};
use crate::control::api::{Request, Response, SessionsDoc, Which};
use crate::control::text;
use std::io::Write;

pub(super) fn run(client: &Client, asked: &Sessions, screen: &mut Screen<impl Write>) -> Result<(), Failure> {
    match &asked.order {
        Some(SessionsCommand::Kill(Kill { victims, consent })) => {
            let which = victims.which();
            let what = || of_kill(&which, &list(client, which.clone())?);
            consent::ask(*consent, "sessions kill", what)?;
            order(client, &Request::Kill { which }, screen)
        }
        None => {
            let doc = list(client, subject(asked.of.as_deref()))?;
            let text = if asked.json { pretty(&doc)? } else { text::sessions(&doc, screen.colour) };
            screen.line(text.trim_end())
        }
    }
}

fn list(client: &Client, which: Which) -> Result<SessionsDoc, Failure> {
    let response = client.ask(&Request::Sessions { which })?;
    let Response::Sessions(doc) = response else { return Err(unexpected(response)) };
    Ok(doc)
}

fn subject(of: Option<&str>) -> Which {
    match of.map(|of| of.split_once('/').ok_or(of)) {
        None => Which::All,
        Some(Ok((pool, server))) => Which::Server { pool: pool.into(), server: server.into() },
        Some(Err(name)) => Which::Named(name.into()),
    }
}

impl Victims {
    fn which(&self) -> Which {
        match self {
            Self { id: Some(id), .. } => Which::Id(*id),
            Self { client: Some(client), .. } => Which::Client(*client),
            Self { server: Some(ServerName { pool, server }), .. } => {
                Which::Server { pool: pool.clone(), server: server.clone() }
            }
            // Only if the command line let it through.
            Self { id: None, server: None, client: None } => Which::Named(String::new()),
        }
    }
}

/// What `sessions kill` will do.
fn of_kill(which: &Which, doc: &SessionsDoc) -> Result<String, Failure> {
    let count = doc.sessions.len() as u64 + doc.left_out;
    match doc.sessions.as_slice() {
        [] => Err(Failure::Refused(format!("there is no session of {which}"))),
        [one] => Ok(format!("This resets {}.", text::session(one))),
        [..] => Ok(format!("This resets the {count} sessions of {which}.")),
    }
}
