//! How each command is proven.

use super::house::Place::{self, Client, Fresh, Ns1, Px1};
use Proof::{Answered, Elsewhere, Exits, NotHere, OnHosts, Parsed, Started, Target, Typed, TypedAs};

/// How a command is proven.
pub(super) enum Proof {
    /// Typed as it is: it exits with 0 and prints this.
    Typed(Place, &'static str),
    /// The same, with something in the place of what stands for something.
    TypedAs(Place, &'static str, &'static str),
    /// Typed at a terminal, where it asks, and is answered yes.
    Answered(Place, &'static str, &'static str),
    /// Typed, with this exit status.
    Exits(Place, &'static str, i32, &'static str),
    /// The scene's daemons were started with it, and one said this.
    Started(&'static str),
    /// A target of the Makefile: make says what it would do.
    Target,
    /// Typed on hosts with a real systemd, by the packages' test, in these words.
    OnHosts(&'static str),
    /// Typed by another test, which has these words.
    Elsewhere(&'static str, &'static str),
    /// Takes an AWS account: a shell reads it, and nothing runs.
    Parsed,
    /// Not typed, and why.
    NotHere(&'static str),
}

const ALERTS: &str = "vipd/tests/alerts.rs";
const ETCD: &str = "tests/tests/lab/etcd.rs";

/// In the order in which they are typed: some change what others see.
pub(super) const COMMANDS: &[(&str, Proof)] = &[
    // To look.
    ("vipctl status", Typed(Px1, "orders on px1")),
    ("vipctl status --json", Typed(Px1, "\"cluster\": \"orders\"")),
    ("vipctl why", Typed(Px1, "main")),
    ("vipctl why VIP", TypedAs(Px1, "vipctl why main", "main")),
    ("vipctl why POOL", TypedAs(Px1, "vipctl why primary", "primary")),
    ("vipctl why POOL/SERVER", TypedAs(Px1, "vipctl why primary/db1", "db1")),
    ("vipctl why NAME", TypedAs(Px1, "vipctl why db.corp.example", "px1")),
    ("vipctl why db.corp.example", Typed(Px1, "px1")),
    ("vipctl events", Typed(Px1, "vipd")),
    ("vipctl events --json", Typed(Px1, "\"seq\"")),
    ("vipctl doctor", Exits(Px1, "vipctl doctor", 0, " looked at: 0 wrong")),
    ("vipctl sessions", Typed(Px1, "10.77.3.9")),
    ("vipctl sessions primary/db1", Typed(Px1, "relaying")),
    // To change.
    ("vipctl reload --dry-run", Typed(Px1, "")),
    ("vipctl reload", Typed(Px1, "")),
    ("vipctl sessions kill", Exits(Px1, "vipctl sessions kill", 2, "--client")),
    (
        "vipctl sessions kill 4711",
        Exits(Px1, "vipctl sessions kill 4711 --yes", 1, "there is no session 4711"),
    ),
    (
        "vipctl sessions kill ID",
        TypedAs(
            Px1,
            "vipctl sessions kill --yes $(vipctl sessions --json | sed -n 's/.*\"id\": *\\([0-9]*\\).*/\\1/p' | head -1)",
            "1",
        ),
    ),
    (
        "vipctl sessions kill --client 10.77.3.9",
        Answered(Px1, "vipctl sessions kill --client 10.77.3.9", "10.77.3.9"),
    ),
    ("vipctl server POOL/SERVER ready", TypedAs(Px1, "vipctl server primary/db2 ready", "primary/db2")),
    ("vipctl server x/y maint", Answered(Px1, "vipctl server primary/db2 maint", "primary/db2")),
    (
        "vipctl server POOL/SERVER ready|drain|maint|weight N|weight auto",
        TypedAs(
            Px1,
            "vipctl server primary/db2 ready && vipctl server primary/db2 drain && \
             vipctl server primary/db2 maint --yes && vipctl server primary/db2 ready && \
             vipctl server primary/db2 weight 50 && vipctl server primary/db2 weight auto",
            "primary/db2",
        ),
    ),
    ("vipctl maintenance off", Typed(Px1, "")),
    ("vipctl switchover dns", Answered(Px1, "vipctl switchover dns", "px2 owns dns now")),
    ("vipctl switchover", Answered(Px1, "vipctl switchover", "px2 owns main now")),
    ("vipctl release", Answered(Fresh, "vipctl release", "No floating address was left on this host.")),
    // vipd.
    ("cp /usr/share/doc/vipd/examples/vipd.toml /etc/vipd/vipd.toml", Typed(Fresh, "")),
    ("vipd check", Typed(Fresh, "/etc/vipd/vipd.toml: right (2 nodes, 1 VIP")),
    ("vipd import", Exits(Fresh, "vipd import", 2, "<FILE>")),
    (
        "vipd import keepalived-px1.conf keepalived-px2.conf haproxy.cfg --output vipd.toml",
        Typed(Fresh, "lines; the others, and what to know, stand in comments in vipd.toml"),
    ),
    ("vipd check --config vipd.toml", Typed(Fresh, "vipd.toml: right (")),
    ("vipd keygen", Typed(Fresh, "")),
    (
        "vipd keygen | install -m 640 -g vipd /dev/stdin /etc/vipd/cluster.key",
        OnHosts("vipd keygen | install -m 640 -g vipd /dev/stdin /etc/vipd/cluster.key"),
    ),
    ("vipd run", Started("vipd starts")),
    ("vipd run --log-format auto|text|json|journal", Started("\"message\":\"vipd starts\"")),
    (
        // The package makes the group.
        "openssl rand -base64 24 | install -m 640 -g vipd /dev/stdin /etc/vipd/status.token",
        TypedAs(Fresh, "openssl rand -base64 24 | install -m 640 /dev/stdin /etc/vipd/status.token", ""),
    ),
    // dnsd.
    ("dnsd keygen", TypedAs(Ns1, "dnsd keygen vipd.", "key-name = \"vipd.\"")),
    ("dnsd keygen vipd.", Typed(Ns1, "secret-file")),
    ("dnsd check", Typed(Ns1, "/etc/dnsd/dnsd.toml: right (1 zones")),
    ("dnsd check --config /etc/dnsd/dnsd.toml", Typed(Ns1, "right")),
    ("dnsd run --config /etc/dnsd/dnsd.toml", Started("ready")),
    // The host.
    ("ip -br link", Typed(Client, "eth0")),
    ("ip link set IF up", TypedAs(Client, "ip link set eth0 up", "")),
    ("ip neigh flush to VIP", TypedAs(Client, "ip neigh flush to 10.77.0.100", "")),
    // The repository.
    ("make demo", Target),
    ("make demo DB=mariadb", Target),
    ("make demo DNS=1", Target),
    ("make demo PICTURES=docs", Target),
    ("make deb", Target),
    ("make model", Target),
    ("make nemesis", Target),
    ("make nemesis SEED=7", Target),
    ("make nemesis SCHEDULES=0 ARGS='--runs 20 --only \"10 ms\"'", Target),
    ("make bench-witness", Target),
    ("make fuzz", Target),
    ("make test", Target),
    ("make test-packages", Target),
    ("make bench-balancer", Target),
    ("make bench-balancer ARGS='--rounds 5 --only connect --seconds 3'", Target),
    ("make bench-dns", Target),
    ("make bench-failover", Target),
    ("make bench-pick", Target),
    (
        "bench-balancer --rounds 1 --seconds 2 --only CASE --proxy PROXY",
        NotHere("takes minutes of a quiet machine"),
    ),
    ("bench-balancer --rounds 5 --seconds 2", NotHere("takes minutes of a quiet machine")),
    (
        "TRANSFER_MB=1000 cargo test -p vipd-balancer --lib once_and_in_order",
        Elsewhere("vipd/balancer/src/flow/tests.rs", "once_and_in_order"),
    ),
    ("DNSD_RACES=1000 cargo test -p dnsd --test races", Elsewhere("dnsd/tests/races.rs", "DNSD_RACES")),
    (
        "cargo test -p vipd-config --test import -- --nocapture",
        Elsewhere("config/tests/import.rs", "lines carried over: all"),
    ),
    ("promtool test rules vipd.test.yml", Elsewhere(ALERTS, "[\"test\", \"rules\", \"vipd.test.yml\"]")),
    ("perf record -e cpu-clock -g -p PID", NotHere("takes the kernel's own perf, and the rights for it")),
    // etcd: beside a real one, with its endpoints.
    ("etcdctl role add vipd", Elsewhere(ETCD, "[\"role\", \"add\", \"vipd\"]")),
    (
        "etcdctl role grant-permission vipd --prefix=true readwrite /vipd/",
        Elsewhere(
            ETCD,
            "\"role\", \"grant-permission\", \"vipd\", \"--prefix=true\", \"readwrite\", \"/vipd/\"]",
        ),
    ),
    ("etcdctl user add vipd", Elsewhere(ETCD, "[\"user\", \"add\", \"vipd:lab-secret\"]")),
    ("etcdctl user grant-role vipd vipd", Elsewhere(ETCD, "[\"user\", \"grant-role\", \"vipd\", \"vipd\"]")),
    ("etcdctl get --prefix /vipd/", Elsewhere(ETCD, "[\"get\", \"--prefix\", \"/vipd/\"]")),
    ("etcdctl endpoint health", Elsewhere(ETCD, "[\"endpoint\", \"health\"]")),
    ("etcdctl del", NotHere("it takes a lease from its owner: the simulation deletes keys")),
    // systemd and packages: on two hosts of their own.
    ("apt install ./vipd_0.1.0-1_amd64.deb", OnHosts("/debs/vipd_0.1.0-1_*.deb")),
    ("apt install ./vipd-dnsd_0.1.0-1_amd64.deb", OnHosts("/debs/vipd-dnsd_0.1.0-1_*.deb")),
    ("apt install ./vipd_....deb", OnHosts("dpkg -i /debs/vipd_{NEXT}_*.deb")),
    ("apt remove vipd", OnHosts("dpkg -r vipd")),
    ("apt purge vipd", OnHosts("dpkg -P vipd")),
    ("systemctl start vipd", OnHosts("systemctl start vipd")),
    ("systemctl stop vipd", OnHosts("systemctl stop vipd")),
    ("systemctl restart vipd", OnHosts("systemctl restart vipd")),
    ("systemctl reload vipd", OnHosts("systemctl reload vipd")),
    ("systemctl kill vipd", NotHere("a second SIGTERM: balancer::second_signal_ends_the_drain sends one")),
    ("vipd run --check", Elsewhere("vipd/tests/start.rs", "\"run\", \"--check\"")),
    ("systemctl status vipd", OnHosts("systemctl status vipd")),
    ("systemctl cat vipd", OnHosts("systemctl cat vipd")),
    ("systemctl edit vipd", OnHosts("# [Service]\\n")),
    ("systemctl start dnsd", OnHosts("systemctl start dnsd")),
    (
        "systemctl disable --now keepalived haproxy",
        NotHere("keepalived and HAProxy are on no host with a systemd here"),
    ),
    ("systemd-analyze security", OnHosts("systemd-analyze security")),
    ("systemd-analyze security vipd", OnHosts("systemd-analyze security")),
    ("networkctl reconfigure", OnHosts("networkctl reconfigure host0")),
    ("journalctl -u vipd", OnHosts("journalctl --no-pager -u vipd")),
    ("journalctl VIPD_VIP=main", OnHosts("journalctl --no-pager VIPD_VIP=main")),
    (
        "install -m 640 -g vipd /dev/stdin /etc/vipd/mysql.password",
        OnHosts("install -m 640 -g vipd /dev/stdin /etc/vipd/mysql.password"),
    ),
    ("man vipd.toml", OnHosts("/usr/share/man/man5/vipd.toml.5.gz")),
    ("editor /etc/vipd/vipd.toml", NotHere("a person's")),
    ("scp target/deb/vipd_0.1.0-1_amd64.deb px1:", NotHere("no host here takes logins over SSH")),
    ("ssh -L", NotHere("no host here takes logins over SSH")),
    ("ssh -L 9112:127.0.0.1:9112 px1", NotHere("no host here takes logins over SSH")),
    ("chronyc tracking", NotHere("the machine's clock is not the test's")),
    // AWS.
    (
        "aws iam create-role --role-name vipd --assume-role-policy-document \
         '{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":{\"Service\":\"ec2.amazonaws.com\"},\"Action\":\"sts:AssumeRole\"}]}'",
        Parsed,
    ),
    (
        "aws iam put-role-policy --role-name vipd --policy-name records --policy-document file://policy.json",
        Parsed,
    ),
    ("aws iam create-instance-profile --instance-profile-name vipd", Parsed),
    ("aws iam add-role-to-instance-profile --instance-profile-name vipd --role-name vipd", Parsed),
    (
        "aws ec2 associate-iam-instance-profile --instance-id i-0123456789abcdef0 --iam-instance-profile Name=vipd",
        Parsed,
    ),
    (
        "aws ec2 modify-instance-metadata-options --instance-id i-0123456789abcdef0 --http-tokens required \
         --http-put-response-hop-limit 2",
        Parsed,
    ),
    ("aws ec2 describe-iam-instance-profile-associations", Parsed),
    (
        "aws ec2 authorize-security-group-ingress --group-id sg-proxies --protocol udp --port 7112 --source-group sg-proxies",
        Parsed,
    ),
    (
        "aws ec2 authorize-security-group-ingress --group-id sg-proxies --protocol tcp --port 3306 --source-group sg-clients",
        Parsed,
    ),
    (
        "aws ec2 authorize-security-group-ingress --group-id sg-databases --protocol tcp --port 3306 --source-group sg-proxies",
        Parsed,
    ),
];
