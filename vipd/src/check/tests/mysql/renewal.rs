//! New logins, beside the connection that is kept.

use super::*;

/// What becomes of those who come after the first one.
#[derive(Clone, Copy)]
enum Others {
    /// They are served like the first.
    Served,
    /// They are not greeted.
    Ignored,
    /// They get this error in the place of the greeting.
    Refused(u16),
    /// They get it in answer to their login.
    Denied(u16),
    /// They are let in, to change their password and do nothing else.
    Expired,
}

struct Database {
    port: u16,
    logins: Arc<AtomicUsize>,
    others: watch::Sender<Others>,
    /// A goodbye that was said to it.
    goodbyes: mpsc::UnboundedReceiver<()>,
}

impl Database {
    async fn start(others: Others) -> Result<Self, std::io::Error> {
        let (sender, goodbyes) = mpsc::unbounded_channel();
        let (others, now) = watch::channel(others);
        let first = AtomicUsize::new(0);
        let (port, logins) = server(move |mut stream| {
            let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
            let others = if is_first { Others::Served } else { *now.borrow() };
            let sender = sender.clone();
            async move {
                match others {
                    Others::Served => {
                        log_in(&mut stream).await?;
                        questions(&mut stream, usize::MAX).await?;
                        return sender.send(()).map_err(std::io::Error::other);
                    }
                    Others::Ignored => {}
                    Others::Expired => {
                        log_in(&mut stream).await?;
                        let (sequence, _) = read(&mut stream).await?;
                        stream.write_all(&packet(sequence + 1, &error(1820))).await?;
                    }
                    Others::Refused(code) => stream.write_all(&packet(0, &error(code))).await?,
                    Others::Denied(code) => {
                        stream.write_all(&greeting("mysql_native_password")).await?;
                        let (sequence, _) = read(&mut stream).await?;
                        stream.write_all(&packet(sequence + 1, &error(code))).await?;
                    }
                }
                stream.read_to_end(&mut Vec::new()).await.map(drop)
            }
        })
        .await?;
        Ok(Self { port, logins, others, goodbyes })
    }

    fn kind() -> CheckKind {
        mysql(Role::Primary)
    }

    /// A check that has been answered once.
    async fn checked(&self) -> Result<Lab, Box<dyn std::error::Error>> {
        let mut lab = Lab::start(&[pool("a", Self::kind(), &[self.port])]);
        assert_eq!(lab.report().await?.probe, primary());
        Ok(lab)
    }

    fn hurry(&self, lab: &Lab) {
        lab.checker.hurry("a", &format!("db{}", self.port));
    }

    async fn goodbye(&mut self) -> Outcome {
        tokio::time::timeout(LIMIT, self.goodbyes.recv()).await?.ok_or("the server has ended")?;
        Ok(())
    }
}

fn error(code: u16) -> Vec<u8> {
    [&[0xff], &code.to_le_bytes()[..], b"no"].concat()
}

#[tokio::test]
async fn it_takes_the_place_of_the_old_one_which_ends_in_order() -> Outcome {
    let mut database = Database::start(Others::Served).await?;
    let mut lab = database.checked().await?;
    for logins in 2..5 {
        database.hurry(&lab);
        database.goodbye().await?;
        assert_eq!(lab.report().await?.probe, primary());
        assert!(database.logins.load(Ordering::SeqCst) >= logins);
    }
    Ok(())
}

/// Clients tell of it, and else it is seen all the same: `LOGIN_WITHIN`.
#[tokio::test]
async fn a_server_that_lets_nobody_in_is_down_though_it_answers_the_check() -> Outcome {
    for (others, asked_for, text) in [
        (Others::Refused(1129), true, "waiting for the greeting of PEER: ERROR 1129: no (too many logins"),
        (Others::Refused(1130), true, "waiting for the greeting of PEER: ERROR 1130: no (no account"),
        (Others::Ignored, true, "timed out after 150ms while waiting for the greeting of PEER"),
        (Others::Ignored, false, "timed out after 150ms while waiting for the greeting of PEER"),
    ] {
        let database = Database::start(others).await?;
        let mut lab = Lab::start(&[hasty(Database::kind(), database.port)]);
        while lab.report().await?.probe != primary() {}
        if asked_for {
            database.hurry(&lab);
        }
        let text = text.replace("PEER", &format!("127.0.0.1:{}", database.port));
        let seen = async {
            // On a busy machine other steps may take too long, too.
            while !matches!(lab.report().await?.probe, Probe::Failed(said) if said.starts_with(&text)) {}
            Outcome::Ok(())
        };
        tokio::time::timeout(LIMIT, seen).await.map_err(|_| text.clone())??;
    }
    Ok(())
}

/// What is kept is given up where nobody else gets in: a shutdown may wait for
/// it. And whoever is let in again is well.
#[tokio::test]
async fn what_was_kept_ends_in_order_when_nobody_else_gets_in() -> Outcome {
    let mut database = Database::start(Others::Refused(1129)).await?;
    let mut lab = database.checked().await?;
    database.hurry(&lab);
    database.goodbye().await?;
    database.others.send_replace(Others::Served);
    while lab.report().await?.probe != primary() {}
    Ok(())
}

/// A server that is full, or that has something against the check's account
/// and nobody else's, is asked over what is kept.
#[tokio::test]
async fn where_only_the_check_is_kept_out_it_goes_on_as_before() -> Outcome {
    let full = [Others::Refused(1040), Others::Denied(1040)];
    let kept_out = [1045, 1226, 3118, 3955, 4150].map(Others::Denied).into_iter().chain([Others::Expired]);
    for (others, again) in full.map(|o| (o, true)).into_iter().chain(kept_out.map(|o| (o, false))) {
        let database = Database::start(others).await?;
        let mut lab = database.checked().await?;
        goes_on(&mut lab, database.port, &database.logins, again, |probe| *probe == primary()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn it_goes_to_the_address_that_is_in_use() -> Outcome {
    let (here, other) = (Database::start(Others::Served).await?, Database::start(Others::Served).await?);
    let at = |database: &Database| SocketAddr::from(([127, 0, 0, 1], database.port));
    let (here_at, other_at) = (at(&here), at(&other));
    let mut prober = Prober::new(MysqlCheck::new("vipd"), None, LIMIT, LIMIT);
    let mut probe = async |addresses: &[SocketAddr]| {
        prober.renew();
        let deadline = Instant::now() + LIMIT;
        let progress = Progress::default();
        let probe = prober.probe(way(addresses, deadline), &progress);
        let (address, _) = tokio::time::timeout(LIMIT, probe).await??;
        Ok::<_, Box<dyn std::error::Error>>(address)
    };
    assert_eq!(probe(&[here_at]).await?, here_at);
    assert_eq!(probe(&[other_at, here_at]).await?, here_at);
    assert_eq!(here.logins.load(Ordering::SeqCst), 2);
    assert_eq!(probe(&[other_at]).await?, other_at, "the name has moved");
    Ok(())
}
