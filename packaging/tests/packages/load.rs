//! A database that repeats what it is told, and a client that asks it without end.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More than the kernel's first repeat of a lost SYN.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two connections.
const PACE: Duration = Duration::from_millis(5);

/// Serves on an address for as long as the process lives.
pub(crate) fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&client, &client);
                io::copy(&mut from, &mut to)
            });
        }
    });
    Ok(())
}

/// Connects, says a word and hears it again.
pub(crate) fn ask(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream =
        TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| Failure::Refused(e.to_string()))?;
    talk(&stream).map_err(|e| Failure::Cut(e.to_string()))?;
    Ok(stream)
}

/// Says a word on a connection and hears it again.
pub(crate) fn talk(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"word")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)
}

/// What became of a connection that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It did not come about: refused, or nobody answered.
    #[error("refused: {0}")]
    Refused(String),
    /// It was there, and ended before the answer.
    #[error("cut: {0}")]
    Cut(String),
}

/// What clients noticed.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    pub(crate) good: usize,
    pub(crate) failures: Vec<Failure>,
    /// Between two answers.
    pub(crate) longest: Duration,
}

impl Notice {
    pub(crate) fn refused(&self) -> usize {
        self.failures.iter().filter(|f| matches!(f, Failure::Refused(_))).count()
    }
}

/// A client at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    notice: Arc<Mutex<Notice>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn on(address: SocketAddr) -> Self {
        let (stop, notice) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Notice>>::default());
        let thread = std::thread::spawn({
            let (stop, notice) = (Arc::clone(&stop), Arc::clone(&notice));
            move || {
                let mut last = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let result = ask(address);
                    let mut notice = notice.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(_) => {
                            notice.good += 1;
                            notice.longest = notice.longest.max(last.elapsed());
                            last = Instant::now();
                        }
                        Err(failure) => notice.failures.push(failure),
                    }
                    drop(notice);
                    std::thread::sleep(PACE);
                }
            }
        });
        Self { stop, notice, thread: Some(thread) }
    }

    /// Answers that were heard until now.
    pub(crate) fn good(&self) -> usize {
        self.notice.lock().unwrap_or_else(PoisonError::into_inner).good
    }

    /// Ends, and tells what was noticed.
    pub(crate) fn end(mut self) -> Notice {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        std::mem::take(&mut *self.notice.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
