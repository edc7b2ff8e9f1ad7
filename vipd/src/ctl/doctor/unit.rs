//! The unit of systemd by which vipd is started: what its command line says,
//! which user it is, and what of the file system it is not shown. A shell of
//! root's sees none of that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package's unit.
const NAME: &str = "vipd.service";
const ASKED: &str = "LoadState,ActiveState,ExecStart,Environment,EnvironmentFiles,User,ProtectHome,PrivateTmp,\
                     InaccessiblePaths,AmbientCapabilities";
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
const SCRATCH: [&str; 2] = ["/tmp", "/var/tmp"];

/// The unit, as systemd has loaded it: drop-ins and overrides are in it.
#[derive(Debug, Default)]
pub(in crate::ctl) struct Unit {
    /// The daemon's command line, with its variables filled in.
    pub(super) words: Vec<String>,
    /// The user it is started as.
    pub(super) user: Option<String>,
    /// Directories whose content it does not see, each with what says so.
    pub(super) hidden: Vec<(PathBuf, String)>,
    pub(super) capabilities: Vec<String>,
    /// Whether it runs.
    pub(super) active: bool,
}

impl Unit {
    /// Asks systemd; none where it does not run, or has no such unit.
    pub(in crate::ctl) fn find() -> Option<Self> {
        let shown = Command::new("systemctl").args(["show", NAME, "--property", ASKED]).output().ok()?;
        let shown = shown.status.success().then_some(shown.stdout)?;
        Self::parse(&String::from_utf8_lossy(&shown), |path| fs::read_to_string(path).ok())
    }

    fn parse(shown: &str, read: impl Fn(&Path) -> Option<String>) -> Option<Self> {
        let all = |name: &'static str| {
            shown.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let one = |name| all(name).next().unwrap_or_default();
        if one("LoadState") != "loaded" {
            return None;
        }
        let mut variables = BTreeMap::new();
        variables.extend(words(one("Environment")).iter().filter_map(|word| assignment(word)));
        for file in all("EnvironmentFiles") {
            let path = file.rsplit_once(" (").map_or(file, |(path, _)| path);
            let text = read(Path::new(path)).unwrap_or_default();
            variables.extend(text.lines().filter_map(|line| assignment(line.trim())));
        }
        let command = one("ExecStart").split_once("argv[]=").map_or("", |(_, rest)| rest);
        let command = command.split(" ; ").next().unwrap_or_default();
        let mut hidden = Vec::new();
        let mut hide = |dirs: &[&str], property: &str, value: &str| {
            hidden.extend(dirs.iter().map(|dir| (PathBuf::from(dir), format!("{property}={value}"))));
        };
        if let value @ ("yes" | "tmpfs") = one("ProtectHome") {
            hide(&HOMES, "ProtectHome", value);
        }
        if one("PrivateTmp") == "yes" {
            hide(&SCRATCH, "PrivateTmp", "yes");
        }
        for path in one("InaccessiblePaths").split_whitespace() {
            hide(&[path.trim_start_matches(['-', '+'])], "InaccessiblePaths", path);
        }
        Some(Self {
            words: command.split_whitespace().flat_map(|word| filled(word, &variables)).collect(),
            user: Some(one("User")).filter(|user| !user.is_empty()).map(str::to_owned),
            hidden,
            active: one("ActiveState") == "active",
            capabilities: one("AmbientCapabilities").split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// What an option of the daemon's command line says.
    pub(in crate::ctl) fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.words.iter();
        loop {
            let word = words.next()?;
            if word == name {
                return words.next().map(String::as_str);
            }
            if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                return Some(value);
            }
        }
    }

    /// What hides a file from the daemon, if something does.
    pub(super) fn hides(&self, path: &Path) -> Option<&str> {
        // The daemon, too, goes where a link leads to.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.hidden.iter().find(|(dir, _)| target.starts_with(dir)).map(|(_, why)| why.as_str())
    }

    /// Whether it may become another user: for a service of root's the kernel
    /// takes nothing away that this package's unit would have to give.
    pub(super) fn may_change_user(&self) -> bool {
        let has = |name| self.capabilities.iter().any(|c| c.eq_ignore_ascii_case(name));
        self.user.as_deref().is_none_or(|user| user == "root") || (has("CAP_SETUID") && has("CAP_SETGID"))
    }
}

/// `NAME=VALUE`, with the quotes around the value taken away.
fn assignment(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let value = value.trim();
    let inner = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
    good.then(|| (name.to_owned(), inner.unwrap_or(value).to_owned()))
}

/// Words, of which those with spaces in them stand in quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (vec![], String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// A word of a command line: `$NAME` becomes as many words as it has, `${NAME}` is put in its place
/// (systemd.service(5), command lines).
fn filled(word: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    if let Some(name) = word.strip_prefix('$').filter(|name| !name.starts_with(['{', '$'])) {
        return words(value(name));
    }
    let mut word = word.to_owned();
    while let Some((before, rest)) = word.split_once("${") {
        let Some((name, after)) = rest.split_once('}') else { break };
        word = format!("{before}{}{after}", value(name));
    }
    vec![word]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd 252 shows the package's unit, with an override.
    const SHOWN: &str = "\
ExecStart={ path=/usr/sbin/vipd ; argv[]=/usr/sbin/vipd run $VIPD_OPTIONS --state-dir=${DIR}/state ; \
ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=DIR=/srv \"VIPD_OPTIONS=--node px9\"
EnvironmentFiles=/etc/default/vipd (ignore_errors=yes)
InaccessiblePaths=-/srv/secret
ProtectHome=yes
PrivateTmp=yes
User=vipd
AmbientCapabilities=cap_net_bind_service cap_net_admin cap_net_raw
LoadState=loaded
ActiveState=inactive
";

    fn unit(shown: &str, file: &'static str) -> Option<Unit> {
        let read = move |path: &Path| (path == Path::new("/etc/default/vipd")).then(|| file.to_owned());
        Unit::parse(shown, read)
    }

    #[test]
    fn what_the_daemon_is_started_with_is_known_before_it_runs() {
        let told =
            unit(SHOWN, "# mine\nVIPD_OPTIONS=\"--node px2 --config /etc/vipd/b.toml\"\n").expect("loaded");
        assert_eq!(told.option("--node"), Some("px2"), "the file says more than the unit");
        assert_eq!(told.option("--config"), Some("/etc/vipd/b.toml"));
        assert_eq!(told.option("--state-dir"), Some("/srv/state"));
        assert_eq!(told.option("--runtime-dir"), None);
        let told = unit(SHOWN, "#VIPD_OPTIONS=\"--node px1\"\n").expect("loaded");
        assert_eq!(told.option("--node"), Some("px9"));
        assert!(!told.active);
        assert!(unit(&SHOWN.replace("=inactive", "=active"), "").is_some_and(|unit| unit.active));
        assert!(unit("LoadState=not-found\n", "").is_none());
    }

    #[test]
    fn what_the_unit_hides_is_named() {
        let told = unit(SHOWN, "").expect("loaded");
        assert_eq!(told.hides(Path::new("/root/vipd.key")), Some("ProtectHome=yes"));
        assert_eq!(told.hides(Path::new("/tmp/vipd.key")), Some("PrivateTmp=yes"));
        assert_eq!(told.hides(Path::new("/srv/secret/key")), Some("InaccessiblePaths=-/srv/secret"));
        assert_eq!(told.hides(Path::new("/etc/vipd/key")), None);
        assert_eq!(told.hides(Path::new("/rooted/key")), None);
        let open = SHOWN.replace("ProtectHome=yes", "ProtectHome=read-only").replace("Tmp=yes", "Tmp=no");
        let told = unit(&open, "").expect("loaded");
        assert_eq!(told.hides(Path::new("/root/vipd.key")), None);
        assert_eq!(told.hides(Path::new("/tmp/vipd.key")), None);
    }

    #[test]
    fn only_root_and_whoever_was_granted_it_becomes_another_user() {
        assert!(!unit(SHOWN, "").expect("loaded").may_change_user());
        let granted = SHOWN.replace("cap_net_raw", "cap_net_raw cap_setgid cap_setuid");
        assert!(unit(&granted, "").expect("loaded").may_change_user());
        let root = SHOWN.replace("User=vipd", "User=");
        assert!(unit(&root, "").expect("loaded").may_change_user());
    }
}
