//! The list of addresses that are held now, in a file: what an earlier run
//! left is known by it where the kernel keeps no tags (before Linux 5.18). It
//! says in which network namespace they are, too.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use vipd_core::settings::Cidr;

/// The name of the file in the runtime directory: a line with the network
/// namespace, and lines of `interface address/prefix`; empty if nothing is held.
const FILE: &str = "held";
/// What the kernel calls the network namespace of this thread: `net:[4026531840]`.
/// No interface may be called so.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
const NAMESPACE_IS: &str = "net:[";

/// An interface's name, and an address on it.
pub(super) type Held = BTreeSet<(String, Cidr)>;

/// What the file lists; nothing if there is none.
pub(super) fn read(runtime_dir: &Path) -> io::Result<Held> {
    Ok(text(runtime_dir)?.lines().filter_map(line).collect())
}

/// The network namespace that the list was written in, if that is another than
/// this thread's. A list that does not say so is taken for one of this.
pub(super) fn elsewhere(runtime_dir: &Path) -> io::Result<Option<String>> {
    let text = text(runtime_dir)?;
    let written = text.lines().find(|line| line.starts_with(NAMESPACE_IS));
    Ok(written.filter(|written| here().is_some_and(|here| here != *written)).map(ToOwned::to_owned))
}

/// Writes the file anew.
pub(super) fn write(runtime_dir: &Path, held: &Held) -> io::Result<()> {
    let namespace = here().filter(|_| !held.is_empty()).map(|here| format!("{here}\n"));
    let lines = held.iter().map(|(interface, address)| format!("{interface} {address}\n"));
    overwrite(&runtime_dir.join(FILE), &namespace.into_iter().chain(lines).collect::<String>())
}

/// Nothing is held any more.
///
/// # Errors
///
/// If the file cannot be written.
pub fn forget(runtime_dir: &Path) -> io::Result<()> {
    write(runtime_dir, &Held::new())
}

/// Overwrites a file in place. Replacing it by another, or emptying it first,
/// makes some file systems wait for the disk, and adverts would wait with
/// them; what a power failure spoils is of no use after it.
pub(super) fn overwrite(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).create(true).truncate(false).open(file)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn text(runtime_dir: &Path) -> io::Result<String> {
    match fs::read_to_string(runtime_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn here() -> Option<String> {
    fs::read_link(NAMESPACE).ok()?.into_os_string().into_string().ok()
}

fn line(line: &str) -> Option<(String, Cidr)> {
    let (interface, address) = line.split_once(' ')?;
    let (address, prefix) = address.split_once('/')?;
    let address = Cidr::new(address.parse().ok()?, prefix.parse().ok()?)?;
    Some((interface.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        assert_eq!(read(dir.path())?, Held::new());
        let address =
            |text: &str, prefix| Ok::<_, std::net::AddrParseError>(Cidr::new(text.parse()?, prefix));
        let mut held = Held::new();
        held.extend(address("10.77.0.100", 24)?.map(|a| ("eth0.7".to_owned(), a)));
        held.extend(address("fd77::100", 128)?.map(|a| ("lo".to_owned(), a)));
        assert_eq!(held.len(), 2);
        write(dir.path(), &held)?;
        assert_eq!((read(dir.path())?, elsewhere(dir.path())?), (held, None));
        fs::write(dir.path().join(FILE), "lo\nlo 1/2\nlo ::1/129\neth0.7 10.77.0.100/24\n")?;
        assert_eq!((read(dir.path())?.len(), elsewhere(dir.path())?), (1, None));
        fs::write(dir.path().join(FILE), "net:[1]\neth0.7 10.77.0.100/24\n")?;
        assert_eq!((read(dir.path())?.len(), elsewhere(dir.path())?), (1, Some("net:[1]".to_owned())));
        forget(dir.path())?;
        assert_eq!(fs::read_to_string(dir.path().join(FILE))?, "");
        Ok(())
    }
}
