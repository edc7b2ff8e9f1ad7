//! Resource record sets of Route 53 from and to leases. Pure.

use super::{Form, Member};
use crate::error::Problem;
use crate::lease::{self, Lease};
use crate::plan::{Current, LeaseRecord, Shape};
use aws_sdk_route53::types::{Change, ChangeAction, ResourceRecord, ResourceRecordSet, RrType};
use hickory_proto::rr::Name;
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::net::IpAddr;

/// Before the digest of the sets as they were written, behind the lease in its
/// record: by it an edit is told from what other settings have built.
const FORM: &str = " form=";

/// The record sets of a name and of its lease, as Route 53 told them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sets {
    /// The TXT sets of the lease's name.
    pub(super) lease: Vec<ResourceRecordSet>,
    /// The A and AAAA sets of the name.
    pub(super) addresses: Vec<ResourceRecordSet>,
}

/// Whether Route 53's name is ours; it spells `*` as `\052`.
pub(super) fn is_named(set: &ResourceRecordSet, name: &Name) -> bool {
    let theirs = set.name.replace("\\052", "*").to_ascii_lowercase();
    theirs.trim_end_matches('.') == name.to_string().trim_end_matches('.')
}

/// What the sets of a page mean for a name: those that are ours to change.
pub(super) fn take(
    sets: &mut Sets,
    page: Vec<ResourceRecordSet>,
    name: &Name,
    lease_name: &Name,
) -> Result<(), Problem> {
    for set in page {
        let at_name = is_named(&set, name);
        if at_name && (set.r#type == RrType::Cname || set.alias_target.is_some()) {
            return Err(Problem::Alias(name.to_string()));
        }
        if at_name && matches!(set.r#type, RrType::A | RrType::Aaaa) {
            sets.addresses.push(set);
        } else if is_named(&set, lease_name) && set.r#type == RrType::Txt {
            sets.lease.push(set);
        }
    }
    Ok(())
}

/// What the sets hold.
pub(super) fn current(sets: &Sets, name: &Name, lease_name: &Name, form: &Form) -> Result<Current, Problem> {
    let mut addresses = BTreeSet::new();
    for value in sets.addresses.iter().flat_map(ResourceRecordSet::resource_records) {
        let address = value.value.parse();
        let address: IpAddr =
            address.map_err(|_| Problem::BadAnswer(format!("the address {:?}", value.value)))?;
        addresses.insert(address);
    }
    let texts: Vec<&ResourceRecord> =
        sets.lease.iter().flat_map(ResourceRecordSet::resource_records).collect();
    let (lease, written) = match texts.as_slice() {
        [] => (LeaseRecord::Absent, None),
        [text] => {
            let text = unquote(&text.value);
            let (lease, written) = text.rsplit_once(FORM).map_or((&*text, None), |(l, w)| (l, Some(w)));
            let lease =
                lease.parse().map_or_else(|_| LeaseRecord::Unreadable(text.clone()), LeaseRecord::Held);
            (lease, written.map(str::to_owned))
        }
        several => (LeaseRecord::Unreadable(format!("{} records", several.len())), None),
    };
    let shape = match &lease {
        LeaseRecord::Held(held) if held.addresses == addresses => {
            let (found, asked) = (normal(&sets.addresses), build(held, name, lease_name, form)?);
            match written {
                _ if found == normal(&asked.addresses) => Shape::Asked,
                Some(written) if written == digest(&found) => Shape::Former,
                Some(_) | None => Shape::Foreign,
            }
        }
        LeaseRecord::Held(_) | LeaseRecord::Absent | LeaseRecord::Unreadable(_) => Shape::Asked,
    };
    Ok(Current { lease, addresses, shape })
}

/// The sets that a lease stands for.
pub(super) fn build(lease: &Lease, name: &Name, lease_name: &Name, form: &Form) -> Result<Sets, Problem> {
    let mut addresses = Vec::new();
    for record_type in [RrType::A, RrType::Aaaa] {
        let of_type = |a: &&IpAddr| a.is_ipv4() == (record_type == RrType::A);
        let wanted = lease.addresses.iter().filter(of_type);
        match form {
            Form::Simple => {
                let values: Vec<String> = wanted.map(ToString::to_string).collect();
                if !values.is_empty() {
                    addresses.push(set(name, &record_type, lease.ttl, values, None)?);
                }
            }
            Form::Multivalue(members) => {
                let mut by_member = BTreeMap::<String, (Vec<String>, Option<&Member>)>::new();
                for address in wanted {
                    let member = members.iter().find(|m| m.addresses.contains(address));
                    let identifier = member.map_or_else(|| address.to_string(), |m| m.name.clone());
                    let (values, of) = by_member.entry(identifier).or_default();
                    values.push(address.to_string());
                    *of = member;
                }
                for (identifier, (values, member)) in by_member {
                    let health_check = member.and_then(|m| m.health_check.clone());
                    let multivalue = Some((identifier, health_check));
                    addresses.push(set(name, &record_type, lease.ttl, values, multivalue)?);
                }
            }
        }
    }
    let text = format!("{lease}{FORM}{}", digest(&normal(&addresses)));
    let text = lease::strings(&text).iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(" ");
    Ok(Sets { lease: vec![set(lease_name, &RrType::Txt, lease.ttl, vec![text], None)?], addresses })
}

pub(super) fn set(
    name: &Name,
    record_type: &RrType,
    ttl: u32,
    values: Vec<String>,
    multivalue: Option<(String, Option<String>)>,
) -> Result<ResourceRecordSet, Problem> {
    let unbuilt =
        |e: aws_sdk_route53::error::BuildError| Problem::BadAnswer(format!("cannot build the change: {e}"));
    let mut builder =
        ResourceRecordSet::builder().name(name.to_string()).r#type(record_type.clone()).ttl(i64::from(ttl));
    for value in values {
        builder = builder.resource_records(ResourceRecord::builder().value(value).build().map_err(unbuilt)?);
    }
    if let Some((identifier, health_check)) = multivalue {
        builder =
            builder.set_identifier(identifier).multi_value_answer(true).set_health_check_id(health_check);
    }
    builder.build().map_err(unbuilt)
}

/// The compare-and-swap: deletes exactly what was read, creates what is new,
/// all or nothing. A lease that has changed is found before anything else.
pub(super) fn swap(old: &Sets, new: &Sets) -> Result<Vec<Change>, Problem> {
    let changes = [
        (ChangeAction::Delete, &old.lease),
        (ChangeAction::Create, &new.lease),
        (ChangeAction::Delete, &old.addresses),
        (ChangeAction::Create, &new.addresses),
    ];
    let each = changes.into_iter().flat_map(|(action, sets)| sets.iter().map(move |s| (action.clone(), s)));
    each.map(|(action, set)| {
        let change = Change::builder().action(action).resource_record_set(set.clone()).build();
        change.map_err(|e| Problem::BadAnswer(format!("cannot build the change: {e}")))
    })
    .collect()
}

/// Sets in an order and spelling that does not depend on who wrote them.
fn normal(sets: &[ResourceRecordSet]) -> BTreeSet<String> {
    let key = |set: &ResourceRecordSet| {
        let values = set.resource_records().iter().filter_map(|r| r.value.parse().ok());
        let values: BTreeSet<IpAddr> = values.collect();
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        // Weights, regions and the like are nobody's but a person's.
        let routed = set.weight.is_some()
            || set.region.is_some()
            || set.geo_location.is_some()
            || set.failover.is_some()
            || set.cidr_routing_config.is_some()
            || set.geo_proximity_location.is_some();
        // Its digest is kept: nothing of it may change with a library's version.
        format!(
            "{} {} {:?} {} {:?} {} {routed}",
            set.r#type.as_str(),
            set.ttl.unwrap_or_default(),
            set.set_identifier.as_deref().unwrap_or_default(),
            set.multi_value_answer.unwrap_or_default(),
            set.health_check_id.as_deref().unwrap_or_default(),
            values.join(","),
        )
    };
    sets.iter().map(key).collect()
}

/// SipHash-1-3 with a zero key, over what [`normal`] gives.
fn digest(normal: &BTreeSet<String>) -> String {
    let mut hasher = SipHasher13::new();
    for set in normal {
        hasher.write(set.as_bytes());
        hasher.write(b"\n");
    }
    format!("{:016x}", hasher.finish())
}

/// The text of a TXT value: `"one" "two"`, joined.
fn unquote(value: &str) -> String {
    let mut text = String::new();
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in value.chars() {
        match c {
            _ if is_escaped => {
                text.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => text.push(c),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::any_lease;
    use crate::names;
    use proptest::prelude::*;

    proptest! {
        /// What is written is read back as the same lease, in its form.
        #[test]
        fn leases_survive_both_forms(lease in any_lease(), cut in 0..20usize) {
            let name = names::parse("db.corp.example").unwrap();
            let lease_name = names::lease_name(&name).unwrap();
            let some: BTreeSet<IpAddr> = lease.addresses.iter().copied().take(cut).collect();
            let px1 = Member { name: "px1".to_owned(), addresses: some, health_check: Some("hc-1".to_owned()) };
            let forms = [Form::Simple, Form::Multivalue(vec![px1])];
            for (i, form) in forms.iter().enumerate() {
                let sets = build(&lease, &name, &lease_name, form).unwrap();
                let read = current(&sets, &name, &lease_name, form).unwrap();
                prop_assert_eq!(&read.lease, &LeaseRecord::Held(lease.clone()));
                prop_assert_eq!(&read.addresses, &lease.addresses);
                prop_assert_eq!(read.shape, Shape::Asked);
                let other = current(&sets, &name, &lease_name, &forms[1 - i]).unwrap();
                let empty = lease.addresses.is_empty();
                prop_assert_eq!(other.shape, if empty { Shape::Asked } else { Shape::Former });
                // Somebody has changed a record, or nothing tells what was written.
                let mut edited = sets.clone();
                edited.addresses.iter_mut().for_each(|s| s.health_check_id = Some("hc-9".to_owned()));
                let edited = current(&edited, &name, &lease_name, form).unwrap();
                prop_assert_eq!(edited.shape, if empty { Shape::Asked } else { Shape::Foreign });
                let mut untold = sets.clone();
                let text = &mut untold.lease[0].resource_records.as_mut().unwrap()[0].value;
                *text = format!("\"{}\"", unquote(text).rsplit_once(FORM).unwrap().0);
                let untold = current(&untold, &name, &lease_name, &forms[1 - i]).unwrap();
                prop_assert_eq!(&untold.lease, &LeaseRecord::Held(lease.clone()));
                prop_assert_eq!(untold.shape, if empty { Shape::Asked } else { Shape::Foreign });
                let mut taken = Sets::default();
                let page = sets.lease.iter().chain(&sets.addresses).cloned().collect();
                take(&mut taken, page, &name, &lease_name).unwrap();
                prop_assert_eq!(&taken, &sets);
            }
        }

        #[test]
        fn no_text_panics(value in any::<String>()) {
            unquote(&value);
        }
    }

    #[test]
    fn texts_are_unquoted() {
        assert_eq!(unquote(r#""a b" "c""#), "a bc");
        assert_eq!(unquote(r#""a\"b\\""#), r#"a"b\"#);
    }
}
