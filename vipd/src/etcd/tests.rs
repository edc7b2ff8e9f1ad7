//! The client against members that are made up: each answers by a function of
//! the request.

use super::client::Client;
use super::prove::prove_one;
use super::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use vipd_config::EtcdEndpoint;
use vipd_core::lease::register::Record;
use vipd_core::settings::Host;

const LEASE: Duration = Duration::from_millis(300);

/// What a member answers to a path and a body; none closes the connection.
type Answers = Arc<dyn Fn(&str, &Value) -> Option<Value> + Send + Sync>;

async fn member(answers: Answers) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_one(stream, Arc::clone(&answers)));
        }
    });
    Ok(address)
}

async fn serve_one(stream: TcpStream, answers: Answers) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let asked = serde_json::from_slice(&body).unwrap_or_default();
        let Some(answer) = answers(&path, &asked) else { return Ok(()) };
        let text = answer.to_string();
        let status = if answer["error"].is_string() { "400 Bad Request" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", text.len());
        stream.write_all((head + &text).as_bytes()).await?;
    }
}

fn client(members: &[SocketAddr]) -> (Client, mpsc::Receiver<News>) {
    let endpoint = |a: &SocketAddr| EtcdEndpoint { tls: false, host: Host::Address(a.ip()), port: a.port() };
    let settings = Settings {
        endpoints: members.iter().map(endpoint).collect(),
        prefix: "/vipd".to_owned(),
        login: None,
        ca_file: None,
        tls_name: None,
        identity: None,
    };
    let (news, news_in) = mpsc::channel(WAITING);
    (Client::new(&settings, "orders", LEASE, news), news_in)
}

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

fn vrid(number: u8) -> NonZeroU8 {
    NonZeroU8::new(number).expect("a number")
}

fn troubles(news: &mut mpsc::Receiver<News>) -> Vec<Option<String>> {
    let trouble = |n| if let News::Trouble(why) = n { Some(why) } else { None };
    std::iter::from_fn(|| news.try_recv().ok()).filter_map(trouble).collect()
}

/// One key that somebody else has written harms its own group, and is told once.
#[tokio::test]
async fn a_foreign_key_is_told_once_and_leaves_the_other_groups_alone() -> io::Result<()> {
    let foreign = Arc::new(AtomicBool::new(true));
    let answers: Answers = Arc::new({
        let foreign = Arc::clone(&foreign);
        move |path, asked| {
            let kv =
                json!({ "key": base64("/vipd/orders/51"), "mod_revision": "5", "value": base64("mine!") });
            let of_51 = asked["key"] == base64("/vipd/orders/51") && foreign.load(Ordering::Relaxed);
            match path {
                "/v3/kv/range" if of_51 => Some(json!({ "header": {}, "kvs": [kv] })),
                "/v3/kv/range" => Some(json!({ "header": {} })),
                _ => Some(json!({ "header": { "revision": "9" }, "succeeded": true })),
            }
        }
    });
    let (client, mut news) = client(&[member(answers).await?]);
    let client = Arc::new(client);
    let blocked = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.carry_out(vrid(51), &Operation::Read).await }
    });
    let first = tokio::time::timeout(Duration::from_secs(20), news.recv()).await?;
    assert!(
        matches!(&first, Some(News::Trouble(Some(why))) if why.contains("/vipd/orders/51 holds what vipd did not")),
        "{first:?}"
    );
    let record = Record { node: "px1".into(), run: 7, number: 9, lease: LEASE, released: false };
    let swap = Operation::Swap { expected: 3, record };
    for _ in 0..20 {
        assert_eq!(client.carry_out(vrid(52), &swap).await, Outcome::Swapped(9));
    }
    assert_eq!(troubles(&mut news), [], "neither that it is well again, nor the same once more");
    assert!(client.status()[0].problem.is_none(), "the member did what it was asked");
    foreign.store(false, Ordering::Relaxed);
    let outcome = tokio::time::timeout(Duration::from_secs(20), blocked).await??;
    assert_eq!(outcome, Outcome::Seen(Sight { revision: 0, record: None }));
    assert_eq!(troubles(&mut news), [None]);
    Ok(())
}

/// A member that nobody needs is looked at all the same: what is told of it is
/// so, and nothing is told of one before that.
#[tokio::test]
async fn each_member_is_known_though_another_answers_every_request() -> io::Result<()> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted: Answers = Arc::new({
        let asked = Arc::clone(&asked);
        move |_, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            Some(json!({ "header": {} }))
        }
    });
    let first = member(Arc::new(|_, _| Some(json!({ "header": {} })))).await?;
    let (client, _news) = client(&[first, member(Arc::new(|_, _| None)).await?, member(counted).await?]);
    client.carry_out(vrid(51), &Operation::Read).await;
    let known = |client: &Client| client.status().iter().map(|m| (m.answers, m.failures)).collect::<Vec<_>>();
    assert_eq!(known(&client), [(1, 0), (0, 0), (0, 0)]);
    client.look_at_idle().await;
    assert_eq!(known(&client), [(1, 0), (0, 1), (1, 0)], "the first was asked just now");
    assert!(client.status()[1].problem.is_some());
    client.carry_out(vrid(51), &Operation::Read).await;
    assert_eq!(known(&client)[0], (2, 0), "it stays the one that is asked");
    client.look_at_idle().await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "no more often than need be");
    Ok(())
}

/// etcd is asked for what stood there long ago: it refuses that if it is compacted.
#[tokio::test]
async fn an_etcd_that_nobody_compacts_is_found_out() -> io::Result<()> {
    for (revision, compacted, hoards) in [("900", 0, false), ("5000", 0, true), ("5000", 4500, false)] {
        let answers: Answers = Arc::new(move |_, asked| {
            let then = asked["revision"].as_str().and_then(|r| r.parse::<u64>().ok());
            if then.is_some_and(|then| then < compacted) {
                return Some(json!({ "error": "etcdserver: mvcc: required revision has been compacted" }));
            }
            Some(json!({ "header": { "revision": revision } }))
        });
        let (client, _news) = client(&[member(answers).await?]);
        let proof = prove_one(&client, 0, 1000).await.map_err(io::Error::other)?;
        assert_eq!(proof.hoards, hoards, "{revision}, {compacted}");
    }
    Ok(())
}
