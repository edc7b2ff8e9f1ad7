//! The list of addresses that are held now, in a file: what an earlier run
//! left is known by it where the kernel keeps no tags (before Linux 5.18).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use vipd_core::settings::Cidr;

/// The name of the file in the runtime directory: lines of `interface address/prefix`.
const FILE: &str = "held";

/// An interface's name, and an address on it.
pub(super) type Held = BTreeSet<(String, Cidr)>;

/// What the file lists; nothing if there is none.
pub(super) fn read(runtime_dir: &Path) -> io::Result<Held> {
    match fs::read_to_string(runtime_dir.join(FILE)) {
        Ok(text) => Ok(text.lines().filter_map(line).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Held::new()),
        Err(error) => Err(error),
    }
}

/// Writes the file anew.
pub(super) fn write(runtime_dir: &Path, held: &Held) -> io::Result<()> {
    let lines: String = held.iter().map(|(interface, address)| format!("{interface} {address}\n")).collect();
    overwrite(&runtime_dir.join(FILE), &lines)
}

/// Overwrites a file in place. Replacing it by another, or emptying it first,
/// makes some file systems wait for the disk, and adverts would wait with
/// them; what a power failure spoils is of no use after it.
pub(super) fn overwrite(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).create(true).truncate(false).open(file)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
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
        assert_eq!(read(dir.path())?, held);
        fs::write(dir.path().join(FILE), "lo\nlo 1/2\nlo ::1/129\neth0.7 10.77.0.100/24\n")?;
        assert_eq!(read(dir.path())?.len(), 1);
        Ok(())
    }
}
