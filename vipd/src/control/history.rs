//! Events that survive a restart: a bounded file in the state directory.
//!
//! A thread of its own writes it, so that no slow disk holds anybody up. A
//! line is an event; the file is rewritten with the newest when it has grown
//! to twice their number.

use super::api::EventDoc;
use super::events::KEPT;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The file in the state directory.
const FILE: &str = "events.jsonl";
/// Lines in the file before it is cut to the newest [`KEPT`].
const MAX_LINES: usize = 2 * KEPT;
/// Bytes that are read of a file at the start: that many lines, each at its longest.
const MAX_BYTES: u64 = 8 << 20;
/// Events that wait for the disk. Beyond it they are not kept.
const WAITING: usize = 1024;

/// Where events are kept.
#[derive(Debug)]
pub(super) struct Keeper(SyncSender<Arc<EventDoc>>);

impl Keeper {
    /// Keeps an event, unless the disk is far behind.
    pub(super) fn keep(&self, event: &Arc<EventDoc>) {
        match self.0.try_send(Arc::clone(event)) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// The events of earlier runs, oldest first, and who keeps those to come.
///
/// # Errors
/// The directory cannot be made, or the file cannot be opened.
pub(super) fn open(dir: &Path) -> io::Result<(Vec<EventDoc>, Keeper)> {
    fs::create_dir_all(dir)?;
    let path = dir.join(FILE);
    let events = read(&path)?;
    // Also rids the file of what a power cut left in the middle of a line. On a full
    // disk the file stays, and is written anew as soon as there is room.
    let (file, lines) = match rewrite(&path, &events) {
        Ok(file) => (file, events.len()),
        Err(_) => (OpenOptions::new().append(true).create(true).open(&path)?, MAX_LINES),
    };
    let (sender, receiver) = sync_channel(WAITING);
    let writer = Writer { path, file, recent: events.iter().cloned().map(Arc::new).collect(), lines };
    std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run(&receiver))?;
    Ok((events, Keeper(sender)))
}

/// The newest events of a file; lines that are none are left out.
fn read(path: &Path) -> io::Result<Vec<EventDoc>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let mut events: Vec<EventDoc> =
        bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    events.drain(..events.len().saturating_sub(KEPT));
    Ok(events)
}

/// Replaces the file as a whole: at no time is there half of one.
fn rewrite<E: std::borrow::Borrow<EventDoc>>(path: &Path, events: &[E]) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    let mut text = Vec::new();
    for event in events {
        line(event.borrow(), &mut text)?;
    }
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(file)
}

fn line(event: &EventDoc, text: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *text, event)?;
    text.push(b'\n');
    Ok(())
}

struct Writer {
    path: PathBuf,
    file: File,
    recent: std::collections::VecDeque<Arc<EventDoc>>,
    lines: usize,
}

impl Writer {
    /// Until the last sender is gone.
    fn run(mut self, events: &Receiver<Arc<EventDoc>>) {
        let mut failed = false;
        for event in events {
            if self.recent.len() == KEPT {
                self.recent.pop_front();
            }
            self.recent.push_back(event);
            match self.write() {
                Ok(()) => failed = false,
                Err(error) => {
                    // As soon as there is room all are written anew: what is missing now, too,
                    // and no half of a line stays.
                    self.lines = MAX_LINES;
                    if !failed {
                        tracing::warn!(%error, file = %self.path.display(), "events are not kept across a restart");
                    }
                    failed = true;
                }
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.lines >= MAX_LINES {
            self.file = rewrite(&self.path, self.recent.make_contiguous())?;
            self.lines = self.recent.len();
            return Ok(());
        }
        let Some(event) = self.recent.back() else { return Ok(()) };
        let mut text = Vec::new();
        line(event, &mut text)?;
        self.lines += 1;
        self.file.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{Event, EventKind, Level};
    use super::*;
    use jiff::Timestamp;

    fn event(seq: u64) -> Arc<EventDoc> {
        let event = Event::new(Level::Info, EventKind::Vip, format!("event {seq}")).vip("main");
        Arc::new(EventDoc { seq, time: Timestamp::UNIX_EPOCH, event })
    }

    /// Waits until the thread has written all: it ends with its last sender.
    fn written(dir: &Path, wanted: u64) -> Vec<EventDoc> {
        loop {
            let events = read(&dir.join(FILE)).expect("readable");
            if events.last().is_some_and(|e| e.seq == wanted) {
                return events;
            }
            std::thread::yield_now();
        }
    }

    /// As on a disk that is full at the start: the new file cannot be made.
    #[test]
    fn what_cannot_be_written_anew_is_read_all_the_same_and_kept_later() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (_, keeper) = open(dir.path()).expect("a place");
        keeper.keep(&event(1));
        assert_eq!(written(dir.path(), 1).len(), 1);
        drop(keeper);
        let blocked = dir.path().join(FILE).with_extension("new");
        fs::create_dir(&blocked).expect("a directory in its way");
        let (before, keeper) = open(dir.path()).expect("a place");
        assert_eq!(before.iter().map(|e| e.seq).collect::<Vec<_>>(), [1]);
        fs::remove_dir(&blocked).expect("out of its way");
        keeper.keep(&event(2));
        assert_eq!(written(dir.path(), 2).len(), 2);
    }

    #[test]
    fn the_newest_events_survive() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (before, keeper) = open(dir.path()).expect("a place");
        assert_eq!(before, []);
        for seq in 1..=3 {
            keeper.keep(&event(seq));
        }
        drop(keeper);
        assert_eq!(written(dir.path(), 3).len(), 3);
        // A power cut in the middle of a line, and a line of a later version.
        let path = dir.path().join(FILE);
        let mut text = fs::read(&path).expect("readable");
        text.extend_from_slice(b"{\"seq\":4,\"ti");
        fs::write(&path, text).expect("ours");
        let (before, _keeper) = open(dir.path()).expect("a place");
        assert_eq!(before.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn what_a_full_disk_refused_is_kept_when_there_is_room() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let writer = Writer {
            path: dir.path().join(FILE),
            file: File::options().write(true).open("/dev/full").expect("Linux"),
            recent: std::collections::VecDeque::new(),
            lines: 0,
        };
        let (sender, receiver) = sync_channel(WAITING);
        for seq in 1..=3 {
            sender.send(event(seq)).expect("read");
        }
        drop(sender);
        // The first meets the full disk; by the second there is room.
        writer.run(&receiver);
        let kept = read(&dir.path().join(FILE)).expect("readable");
        assert_eq!(kept.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn the_file_is_bounded() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (_, file) = open(dir.path()).map(|_| ((), dir.path().join(FILE))).expect("a place");
        let mut writer = Writer {
            path: file.clone(),
            file: File::create(&file).expect("ours"),
            recent: std::collections::VecDeque::new(),
            lines: 0,
        };
        for seq in 1..=MAX_LINES as u64 * 2 + 5 {
            if writer.recent.len() == KEPT {
                writer.recent.pop_front();
            }
            writer.recent.push_back(event(seq));
            writer.write().expect("written");
            assert!(writer.lines <= MAX_LINES);
        }
        let text = fs::read_to_string(&file).expect("readable");
        assert!(text.lines().count() <= MAX_LINES, "{}", text.lines().count());
        assert_eq!(read(&file).expect("readable").last().map(|e| e.seq), Some(MAX_LINES as u64 * 2 + 5));
    }
}
