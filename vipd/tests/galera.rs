//! Checks against a real Galera cluster of three nodes.
//!
//! Needs Debian's `mariadb-server`, `galera-4` and `rsync`.

mod databases;

use databases::{Checks, MariaDb, Outcome, free_port, is_possible};
use std::os::unix::fs::PermissionsExt;
use vipd_core::probe::{ObservedRole, Probe};
use vipd_core::settings::{Galera, MysqlCheck};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

const STRICT: Option<Galera> = Some(Galera { donors: false });
const LENIENT: Option<Galera> = Some(Galera { donors: true });

/// Three nodes, and checks of all.
struct Cluster {
    nodes: [MariaDb; 3],
    /// Where each takes part in the cluster.
    members: [u16; 3],
    programs: tempfile::TempDir,
    checks: Checks,
}

impl Cluster {
    /// A first node is started alone and stopped again: the others begin with
    /// a copy of it, which is faster than a transfer.
    fn start() -> Outcome<Self> {
        let members = [free_port()?, free_port()?, free_port()?];
        let programs = gated_transfer()?;
        let mut first = MariaDb::install(1)?;
        first.start(options(1, &members, "rsync")?.into_iter().chain([new_cluster()]).collect())?;
        first.sql("CREATE USER vipd@'127.%'; CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)")?;
        first.shut_down()?;
        let mut nodes = [MariaDb::copy(&first, 2)?, MariaDb::copy(&first, 3)?];
        first.start(options(1, &members, "rsync")?.into_iter().chain([new_cluster()]).collect())?;
        for node in &mut nodes {
            node.programs = Some(programs.path().to_owned());
            node.launch(options(node.id, &members, "rsync")?)?;
        }
        let [second, third] = nodes;
        second.wait_until_ready()?;
        third.wait_until_ready()?;
        let nodes = [first, second, third];
        let mut cluster = Self { nodes, members, programs, checks: Checks::start() };
        cluster.check(STRICT);
        Ok(cluster)
    }

    fn check(&mut self, galera: Option<Galera>) {
        let nodes: Vec<&MariaDb> = self.nodes.iter().collect();
        self.checks.apply(&nodes, MysqlCheck { galera, ..MysqlCheck::new("vipd") });
    }

    async fn until_ready(&mut self, node: usize) -> Outcome<Vec<Probe>> {
        self.checks.until_is(node, ObservedRole::Primary, None).await
    }
}

fn new_cluster() -> String {
    "--wsrep-new-cluster".to_owned()
}

/// `members` are the ports of the cluster's own conversation.
fn options(id: u32, members: &[u16; 3], transfer: &str) -> Outcome<Vec<String>> {
    let own = members[usize::try_from(id)? - 1];
    let all = members.map(|port| format!("127.0.0.1:{port}")).join(",");
    let (state, increments) = (free_port()?, free_port()?);
    let provider = format!(
        "base_port={own};gmcast.listen_addr=tcp://127.0.0.1:{own};ist.recv_addr=127.0.0.1:{increments};gcache.size=8M"
    );
    Ok(vec![
        "--binlog-format=ROW".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
        "--wsrep-on=ON".to_owned(),
        // Sessions wait for the cluster unless they say that they do not want to.
        "--wsrep-sync-wait=15".to_owned(),
        "--wsrep-cluster-name=vipd-test".to_owned(),
        format!("--wsrep-provider={PROVIDER}"),
        format!("--wsrep-provider-options={provider}"),
        format!("--wsrep-cluster-address=gcomm://{all}"),
        format!("--wsrep-node-name=db{id}"),
        format!("--wsrep-node-address=127.0.0.1:{own}"),
        format!("--wsrep-sst-method={transfer}"),
        format!("--wsrep-sst-receive-address=127.0.0.1:{state}"),
    ])
}

/// A way to transfer a node's state, `gated`, that waits at the donor while
/// the file `gate` is beside it.
fn gated_transfer() -> Outcome<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    // The servers run it as another user.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let script = dir.path().join("wsrep_sst_gated");
    let text = "#!/bin/sh
        server=$PPID
        case \" $* \" in
            *' --role donor '*)
                while [ -e \"${0%/*}/gate\" ] && kill -0 $server; do sleep 0.1; done ;;
        esac
        exec wsrep_sst_rsync \"$@\"
    ";
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    Ok(dir)
}

#[tokio::test]
async fn a_cluster_of_three() -> Outcome {
    if !is_possible(&["mariadbd", "rsync", PROVIDER], "mariadb-server galera-4 rsync")? {
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    for node in 0..3 {
        cluster.until_ready(node).await?;
    }
    rejected_queries(&mut cluster).await?;
    desync(&mut cluster).await?;
    a_donor(&mut cluster).await?;
    lost_quorum(&mut cluster).await
}

async fn rejected_queries(cluster: &mut Cluster) -> Outcome {
    cluster.nodes[1].sql("SET GLOBAL wsrep_reject_queries = ALL")?;
    cluster.checks.until_unready(1, "wsrep_reject_queries is ALL").await?;
    cluster.nodes[1].sql("SET GLOBAL wsrep_reject_queries = NONE")?;
    cluster.until_ready(1).await?;
    Ok(())
}

/// One that was desynced is in the state of a donor, and is none.
async fn desync(cluster: &mut Cluster) -> Outcome {
    cluster.nodes[1].sql("SET GLOBAL wsrep_desync = ON")?;
    cluster.checks.until_unready(1, "wsrep_desync is ON").await?;
    cluster.check(LENIENT);
    cluster.checks.until_unready(1, "wsrep_desync is ON").await?;
    cluster.check(None);
    cluster.until_ready(1).await?;
    cluster.nodes[1].sql("SET GLOBAL wsrep_desync = OFF")?;
    cluster.check(STRICT);
    cluster.until_ready(1).await?;
    Ok(())
}

/// The third node comes back with nothing, and the second one gives it all.
async fn a_donor(cluster: &mut Cluster) -> Outcome {
    let gate = cluster.programs.path().join("gate");
    std::fs::write(&gate, "")?;
    cluster.nodes[2].stop();
    cluster.checks.until_failed(2, "connection refused").await?;
    let mut joiner = MariaDb::homeless(3)?;
    joiner.programs = Some(cluster.programs.path().to_owned());
    let donor = "--wsrep-sst-donor=db2".to_owned();
    joiner.launch(options(3, &cluster.members, "gated")?.into_iter().chain([donor]).collect())?;
    cluster.nodes[2] = joiner;
    cluster.checks.until_unready(1, "wsrep_local_state is 2 (Donor/Desynced)").await?;
    cluster.check(LENIENT);
    cluster.until_ready(1).await?;
    cluster.check(STRICT);
    cluster.checks.until_unready(1, "wsrep_local_state is 2 (Donor/Desynced)").await?;
    std::fs::remove_file(&gate)?;
    cluster.until_ready(1).await?;
    cluster.until_ready(2).await?;
    Ok(())
}

async fn lost_quorum(cluster: &mut Cluster) -> Outcome {
    cluster.nodes[1].stop();
    cluster.nodes[2].stop();
    cluster.checks.until_unready(0, "wsrep_cluster_status is non-Primary").await?;
    // Also who does not ask for Galera learns that every query is refused.
    cluster.check(None);
    cluster.checks.until_unready(0, "wsrep_ready is OFF").await?;
    cluster.check(STRICT);
    cluster.checks.until_unready(0, "wsrep_cluster_status is non-Primary").await?;
    cluster.nodes[0].sql("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=true'")?;
    cluster.until_ready(0).await?;
    Ok(())
}
