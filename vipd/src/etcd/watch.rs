//! Watches the keys: a backup learns at once of every renewal, from which its
//! wait counts, and of what is given back.

use super::client::{Client, parse};
use super::key::Watched;
use super::member::Stream;
use super::{Failure, News};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// How long to wait after a watch that failed.
const PAUSE: Duration = Duration::from_millis(250);
/// No line of a watch is longer: it tells of changes, each of a few hundred bytes.
const MAX_LINE: usize = 1 << 20;

/// A line, as the gateway wraps it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    result: Watched,
    error: Option<Problem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    message: String,
}

/// A watch's lines.
struct Lines {
    stream: Stream,
    read: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Watched, Failure> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return judge(parse(&line)?);
            }
            if self.read.len() > MAX_LINE {
                return Err(Failure::Answer("a line of the watch does not end".to_owned()));
            }
            match self.stream.body.frame().await {
                None => return Err(Failure::Http("it ended the watch".to_owned())),
                Some(Err(error)) => return Err(Failure::Http(super::words(&error))),
                Some(Ok(frame)) => self.read.extend(frame.into_data().unwrap_or_default()),
            }
        }
    }
}

fn judge(line: Line) -> Result<Watched, Failure> {
    match line {
        Line { error: Some(problem), .. } => Err(Failure::Refused(problem.message)),
        Line { result, .. } if result.canceled => Err(Failure::Refused(result.cancel_reason)),
        Line { result, error: None } => Ok(result),
    }
}

/// Watches for as long as somebody listens.
pub(super) async fn watch(client: Arc<Client>, news: mpsc::Sender<News>) {
    let mut member = client.preferred();
    while !news.is_closed() {
        match follow(&client, member, &news).await {
            // Nothing has changed for a lease: nobody owns, or it hangs.
            Ok(()) => member = client.after(member),
            Err(failure) => {
                debug!(%failure, "a watch of etcd's keys has ended");
                sleep(PAUSE).await;
                // If nobody answers, the node is told; a backup wants nothing else of etcd.
                client.range().await;
                member = if member == client.preferred() { client.after(member) } else { client.preferred() };
            }
        }
    }
}

/// Watches at one member until nothing comes for a lease.
async fn follow(client: &Client, member: usize, news: &mpsc::Sender<News>) -> Result<(), Failure> {
    let silent = |_| Failure::Silent(client.lease);
    let stream = timeout(client.lease, client.watch(member)).await.map_err(silent)??;
    let mut lines = Lines { stream, read: vec![] };
    let created = timeout(client.lease, lines.next()).await.map_err(silent)??;
    client.same_cluster(created.header.cluster_id)?;
    // What was changed before the watch began.
    for (vrid, sight) in client.range().await {
        let _ = news.send(News::Changed(vrid, sight)).await;
    }
    while let Ok(watched) = timeout(client.lease, lines.next()).await {
        for change in watched?.events {
            let Some((vrid, found)) = client.keys.changed(change) else { continue };
            if let Some(sight) = client.usable(vrid, found) {
                let _ = news.send(News::Changed(vrid, sight)).await;
            }
        }
    }
    Ok(())
}
