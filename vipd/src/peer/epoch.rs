//! Which run of a node this is: a number that rises with every start.

use ring::rand::{SecureRandom as _, SystemRandom};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use tracing::warn;

/// The file in the state directory that holds the last run's number.
const FILE: &str = "epoch";

/// The number of this run, kept in the state directory before it is used.
///
/// Where it cannot be kept the number is random: the other nodes then believe
/// it by the peer link only.
#[must_use]
pub fn begin(state_dir: &Path) -> u32 {
    next(state_dir).unwrap_or_else(|error| {
        warn!(
            "cannot keep the number of this run in {}: {error}; other nodes believe this one's adverts only while the \
             peer link works: make the directory, or name another with --state-dir",
            state_dir.display()
        );
        random()
    })
}

/// Tells the messages of this run from those of every other: by the run's
/// number, where one is kept, so that two runs of a host cannot be taken for
/// one within 65,536 starts; and by chance, for two hosts that run as one node.
#[must_use]
pub fn run(number: Option<u32>) -> u32 {
    number.map_or_else(random, |number| number << 16 | random() >> 16)
}

fn next(state_dir: &Path) -> io::Result<u32> {
    fs::create_dir_all(state_dir)?;
    let path = state_dir.join(FILE);
    let last = match fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().parse::<u32>().map_err(|_| io::Error::other(format!("{FILE} holds no number")))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let this =
        last.checked_add(1).ok_or_else(|| io::Error::other(format!("{FILE} is at its end: remove it")))?;
    keep(state_dir, FILE, &format!("{this}\n"))?;
    Ok(this)
}

/// Replaces a file of the state directory, whole or not at all, on disk when it returns.
pub(super) fn keep(state_dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = state_dir.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, state_dir.join(name))?;
    File::open(state_dir)?.sync_all()
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_with_every_start() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let state = dir.path().join("state");
        assert_eq!([begin(&state), begin(&state), begin(&state)], [1, 2, 3]);
        // A start that was cut short changes nothing.
        fs::write(state.join("epoch.new"), "9")?;
        assert_eq!(begin(&state), 4);
        Ok(())
    }

    #[test]
    fn no_two_runs_have_the_same_mark_by_chance() {
        let marks: std::collections::BTreeSet<u32> = (0..65_536).map(|n| run(Some(n))).collect();
        assert_eq!(marks.len(), 65_536);
        assert_ne!(run(None), run(None));
    }

    #[test]
    fn without_a_place_for_it_two_runs_still_differ() {
        let nowhere = Path::new("/proc/nowhere");
        assert_ne!(begin(nowhere), begin(nowhere));
    }
}
