//! Why a VIP group is in the state it is in, in words for people.

use crate::election::{Cause, Restraint, Who};
use crate::group::Group;
use crate::lease::{Answer, Lease};
use crate::node::{ADVERT_INTERVAL, Elsewhere, Link, Proof, Scope};
use crate::settings::{Quorum, Transport};
use crate::time::Time;
use crate::wire::advert::PRIORITY_RELEASE;
use crate::wire::peer::State;
use crate::wire::{Mac, show_mac};
use std::net::IpAddr;
use std::time::Duration;

/// Why the group's state just changed.
pub(crate) fn change(group: &Group, scope: &Scope<'_>) -> String {
    match (group.election.word(), group.cause) {
        (State::Fault, _) => group.fault.clone().unwrap_or_else(|| "cause unknown".to_owned()),
        (State::Backup, None) => "listening for an owner".to_owned(),
        (State::Init, None) if group.taking_part => "waiting for the interface".to_owned(),
        (State::Init, None) => "takes no part".to_owned(),
        (State::Active, None) => "owner".to_owned(),
        (_, Some(cause)) => sentence(cause, group, scope),
    }
}

/// Why the group's state is what it is now.
pub(crate) fn standing(group: &Group, scope: &Scope<'_>) -> String {
    let mut why = state(group, scope);
    if let Some(other) = group.postponed_by(scope.now) {
        why.push_str(&format!(
            "; a takeover is postponed: {} advertises it and has not proven that it has this cluster's key",
            who(other, scope)
        ));
    }
    let follows = group.election.following().is_some() && !group.election.is_candidate();
    if let Some(told) = group.told_by_etcd(scope)
        && (group.election.word() == State::Active || follows)
    {
        why.push_str(&format!("; {told}"));
    }
    for (address, elsewhere) in group.withheld() {
        why.push_str("; ");
        why.push_str(&withheld(*address, elsewhere, scope));
    }
    if group.election.word() == State::Active {
        why.push_str(&silent(group, scope));
    }
    for text in group.rivals().map(|node| rival(group, node, scope)).chain(on_the_link(group, scope)) {
        why.push_str("; ");
        why.push_str(&text);
    }
    why
}

/// That another node owns the group, too, by its own word, and which way adverts are lost.
pub(crate) fn rival(group: &Group, node: usize, scope: &Scope<'_>) -> String {
    let name = scope.name(node);
    let how = match scope.settings.election.transport {
        Transport::Unicast | Transport::Multicast => "IP protocol 112",
        Transport::Udp => "UDP",
    };
    let lost = if group.hears_adverts(node, scope.now) {
        format!("its adverts come here, so this node's do not get there, or {name} does not take them")
    } else {
        "its adverts do not come here".to_owned()
    };
    format!("{name} owns it, too, by its own word: {lost} (is {how} dropped? `vipctl doctor` on both)")
}

/// Whose its addresses are on the link.
fn on_the_link(group: &Group, scope: &Scope<'_>) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    if group.election.word() == State::Active {
        lines.extend(group.conflicts(scope).map(|c| {
            let claims = count(c.count, "claim");
            format!("{} ({claims}, the last {} ago)", conflict(c.address, c.mac, scope), seconds(c.ago))
        }));
        let seen = group.seen_by_backups().iter();
        lines.extend(seen.map(|(node, proof)| seen_by(scope.name(*node), *proof, scope)));
    }
    if let Some((owner, seen)) = group.seen_of_owner() {
        lines.push(proof(seen, scope.name(owner), scope));
    }
    lines
}

/// That another host claims an address which this node owns.
pub(crate) fn conflict(address: IpAddr, mac: Mac, scope: &Scope<'_>) -> String {
    let other = whose(mac, scope);
    let advice = match scope.node_of(mac) {
        Some(_) => "both hold it: `vipctl why` there",
        None => "find that host and take the address from it; it is announced again, and stays here",
    };
    format!("{other} claims {address}, too, which this node owns: {advice}")
}

/// Who answers for an owner's addresses, as this node sees it.
pub(crate) fn proof(proof: Proof, owner: &str, scope: &Scope<'_>) -> String {
    match proof {
        Proof::Owner { took, .. } => {
            format!("{owner} answers for its addresses, {} after its first advert", seconds(took))
        }
        Proof::Other { address, mac } => {
            format!("{} answers for {address}, and not only {owner}, which owns it", whose(mac, scope))
        }
        Proof::Nobody { address } => {
            format!("nobody answers for {address}, which {owner} owns: clients here do not reach it")
        }
    }
}

/// What a backup sees of this node, which owns.
pub(crate) fn seen_by(who: &str, proof: Proof, scope: &Scope<'_>) -> String {
    match proof {
        Proof::Owner { took, .. } => {
            format!("{who} sees this node answer, {} after its first advert", seconds(took))
        }
        Proof::Other { address, mac } => {
            format!("{who} sees {} answer for {address}, and not only this node", whose(mac, scope))
        }
        Proof::Nobody { address } => format!("{who} gets no answer for {address} from this node"),
    }
}

/// An Ethernet address, with the node that has it.
fn whose(mac: Mac, scope: &Scope<'_>) -> String {
    match scope.node_of(mac) {
        Some(node) => format!("{} ({})", scope.name(node), show_mac(mac)),
        None => format!("another host ({})", show_mac(mac)),
    }
}

/// That a node does not hear this one, which hears it.
#[must_use]
pub fn deaf(name: &str) -> String {
    format!(
        "{name} does not hear this node, which hears {name}: something between drops packets one way, from here \
         to there (a firewall?)"
    )
}

/// That an address is not taken, and why.
pub(crate) fn withheld(address: IpAddr, elsewhere: &Elsewhere, scope: &Scope<'_>) -> String {
    let Elsewhere { node, vrid, presumed, .. } = elsewhere;
    let name = scope.name(*node);
    if *presumed {
        return format!("{address} is withheld here: {name} may have it under VRID {vrid} still");
    }
    format!(
        "{address} is withheld here: {name} advertises it under VRID {vrid}, so its file differs (reload it there)"
    )
}

fn state(group: &Group, scope: &Scope<'_>) -> String {
    match group.election.word() {
        State::Init => match (&group.link, group.taking_part) {
            (_, false) => "this node takes no part: it is in maintenance or stopping".to_owned(),
            (_, true) if group.waits() => "waiting until the group that had its number or its addresses \
                 before the reload has let go of them"
                .to_owned(),
            (Link::Up { .. } | Link::Unknown | Link::Down { .. } | Link::Partial { .. }, true) => {
                "waiting for the interface".to_owned()
            }
        },
        State::Fault => group.fault.clone().unwrap_or_else(|| "cause unknown".to_owned()),
        State::Active => change(group, scope),
        State::Backup if group.election.is_candidate() => waiting(group, scope).unwrap_or_default(),
        State::Backup => match group.election.following() {
            Some(owner) if owner.priority == PRIORITY_RELEASE => {
                format!("{} released it {} ago", who(owner.who, scope), seconds(scope.now - owner.at))
            }
            Some(owner) => {
                let mine = group.election.params().priority;
                let relation = match owner.priority.cmp(&mine) {
                    std::cmp::Ordering::Greater => format!("priority {} > {mine}", owner.priority),
                    std::cmp::Ordering::Equal => format!("the same priority, {mine}"),
                    std::cmp::Ordering::Less => {
                        format!("priority {} < {mine}{}", owner.priority, restraint(group, scope))
                    }
                };
                let ago = seconds(scope.now - owner.at);
                format!("{} ({relation}) advertised {ago} ago", who(owner.who, scope))
            }
            None => match group.cause {
                Some(cause @ Cause::NoMajority(..)) => sentence(cause, group, scope),
                Some(_) | None => listening(group, scope),
            },
        },
    }
}

/// What a backup does that has heard nobody.
fn listening(group: &Group, scope: &Scope<'_>) -> String {
    let left = |at| seconds(at - scope.now);
    let longer = |at: &Time| *at - scope.now > group.election.active_down_interval();
    match (group.starts_until(scope), group.election.deadline().filter(longer)) {
        (Some(at), _) => format!("listening for an owner for another {} (start-delay)", left(at)),
        (None, Some(at)) => format!(
            "listening for an owner for another {}: not every other node has said yet by which file it runs, or \
             one runs by another",
            left(at)
        ),
        (None, None) => "listening for an owner".to_owned(),
    }
}

/// What a candidate waits for.
fn waiting(group: &Group, scope: &Scope<'_>) -> Option<String> {
    let lease = group.election.lease().filter(|_| group.election.is_candidate())?;
    if let Some(told) = group.told_by_etcd(scope) {
        return Some(format!("it waits for its lease: {told}"));
    }
    let (promised, voters) = (lease.promises(scope.now), lease.terms().voters);
    let majority = lease.terms().majority();
    let holders: Vec<&str> = refusals(group).map(|holder| scope.name(holder)).collect();
    let taken = match holders.first() {
        Some(holder) => format!("; {} of them promised it to {holder}", holders.len()),
        None => String::new(),
    };
    Some(format!(
        "no majority: {promised} of {voters} voters promise it to this node, {majority} are needed{taken}{}",
        silent(group, scope)
    ))
}

/// To whom voters have promised the group, by their last words.
fn refusals(group: &Group) -> impl Iterator<Item = usize> + '_ {
    let words = group.election.lease().map(Lease::words).unwrap_or_default();
    words.iter().flatten().filter_map(|word| match word.answer {
        Answer::Refused { holder, .. } => holder,
        Answer::Granted => None,
    })
}

/// Why a voter promises this node nothing although it names nobody who has the
/// promise, as far as its file tells; none if it does not say no.
pub(crate) fn refuses(lease: &Lease, voter: usize, scope: &Scope<'_>) -> Option<String> {
    let word = lease.words().get(voter).copied().flatten()?;
    let left = match word.answer {
        Answer::Refused { holder: None, left } if !left.is_zero() => left,
        Answer::Refused { .. } | Answer::Granted => return None,
    };
    let nodes = scope.settings.cluster.nodes.len();
    let differs = match voter.checked_sub(nodes) {
        None => scope.peers.get(voter).map(|peer| &peer.differs),
        Some(witness) => scope.witnesses.get(witness).map(|file| &file.differs),
    };
    if differs.is_some_and(|keys| keys.contains(&ADVERT_INTERVAL)) {
        return Some(format!("refuses: its file has another {ADVERT_INTERVAL}, and so may its lease"));
    }
    let left = seconds(left);
    Some(format!("refuses for {left}: it has just started, or its file has a shorter {ADVERT_INTERVAL}"))
}

/// The voters that do not answer: "; w1 silent for 3.00 s, px2 never heard", or
/// that promise nothing to anybody.
/// Where etcd is the only one, [`Group::told_by_etcd`] says it.
fn silent(group: &Group, scope: &Scope<'_>) -> String {
    let voters_vote = scope.settings.election.quorum != Quorum::Etcd;
    let Some(lease) = group.election.lease().filter(|_| voters_vote) else { return String::new() };
    let patience = lease.terms().length();
    let voters = scope.settings.cluster.voters().zip(lease.words()).enumerate();
    let silent: Vec<String> = voters
        .filter(|(voter, _)| *voter != scope.me)
        .filter_map(|(voter, (member, word))| match word {
            None => Some(format!("{} never heard", member.name)),
            Some(word) if scope.now - word.at >= patience => {
                Some(format!("{} silent for {}", member.name, seconds(scope.now - word.at)))
            }
            Some(_) => refuses(lease, voter, scope).map(|why| format!("{} {why}", member.name)),
        })
        .collect();
    if silent.is_empty() { String::new() } else { format!("; {}", silent.join(", ")) }
}

/// What keeps this node from taking over from an owner of lower priority.
fn restraint(group: &Group, scope: &Scope<'_>) -> String {
    match group.election.restraint(scope.now) {
        Some(Restraint::Off) => ", but no preemption".to_owned(),
        Some(Restraint::Yielded) => ", but this node handed over to it on purpose".to_owned(),
        Some(Restraint::NotEager) if !group.warm => {
            ", but not every server has been checked from here yet".to_owned()
        }
        Some(Restraint::NotEager) if group.refused => {
            ", but the kernel refused the address here the last time, so it takes it only if nobody has it"
                .to_owned()
        }
        Some(Restraint::NotEager) => ", but a listener it tracks has no usable server here".to_owned(),
        Some(Restraint::Delay(left)) => format!("; this node preempts it in {}", seconds(left)),
        Some(Restraint::Nothing) | None => "; this node is taking over".to_owned(),
    }
}

fn sentence(cause: Cause, group: &Group, scope: &Scope<'_>) -> String {
    match cause {
        Cause::AddressOwner => "this node is the address owner (priority 255)".to_owned(),
        Cause::Silence(Some((owner, silence))) => {
            format!("{} was silent for {}", who(owner, scope), seconds(silence))
        }
        Cause::Silence(None) => {
            format!("nobody advertised for {}", seconds(group.election.active_down_interval()))
        }
        Cause::Released(owner) => format!("{} released it", who(owner, scope)),
        Cause::Preempted(owner, priority, mine) => {
            format!("preempted {} (priority {priority} < {mine})", who(owner, scope))
        }
        Cause::Superior(owner, priority, mine) => {
            format!("{} (priority {priority}) owns it and comes before this node ({mine})", who(owner, scope))
        }
        Cause::Slept(slept) => {
            format!("this node did not run for {}; another may own it by now", seconds(slept))
        }
        Cause::GivenUp if group.holds_nothing() => {
            "by another node's file every address of it belongs to a group there".to_owned()
        }
        Cause::NoMajority(..) if scope.settings.election.quorum == Quorum::Etcd => {
            let told = group.told_by_etcd(scope).unwrap_or_default();
            let ended = match scope.now - group.since {
                Duration::ZERO => "its lease was not renewed".to_owned(),
                ago => format!("its lease ended {} ago", seconds(ago)),
            };
            format!("{ended}: {told}")
        }
        Cause::NoMajority(promised, voters) => {
            format!("no majority: {promised} of {voters} voters promised it{}", silent(group, scope))
        }
        Cause::WithoutMajority if scope.settings.election.quorum == Quorum::Etcd => {
            "no other owner is known, and without etcd there is no lease".to_owned()
        }
        Cause::WithoutMajority => {
            format!("no other owner is known, and no majority answers{}", silent(group, scope))
        }
        Cause::GivenUp => "handed over on purpose".to_owned(),
        Cause::Fault => group.fault.clone().unwrap_or_else(|| "cause unknown".to_owned()),
        Cause::Shutdown => "this node takes no part any more".to_owned(),
    }
}

/// A sender's name, or its address.
pub(crate) fn who(who: Who, scope: &Scope<'_>) -> String {
    match who {
        Who::Node(node) => scope.name(node).to_owned(),
        Who::Stranger(address) => address.to_string(),
    }
}

/// A duration as people say it, in seconds.
pub(crate) fn seconds(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 100 {
        return format!("{}.{:03} s", millis / 1000, millis % 1000);
    }
    format!("{}.{:02} s", millis / 1000, millis / 10 % 100)
}

/// So many of something: "1 packet", "2 packets".
#[must_use]
pub fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
