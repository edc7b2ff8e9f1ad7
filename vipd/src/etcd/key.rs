//! The keys, as etcd's JSON gateway says them: numbers in strings, bytes in
//! base64, and what is zero or empty left out.

use super::Failure;
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize};
use std::num::NonZeroU8;
use std::time::Duration;
use vipd_core::lease::register::{Operation, Outcome, Record, Sight};

/// The keys of a cluster: one a group, `PREFIX/CLUSTER/VRID`.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// With a slash at its end.
    folder: String,
}

/// A record, in the words of people who read the key.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    node: String,
    run: u32,
    request: u64,
    lease_ms: u64,
    #[serde(default)]
    released: bool,
}

/// A group's key that somebody else has written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the key {key} holds what vipd did not write: delete it, or set another prefix in [etcd]")]
pub(crate) struct Foreign {
    /// Its whole name.
    key: String,
    /// Since which revision of etcd's.
    pub(super) revision: u64,
}

/// What every answer begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    key: String,
    #[serde(deserialize_with = "number")]
    mod_revision: u64,
    value: String,
}

/// Of a range, and of a transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) header: Header,
    kvs: Vec<KeyValue>,
    succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Option<Box<Answer>>,
}

/// A line of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    pub(super) header: Header,
    pub(super) canceled: bool,
    pub(super) cancel_reason: String,
    pub(super) events: Vec<Change>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    r#type: String,
    kv: KeyValue,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Keys {
    pub(super) fn new(prefix: &str, cluster: &str) -> Self {
        Self { folder: format!("{prefix}/{cluster}/") }
    }

    fn key(&self, vrid: NonZeroU8) -> String {
        BASE64.encode(format!("{}{vrid}", self.folder).as_bytes())
    }

    /// Where an operation is sent, and what is sent.
    pub(super) fn request(&self, vrid: NonZeroU8, operation: &Operation) -> (&'static str, String) {
        let key = self.key(vrid);
        let body = match operation {
            Operation::Read => return ("/v3/kv/range", serde_json::json!({ "key": key }).to_string()),
            Operation::Swap { expected, record } => serde_json::json!({
                "compare": [{
                    "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": expected.to_string(),
                }],
                "success": [{ "request_put": { "key": key, "value": encode(record) } }],
                "failure": [{ "request_range": { "key": key } }],
            }),
        };
        ("/v3/kv/txn", body.to_string())
    }

    /// A read that finds nothing: of a key that is no group's.
    pub(super) fn read_of_nothing(&self) -> (&'static str, String) {
        let key = self.no_key();
        ("/v3/kv/range", serde_json::json!({ "key": key }).to_string())
    }

    /// The same, as it was at a revision of etcd's.
    pub(super) fn read_of_nothing_at(&self, revision: u64) -> (&'static str, String) {
        let (key, revision) = (self.no_key(), revision.to_string());
        ("/v3/kv/range", serde_json::json!({ "key": key, "revision": revision }).to_string())
    }

    fn no_key(&self) -> String {
        BASE64.encode(format!("{}0", self.folder).as_bytes())
    }

    /// A swap that never comes about: of a key that is no group's, at a revision
    /// that no key has. The rights that it needs are judged all the same.
    pub(super) fn swap_of_nothing(&self) -> (&'static str, String) {
        let key = self.no_key();
        let body = serde_json::json!({
            "compare": [{
                "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": i64::MAX.to_string(),
            }],
            "success": [{ "request_put": { "key": key, "value": "" } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        ("/v3/kv/txn", body.to_string())
    }

    /// What an operation came to.
    pub(super) fn outcome(
        &self,
        operation: &Operation,
        answer: Answer,
    ) -> Result<Result<Outcome, Foreign>, Failure> {
        match operation {
            Operation::Read => Ok(self.sight(answer.kvs).map(Outcome::Seen)),
            Operation::Swap { .. } if answer.succeeded => Ok(Ok(Outcome::Swapped(answer.header.revision))),
            Operation::Swap { .. } => {
                let range = answer.responses.into_iter().find_map(|r| r.response_range);
                let range = range.ok_or_else(|| Failure::Answer("a transaction without its range".into()))?;
                Ok(self.sight(range.kvs).map(Outcome::Seen))
            }
        }
    }

    fn sight(&self, kvs: Vec<KeyValue>) -> Result<Sight, Foreign> {
        match kvs.into_iter().next() {
            None => Ok(Sight { revision: 0, record: None }),
            Some(kv) => Ok(Sight { revision: kv.mod_revision, record: Some(self.decode(&kv)?) }),
        }
    }

    /// Of all keys.
    pub(super) fn range_request(&self) -> String {
        let (key, range_end) = self.range();
        serde_json::json!({ "key": key, "range_end": range_end }).to_string()
    }

    /// The same, for what changes from now on.
    pub(super) fn watch_request(&self) -> String {
        let (key, range_end) = self.range();
        serde_json::json!({ "create_request": { "key": key, "range_end": range_end } }).to_string()
    }

    fn range(&self) -> (String, String) {
        // What begins with the folder: '0' follows the slash.
        let end = format!("{}0", self.folder.trim_end_matches('/'));
        (BASE64.encode(self.folder.as_bytes()), BASE64.encode(end.as_bytes()))
    }

    /// Every group's key that there is; what somebody else keeps beside them is
    /// none.
    pub(super) fn sights(&self, answer: Answer) -> Vec<(NonZeroU8, Result<Sight, Foreign>)> {
        let of_group = |kv: KeyValue| Some((self.vrid(&kv)?, self.sight(vec![kv])));
        answer.kvs.into_iter().filter_map(of_group).collect()
    }

    /// A key after its change.
    pub(super) fn changed(&self, change: Change) -> Option<(NonZeroU8, Result<Sight, Foreign>)> {
        let vrid = self.vrid(&change.kv)?;
        let kvs = if change.r#type == "DELETE" { vec![] } else { vec![change.kv] };
        Some((vrid, self.sight(kvs)))
    }

    fn vrid(&self, kv: &KeyValue) -> Option<NonZeroU8> {
        let key = BASE64.decode(kv.key.as_bytes()).ok()?;
        let key = String::from_utf8(key).ok()?;
        key.strip_prefix(&self.folder)?.parse().ok()
    }

    fn decode(&self, kv: &KeyValue) -> Result<Record, Foreign> {
        let value = BASE64.decode(kv.value.as_bytes()).unwrap_or_default();
        let stored: Stored = serde_json::from_slice(&value).map_err(|_| {
            let key = BASE64.decode(kv.key.as_bytes()).unwrap_or_default();
            Foreign { key: String::from_utf8_lossy(&key).into_owned(), revision: kv.mod_revision }
        })?;
        Ok(Record {
            node: stored.node,
            run: stored.run,
            number: stored.request,
            lease: Duration::from_millis(stored.lease_ms),
            released: stored.released,
        })
    }
}

fn encode(record: &Record) -> String {
    // A fraction of a millisecond more is waited for, not less.
    let lease_ms = u64::try_from(record.lease.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let stored = Stored {
        node: record.node.clone(),
        run: record.run,
        request: record.number,
        lease_ms,
        released: record.released,
    };
    BASE64.encode(&serde_json::to_vec(&stored).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VRID: NonZeroU8 = NonZeroU8::MIN;

    fn record() -> Record {
        let lease = Duration::from_secs(3);
        Record { node: "px1".into(), run: 7, number: 9, lease, released: false }
    }

    fn answer(json: &serde_json::Value) -> Answer {
        serde_json::from_value(json.clone()).expect("an answer")
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let keys = Keys::new("/vipd", "orders");
        for record in [record(), Record { released: true, ..record() }] {
            let kv = KeyValue { key: keys.key(VRID), mod_revision: 5, value: encode(&record) };
            assert_eq!(keys.decode(&kv).ok(), Some(record));
        }
        let text = String::from_utf8(BASE64.decode(encode(&record()).as_bytes()).expect("base64"));
        let text = text.expect("text");
        assert_eq!(text, r#"{"node":"px1","run":7,"request":9,"lease-ms":3000,"released":false}"#);
    }

    #[test]
    fn answers_lack_what_is_zero() {
        let keys = Keys::new("/vipd", "orders");
        let swap = Operation::Swap { expected: 5, record: record() };
        let done = answer(&serde_json::json!({ "header": { "revision": "6" }, "succeeded": true }));
        assert_eq!(keys.outcome(&swap, done).ok(), Some(Ok(Outcome::Swapped(6))));
        let none = Some(Ok(Outcome::Seen(Sight { revision: 0, record: None })));
        let not = answer(
            &serde_json::json!({ "header": {}, "responses": [{ "response_range": { "header": {} } }] }),
        );
        assert_eq!(keys.outcome(&swap, not).ok(), none);
        assert_eq!(keys.outcome(&Operation::Read, answer(&serde_json::json!({}))).ok(), none);
    }

    #[test]
    fn what_others_keep_is_no_group_and_what_they_wrote_into_one_is_named() {
        let keys = Keys::new("/vipd", "orders");
        let kv = |key: &str, value: &str| {
            let (key, value) = (BASE64.encode(key.as_bytes()), BASE64.encode(value.as_bytes()));
            serde_json::json!({ "key": key, "mod_revision": "5", "value": value })
        };
        let beside = answer(&serde_json::json!({ "kvs": [kv("/vipd/orders/notes", "hello")] }));
        assert_eq!(keys.sights(beside), []);
        let own = BASE64.decode(encode(&record()).as_bytes()).expect("base64");
        let own = String::from_utf8(own).expect("text");
        let inside = [kv("/vipd/orders/51", "hello"), kv("/vipd/orders/52", &own)];
        let found = keys.sights(answer(&serde_json::json!({ "kvs": inside })));
        let failure = found[0].1.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(failure.contains("/vipd/orders/51"), "{failure}");
        assert!(found[1].1.is_ok(), "the others are what they are");
    }
}
