//! Two proxy hosts from the first installation to the last trace.

use crate::load::{self, Load, Notice};
use crate::machine::{self, Machine, wait_for};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The version to upgrade to.
pub(crate) const NEXT: &str = "0.1.1-1";

pub(crate) const VIP: &str = "10.77.0.100";
pub(crate) const CONFIG: &str = r#"
[cluster]
name = "orders"
key-file = "/etc/vipd/cluster.key"
nodes = [{ name = "px1", address = "10.77.0.11" }, { name = "px2", address = "10.77.0.12" }]
[[vip]]
name = "main"
addresses = ["10.77.0.100/24"]
[[listen]]
name = "db"
bind = "10.77.0.100:3306"
pool = "db"
[[pool]]
name = "db"
servers = ["10.77.0.1:3306"]
[pool.check]
kind = "tcp"
"#;
/// An installation, a restart, a failover: all take a second or two.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A lost SYN is repeated after a second: none was.
const NO_SYN_LOST: Duration = Duration::from_millis(900);

/// Kilobytes of the release: a package installed, and an idle daemon's memory.
const INSTALLED: u64 = 15_000;
const MEMORY: u64 = 12_000;

/// Holds a figure of the release, the first number of a text, to its bound.
fn within(bound: u64, text: &str) -> Result<()> {
    let number = text.split_whitespace().find_map(|word| word.parse::<u64>().ok()).context("no number")?;
    ensure!(!crate::released() || number < bound, "{text}: the bound is {bound} kB");
    Ok(())
}

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 100], 3306))
}

/// What is measured and what happens is printed.
#[allow(clippy::print_stdout)]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

pub(crate) fn tell() -> Result<()> {
    let debs = crate::debs()?;
    let base = machine::base(&crate::root().join("target"))?;
    machine::own_world()?;
    load::serve("10.77.0.1:3306").context("cannot serve on 10.77.0.1:3306")?;
    let mut hosts = [Machine::start("px1", 11, &base, &debs)?, Machine::start("px2", 12, &base, &debs)?];
    let told = chapters(&mut hosts);
    if told.is_err() {
        for host in &hosts {
            eprintln!(
                "---- {}\n{}",
                host.name,
                host.try_sh("journalctl --no-pager -o short-precise -u vipd | tail -60")?
            );
        }
    }
    told
}

type Chapter = fn(&mut [Machine; 2]) -> Result<()>;

fn chapters(hosts: &mut [Machine; 2]) -> Result<()> {
    let before = files(&hosts[1])?;
    let chapters: [(&str, Chapter); 15] = [
        ("install", install),
        ("start", start),
        ("documented", documented),
        ("unit", unit),
        ("reload", reload),
        ("command", command),
        ("doctor", doctor),
        ("witness", crate::witness::votes),
        ("stop", stop),
        ("kill", kill),
        ("out of memory", out_of_memory),
        ("networkd", networkd),
        ("late address", late_address),
        ("upgrade", upgrade),
        ("power off", power_off),
    ];
    for (name, chapter) in chapters {
        let began = Instant::now();
        chapter(hosts).context(name)?;
        say(&format!("== {name}: {:.1?}", began.elapsed()));
    }
    remove(hosts, &before).context("remove")
}

fn install(hosts: &mut [Machine; 2]) -> Result<()> {
    for host in hosts.iter() {
        let told = host.sh("dpkg -i /debs/vipd_0.1.0-1_*.deb /debs/vipd-dnsd_0.1.0-1_*.deb 2>&1")?;
        ensure!(told.contains("vipd is not started: it has no configuration"), "{told}");
        ensure!(!told.contains("Failed"), "{told}");
        for service in ["vipd", "dnsd"] {
            let state =
                host.try_sh(&format!("systemctl is-enabled {service}; systemctl is-active {service}"))?;
            ensure!(state == "enabled\ninactive", "{service} on {}: {state}", host.name);
        }
        host.sh("vipd check --config /usr/share/doc/vipd/examples/vipd.toml")?;
        host.sh("dnsd check --config /usr/share/doc/vipd-dnsd/examples/dnsd.toml")?;
        host.sh("echo '# mine' >> /etc/default/vipd")?;
        // What docs/metrics.md and docs/operators.md say is there.
        host.sh("cd /usr/share/vipd && test -s grafana/vipd.json -a -s prometheus/vipd.rules.yml -a -x notify/vip-changed")?;
        host.sh("test -s /usr/share/man/man5/vipd.toml.5.gz")?;
    }
    let sizes =
        hosts[0].sh("dpkg-query -W -f '${Package} ${Installed-Size} KB installed\\n' vipd vipd-dnsd")?;
    say(&sizes);
    sizes.lines().try_for_each(|line| within(INSTALLED, line))
}

fn start(hosts: &mut [Machine; 2]) -> Result<()> {
    hosts[0].sh("vipd keygen | install -m 640 -g vipd /dev/stdin /etc/vipd/cluster.key")?;
    let key = hosts[0].sh("cat /etc/vipd/cluster.key")?;
    hosts[1].sh(&format!("echo {key} | install -m 640 -g vipd /dev/stdin /etc/vipd/cluster.key"))?;
    for host in hosts.iter() {
        fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG)?;
        host.sh("vipd check")?;
        let began = Instant::now();
        host.sh("systemctl start vipd")?;
        say(&format!("start to ready on {}: {:?}", host.name, began.elapsed()));
        let checked = host.sh("vipctl status --json")?;
        ensure!(checked.contains(r#""state": "up""#), "ready before the first check: {checked}");
    }
    for host in hosts.iter() {
        host.sh("cp /usr/share/doc/vipd-dnsd/examples/dnsd.toml /etc/dnsd/ && systemctl start dnsd && systemctl reload dnsd")?;
        ensure!(host.try_sh("systemctl is-active dnsd")? == "active", "dnsd does not run on {}", host.name);
    }
    owned_by(hosts, 0)?;
    load::ask(vip())?;
    for host in hosts.iter() {
        let pid = host.sh("systemctl show -P MainPID vipd")?;
        let memory = host.sh(&format!("grep -E '^(VmRSS|RssAnon|RssFile)' /proc/{pid}/status"))?;
        say(&format!("{}: {}", host.name, memory.split_whitespace().collect::<Vec<_>>().join(" ")));
        within(MEMORY, &memory)?;
        let status = host.sh(&format!("grep -E '^(Uid|CapEff)' /proc/{pid}/status"))?;
        ensure!(
            status.contains("3400") && !status.contains("Uid:\t0"),
            "own user and three capabilities: {status}"
        );
    }
    Ok(())
}

/// Commands of the documents that take a real systemd, or the package's user.
fn documented(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[0];
    host.sh("echo secret | install -m 640 -g vipd /dev/stdin /etc/vipd/mysql.password")?;
    let mode = host.sh("stat -c '%a %U %G' /etc/vipd/mysql.password")?;
    ensure!(mode == "640 root vipd", "{mode}");
    host.sh("rm /etc/vipd/mysql.password")?;
    ensure!(host.sh("systemctl cat vipd")?.contains("AmbientCapabilities="), "the unit is not shown");
    ensure!(host.sh("systemctl status vipd")?.contains("Active: active (running)"), "it does not run");
    ensure!(host.sh("journalctl --no-pager VIPD_VIP=main")?.contains("main"), "the journal has no fields");
    let doctor = host.sh("vipctl doctor")?;
    ensure!(doctor.contains(" looked at: 0 wrong"), "{doctor}");
    say(doctor.lines().last().unwrap_or_default());
    Ok(())
}

/// The doctor goes by the unit: by its command line before the daemon runs, and
/// by what it hides of the file system.
fn doctor(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[1];
    host.sh("cp /etc/default/vipd /root/default && install -m 640 -g vipd /etc/vipd/cluster.key /root/cluster.key")?;
    host.sh("chmod 755 /root && echo 'VIPD_OPTIONS=\"--node px1\"' >> /etc/default/vipd")?;
    fs::write(
        host.path("/etc/vipd/vipd.toml"),
        CONFIG.replace("/etc/vipd/cluster.key", "/root/cluster.key"),
    )?;
    let hidden = "hidden from vipd's service: ProtectHome=yes";
    let running = host.try_sh("vipctl doctor")?;
    ensure!(running.contains("this host is px2"), "it goes by what runs: {running}");
    ensure!(running.contains(hidden), "of the daemon that runs: {running}");
    host.sh("systemctl stop vipd")?;
    let stopped = host.try_sh("vipctl doctor")?;
    ensure!(stopped.contains("this host is px1"), "the unit says --node px1: {stopped}");
    ensure!(stopped.contains(hidden), "of the unit: {stopped}");
    host.sh("mv /root/default /etc/default/vipd && rm /root/cluster.key && chmod 700 /root")?;
    fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG)?;
    host.sh("systemctl start vipd")?;
    owned_by(hosts, 0)
}

fn unit(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[0];
    for service in ["vipd", "dnsd"] {
        let found = host.try_sh(&format!("systemd-analyze security --no-pager {service}"))?;
        let score = found.rsplit_once(&format!("level for {service}.service: "));
        let score = score.and_then(|(_, rest)| rest.split_whitespace().next()).context("no score")?;
        say(&format!("systemd-analyze security {service}: {score}"));
        let tenths: u32 = score.replace('.', "").parse().context("the score is no number")?;
        ensure!(tenths <= 20, "{found}");
        let complaints = host.try_sh(&format!("systemd-analyze verify --man=no {service}.service"))?;
        ensure!(complaints.is_empty(), "{complaints}");
    }
    // The kernel's switches are within the daemon's reach, although the rest of the system is not.
    host.sh("echo 0 > /proc/sys/net/ipv4/conf/all/promote_secondaries")?;
    host.sh("echo 0 > /proc/sys/net/ipv4/conf/host0/promote_secondaries")?;
    Ok(())
}

fn reload(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[0];
    fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG.replace("[[vip]]", "[[vip]]\nnmae = \"x\""))?;
    let refused =
        host.try_sh("systemctl reload vipd || echo refused; systemctl is-active vipd; vipctl status")?;
    ensure!(refused.lines().any(|line| line == "refused"), "the reload was done: {refused}");
    ensure!(refused.lines().any(|line| line == "active"), "what ran does not run on: {refused}");
    ensure!(refused.contains("nmae"), "the status does not tell: {refused}");
    ensure!(host.try_sh("journalctl --no-pager -u vipd")?.contains("nmae"), "the journal does not tell why");
    fs::write(
        host.path("/etc/vipd/vipd.toml"),
        CONFIG.replace("kind = \"tcp\"", "kind = \"tcp\"\nrise = 3"),
    )?;
    host.sh("systemctl reload vipd")?;
    fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG)?;
    host.sh("systemctl reload vipd")?;
    Ok(())
}

/// What docs/install.md says of checks by commands.
fn command(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[1];
    // A hook that tells who it is, where the service may write.
    let hook = "#!/bin/sh\nid -un > /var/lib/vipd/hook\n";
    fs::write(host.path("/usr/local/bin/who"), hook)?;
    host.sh("chmod 755 /usr/local/bin/who")?;
    let up = |user: &str| -> Result<bool> {
        let check = format!("kind = \"exec\"\n{user}\ncommand = [\"/bin/true\"]");
        let hook = format!("[[notify]]\nname = \"who\"\ncommand = [\"/usr/local/bin/who\"]\n{user}\n");
        let text = CONFIG.replace("kind = \"tcp\"", &check) + &hook;
        fs::write(host.path("/etc/vipd/vipd.toml"), text)?;
        host.sh("rm -f /var/lib/vipd/hook; systemctl restart vipd")?;
        Ok(host.sh("vipctl status --json")?.contains(r#""state": "up""#))
    };
    let hooked = |user: &str| {
        let file = || host.try_sh("cat /var/lib/vipd/hook");
        wait_for(SOON, || format!("a hook as {user}"), || Ok((file()? == user).then_some(())))
    };
    ensure!(up("")?, "a command that names nobody does not run: {}", host.try_sh("vipctl why")?);
    hooked("vipd")?;
    // The other host has another file, of which it complains.
    ensure!(
        host.try_sh("vipctl doctor")?.contains("may execute /usr/local/bin/who"),
        "the doctor does not look"
    );
    ensure!(up("user = \"vipd\"")?, "nor as the daemon's own user");
    let nobody = "user = \"nobody\"";
    ensure!(!up(nobody)?, "the service may become another user");
    let told = host.try_sh("vipctl doctor")?;
    ensure!(told.contains("may not become 'nobody'"), "the doctor does not say why: {told}");
    let dir = host.path("/etc/systemd/system/vipd.service.d");
    fs::create_dir_all(&dir)?;
    let document = fs::read_to_string(crate::root().join("docs/install.md"))?;
    let grant = document.split("# [Service]\n").nth(1).and_then(|rest| rest.split("```").next());
    let grant = grant.context("docs/install.md grants nothing")?.replace("# ", "");
    fs::write(dir.join("override.conf"), format!("[Service]\n{grant}"))?;
    host.sh("systemctl daemon-reload")?;
    ensure!(up(nobody)?, "the grant does not do: {}", host.try_sh("vipctl why")?);
    fs::remove_dir_all(dir)?;
    host.sh("rm -f /usr/local/bin/who /var/lib/vipd/hook")?;
    fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG)?;
    host.sh("systemctl daemon-reload && systemctl restart vipd")?;
    owned_by(hosts, 0)
}

fn stop(hosts: &mut [Machine; 2]) -> Result<()> {
    let notice = under_load(|| {
        hosts[0].sh("systemctl stop vipd")?;
        owned_by(hosts, 1)
    })?;
    planned("systemctl stop of the owner", &notice)?;
    hosts[0].sh("systemctl start vipd")?;
    // No preemption: it stays where it is until somebody says so.
    owned_by(hosts, 1)?;
    back_to_first(hosts)
}

fn kill(hosts: &mut [Machine; 2]) -> Result<()> {
    let pid = hosts[0].sh("systemctl show -P MainPID vipd")?;
    let notice = under_load(|| {
        hosts[0].sh(&format!("kill -9 {pid}"))?;
        owned_by(hosts, 1)
    })?;
    sudden("SIGKILL of the owner", &notice)?;
    started_again(&hosts[0], &pid)?;
    ensure!(hosts[0].sh("systemctl show -P Result vipd")? == "success", "the unit has failed");
    back_to_first(hosts)
}

/// The kernel kills the owner because its memory is short: a control group
/// around it, from outside, has no room.
fn out_of_memory(hosts: &mut [Machine; 2]) -> Result<()> {
    let pid = hosts[0].sh("systemctl show -P MainPID vipd")?;
    let group = format!("vipd-test-{}", std::process::id());
    let (group, limit) =
        [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
            .into_iter()
            .map(|(hierarchy, limit)| (Path::new(hierarchy).join(&group), limit))
            .find(|(group, limit)| {
                fs::create_dir(group).is_ok()
                    && (group.join(limit).exists() || fs::remove_dir(group).is_err())
            })
            .context("there is no memory controller to make memory short with")?;
    let short = || -> Result<Notice> {
        fs::write(group.join(limit), "65536").context("cannot limit memory")?;
        let outside = hosts[0].outside(&pid)?;
        under_load(|| {
            fs::write(group.join("cgroup.procs"), outside.to_string()).context("cannot move the daemon")?;
            owned_by(hosts, 1)
        })
    };
    let notice = short();
    let removed = wait_for(SOON, || "the control group".into(), || Ok(fs::remove_dir(&group).ok()));
    sudden("out of memory", &notice?)?;
    removed?;
    started_again(&hosts[0], &pid)?;
    back_to_first(hosts)
}

/// At boot the host's own address may come after the daemon's start, however late.
fn late_address(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[0];
    host.sh(
        "systemctl stop vipd && ip address del 10.77.0.11/24 dev host0 && systemctl start --no-block vipd",
    )?;
    wait_for(
        SOON,
        || "a few attempts".into(),
        || {
            let attempts: u32 = host.sh("systemctl show -P NRestarts vipd")?.parse()?;
            Ok((attempts >= 3).then_some(()))
        },
    )?;
    ensure!(
        host.sh("journalctl --no-pager -u vipd")?.contains("this host is none of the nodes"),
        "no reason is told"
    );
    host.sh("ip address add 10.77.0.11/24 dev host0")?;
    wait_for(
        SOON,
        || "vipd to be up".into(),
        || Ok((host.try_sh("systemctl is-active vipd")? == "active").then_some(())),
    )?;
    back_to_first(hosts)
}

/// When networkd configures an interface anew it deletes every address there,
/// its own among them: the service survives that, and with the drop-in an
/// address that is not networkd's stays.
fn networkd(hosts: &mut [Machine; 2]) -> Result<()> {
    let host = &hosts[0];
    let stays = || {
        host.sh("ip address replace 10.77.0.222/24 dev host0")?;
        host.sh("networkctl reconfigure host0")?;
        wait_for(
            SOON,
            || "networkd to be done".into(),
            || {
                let state = host.try_sh("networkctl status host0")?;
                Ok((state.contains("(configured)") && state.contains("10.77.0.11")).then_some(()))
            },
        )?;
        wait_for(SOON, || "clients to be served".into(), || Ok(load::ask(vip()).ok()))?;
        // Without an address of its own for a moment, px1 may have handed over.
        first_again(hosts)?;
        Ok(host.sh("ip -o address show dev host0")?.contains("10.77.0.222"))
    };
    let without: Result<bool> = stays();
    host.sh(
        "mkdir -p /etc/systemd/network/10-lan.network.d && \
         cp /usr/share/doc/vipd/examples/networkd-keep.conf /etc/systemd/network/10-lan.network.d/ && networkctl reload",
    )?;
    let (without, with) = (without?, stays()?);
    host.sh("ip address del 10.77.0.222/24 dev host0")?;
    ensure!(!without && with, "a foreign address stays: {without}, with the drop-in {with}");
    owned_by(hosts, 0)
}

fn upgrade(hosts: &mut [Machine; 2]) -> Result<()> {
    for host in hosts.iter() {
        let notice = under_load(|| {
            host.sh(&format!("dpkg -i /debs/vipd_{NEXT}_*.deb /debs/vipd-dnsd_{NEXT}_*.deb 2>&1"))?;
            wait_for(
                SOON,
                || "the upgraded daemon".into(),
                || Ok((host.try_sh("systemctl is-active vipd")? == "active").then_some(())),
            )
        })?;
        planned(&format!("upgrade of {}", host.name), &notice)?;
        ensure!(host.sh("cat /etc/default/vipd")?.contains("# mine"), "a changed conffile was replaced");
    }
    // px1 handed over, then px2 did.
    owned_by(hosts, 0)?;
    for host in hosts.iter() {
        // The service may do what that takes: its sandbox lets it call nft.
        let journal = host.sh("journalctl --no-pager -u vipd")?;
        ensure!(!journal.contains("packets cannot be passed on"), "{}: {journal}", host.name);
    }
    refused_upgrade(&hosts[0])
}

/// A version that refuses the configuration is not started in the place of one that runs.
fn refused_upgrade(host: &Machine) -> Result<()> {
    let pid = host.sh("systemctl show -P MainPID vipd")?;
    fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG.replace("[[vip]]", "[[vip]]\nnmae = \"x\""))?;
    let told = host.sh(&format!("dpkg -i /debs/vipd_{NEXT}_*.deb 2>&1"))?;
    ensure!(told.contains("refuses its configuration") && told.contains("nmae"), "{told}");
    ensure!(host.sh("systemctl show -P MainPID vipd")? == pid, "it was restarted");
    fs::write(host.path("/etc/vipd/vipd.toml"), CONFIG)?;
    Ok(())
}

fn power_off(hosts: &mut [Machine; 2]) -> Result<()> {
    let load = Load::on(vip());
    hosts[0].power_off()?;
    seen_on(&hosts[1])?;
    planned("poweroff of the owner", &goes_on(load)?)
}

fn remove(hosts: &[Machine; 2], before: &BTreeSet<String>) -> Result<()> {
    let host = &hosts[1];
    // Somebody who may use vipctl.
    host.sh(
        "useradd --system --no-create-home person && usermod -aG vipd person && usermod -aG dnsd person",
    )?;
    host.sh("dpkg -r vipd vipd-dnsd 2>&1")?;
    ensure!(!host.sh("ip -o address")?.contains(VIP), "the address is still there");
    ensure!(host.path("/etc/vipd/vipd.toml").exists(), "a removal is no purge");
    installed_anew(host)?;
    host.sh("dpkg -r vipd vipd-dnsd 2>&1")?;
    host.sh("dpkg -P vipd vipd-dnsd 2>&1")?;
    host.sh("userdel person")?;
    let left: Vec<_> = files(host)?.difference(before).cloned().collect();
    ensure!(left.is_empty(), "a purge leaves {left:?}");
    for user in ["vipd", "dnsd"] {
        for database in ["passwd", "group"] {
            let left = host.try_sh(&format!("getent {database} {user}"))?;
            ensure!(left.is_empty(), "a purge leaves {left}");
        }
    }
    Ok(())
}

/// What was removed and comes again is started; what an admin stopped stays so in an upgrade.
fn installed_anew(host: &Machine) -> Result<()> {
    let install = format!("dpkg -i /debs/vipd_{NEXT}_*.deb /debs/vipd-dnsd_{NEXT}_*.deb 2>&1");
    let states = || host.try_sh("systemctl is-active vipd; systemctl is-active dnsd");
    let told = host.sh(&install)?;
    ensure!(states()? == "active\nactive", "not started: {told}");
    host.sh("systemctl stop vipd dnsd")?;
    let told = host.sh(&install)?;
    ensure!(states()? == "inactive\ninactive", "started although it was stopped by hand: {told}");
    // Options that the service would be refused for, and another file.
    host.sh("echo 'VIPD_OPTIONS=\"--node px9\"' >> /etc/default/vipd && dpkg -r vipd")?;
    let told = host.sh(&install)?;
    ensure!(told.contains("refuses its configuration") && told.contains("px9"), "{told}");
    host.sh("mv /etc/vipd/vipd.toml /etc/vipd/other.toml && dpkg -r vipd")?;
    host.sh("echo 'VIPD_OPTIONS=\"--config /etc/vipd/other.toml\"' >> /etc/default/vipd")?;
    let told = host.sh(&install)?;
    ensure!(states()?.starts_with("active"), "not started by its own file: {told}");
    host.sh("mv /etc/vipd/other.toml /etc/vipd/vipd.toml && rm /etc/default/vipd").map(drop)
}

/// Files that are not the system's own notes.
fn files(host: &Machine) -> Result<BTreeSet<String>> {
    let list = host.sh(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log \
         -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /etc/systemd/network \\) -prune -o -print; \
         find /run -name '*vipd*' -o -name '*dnsd*'",
    )?;
    // Backups of /etc/passwd and its like.
    Ok(list.lines().filter(|line| !line.ends_with('-')).map(str::to_owned).collect())
}

// ---- what is waited for and judged --------------------------------------------

pub(crate) fn under_load(act: impl FnOnce() -> Result<()>) -> Result<Notice> {
    let load = Load::on(vip());
    wait_for(SOON, || "the first answer".into(), || Ok((load.good() > 0).then_some(())))?;
    act()?;
    goes_on(load)
}

/// Lets the client ask some more.
fn goes_on(load: Load) -> Result<Notice> {
    let until = load.good() + 50;
    wait_for(SOON, || "clients to be served".into(), || Ok((load.good() > until).then_some(())))?;
    Ok(load.end())
}

fn tell_notice(what: &str, notice: &Notice) {
    let Notice { good, failures, longest } = notice;
    let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
    say(&format!("{what}: {good} connections, longest wait {longest:?}, failed {failures:?}"));
}

pub(crate) fn planned(what: &str, notice: &Notice) -> Result<()> {
    tell_notice(what, notice);
    ensure!(notice.refused() == 0, "{what}: clients were refused: {:?}", notice.failures);
    // The session that is open when the address moves.
    ensure!(notice.failures.len() <= 1, "{what}: sessions were cut: {:?}", notice.failures);
    ensure!(notice.longest < NO_SYN_LOST, "{what}: a client waited {:?}", notice.longest);
    Ok(())
}

/// A SYN may be lost, and is repeated after a second; more than that is not needed.
fn sudden(what: &str, notice: &Notice) -> Result<()> {
    tell_notice(what, notice);
    ensure!(notice.longest < Duration::from_millis(1900), "{what}: a client waited {:?}", notice.longest);
    Ok(())
}

fn owned_by(hosts: &[Machine; 2], owner: usize) -> Result<()> {
    seen_on(&hosts[owner])?;
    let other = &hosts[1 - owner];
    wait_for(
        SOON,
        || format!("{} to be without the address", other.name),
        || Ok((!other.sh("ip -o address show dev host0")?.contains(VIP)).then_some(())),
    )
}

pub(crate) fn seen_on(host: &Machine) -> Result<()> {
    wait_for(
        SOON,
        || format!("{} to own the address", host.name),
        || {
            let active = host.try_sh("vipctl status --json")?.contains(r#""state": "active""#);
            Ok((active && host.sh("ip -o address show dev host0")?.contains(VIP)).then_some(()))
        },
    )
}

/// The first host owns, whichever does now.
pub(crate) fn first_again(hosts: &[Machine; 2]) -> Result<()> {
    wait_for(SOON, || "clients to be served".into(), || Ok(load::ask(vip()).ok()))?;
    let holds = |h: &Machine| h.sh("ip -o address show dev host0").is_ok_and(|a| a.contains(VIP));
    let owner = wait_for(SOON, || "an owner".into(), || Ok(hosts.iter().position(holds)))?;
    if owner == 1 { back_to_first(hosts) } else { owned_by(hosts, 0) }
}

fn back_to_first(hosts: &[Machine; 2]) -> Result<()> {
    let moved = wait_for(
        SOON,
        || "px1 to take the address back".into(),
        || Ok(hosts[1].sh("vipctl switchover main --to px1 --yes").ok()),
    );
    moved.map(|_| ())?;
    owned_by(hosts, 0)
}

/// systemd starts what was killed.
fn started_again(host: &Machine, dead: &str) -> Result<()> {
    wait_for(
        SOON,
        || format!("vipd on {} to be started again", host.name),
        || {
            let pid = host.sh("systemctl show -P MainPID vipd")?;
            let active = host.try_sh("systemctl is-active vipd")? == "active";
            Ok((active && pid != dead && pid != "0").then_some(()))
        },
    )
}
