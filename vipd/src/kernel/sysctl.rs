//! Switches of `net.ipv4.conf` that are raised while addresses are held, and
//! their earlier values, which a file keeps so that they come back after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

const CONF: &str = "/proc/sys/net/ipv4/conf";
/// The name of the file in the runtime directory: lines of
/// `interface switch earlier-value raised-value`.
const FILE: &str = "sysctl";

/// A switch of an interface.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Switch {
    /// 1: no ARP answer on an interface for an address of another one.
    ArpIgnore,
    /// 2: never the floating address as the sender of an ARP request, which
    /// would tell the neighbour that it lives here.
    ArpAnnounce,
    /// 1: an address outlives the first address of its subnet, be that the
    /// host's own (and the floating one lives) or the reverse.
    PromoteSecondaries,
}

impl Switch {
    const ALL: [Self; 3] = [Self::ArpIgnore, Self::ArpAnnounce, Self::PromoteSecondaries];

    fn name(self) -> &'static str {
        match self {
            Self::ArpIgnore => "arp_ignore",
            Self::ArpAnnounce => "arp_announce",
            Self::PromoteSecondaries => "promote_secondaries",
        }
    }

    fn wanted(self) -> u32 {
        match self {
            Self::ArpIgnore | Self::PromoteSecondaries => 1,
            Self::ArpAnnounce => 2,
        }
    }

    fn path(self, interface: &str) -> PathBuf {
        Path::new(CONF).join(interface).join(self.name())
    }

    fn read(self, interface: &str) -> io::Result<u32> {
        let text = fs::read_to_string(self.path(interface))?;
        text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// Whether it is on: the kernel takes the larger of the interface's and
    /// the value for all.
    pub(super) fn is_on(self, interface: &str) -> io::Result<bool> {
        Ok(self.read("all")?.max(self.read(interface)?) >= self.wanted())
    }
}

/// The switches that this process raised.
#[derive(Debug)]
pub(super) struct Switches {
    file: PathBuf,
    /// The earlier values.
    raised: BTreeMap<(String, Switch), u32>,
    /// Switches that could not be raised: said once.
    refused: BTreeSet<(String, Switch)>,
}

impl Switches {
    pub(super) fn new(runtime_dir: &Path) -> Self {
        Self { file: runtime_dir.join(FILE), raised: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Makes sure that a switch is on. The error says what to do.
    pub(super) fn raise(&mut self, interface: &str, switch: Switch) -> Result<(), String> {
        let key = (interface.to_owned(), switch);
        let raise = || -> io::Result<Option<u32>> {
            if switch.is_on(interface)? { Ok(None) } else { switch.read(interface).map(Some) }
        };
        let refused = |e: io::Error| {
            let path = switch.path(interface);
            format!("cannot set {} to {}: {e}; set it yourself", path.display(), switch.wanted())
        };
        let Some(earlier) = raise().map_err(refused)? else { return Ok(()) };
        // First the note, then the deed: a crash between them does no harm.
        self.raised.insert(key.clone(), earlier);
        self.save();
        let written = fs::write(switch.path(interface), switch.wanted().to_string());
        if let Err(error) = written {
            self.raised.remove(&key);
            self.save();
            return Err(refused(error));
        }
        Ok(())
    }

    /// Raises what is in `wanted`, warning once where that fails, and gives
    /// everything else its earlier value.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<(String, Switch)>) {
        for key @ (interface, switch) in wanted {
            if self.raised.contains_key(key) || self.refused.contains(key) {
                continue;
            }
            if let Err(text) = self.raise(interface, *switch) {
                warn!("{text}");
                self.refused.insert(key.clone());
            }
        }
        let over: Vec<_> = self.raised.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
        if over.is_empty() {
            return;
        }
        for key in over {
            if let Some(earlier) = self.raised.remove(&key) {
                put_back(&key.0, key.1, earlier, key.1.wanted());
            }
        }
        self.save();
    }

    /// The interface goes by another name from now on; its switches went with it.
    pub(super) fn rename(&mut self, old: &str, new: &str) {
        let of_old: Vec<_> = self.raised.keys().filter(|(name, _)| name == old).cloned().collect();
        for key in &of_old {
            if let Some(earlier) = self.raised.remove(key) {
                self.raised.insert((new.to_owned(), key.1), earlier);
            }
        }
        if !of_old.is_empty() {
            self.save();
        }
    }

    fn save(&self) {
        let lines: String = self
            .raised
            .iter()
            .map(|((interface, s), earlier)| format!("{interface} {} {earlier} {}\n", s.name(), s.wanted()))
            .collect();
        let saved =
            if lines.is_empty() { remove(&self.file) } else { super::held::overwrite(&self.file, &lines) };
        if let Err(error) = saved {
            warn!(
                "cannot write {}: {error}; a crash would leave raised ARP switches behind",
                self.file.display()
            );
        }
    }
}

/// Gives the switches that an earlier process raised their values back.
///
/// # Errors
///
/// If the file of earlier values cannot be read or removed.
pub fn restore(runtime_dir: &Path) -> io::Result<()> {
    let file = runtime_dir.join(FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for line in text.lines() {
        let mut words = line.split(' ');
        let (interface, name) = (words.next(), words.next());
        let (earlier, raised) = (words.next(), words.next());
        let switch = Switch::ALL.into_iter().find(|s| Some(s.name()) == name);
        let numbers = (earlier.and_then(|w| w.parse().ok()), raised.and_then(|w| w.parse().ok()));
        if let (Some(interface), Some(switch), (Some(earlier), Some(raised))) = (interface, switch, numbers) {
            put_back(interface, switch, earlier, raised);
        } else {
            warn!("{}: not understood: {line:?}", file.display());
        }
    }
    remove(&file)
}

/// Puts an earlier value back, unless somebody has set another since.
fn put_back(interface: &str, switch: Switch, earlier: u32, raised: u32) {
    match switch.read(interface) {
        Ok(now) if now == raised => {
            let path = switch.path(interface);
            match fs::write(&path, earlier.to_string()) {
                Ok(()) => info!("{} is {earlier} again", path.display()),
                Err(error) => warn!("cannot set {} back to {earlier}: {error}", path.display()),
            }
        }
        // Changed by somebody, or the interface is gone: nothing of ours is left.
        Ok(_) | Err(_) => {}
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
