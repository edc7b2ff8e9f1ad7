//! A strict Route 53: exact deletes, batches that are done wholly or not at
//! all, the account's limit, and the ways in which it fails. Signatures are not
//! computed again, but who signed, for what and when is checked.

use aws_sdk_route53::primitives::{DateTime, DateTimeFormat};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::time::Instant;

pub(crate) const ZONE_ID: &str = "Z0123456789ABCDEFGHIJ";
const DOMAIN: &str = "corp.example.";
pub(crate) const HEALTH_CHECK: &str = "0a1b2c3d-0000-4444-8888-ffffffffffff";

/// What becomes of the next change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The connection closes before it is carried out.
    LoseRequest,
    /// The connection closes after it was carried out.
    LoseReply,
    /// It is carried out, and no reply comes.
    SilentReply,
    /// `PriorRequestNotComplete`.
    PriorRequest,
    /// An internal error after it was carried out.
    InternalError,
}

/// How the fake tells that a batch does not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BatchError {
    /// `ErrorResponse`, as today.
    Wrapped,
    /// `InvalidChangeBatch`, as documented.
    Documented,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) record_type: String,
    pub(crate) identifier: Option<String>,
    pub(crate) ttl: u32,
    pub(crate) values: BTreeSet<String>,
    pub(crate) multivalue: bool,
    pub(crate) health_check: Option<String>,
}

/// Sorted as Route 53 lists: by the labels from the right, type and identifier.
type Key = (Vec<String>, String, Option<String>);

impl Set {
    fn key(&self) -> Key {
        let labels = self.name.trim_end_matches('.').rsplit('.').map(str::to_owned).collect();
        (labels, self.record_type.clone(), self.identifier.clone())
    }
}

pub(crate) struct State {
    pub(crate) sets: BTreeMap<Key, Set>,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) batch_error: BatchError,
    /// After this a change is INSYNC.
    pub(crate) propagation: Duration,
    /// Requests a second, if they are limited.
    pub(crate) limit: Option<u32>,
    /// AWS's clock, as seconds from ours.
    pub(crate) clock: i64,
    /// The credentials that are good: key id and session token.
    pub(crate) credentials: (String, Option<String>),
    /// Those of temporary sessions are good, whichever: somebody else gives them out.
    pub(crate) any_session: bool,
    /// Whose key id the last request was signed with.
    pub(crate) signed_by: String,
    /// The action that the policy does not allow.
    pub(crate) denied: Option<&'static str>,
    /// Every request that was let in.
    pub(crate) requests: Vec<String>,
    recent: VecDeque<Instant>,
    changes: Vec<Instant>,
}

impl State {
    /// A set of the zone's, by a person's hand.
    pub(crate) fn put(&mut self, name: &str, record_type: &str, ttl: u32, values: &[&str]) {
        let set = Set {
            name: name.to_owned(),
            record_type: record_type.to_owned(),
            identifier: None,
            ttl,
            values: values.iter().map(|v| (*v).to_owned()).collect(),
            multivalue: false,
            health_check: None,
        };
        self.sets.insert(set.key(), set);
    }

    /// The sets of a name.
    pub(crate) fn at(&self, name: &str) -> Vec<Set> {
        self.sets.values().filter(|s| s.name == name).cloned().collect()
    }
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// Starts one in this runtime.
    pub(crate) async fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same where it is told.
    pub(crate) fn start_on(listener: TcpListener) -> Self {
        let state = Arc::new(Mutex::new(State {
            sets: BTreeMap::new(),
            faults: VecDeque::new(),
            batch_error: BatchError::Wrapped,
            propagation: Duration::ZERO,
            limit: None,
            clock: 0,
            credentials: ("AKIDTEST".to_owned(), None),
            any_session: false,
            signed_by: String::new(),
            denied: None,
            requests: Vec::new(),
            recent: VecDeque::new(),
            changes: Vec::new(),
        }));
        let fake = Self { address: listener.local_addr().unwrap(), state };
        fake.state().put(DOMAIN, "SOA", 900, &["ns1 hostmaster 1 7200 900 1209600 86400"]);
        tokio::spawn(fake.clone().serve(listener));
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let fake = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| fake.respond(request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    /// An error closes the connection without an answer.
    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| "the client went away")?.to_bytes();
        let path = head.uri.path().trim_end_matches('/').trim_start_matches("/2013-04-01/").to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let (answer, silent) = {
            let mut state = self.state();
            let action = match (&head.method, parts.as_slice()) {
                (&Method::GET, ["hostedzone", _, "rrset"]) => "ListResourceRecordSets",
                (&Method::POST, ["hostedzone", _, "rrset"]) => "ChangeResourceRecordSets",
                (&Method::GET, ["change", _]) => "GetChange",
                _ => panic!("{} {}", head.method, head.uri),
            };
            let answer = match state.admit(&head.headers, action) {
                Err(refusal) => refusal,
                Ok(()) if parts[0] == "hostedzone" && parts[1] != ZONE_ID => {
                    error(404, "NoSuchHostedZone", &format!("No hosted zone found with ID: {}", parts[1]))
                }
                Ok(()) => match action {
                    "ListResourceRecordSets" => state.list(head.uri.query().unwrap_or_default()),
                    "GetChange" => match state.faults.pop_front() {
                        None => state.get_change(parts[1]),
                        Some(Fault::LoseRequest | Fault::LoseReply) => return Err("lost"),
                        Some(Fault::InternalError) => error(500, "InternalFailure", "try again"),
                        Some(Fault::PriorRequest) => error(400, "Throttling", "Rate exceeded"),
                        Some(Fault::SilentReply) => (0, String::new()),
                    },
                    _ => match state.faults.pop_front() {
                        Some(Fault::LoseRequest) => return Err("lost"),
                        Some(Fault::PriorRequest) => error(
                            400,
                            "PriorRequestNotComplete",
                            "The request was rejected because Route 53 was still processing a prior request.",
                        ),
                        fault => {
                            let answer = state.change(std::str::from_utf8(&body).unwrap());
                            match fault {
                                Some(Fault::LoseReply) => return Err("lost"),
                                Some(Fault::InternalError) => error(500, "InternalFailure", "try again"),
                                Some(Fault::SilentReply) => (0, String::new()),
                                Some(Fault::LoseRequest | Fault::PriorRequest) | None => answer,
                            }
                        }
                    },
                },
            };
            let date = DateTime::from_secs(state.now());
            (
                Response::builder()
                    .header("date", date.fmt(DateTimeFormat::HttpDate).unwrap())
                    .status(answer.0.max(200))
                    .body(Full::from(answer.1))
                    .unwrap(),
                answer.0 == 0,
            )
        };
        if silent {
            std::future::pending::<()>().await;
        }
        Ok(answer)
    }
}

type Answer = (u16, String);

fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<ErrorResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Error>\
         <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>1</RequestId></ErrorResponse>"
    );
    (status, body)
}

fn document(root: &str, content: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<{root} xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">{content}</{root}>"
    );
    (200, body)
}

impl State {
    fn now(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + self.clock
    }

    /// Who asks, when, and how often.
    fn admit(&mut self, headers: &hyper::HeaderMap, action: &'static str) -> Result<(), Answer> {
        let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let authorization = header("authorization").expect("a signature");
        let signed_by = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
        self.signed_by = signed_by.unwrap_or_default().to_owned();
        let token = header("x-amz-security-token");
        if self.any_session && self.signed_by.starts_with("ASIA") && token.is_some() {
            self.credentials = (self.signed_by.clone(), token);
        }
        let (key, token) = &self.credentials;
        if !authorization.contains(&format!("Credential={key}/")) {
            return Err(error(
                403,
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            ));
        }
        assert!(authorization.contains("/us-east-1/route53/aws4_request"), "{authorization}");
        if header("x-amz-security-token") != *token {
            return Err(error(403, "ExpiredToken", "The security token included in the request is expired"));
        }
        let signed = header("x-amz-date").unwrap();
        let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &signed).unwrap();
        let signed = signed.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
        let late = self.now() - signed;
        if late > 300 {
            return Err(error(
                403,
                "SignatureDoesNotMatch",
                "Signature expired: it is now earlier than 5 min. ago",
            ));
        }
        if late < -300 {
            return Err(error(400, "RequestExpired", "Request has expired."));
        }
        if self.denied == Some(action) {
            let message = format!(
                "User: arn:aws:sts::123456789012:assumed-role/vipd/i-0 is not authorized to perform: route53:{action} on resource: \
                 arn:aws:route53:::hostedzone/{ZONE_ID} because no identity-based policy allows the route53:{action} action"
            );
            return Err(error(403, "AccessDenied", &message));
        }
        if let Some(limit) = self.limit {
            let now = Instant::now();
            self.recent.retain(|at| now - *at < Duration::from_secs(1));
            if self.recent.len() >= limit as usize {
                return Err(error(400, "Throttling", "Rate exceeded"));
            }
            self.recent.push_back(now);
        }
        self.requests.push(action.to_owned());
        Ok(())
    }

    fn get_change(&self, id: &str) -> Answer {
        let known =
            id.trim_start_matches('C').parse().ok().and_then(|n: usize| Some((n, self.changes.get(n)?)));
        let Some((number, done)) = known else {
            return error(404, "NoSuchChange", &format!("A change with id {id} does not exist."));
        };
        let status = if *done <= Instant::now() { "INSYNC" } else { "PENDING" };
        document("GetChangeResponse", &change_info(number, status))
    }

    fn list(&self, query: &str) -> Answer {
        let mut parameters: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k, v.replace("%2A", "*").replace("%3A", ":")))
            .collect();
        let most: usize = parameters.remove("maxitems").map_or(300, |n| n.parse().unwrap());
        let start = parameters.remove("name").map(|name| {
            assert!(name.ends_with('.'), "{name}");
            let labels = name.trim_end_matches('.').rsplit('.').map(str::to_owned).collect();
            (labels, parameters.remove("type").unwrap_or_default(), parameters.remove("identifier"))
        });
        let mut rest =
            self.sets.iter().filter(|(k, _)| start.as_ref().is_none_or(|s| *k >= s)).map(|(_, s)| s);
        let page: String = rest.by_ref().take(most).map(Set::to_xml).collect();
        let next = rest.next().map(|s| {
            let identifier = s.identifier.as_ref();
            format!(
                "<NextRecordName>{}</NextRecordName><NextRecordType>{}</NextRecordType>{}",
                s.name,
                s.record_type,
                identifier.map_or_else(String::new, |i| format!(
                    "<NextRecordIdentifier>{i}</NextRecordIdentifier>"
                ))
            )
        });
        document(
            "ListResourceRecordSetsResponse",
            &format!(
                "<ResourceRecordSets>{page}</ResourceRecordSets><IsTruncated>{}</IsTruncated>{}<MaxItems>{most}</MaxItems>",
                next.is_some(),
                next.unwrap_or_default()
            ),
        )
    }

    /// All changes in their order, or none.
    fn change(&mut self, body: &str) -> Answer {
        let xml = roxmltree::Document::parse(body).unwrap();
        let mut sets = self.sets.clone();
        for change in xml.descendants().filter(|n| n.has_tag_name_without_namespace("Change")) {
            let action = change.text_of("Action").unwrap();
            let set = Set::from_xml(change.child("ResourceRecordSet").unwrap());
            if let Err(message) = step(&mut sets, &action, set) {
                return self.bad_batch(&message);
            }
        }
        self.sets = sets;
        self.changes.push(Instant::now() + self.propagation);
        let status = if self.propagation.is_zero() { "INSYNC" } else { "PENDING" };
        document("ChangeResourceRecordSetsResponse", &change_info(self.changes.len() - 1, status))
    }

    fn bad_batch(&self, message: &str) -> Answer {
        match self.batch_error {
            BatchError::Wrapped => error(400, "InvalidChangeBatch", &format!("[{message}]")),
            BatchError::Documented => {
                let content =
                    format!("<Messages><Message>{message}</Message></Messages><RequestId>1</RequestId>");
                (400, document("InvalidChangeBatch", &content).1)
            }
        }
    }
}

fn change_info(number: usize, status: &str) -> String {
    format!(
        "<ChangeInfo><Id>/change/C{number}</Id><Status>{status}</Status>\
         <SubmittedAt>2026-11-20T12:00:00Z</SubmittedAt></ChangeInfo>"
    )
}

/// One change of a batch.
fn step(sets: &mut BTreeMap<Key, Set>, action: &str, set: Set) -> Result<(), String> {
    let it = format!("resource record set [name='{}', type='{}']", set.name, set.record_type);
    if !set.name.ends_with(&format!(".{DOMAIN}")) {
        return Err(format!("RRSet with DNS name {} is not permitted in zone {DOMAIN}", set.name));
    }
    set.check()?;
    match action {
        "DELETE" => match sets.get(&set.key()) {
            None => Err(format!("Tried to delete {it} but it was not found")),
            Some(there) if *there != set => {
                Err(format!("Tried to delete {it} but the values provided do not match the current values"))
            }
            Some(_) => {
                sets.remove(&set.key());
                Ok(())
            }
        },
        "CREATE" => {
            if sets.contains_key(&set.key()) {
                return Err(format!("Tried to create {it} but it already exists"));
            }
            let others = || sets.values().filter(|s| s.name == set.name);
            if others().any(|s| s.record_type == "CNAME")
                || (set.record_type == "CNAME" && others().count() > 0)
            {
                return Err(format!("RRSet of type CNAME with DNS name {} conflicts", set.name));
            }
            if others().any(|s| s.record_type == set.record_type && s.multivalue != set.multivalue) {
                return Err(format!("Tried to create {it} beside one of another routing policy"));
            }
            sets.insert(set.key(), set);
            Ok(())
        }
        _ => Err(format!("{action} is never used")),
    }
}

impl Set {
    fn check(&self) -> Result<(), String> {
        let is_valid = |v: &String| match self.record_type.as_str() {
            "A" => v.parse::<std::net::Ipv4Addr>().is_ok(),
            "AAAA" => v.parse::<std::net::Ipv6Addr>().is_ok(),
            "TXT" => v.split("\" \"").all(|s| s.len() <= 257) && v.starts_with('"') && v.ends_with('"'),
            _ => true,
        };
        if self.values.is_empty() || !self.values.iter().all(is_valid) {
            return Err(format!("Invalid Resource Record: {:?}", self.values));
        }
        if self.multivalue != self.identifier.is_some() {
            return Err("a set identifier and a routing policy go together".to_owned());
        }
        if self.health_check.as_ref().is_some_and(|h| h != HEALTH_CHECK) {
            return Err("The health check does not exist".to_owned());
        }
        Ok(())
    }

    fn from_xml(node: roxmltree::Node<'_, '_>) -> Self {
        let records = node.descendants().filter(|n| n.has_tag_name_without_namespace("Value"));
        let values: Vec<String> = records.map(|n| n.text().unwrap().to_owned()).collect();
        let distinct: BTreeSet<String> = values.iter().cloned().collect();
        assert_eq!(distinct.len(), values.len(), "duplicate values");
        Self {
            name: node.text_of("Name").unwrap(),
            record_type: node.text_of("Type").unwrap(),
            identifier: node.text_of("SetIdentifier"),
            ttl: node.text_of("TTL").unwrap().parse().unwrap(),
            values: distinct,
            multivalue: node.text_of("MultiValueAnswer").as_deref() == Some("true"),
            health_check: node.text_of("HealthCheckId"),
        }
    }

    fn to_xml(&self) -> String {
        let option = |tag: &str, value: Option<&str>| {
            value.map_or_else(String::new, |v| format!("<{tag}>{v}</{tag}>"))
        };
        let values: String = self
            .values
            .iter()
            .map(|v| format!("<ResourceRecord><Value>{v}</Value></ResourceRecord>"))
            .collect();
        format!(
            "<ResourceRecordSet><Name>{}</Name><Type>{}</Type>{}{}<TTL>{}</TTL><ResourceRecords>{values}</ResourceRecords>{}\
             </ResourceRecordSet>",
            self.name,
            self.record_type,
            option("SetIdentifier", self.identifier.as_deref()),
            option("MultiValueAnswer", self.multivalue.then_some("true")),
            self.ttl,
            option("HealthCheckId", self.health_check.as_deref()),
        )
    }
}

trait Element {
    fn has_tag_name_without_namespace(&self, name: &str) -> bool;
    fn child(&self, name: &str) -> Option<Self>
    where
        Self: Sized;
    fn text_of(&self, name: &str) -> Option<String>;
}

impl Element for roxmltree::Node<'_, '_> {
    fn has_tag_name_without_namespace(&self, name: &str) -> bool {
        self.tag_name().name() == name
    }

    fn child(&self, name: &str) -> Option<Self> {
        self.children().find(|n| n.has_tag_name_without_namespace(name))
    }

    fn text_of(&self, name: &str) -> Option<String> {
        self.child(name)?.text().map(str::to_owned)
    }
}
