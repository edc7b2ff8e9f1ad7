//! Static records: a master file (RFC 1035, section 5), read by hickory.

mod words;

use super::rrset::{RrSet, encode};
use super::{Soa, Zone, show_type};
use crate::name::{self, Wire};
use crate::update::MAX_SET;
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, RecordSet, RecordType, RrKey};
use hickory_proto::serialize::txt::Parser;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vipd_config::dnsd;

/// The TTL of the NS record that is made up when the file has none.
const NS_TTL: u32 = 3600;
/// When a secondary looks, looks again, and gives up, unless the file says.
const TIMERS: (u32, u32, u32) = (300, 60, 604_800);

/// What is wrong with a master file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: error: cannot read the file: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: error: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line on which the entry begins, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// A zone as its settings and its file say, without what updates changed. Its
/// serial is the file's, or 0.
///
/// # Errors
///
/// The first thing that is wrong with the file.
pub fn load(settings: &dnsd::Zone) -> Result<Zone, FileError> {
    let origin = name::from_text(&settings.name);
    let records = match &settings.file {
        Some(path) => read_apart(path, &origin)?,
        None => BTreeMap::new(),
    };
    let mut soa = Soa {
        primary: name::from_text(&settings.primary_ns),
        contact: name::from_text(&settings.contact),
        refresh: TIMERS.0,
        retry: TIMERS.1,
        expire: TIMERS.2,
        minimum: settings.negative_ttl,
    };
    let mut serial = 0;
    let apex = LowerName::new(&name::to_name(&origin));
    let written = records.get(&RrKey::new(apex, RecordType::SOA));
    let written = written.and_then(|set| set.records_without_rrsigs().next()).map(|record| &record.data);
    if let Some(RData::SOA(own)) = written {
        serial = own.serial;
        let seconds = |seconds: i32| u32::try_from(seconds).unwrap_or(0);
        (soa.refresh, soa.retry, soa.expire) =
            (seconds(own.refresh), seconds(own.retry), seconds(own.expire));
    }
    let ns = RrSet::new(2, NS_TTL, [&soa.primary]);
    let mut zone = Zone::new(origin.clone(), soa, serial);
    zone.put(&origin, 2, ns);
    for (key, set) in &records {
        if key.record_type != RecordType::SOA {
            zone.put(&name::of(&key.name), key.record_type.into(), to_set(set));
        }
    }
    Ok(zone)
}

fn to_set(set: &RecordSet) -> Option<RrSet> {
    let data = set.records_without_rrsigs().filter_map(|record| encode(&record.data));
    RrSet::new(set.record_type().into(), set.ttl(), data)
}

type Records = BTreeMap<RrKey, RecordSet>;

/// Reads a file on a thread of its own. What hickory makes of it takes several
/// times the room that the zone does, and lies in that thread's part of the
/// heap, which goes back to the system as a whole when it is free again.
fn read_apart(path: &Path, origin: &Wire) -> Result<Records, FileError> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(path, origin));
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn read(path: &Path, origin: &Wire) -> Result<Records, FileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.into(), source })?;
    let origin = name::to_name(origin);
    let entries = entries(&text);
    let of = |index: usize| {
        let begin = index.checked_sub(1).map_or(0, |before: usize| entries[before].end);
        text.get(begin..entries[index].end).unwrap_or_default()
    };
    let wrong = |index: usize, message| {
        Err(FileError::Wrong { path: path.into(), line: entries[index].line, message })
    };
    let Ok(records) = parse(&text, path, &origin) else {
        // hickory does not tell where. The shortest beginning of the file that
        // is wrong ends with the entry that is.
        let judge = |count: usize| parse(text.get(..entries[count].end).unwrap_or(&text), path, &origin);
        let (mut good, mut bad) = (0, entries.len() - 1);
        while good < bad {
            let middle = usize::midpoint(good, bad);
            match judge(middle) {
                Ok(_) => good = middle + 1,
                Err(_) => bad = middle,
            }
        }
        let message = judge(bad).err().unwrap_or_else(|| "something is wrong with the file".into());
        return wrong(bad, words::of_generic(of(bad)).unwrap_or(message));
    };
    // hickory takes no notice of what follows a record's data.
    let more = (0..entries.len()).find_map(|index| Some((index, words::superfluous(of(index))?)));
    more.map_or(Ok(records), |(index, message)| wrong(index, message))
}

/// Reads a text and judges its records.
fn parse(text: &str, path: &Path, origin: &Name) -> Result<Records, String> {
    let parser = Parser::new(text, Some(path.into()), Some(origin.clone()));
    let (_, records) = parser.parse().map_err(|error| words::of(&error.to_string()))?;
    for (key, set) in &records {
        let owner = Name::from(&key.name);
        let rtype = key.record_type;
        if !origin.zone_of(&owner) {
            return Err(format!("{owner} is not in the zone {origin}: a name without a dot at the end is"));
        }
        if set.dns_class() != DNSClass::IN {
            return Err(format!("{owner} {rtype}: its class is {}, not IN", set.dns_class()));
        }
        if rtype == RecordType::SOA && owner != *origin {
            return Err(format!("{owner} has a SOA record: only {origin} can"));
        }
        let alone = |other: &RrKey| other.name != key.name || other.record_type == RecordType::CNAME;
        if rtype == RecordType::CNAME && !neighbours(&records, key).all(alone) {
            return Err(format!("{owner} has a CNAME record and others: an alias has nothing else"));
        }
        if set.records_without_rrsigs().any(|record| encode(&record.data).is_none()) {
            return Err(format!("{owner} {} cannot be encoded", show_type(rtype.into())));
        }
        if to_set(set).is_some_and(|set| set.wire().len() > MAX_SET) {
            return Err(format!("{owner} {rtype}: the records take more than {MAX_SET} bytes"));
        }
    }
    Ok(records)
}

/// The sets of the same name.
fn neighbours<'r>(records: &'r Records, key: &RrKey) -> impl Iterator<Item = &'r RrKey> {
    let name = key.name.clone();
    let first = RrKey::new(name.clone(), RecordType::from(0));
    records.range(first..).map(|(key, _)| key).take_while(move |other| other.name == name)
}

/// Where an entry begins and ends.
struct Entry {
    line: usize,
    end: usize,
}

/// The entries of a master file: lines, but for those in parentheses or quotes.
fn entries(text: &str) -> Vec<Entry> {
    let (mut entries, mut line, mut begun) = (Vec::new(), 1, 1);
    let (mut depth, mut quoted, mut comment, mut escaped) = (0_usize, false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\n' => {
                comment = false;
                line += 1;
                if depth == 0 && !quoted {
                    entries.push(Entry { line: begun, end: at + 1 });
                    begun = line;
                }
            }
            _ if comment => {}
            _ if escaped => {}
            b'"' => quoted = !quoted,
            b';' if !quoted => comment = true,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
    }
    entries.push(Entry { line: begun, end: text.len() });
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Found;
    use std::time::Duration;

    fn settings(file: Option<&Path>) -> dnsd::Zone {
        dnsd::Zone {
            name: "corp.example.".into(),
            primary_ns: "ns1.corp.example.".into(),
            contact: "hostmaster.corp.example.".into(),
            negative_ttl: 5,
            file: file.map(Into::into),
            allow_transfer: vec![],
            notify: vec![],
            min_lease: Duration::from_secs(30),
            max_lease: Duration::from_secs(3600),
            expire_last: false,
        }
    }

    fn load_text(text: &str) -> Result<Zone, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zone");
        std::fs::write(&path, text).unwrap();
        load(&settings(Some(&path))).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn a_zone_without_a_file_has_a_soa_and_a_name_server() {
        let zone = load(&settings(None)).unwrap();
        assert!(matches!(zone.find(zone.origin(), 2), Found::Set(set) if set.len() == 1));
        assert!(matches!(zone.find(zone.origin(), 6), Found::Set(set) if set.ttl() == 5));
    }

    #[test]
    fn records_of_many_kinds() {
        let zone = load_text(
            "$TTL 60\n@ SOA ns1 hostmaster (\n 2026112001 ; serial\n 7200 600 86400 300 )\n\
             @ NS ns1\n NS ns2.other.example.\nns1 A 10.77.0.11\n\
             db 5 A 10.77.0.11\ndb 5 A 10.77.0.12\ndb AAAA fd77::11\nwww CNAME db\n\
             txt TXT \"a ; b\" \"c\"\n_db._tcp SRV 0 0 3306 db\n@ MX 10 mail\n",
        )
        .unwrap();
        assert_eq!(zone.serial(), 2_026_112_001);
        let find = |name: &str, rtype| zone.get(&name::from_text(name), rtype).map_or(0, RrSet::len);
        assert_eq!(find("corp.example.", 2), 2, "the file's name servers and no other");
        assert_eq!(find("db.corp.example.", 1), 2);
        assert_eq!(find("txt.corp.example.", 16), 1);
        assert_eq!(find("_db._tcp.corp.example.", 33), 1);
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, about) in [
            ("$TTL 60\na A 10.0.0.1\nb A 10.0.0.256\nc A 10.0.0.1\n", 3, "address"),
            ("$TTL 60\n\n; comment\na AX 10.0.0.1\n", 4, "AX"),
            ("a A 10.0.0.1\n", 1, "$TTL"),
            ("$TTL 60\na.other.example. A 10.0.0.1\n", 2, "is not in the zone"),
            ("$TTL 60\na A 10.0.0.1\na CNAME b\nc A 10.0.0.1\n", 3, "alias"),
            ("$TTL 60\n@ SOA ns1 host (\n1 2 3\n4 5\nb A 10.0.0.1\n", 2, "list"),
            ("$TTL 60\nb TXT \"x\nc A 10.0.0.1\n", 2, ""),
            ("$TTL 60\nsub SOA ns1 host 1 2 3 4 5\n", 2, "only"),
            ("$TTL 60\na DNAME b\n", 2, "records of the type DNAME are not supported"),
            ("$TTL 60\na A 10.0.0.1\nb TYPE65280 \\# 3 010203\n", 3, "RFC 3597"),
            ("$TTL 60\nb A \\# 4 0a000001\nc A 10.0.0.1\n", 2, "RFC 3597"),
            ("$TTL 60\nb MX 10\n", 2, "the record's data end before the exchange"),
            ("$TTL 60\nb (x) A 10.0.0.1\n", 2, "\"x\" does not belong there"),
            ("$TTL 60\nb NOTYPE 10.0.0.1\n", 2, "there is no type NOTYPE"),
            ("$TTL 60\na A 10.0.0.1 ; one\nb 5 IN A 10.0.0.1 10.0.0.2\n", 3, "\"10.0.0.2\" is too much"),
        ] {
            let error = load_text(text).unwrap_err();
            assert!(error.starts_with(&format!("/zone:{line}: error: ")), "{text:?}: {error}");
            assert!(error.contains(about), "{text:?}: {error}");
        }
        assert!(load(&settings(Some(Path::new("/nonexistent/zone")))).is_err());
    }
}
