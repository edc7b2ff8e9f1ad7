//! The log: whoever logs leaves a line in a queue, and a thread of its own
//! writes it to standard error.
//!
//! Nobody who logs may wait for whoever reads. Behind a pipe that is full,
//! workers would stop relaying, and the loop sending adverts.

mod journal;

use clap::ValueEnum;
use jiff::Timestamp;
use journal::Journal;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as answer;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::Metadata;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use vipd_balancer::ACCESS_LOG;

/// Lines that may wait to be written, two megabytes or so: what a busy access
/// log writes in a second. Those beyond are counted and lost.
const LINES: usize = 8192;

/// Places among them that lines of the access log leave to all others.
const NOT_FOR_ACCESS: usize = 1024;

/// Lines that are written at once.
const AT_ONCE: usize = 64;

/// Time for the last lines at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// To the journal with fields where standard error is the journal, else as text.
    #[default]
    Auto,
    /// Lines of text on standard error.
    Text,
    /// An object a line on standard error.
    Json,
    /// Entries with fields in systemd's journal.
    Journal,
}

/// Opens the log of this process, at the level in `VIPD_LOG`.
///
/// # Errors
/// No thread can be had, or the journal was asked for and does not listen.
pub(crate) fn open(format: LogFormat) -> io::Result<Flush> {
    let asked = std::env::var("VIPD_LOG").unwrap_or_default();
    let filter = levels(&asked);
    let journal = match format {
        LogFormat::Auto if Journal::is_stderr() => Journal::open().ok(),
        LogFormat::Journal => Some(Journal::open()?),
        LogFormat::Auto | LogFormat::Text | LogFormat::Json => None,
    };
    let json = format == LogFormat::Json || journal.is_some();
    let log = match journal {
        Some(journal) => Log::new(journal)?,
        None => Log::new(io::stderr())?,
    };
    let flush = Flush(log.queue.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(log);
    let subscriber = tracing_subscriber::registry().with(filter.clone().unwrap_or_else(info));
    // A second subscriber in one process (tests) is no harm.
    let _ = if json {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        subscriber.with(lines).try_init()
    } else {
        // Colours would be in the way of whoever searches a file.
        subscriber.with(lines.with_ansi(io::stderr().is_terminal())).try_init()
    };
    if filter.is_none() {
        tracing::warn!(
            "VIPD_LOG={asked} is not understood: write a level, such as debug, or info,access=off"
        );
    }
    Ok(flush)
}

fn info() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}

/// What `VIPD_LOG` asks for: info where it does not say; none if it is no such list.
fn levels(asked: &str) -> Option<Targets> {
    if asked.is_empty() {
        return Some(info());
    }
    let levels: Targets = asked.parse().ok()?;
    if levels.default_level().is_some() {
        return Some(levels);
    }
    // A word alone is no level, but may be meant as one: nobody turns the whole log off by a slip.
    asked.split(',').all(|one| one.contains('=')).then(|| levels.with_default(LevelFilter::INFO))
}

/// Waits, when dropped, until what was logged is written, but not for long.
#[derive(Debug)]
pub(crate) struct Flush(mpsc::Sender<Message>);

impl Drop for Flush {
    fn drop(&mut self) {
        let (written, wait) = answer::channel();
        // If the queue is full, nobody reads, and nobody will.
        if self.0.try_send(Message::Flush(written)).is_ok() {
            let _ = wait.recv_timeout(FAREWELL);
        }
    }
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(answer::Sender<()>),
}

/// The queue's near end.
#[derive(Clone, Debug)]
struct Log {
    queue: mpsc::Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl Log {
    fn new(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { lines, lost: Arc::clone(&lost), out };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { queue, lost })
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, leaves: 0 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { log: self, leaves: if meta.target() == ACCESS_LOG { NOT_FOR_ACCESS } else { 0 } }
    }
}

/// Takes a line, which comes in one piece.
struct Line<'a> {
    log: &'a Log,
    /// Places that it leaves to others.
    leaves: usize,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Log { queue, lost } = self.log;
        let room = queue.capacity() > self.leaves;
        if !room || queue.try_send(Message::Line(line.to_vec())).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue's far end.
struct Writer<W> {
    lines: mpsc::Receiver<Message>,
    lost: Arc<AtomicU64>,
    out: W,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        let (mut messages, mut bytes, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
        while self.lines.blocking_recv_many(&mut messages, AT_ONCE) > 0 {
            for message in messages.drain(..) {
                match message {
                    Message::Line(line) => bytes.extend_from_slice(&line),
                    Message::Flush(written) => flushed.push(written),
                }
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                bytes.extend_from_slice(lost_line(lost).as_bytes());
            }
            // Nothing can be told of a log that cannot be written.
            let _ = self.out.write_all(&bytes).and_then(|()| self.out.flush());
            bytes.clear();
            for written in flushed.drain(..) {
                let _ = written.send(());
            }
        }
    }
}

/// It does not go through the queue: that was full.
fn lost_line(lost: u64) -> String {
    let (now, module) = (Timestamp::now(), module_path!());
    format!(
        "{now:.6}  WARN {module}: {lost} lines of the log were lost: they came faster than they are read\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// Takes nothing until it is let.
    struct Slow {
        gate: answer::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Open for good when the other end is gone.
            let _ = self.gate.recv();
            self.written.lock().map_err(|_| io::ErrorKind::Other)?.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_costs_lines_and_no_time() -> Outcome {
        let (open, gate) = answer::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Log::new(Slow { gate, written: Arc::clone(&written) })?;
        let flush = Flush(log.queue.clone());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log).finish();
        // None of these returns if one waits: the gate is closed.
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..2 * LINES {
                tracing::info!(target: ACCESS_LOG, n, "a session");
            }
            for n in 0..NOT_FOR_ACCESS / 2 {
                tracing::info!(n, "something else");
            }
        });
        drop(open);
        drop(flush);
        let text = String::from_utf8(written.lock().map_err(|e| e.to_string())?.clone())?;
        let lines = |with: &str| text.lines().filter(|l| l.contains(with)).count();
        assert_eq!(lines("something else"), NOT_FOR_ACCESS / 2, "the access log displaced them");
        let sessions = lines("a session");
        // Those that the writer had taken before the gate was closed are beyond the queue.
        assert!(
            (LINES - NOT_FOR_ACCESS..=LINES - NOT_FOR_ACCESS + AT_ONCE).contains(&sessions),
            "{sessions}"
        );
        let told =
            text.lines().filter_map(|l| l.split_once(" lines of the log were lost")?.0.rsplit(' ').next());
        let lost: usize = told.map(str::parse::<usize>).sum::<Result<_, _>>()?;
        assert_eq!(sessions + lost, 2 * LINES);
        Ok(())
    }

    #[test]
    fn a_slip_in_the_level_does_not_turn_the_log_off() {
        let default = |asked| levels(asked).and_then(|levels| levels.default_level());
        assert_eq!(default(""), Some(LevelFilter::INFO));
        assert_eq!(default("debug"), Some(LevelFilter::DEBUG));
        assert_eq!(default("off"), Some(LevelFilter::OFF));
        assert_eq!(default("warn,access=info"), Some(LevelFilter::WARN));
        // The rest is told as ever.
        assert_eq!(default("vipd::check=debug"), Some(LevelFilter::INFO));
        for slip in ["degub", "info,access=of", "a=b=c"] {
            assert_eq!(default(slip), None, "{slip}");
        }
        let levels = levels("info,access=off").unwrap_or_default();
        assert!(!levels.would_enable(ACCESS_LOG, &tracing::Level::INFO));
        assert!(levels.would_enable("vipd::shell", &tracing::Level::INFO));
    }

    #[test]
    fn the_end_waits_for_the_last_line() -> Outcome {
        let (open, gate) = answer::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Log::new(Slow { gate, written: Arc::clone(&written) })?;
        let flush = Flush(log.queue.clone());
        log.make_writer().write_all(b"the last\n")?;
        open.send(())?;
        drop(flush);
        assert_eq!(written.lock().map_err(|e| e.to_string())?.as_slice(), b"the last\n");
        Ok(())
    }
}
