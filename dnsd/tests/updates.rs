//! Dynamic updates by nsupdate: who may, what holds, what stays.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Dnsd, KEY, Program, free_port, has, nsupdate};
use std::process::Command;

const ZONE: &str = "$TTL 60\n@ NS ns1\nns1 A 10.77.0.11\ndb 5 A 10.77.0.11\nother A 10.0.0.1\n";

fn needs() -> bool {
    has(&["dig", "nsupdate"], "bind9-dnsutils")
}

#[test]
fn who_may_change_what() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::running(ZONE);
    let before = dnsd.serial();
    let refused = |key: Option<&str>, lines: &str, code: &str| {
        let (done, said) = dnsd.nsupdate(key, lines);
        assert!(!done && said.contains(code), "{lines}: {said}");
    };
    let add = "update add db.corp.example. 5 A 10.0.0.9";
    refused(None, add, "REFUSED");
    refused(Some(&KEY.replace("dGhp", "dGhq")), add, "BADSIG");
    refused(Some(&KEY.replace("vipd.", "nobody.")), add, "BADKEY");
    refused(Some(&KEY.replace("sha256", "sha512")), add, "BADKEY");
    refused(Some(KEY), "update add other.corp.example. 5 A 10.0.0.9", "REFUSED");
    refused(Some(KEY), "update add db.corp.example. 5 SRV 0 0 1 x.", "REFUSED");
    refused(Some(KEY), "update delete db.corp.example.", "REFUSED");
    refused(Some(KEY), "zone other.example.\nupdate add db.other.example. 5 A 10.0.0.9", "NOTAUTH");
    assert_eq!(dnsd.serial(), before, "nothing changed");
    dnsd.log().wait_for(&["update refused: it is not signed", "name=\"corp.example.\""]);
    dnsd.log().wait_for(&["BADSIG", "key=\"vipd.\""]);
    dnsd.log().wait_for(&["BADKEY", "key=\"nobody.\""]);
    dnsd.log().wait_for(&["update refused: no grant", "key=\"vipd.\"", "name=\"other.corp.example.\""]);
    dnsd.log().wait_for(&["no grant", "SRV"]);
    dnsd.log().wait_for(&["no grant", "every type"]);
    dnsd.update(add);
    dnsd.update("update add _vipd.db.corp.example. 5 TXT epoch=1");
    dnsd.update("update add a.dyn.corp.example. 5 SRV 0 0 1 x.\nupdate delete b.dyn.corp.example.");
    assert_eq!(dnsd.short("db.corp.example A"), ["10.0.0.9", "10.77.0.11"]);
    assert_eq!(dnsd.serial(), before + 3);
}

#[test]
fn prerequisites_of_every_form() {
    if !needs() {
        return;
    }
    let dnsd = Dnsd::running(ZONE);
    let add = "update add db.corp.example. 5 TXT x\nupdate delete db.corp.example. TXT";
    let code = |prerequisite: &str| {
        let (done, said) = dnsd.nsupdate(Some(KEY), &format!("{prerequisite}\n{add}"));
        said.split_whitespace().last().filter(|_| !done).map(str::to_owned)
    };
    dnsd.update("update add db.corp.example. 5 A 10.77.0.12");
    for (prerequisite, expected) in [
        ("prereq yxdomain db.corp.example.", None),
        ("prereq yxdomain no.corp.example.", Some("NXDOMAIN")),
        ("prereq nxdomain no.corp.example.", None),
        ("prereq nxdomain db.corp.example.", Some("YXDOMAIN")),
        ("prereq yxrrset db.corp.example. A", None),
        ("prereq yxrrset db.corp.example. AAAA", Some("NXRRSET")),
        ("prereq nxrrset db.corp.example. AAAA", None),
        ("prereq nxrrset db.corp.example. A", Some("YXRRSET")),
        ("prereq yxrrset db.corp.example. A 10.77.0.12\nprereq yxrrset db.corp.example. A 10.77.0.11", None),
        ("prereq yxrrset db.corp.example. A 10.77.0.11", Some("NXRRSET")),
        (
            "prereq yxrrset db.corp.example. A 10.77.0.11\nprereq yxrrset db.corp.example. A 10.77.0.13",
            Some("NXRRSET"),
        ),
        ("prereq yxdomain db.other.example.", Some("NOTZONE")),
    ] {
        assert_eq!(code(prerequisite).as_deref(), expected, "{prerequisite}");
    }
}

#[test]
fn changes_of_every_form() {
    if !needs() {
        return;
    }
    let dnsd = Dnsd::running(ZONE);
    dnsd.update("update add db.corp.example. 9 A 10.0.0.2\nupdate add db.corp.example. 9 AAAA fd77::1");
    assert!(
        dnsd.dig("db.corp.example A").contains("db.corp.example.\t9\tIN\tA\t10.77.0.11"),
        "one TTL for all"
    );
    let serial = dnsd.serial();
    dnsd.update("update add db.corp.example. 9 A 10.0.0.2");
    assert_eq!(dnsd.serial(), serial, "nothing to do is no change");
    dnsd.update("update delete db.corp.example. A 10.77.0.11");
    assert_eq!(dnsd.short("db.corp.example A"), ["10.0.0.2"]);
    dnsd.update("update delete db.corp.example. A\nupdate add db.corp.example. 5 A 10.0.0.3\nupdate add db.corp.example. 5 A 10.0.0.4");
    assert_eq!(dnsd.short("db.corp.example A"), ["10.0.0.3", "10.0.0.4"]);
    dnsd.update("update add db.corp.example. 5 CNAME other.corp.example.");
    assert_eq!(dnsd.short("db.corp.example CNAME").len(), 0, "an alias stands alone: what was first stays");
    dnsd.update("update add _vipd.db.corp.example. 5 TXT \"a b\" \"c\"");
    assert_eq!(dnsd.short("_vipd.db.corp.example TXT"), ["\"a b\" \"c\""]);
    dnsd.update("update delete _vipd.db.corp.example. TXT");
    assert!(dnsd.dig("_vipd.db.corp.example TXT").contains("NXDOMAIN"));
    dnsd.update("update add x.dyn.corp.example. 5 TYPE65280 \\# 3 010203");
    assert!(dnsd.dig("x.dyn.corp.example TYPE65280").contains("\\# 3 010203"), "of a type that nobody knows");
    dnsd.update("update delete x.dyn.corp.example.");
    assert!(dnsd.dig("x.dyn.corp.example TXT").contains("NXDOMAIN"));
    let long = "y".repeat(250);
    let huge: String =
        (0..140).map(|i| format!("update add db.corp.example. 5 TXT \"{i} {long}\"\n")).collect();
    let (done, said) = dnsd.nsupdate(Some(KEY), &huge);
    assert!(!done && said.contains("REFUSED"), "a set that no answer could hold: {said}");
}

#[test]
fn updates_outlive_a_kill_and_a_reload() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::running(ZONE);
    for round in 1..=5 {
        dnsd.update(&format!("update add db.corp.example. 5 A 10.0.0.{round}"));
        let serial = dnsd.serial();
        dnsd.kill();
        dnsd.start();
        assert_eq!(dnsd.short("db.corp.example A").len(), round + 1);
        assert_eq!(dnsd.serial(), serial, "as it was");
    }
    // The file says something new: where no update was, it counts.
    let text =
        ZONE.replace("other A 10.0.0.1", "other A 10.0.0.2\nnew A 10.0.0.3").replace("db 5 A 10.77.0.11", "");
    std::fs::write(dnsd.path("zone"), text).unwrap();
    let serial = dnsd.serial();
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["reloaded"]);
    assert_eq!(dnsd.short("new.corp.example A"), ["10.0.0.3"]);
    assert_eq!(dnsd.short("other.corp.example A"), ["10.0.0.2"]);
    assert_eq!(dnsd.short("db.corp.example A").len(), 6, "what updates did stays");
    assert_eq!(dnsd.serial(), serial + 1);
    // A wrong file: what was served goes on.
    std::fs::write(dnsd.path("zone"), "$TTL 60\nnew A 10.0.0.300\n").unwrap();
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["not reloaded", "zone:2: error: "]);
    assert_eq!(dnsd.short("new.corp.example A"), ["10.0.0.3"]);
    std::fs::write(dnsd.path("zone"), ZONE).unwrap();
    dnsd.update("update add db.corp.example. 5 A 10.0.0.200");
    dnsd.kill();
    dnsd.start();
    assert_eq!(dnsd.short("db.corp.example A").len(), 7);
    assert!(dnsd.serial() > serial + 2, "the update, and the file that changed while it was away");
    dnsd.log().signal("-TERM");
    assert!(dnsd.log().child.wait().unwrap().success());
}

/// It was the file's, an update changed it, another one changed it back: what
/// the file says later counts, as it does for what no update has touched.
#[test]
fn a_set_that_is_as_the_file_says_again_is_the_files_also_after_a_restart() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::running(&format!("{ZONE}x.dyn A 10.0.0.1\n"));
    dnsd.update("update delete x.dyn.corp.example. A\nupdate add x.dyn.corp.example. 60 A 10.0.0.2");
    dnsd.update("update delete x.dyn.corp.example. A\nupdate add x.dyn.corp.example. 60 A 10.0.0.1");
    dnsd.update("update add y.dyn.corp.example. 5 A 10.0.0.3");
    dnsd.update("update delete y.dyn.corp.example. A");
    dnsd.update("update add z.dyn.corp.example. 5 A 10.0.0.4");
    dnsd.kill();
    let file = format!("{ZONE}x.dyn A 10.0.1.1\ny.dyn A 10.0.1.3\nz.dyn A 10.0.1.4\n");
    std::fs::write(dnsd.path("zone"), file).unwrap();
    for _ in 0..2 {
        dnsd.start();
        assert_eq!(dnsd.short("x.dyn.corp.example A"), ["10.0.1.1"]);
        assert_eq!(dnsd.short("y.dyn.corp.example A"), ["10.0.1.3"]);
        assert_eq!(dnsd.short("z.dyn.corp.example A"), ["10.0.0.4"], "what an update made is the update's");
        dnsd.kill();
    }
}

/// Dates are ahead of the seconds since 1970: with the journal goes the knowledge
/// of how far updates had counted up.
#[test]
fn a_serial_that_may_have_gone_back_with_the_journal_is_told() {
    if !needs() {
        return;
    }
    let zone = ZONE.replace("@ NS", "@ SOA ns1 hostmaster 2500000001 60 60 60 5\n@ NS");
    let mut dnsd = Dnsd::new(&zone, "", "");
    let told = ["ahead of the clock", "corp.example.", "2500000001", "state", "rndc retransfer"];
    let starts = |dnsd: &mut Dnsd, tells: bool| {
        let mut program = Program::start(&mut dnsd.command("run"));
        if tells {
            program.wait_for(&told);
        }
        program.wait_for(&["ready"]);
        dnsd.program = Some(program);
    };
    starts(&mut dnsd, true);
    dnsd.update("update add db.corp.example. 5 A 10.0.0.1");
    assert_eq!(dnsd.serial(), 2_500_000_002);
    dnsd.log().signal("-TERM");
    let _ = dnsd.log().all_lines();
    // It knows: nothing is told.
    starts(&mut dnsd, false);
    assert_eq!(dnsd.serial(), 2_500_000_002);
    dnsd.log().signal("-TERM");
    let lines = dnsd.log().all_lines();
    assert!(!lines.iter().any(|line| line.contains("ahead of the clock")), "{lines:?}");
    std::fs::remove_dir_all(dnsd.path("state")).unwrap();
    starts(&mut dnsd, true);
    assert_eq!(dnsd.serial(), 2_500_000_001, "so it is");
}

/// A kill in the middle of a stream of updates: whatever was acknowledged is there.
#[test]
fn no_acknowledged_update_is_lost() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::running(ZONE);
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let port = dnsd.port;
        let stream = std::thread::spawn(move || {
            let add = |i: &u32| {
                let name = format!("r{round}-{i}.dyn.corp.example.");
                nsupdate(port, Some(KEY), &format!("update add {name} 5 A 10.0.{round}.1")).0.then_some(name)
            };
            // They end with the server.
            (0..100).map_while(|i| add(&i)).collect::<Vec<_>>()
        });
        // The first ones are there: now.
        while !dnsd.dig(&format!("r{round}-{}.dyn.corp.example A", 2 + round)).contains("ANSWER: 1") {}
        dnsd.kill();
        acknowledged.extend(stream.join().unwrap());
        dnsd.start();
    }
    assert!(acknowledged.len() >= 12, "{acknowledged:?}");
    for name in &acknowledged {
        assert_eq!(dnsd.short(&format!("{name} A")).len(), 1, "{name}");
    }
}

/// A disk that is full: a file may only be so long (setrlimit).
#[test]
fn a_full_disk_refuses_updates_and_answers_on() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::new(ZONE, "", "");
    dnsd.program = Some(with_room(&dnsd, 8));
    dnsd.log().wait_for(&["ready"]);
    // From now on there is never room for the zone as a whole.
    let anew = dnsd.path("state/corp.example.journal.new");
    std::fs::create_dir(&anew).unwrap();
    let (mut done, mut failed) = (0, None);
    for i in 0..200 {
        let add = format!("update add n{i}.dyn.corp.example. 5 TXT {}", "z".repeat(200));
        match dnsd.nsupdate(Some(KEY), &add) {
            (true, _) => done += 1,
            (false, said) => {
                failed = Some((i, said));
                break;
            }
        }
    }
    let (i, said) = failed.unwrap();
    assert!(said.contains("SERVFAIL"), "{said}");
    dnsd.log().wait_for(&["cannot write the journal: updates are refused, queries are answered"]);
    dnsd.log().wait_for(&["update refused: the journal cannot be written", "key=\"vipd.\"", "corp.example."]);
    assert!(done > 2);
    assert_eq!(dnsd.short("db.corp.example A"), ["10.77.0.11"]);
    assert!(dnsd.dig(&format!("n{i}.dyn.corp.example TXT")).contains("NXDOMAIN"), "not done is not shown");
    // It is said once, however many are refused.
    for _ in 0..3 {
        let large = format!("update add a.dyn.corp.example. 5 TXT {}", "z".repeat(250));
        assert!(!dnsd.nsupdate(Some(KEY), &large).0);
    }
    // As soon as there is room for it, the next one is done.
    give_room(&mut dnsd);
    dnsd.update(&format!("update add n{done}.dyn.corp.example. 5 TXT room"));
    done += 1;
    dnsd.log().signal("-KILL");
    let lines = dnsd.log().all_lines();
    assert_eq!(lines.iter().filter(|line| line.contains("cannot write the journal")).count(), 1, "{lines:?}");
    dnsd.kill();
    std::fs::remove_dir(&anew).unwrap();
    dnsd.start();
    for i in 0..done {
        assert_eq!(dnsd.short(&format!("n{i}.dyn.corp.example TXT")).len(), 1, "n{i}");
    }
}

/// Files may have this many blocks of 512 bytes: more is a full disk. SIGXFSZ
/// would end the process.
fn with_room(dnsd: &Dnsd, blocks: u32) -> Program {
    let mut command = Command::new("sh");
    let limited = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$@\"");
    command.args(["-c", &limited, "sh"]).arg(env!("CARGO_BIN_EXE_dnsd"));
    Program::start(command.arg("run").arg("--config").arg(dnsd.path("dnsd.toml")))
}

fn give_room(dnsd: &mut Dnsd) {
    let pid = dnsd.log().child.id().to_string();
    let more = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().unwrap();
    assert!(more.success());
}

/// The very first start, and one after the file was edited: both have something
/// to write.
#[test]
fn a_disk_that_is_full_at_the_start_does_not_stop_it() {
    if !needs() {
        return;
    }
    let port = free_port();
    let mut dnsd = Dnsd::new(ZONE, "", &format!("[status]\nhttp = \"127.0.0.1:{port}\"\n"));
    for round in 1..=3 {
        std::fs::write(dnsd.path("zone"), ZONE.replace("10.0.0.1", &format!("10.0.0.{round}"))).unwrap();
        dnsd.program = Some(with_room(&dnsd, 0));
        dnsd.log().wait_for(&["cannot write the journal: updates are refused, queries are answered"]);
        dnsd.log().wait_for(&["ready"]);
        assert_eq!(dnsd.short("other.corp.example A"), [format!("10.0.0.{round}")], "as the file says now");
        assert_eq!(dnsd.short("db.corp.example A").len(), round, "and updates did");
        let add = format!("update add db.corp.example. 5 A 10.1.0.{round}");
        let (done, said) = dnsd.nsupdate(Some(KEY), &add);
        assert!(!done && said.contains("SERVFAIL"), "{said}");
        let status = common::get(port, "/status.json");
        assert!(status.contains("\"journal-error\":\"File too large"), "{status}");
        assert!(
            common::get(port, "/metrics").contains("dnsd_zone_journal_writable{zone=\"corp.example.\"} 0")
        );
        give_room(&mut dnsd);
        let serial = dnsd.serial();
        dnsd.update(&add);
        assert!(common::get(port, "/status.json").contains("\"journal-error\":null"));
        assert_eq!((dnsd.serial(), dnsd.short("db.corp.example A").len()), (serial + 1, round + 1));
        dnsd.kill();
    }
}

/// The disk is full, and the file is edited before one start and the next: a
/// secondary that took the first edit must see that there is another.
#[test]
fn edits_that_no_journal_can_note_have_serials_of_their_own() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::running(ZONE);
    dnsd.update("update add db.corp.example. 5 A 10.1.0.1");
    let mut serials = vec![dnsd.serial()];
    dnsd.kill();
    for round in 2..=3 {
        until_after(&serials);
        std::fs::write(dnsd.path("zone"), ZONE.replace("10.0.0.1", &format!("10.0.0.{round}"))).unwrap();
        dnsd.program = Some(with_room(&dnsd, 0));
        dnsd.log().wait_for(&["ready"]);
        assert_eq!(dnsd.short("other.corp.example A"), [format!("10.0.0.{round}")], "as the file says now");
        serials.push(dnsd.serial());
        dnsd.kill();
    }
    // Where there is room it is noted, and goes on from there.
    until_after(&serials);
    dnsd.start();
    serials.push(dnsd.serial());
    assert_eq!(dnsd.short("db.corp.example A").len(), 2, "what updates did is kept");
    dnsd.update("update add db.corp.example. 5 A 10.1.0.2");
    serials.push(dnsd.serial());
    let grows = |two: &[u32]| two[1].wrapping_sub(two[0]).cast_signed() > 0;
    assert!(serials.windows(2).all(grows), "{serials:?}");
}

/// The clock is ahead of all serials but those of the last few seconds; systemd
/// waits for a second, too, before it starts it again.
fn until_after(serials: &[u32]) {
    while now() <= serials.last().copied().unwrap_or(0).into() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// One of two zones cannot be taken over: neither is.
#[test]
fn a_reload_is_done_for_all_zones_or_for_none() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::new(ZONE, "", "");
    let second = dnsd.path("second");
    let more = format!(
        "[[zone]]\nname = \"second.example.\"\nprimary-ns = \"ns1.corp.example.\"\n\
         contact = \"hostmaster.corp.example.\"\nfile = {second:?}\n"
    );
    dnsd.configure("", &more);
    let write = |dnsd: &Dnsd, last: u8| {
        std::fs::write(dnsd.path("zone"), format!("{ZONE}x A 10.0.0.{last}\n")).unwrap();
        std::fs::write(&second, format!("$TTL 60\nx A 10.0.0.{last}\n")).unwrap();
    };
    let serves = |dnsd: &Dnsd, last: u8| {
        for name in ["x.corp.example", "x.second.example"] {
            assert_eq!(dnsd.short(&format!("{name} A")), [format!("10.0.0.{last}")], "{name}");
        }
    };
    write(&dnsd, 1);
    dnsd.start();
    serves(&dnsd, 1);
    // There is no room for the journal of the second.
    let obstacle = dnsd.path("state/second.example.journal.new");
    std::fs::create_dir(&obstacle).unwrap();
    write(&dnsd, 2);
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["not reloaded", "second.example."]);
    serves(&dnsd, 1);
    assert!(!dnsd.path("state/corp.example.journal.new").exists(), "what was prepared is gone");
    dnsd.update("update add db.corp.example. 5 A 10.1.0.1");
    std::fs::remove_dir(&obstacle).unwrap();
    dnsd.log().signal("-HUP");
    dnsd.log().wait_for(&["reloaded"]);
    serves(&dnsd, 2);
    dnsd.kill();
    dnsd.start();
    serves(&dnsd, 2);
    assert_eq!(dnsd.short("db.corp.example A").len(), 2);
}

#[test]
fn leases_end_but_not_the_last_one() {
    if !needs() {
        return;
    }
    let mut dnsd = Dnsd::running(ZONE);
    // nsupdate knows no leases: they are in the message as another tool sends it.
    common::leased::update(&dnsd, &["10.0.0.1", "10.0.0.2"], 1);
    assert_eq!(dnsd.short("leased.dyn.corp.example A").len(), 2);
    dnsd.log().wait_for(&["a record's lease ended", "leased.dyn.corp.example."]);
    dnsd.log().wait_for(&["the last record", "stays", "leased.dyn.corp.example."]);
    assert_eq!(dnsd.short("leased.dyn.corp.example A").len(), 1);
    dnsd.kill();
    dnsd.configure("expire-last = true", "");
    dnsd.start();
    dnsd.log().wait_for(&["a record's lease ended"]);
    assert!(dnsd.dig("leased.dyn.corp.example A").contains("NXDOMAIN"));
}
