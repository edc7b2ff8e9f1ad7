//! Sessions leave some descriptors to the rest of the daemon (a test binary of
//! its own: the limit is the process's).

mod common;

use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use vipd_balancer::CloseCause;

#[test]
fn clients_do_not_get_the_last_descriptors() {
    const LIMIT: u64 = 300;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, hard).expect("lower");
    // Each session takes four of this process, two of them the balancer's.
    let balancer = balancer(&[echo()]);
    let mut served = vec![];
    let refused = |balancer: &_| stats(balancer).closed(CloseCause::NoResources);
    while refused(&balancer) == 0 {
        let mut client = connect(&balancer);
        let asked = std::io::Write::write_all(&mut client, b"ping");
        match asked.and_then(|()| std::io::Read::read_exact(&mut client, &mut [0; 4])) {
            Ok(()) => served.push(client),
            Err(_) => until("it is counted", || refused(&balancer) > 0),
        }
    }
    let count = served.len();
    assert!((20..60).contains(&count), "{count} sessions of {LIMIT} descriptors");
    // Others have what they need, and those that have a session keep it.
    let others: Vec<_> = (0..100).map(|_| File::open("/dev/null").expect("a descriptor")).collect();
    served.iter_mut().for_each(ask);
    assert_eq!(stats(&balancer).accept_errors, 0);
    drop(others);
    served.truncate(5);
    until("they are gone", || balancer.sessions() == 5);
    ask(&mut connect(&balancer));

    assert_eq!(vipd_balancer::raise_descriptor_limit().expect("a limit"), hard);
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("a limit"), (hard, hard));
}
