//! Streams of which both ends know every byte, said and heard in pieces of any size.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// After this many bytes a stream repeats itself. It is a prime: nothing that
/// comes some buffers or pages too early or too late looks right.
const PERIOD: usize = 1_048_573;

/// The largest piece.
const LARGEST: usize = 300_000;

/// Numbers that look random, from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 1) as usize
    }

    /// Now and then, for long enough that buffers fill or drain.
    fn pause(&mut self) {
        if self.next().is_multiple_of(64) {
            std::thread::sleep(Duration::from_micros(self.next() as u64 % 5000));
        }
    }
}

/// Of a stream, the bytes of one period, and its beginning once more: any piece lies in it whole.
fn stream(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes: Vec<u8> = (0..PERIOD).map(|_| random.next() as u8).collect();
    bytes.extend_from_within(..LARGEST);
    bytes
}

/// Says `total` bytes in pieces of any size, sometimes after a pause, and then that it is all.
pub(crate) fn say(mut to: &TcpStream, seed: u64, total: usize) {
    let (stream, mut random) = (stream(seed), Random(!seed));
    let mut said = 0;
    while said < total {
        let largest = if random.next().is_multiple_of(3) { LARGEST } else { 1500 };
        let size = (random.next() % largest + 1).min(total - said);
        let at = said % PERIOD;
        to.write_all(&stream[at..at + size]).expect("is taken");
        said += size;
        random.pause();
    }
    to.shutdown(Shutdown::Write).expect("an open connection");
}

/// Hears the same until the end.
pub(crate) fn hear(mut from: &TcpStream, seed: u64, total: usize) {
    let (stream, mut random) = (stream(seed), Random(seed ^ 0xffff));
    let mut heard = 0;
    let mut buffer = vec![0; LARGEST];
    loop {
        let size = random.next() % buffer.len() + 1;
        let n = from.read(&mut buffer[..size]).expect("more");
        if n == 0 {
            break;
        }
        let at = heard % PERIOD;
        // Not assert_eq!, which would print them all.
        assert!(buffer[..n] == stream[at..at + n], "within {n} bytes from {heard} on");
        heard += n;
        random.pause();
    }
    assert_eq!(heard, total);
}

/// Says the one stream while it hears the other; each is a seed and a length.
pub(crate) fn both(stream: &TcpStream, mine: (u64, usize), theirs: (u64, usize)) {
    std::thread::scope(|s| {
        s.spawn(|| say(stream, mine.0, mine.1));
        hear(stream, theirs.0, theirs.1);
    });
}

/// The length of a long transfer each way: 1 GB, or `TRANSFER_MB` megabytes.
pub(crate) fn long() -> usize {
    let megabytes = std::env::var("TRANSFER_MB").ok().and_then(|mb| mb.parse::<usize>().ok());
    megabytes.unwrap_or(1000) * 1_000_000
}
