//! Digests of the settings that nodes compare.

use std::error::Error;
use vipd_config::Config;

type Outcome = Result<(), Box<dyn Error>>;

fn parse(text: &str) -> Result<Config, Box<dyn Error>> {
    Ok(Config::parse(text, "f")?)
}

/// The keys whose digests differ between two files.
fn differing(a: &Config, b: &Config) -> Vec<&'static str> {
    let pairs = a.digests().into_iter().zip(b.digests());
    pairs.filter(|(a, b)| a != b).map(|((key, _), _)| key).collect()
}

#[test]
fn digests_name_the_key_that_differs() -> Outcome {
    let text = include_str!("digests.toml");
    let config = parse(text)?;
    let keys: Vec<_> = config.digests().into_iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [
            "cluster.nodes",
            "election.advert-interval",
            "election.vrrp-version",
            "election.transport",
            "election.preempt",
            "vip",
            "listen",
            "pool",
            "dns",
            "election.quorum"
        ]
    );
    let election = |line: &str| format!("{text}\n[election]\n{line}\n");
    for (changed, key) in [
        (text.replace("10.77.0.12", "10.77.0.13"), "cluster.nodes"),
        (text.replace("10.77.0.12\" }", "10.77.0.12\", priority = 9 }"), "cluster.nodes"),
        (election("advert-interval = \"260ms\""), "election.advert-interval"),
        (election("transport = \"multicast\""), "election.transport"),
        (election("preempt = true"), "election.preempt"),
        (text.replace("10.77.0.100/24", "10.77.0.100/25"), "vip"),
        (text.replace("[\"write\"] ", "[\"read\"]"), "vip"),
        (text.replace("\"8h\"", "\"7h\""), "listen"),
        (text.replace("weight = 200", "weight = 201"), "pool"),
        (text.replace("backup = true", "backup = false"), "pool"),
        (text.replace("\"10s\"", "\"11s\""), "pool"),
        (text.replace("fallback = \"primary\"", ""), "pool"),
        (text.replace("user = \"vipd\"", "user = \"check\""), "pool"),
    ] {
        assert_eq!(differing(&config, &parse(&changed)?), [key]);
    }
    for (line, changed) in [
        ("ttl = \"10s\"", "ttl = \"11s\""),
        ("policy = \"owner\"", "policy = \"multi\""),
        ("hold-down = \"2s\"", "hold-down = \"3s\""),
        ("when-all-down = \"last-good\"", "when-all-down = \"all\""),
        ("GHIJ", "GHIX"),
        ("[dns]\n", "[dns]\nrepair = true\n"),
        ("[dns]\n", "[dns]\npublic-addresses = [{ node = \"px1\", addresses = [\"203.0.113.11\"] }]\n"),
        ("id = \"0a1b2c3d-", "id = \"1a1b2c3d-"),
        ("name = \"db.corp", "name = \"db2.corp"),
    ] {
        let text = include_str!("../examples/route53.toml");
        let changed = text.replace(line, changed);
        assert_eq!(differing(&parse(text)?, &parse(&changed)?), ["dns"], "{line}");
    }
    let changed = election("vrrp-version = 2\nadvert-interval = \"1s\"");
    assert_eq!(differing(&config, &parse(&changed)?), ["election.advert-interval", "election.vrrp-version"]);
    Ok(())
}

/// Each setting of listeners and pools is in a digest, unless hosts may differ in it.
#[test]
fn digests_see_every_setting_of_the_balancer() -> Outcome {
    let text = include_str!("all-keys.toml");
    let config = parse(text)?;
    let section = |i: usize| text[..i].rfind("\n[").map_or("", |start| &text[start + 1..i]);
    let mut seen = 0;
    for (line, _) in text.match_indices('\n').filter(|(i, _)| text[i + 1..].starts_with(char::is_alphabetic))
    {
        let rest = &text[line + 1..];
        let rest = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let section = section(line);
        let key = match section.get(..5) {
            Some("[[lis") => "listen",
            Some("[[poo" | "[pool") => "pool",
            Some(_) | None => continue,
        };
        let required =
            ["name", "bind", "pool", "servers", "kind", "fallback", "user", "command", "tls", "galera"];
        let (name, _) = rest.split_once(" = ").ok_or(rest)?;
        if required.contains(&name) {
            continue;
        }
        // Without the line its default counts, which is another; a file may
        // lie elsewhere on another host.
        let file = ["password-file", "tls-ca-file"].contains(&name);
        let line_then = if file { rest.replace("/vipd/", "/ssl/") } else { String::new() };
        let then = format!("{}{line_then}{}", &text[..=line], &text[line + 1 + rest.len()..]);
        let wanted = if file { vec![] } else { vec![key] };
        assert_eq!(differing(&config, &parse(&then)?), wanted, "{section}: {rest}");
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
    for (from, to) in [
        ("max-rate = 7 ", "max-rate = 8 "),
        ("resolve = \"srv\"", "resolve = \"srv\", max-rate = 9"),
        ("db.internal:3306\", resolve = \"all\"", "db.internal:3306\", resolve = \"one\""),
        ("command = [\"/bin/check\", \"a\", \"b\"]", "command = [\"/bin/check\", \"a\\\",\\\"b\"]"),
        ("user = \"pg\"", "user = \"pg2\""),
        ("on-demote = { drain = \"31s\" }", "on-demote = { drain = \"32s\" }"),
        ("\ntls = true\ntls-verify = false\n", "\n"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert_eq!(differing(&config, &parse(&changed)?), ["pool"], "{from}");
    }
    Ok(())
}

/// A file that names no newer setting, or names it with its default, has the
/// digests it had before there was such a setting.
#[test]
fn digests_do_not_see_defaults() -> Outcome {
    let text = include_str!("digests.toml");
    let config = parse(text)?;
    let same = text
        .replacen(
            "[[pool]]",
            "tcp-keepalive = \"30s\"\naccess-log = false\n[[pool]]",
            1,
        )
        .replacen(
            "[pool.check]",
            "queue = 1000\nqueue-timeout = \"5s\"\nheadroom = 0\nsource = \"auto\"\nproxy-protocol = \"off\"\n\
             on-down = \"drain\"\non-demote = \"close\"\n[pool.check]\npassive = true\ngalera = false\n\
             group-replication = false\ntls = false",
            1,
        )
        .replacen("backup = true", "backup = true, resolve = \"one\"", 1);
    assert_ne!(same, text);
    assert_eq!(differing(&config, &parse(&same)?), [""; 0]);
    Ok(())
}

#[test]
fn digests_do_not_see_what_means_nothing() -> Outcome {
    let text = include_str!("digests.toml");
    let config = parse(text)?;
    for same in [
        text.replace("# MySQL", "# PostgreSQL"),
        text.replace("\"1s\"", "\"1000ms\""),
        text.replace("/etc/vipd/mysql.password", "/root/mysql.password"),
        text.replace("[status]\nhttp = \"127.0.0.1:9112\"", ""),
        text.replace("name = \"main\"", "name = \"main\"\ninterface = \"eth0\""),
        format!("{text}\n[election]\nadvert-interval = \"250ms\"\ntransport = \"unicast\"\n"),
    ] {
        assert_ne!(same, text);
        assert_eq!(differing(&config, &parse(&same)?), [""; 0]);
    }
    let head = "[cluster]\nname = \"c\"\nnodes = [{ name = \"px1\", address = \"10.77.0.11\" }]\n";
    // Pools and listeners in another order are the same pools and listeners.
    let a = "[[listen]]\nname = \"a\"\nbind = \":1\"\npool = \"x\"\n[[pool]]\nname = \"x\"\nservers = [\"h:1\"]\n";
    let b = "[[listen]]\nname = \"b\"\nbind = \":2\"\npool = \"y\"\n[[pool]]\nname = \"y\"\nservers = [\"h:2\"]\n";
    let (ab, ba) = (parse(&format!("{head}{a}{b}"))?, parse(&format!("{head}{b}{a}"))?);
    assert_ne!(ab.pools, ba.pools);
    assert_eq!(differing(&ab, &ba), [""; 0]);
    Ok(())
}

/// Nodes of different versions compare them: a digest may never change.
#[test]
fn digests_are_the_same_for_ever() -> Outcome {
    let digests: Vec<u32> =
        parse(include_str!("digests.toml"))?.digests().into_iter().map(|(_, d)| d).collect();
    assert_eq!(
        digests,
        [
            2349193344, 2770451638, 350597619, 2235627884, 1229831814, 411847385, 1207289346, 4165919800,
            3475526971, 2525377041
        ]
    );
    Ok(())
}
