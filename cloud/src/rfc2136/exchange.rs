//! Signed questions and their answers, over one TCP connection.
//!
//! hickory's own client is not used: it drops an answer whose TSIG record tells
//! an error, so that a wrong key or clock could not be named, and it needs a
//! task for each connection.

use super::key::Key;
use crate::error::{Problem, Skew};
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::tsig::{TSIG, TsigError};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Why there are no answers.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// The questions may have reached the server.
    pub(super) sent: bool,
    pub(super) problem: Problem,
}

/// An answer to one question.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Message,
    /// It carries a signature, and that is right.
    pub(super) is_signed: bool,
}

struct Signed {
    id: u16,
    bytes: Vec<u8>,
    mac: Vec<u8>,
    time: u64,
}

/// Asks all questions at once and returns the answers in their order. `now` is
/// in seconds since 1970, for the signatures.
pub(super) async fn exchange(
    server: SocketAddr,
    key: &Key,
    questions: Vec<Message>,
    now: u64,
    deadline: Instant,
) -> Result<Vec<Answer>, NoAnswer> {
    let signed = sign_all(questions, key, now).map_err(|problem| NoAnswer { sent: false, problem })?;
    let mut sent = false;
    let answers = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        sent = true;
        stream.write_all(&frames(&signed)).await?;
        let mut answers = Vec::with_capacity(signed.len());
        for _ in &signed {
            let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut bytes).await?;
            answers.push(bytes);
        }
        io::Result::Ok(answers)
    };
    let bytes = match timeout_at(deadline, answers).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) => return Err(NoAnswer { sent, problem: Problem::Unreachable(e.to_string()) }),
        Err(_) => return Err(NoAnswer { sent, problem: Problem::TimedOut }),
    };
    in_order(&signed, &bytes, key).map_err(|problem| NoAnswer { sent, problem })
}

/// Answers are told apart by their questions' ids: those of one exchange follow the
/// first one's, which is random.
fn sign_all(questions: Vec<Message>, key: &Key, now: u64) -> Result<Vec<Signed>, Problem> {
    let first = questions.first().map_or(0, |q| q.id);
    let ids = (0..=u16::MAX).map(|n| first.wrapping_add(n));
    let numbered = questions.into_iter().zip(ids).map(|(mut question, id)| {
        question.metadata.id = id;
        question
    });
    numbered.map(|q| sign(q, key, now)).collect()
}

fn sign(mut question: Message, key: &Key, now: u64) -> Result<Signed, Problem> {
    let cannot = |e: hickory_proto::ProtoError| Problem::BadAnswer(format!("cannot build the question: {e}"));
    question.finalize(&key.signer, now).map_err(cannot)?;
    let mac = question.signature().map(|s| s.data.mac.clone()).unwrap_or_default();
    let bytes = question.to_vec().map_err(cannot)?;
    Ok(Signed { id: question.id, bytes, mac, time: now })
}

/// One write for all, each behind its length (RFC 1035, section 4.2.2).
fn frames(signed: &[Signed]) -> Vec<u8> {
    let mut out = Vec::new();
    for question in signed {
        // A name, its lease and the addresses of a cluster's nodes: a few KiB.
        let length = u16::try_from(question.bytes.len()).expect("a message fits into 64 KiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&question.bytes);
    }
    out
}

/// A server may answer in any order (RFC 7766, section 6.2.1.1).
fn in_order(signed: &[Signed], bytes: &[Vec<u8>], key: &Key) -> Result<Vec<Answer>, Problem> {
    let answer_to = |question: &Signed| {
        let ours = |b: &&Vec<u8>| b.starts_with(&question.id.to_be_bytes());
        let bytes = bytes.iter().find(ours).ok_or_else(|| Problem::BadAnswer("a foreign id".to_owned()))?;
        verify(question, bytes, key)
    };
    signed.iter().map(answer_to).collect()
}

fn verify(question: &Signed, bytes: &[u8], key: &Key) -> Result<Answer, Problem> {
    let message = Message::from_vec(bytes).map_err(|e| Problem::BadAnswer(e.to_string()))?;
    let Some(tsig) = message.signature() else {
        return Ok(Answer { message, is_signed: false });
    };
    match tsig.data.error {
        None => {}
        Some(TsigError::BadKey) => {
            return Err(Problem::BadKey { key: key.name(), algorithm: key.algorithm().name() });
        }
        Some(TsigError::BadSig) => return Err(Problem::BadSignature { key: key.name() }),
        Some(TsigError::BadTime) => {
            return Err(Problem::BadTime { skew: skew(server_time(&tsig.data), question.time) });
        }
        Some(error @ (TsigError::BadTrunc | TsigError::Unknown(_))) => {
            return Err(Problem::BadAnswer(format!("TSIG error {}", u16::from(error))));
        }
    }
    let (_, time, range) = key
        .signer
        .verify_message_byte(bytes, Some(&question.mac), true)
        .map_err(|_| Problem::BadSignature { key: key.name() })?;
    if !range.contains(&question.time) {
        return Err(Problem::BadTime { skew: skew(time, question.time) });
    }
    Ok(Answer { message, is_signed: true })
}

/// The server's clock in a BADTIME answer: 48 bits of "other data" (RFC 8945, section 5.2.3).
fn server_time(tsig: &TSIG) -> u64 {
    match tsig.other.as_slice() {
        other @ [_, _, _, _, _, _] => other.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)),
        // Some servers put their time into the record itself.
        _ => tsig.time,
    }
}

fn skew(theirs: u64, ours: u64) -> Skew {
    Skew(i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rfc2136::KeyAlgorithm;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::tsig::make_tsig_record;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> Key {
        Key::new("vipd.", KeyAlgorithm::HmacSha256, "c2VjcmV0").unwrap()
    }

    /// An answer as a server signs it: over the question's MAC, then itself.
    fn answer(question: &Signed, key: &Key, time: u64, error: Option<TsigError>, other: Vec<u8>) -> Vec<u8> {
        let mut message = Message::response(question.id, OpCode::Update);
        let bytes = message.to_vec().unwrap();
        let hmac = key.signer.algorithm().clone();
        let unsigned = TSIG::new(hmac, time, 300, Vec::new(), question.id, error, other);
        let signed = key.signer.encode_response_tbs(&question.mac, &bytes, &unsigned).unwrap();
        let tsig = unsigned.set_mac(key.signer.sign(&signed).unwrap());
        message.set_signature(Box::new(make_tsig_record(key.signer.signer_name().clone(), tsig)));
        message.to_vec().unwrap()
    }

    #[test]
    fn only_the_keys_own_signature_counts() {
        let question = sign(Message::query(), &key(), NOW).unwrap();
        let ask = |bytes: &[u8]| verify(&question, bytes, &key());
        assert!(ask(&answer(&question, &key(), NOW + 10, None, vec![])).unwrap().is_signed);
        let other = Key::new("vipd.", KeyAlgorithm::HmacSha256, "Zm9yZ2Vy").unwrap();
        let forged = ask(&answer(&question, &other, NOW, None, vec![])).unwrap_err();
        assert!(matches!(forged, Problem::BadSignature { .. }), "{forged}");
        // The answer to another question, sent again.
        let earlier = Signed { mac: vec![0; 32], ..sign(Message::query(), &key(), NOW).unwrap() };
        let replayed =
            ask(&answer(&Signed { id: question.id, ..earlier }, &key(), NOW, None, vec![])).unwrap_err();
        assert!(matches!(replayed, Problem::BadSignature { .. }), "{replayed}");
        let unsigned = Message::response(question.id, OpCode::Update).to_vec().unwrap();
        assert!(!ask(&unsigned).unwrap().is_signed);
    }

    /// Two ids that are the same by chance would have one answer judged by the
    /// other question's signature.
    #[test]
    fn questions_of_one_exchange_have_ids_of_their_own() {
        let questions = vec![Message::new(u16::MAX, MessageType::Query, OpCode::Query); 4];
        let signed = sign_all(questions, &key(), NOW).unwrap();
        assert_eq!(signed.iter().map(|s| s.id).collect::<Vec<_>>(), [u16::MAX, 0, 1, 2]);
        // The ids are those that were sent and signed, and answers in any order are theirs.
        let sent: Vec<u16> = signed.iter().map(|s| Message::from_vec(&s.bytes).unwrap().id).collect();
        assert_eq!(sent, [u16::MAX, 0, 1, 2]);
        let mut answers: Vec<_> = signed.iter().map(|s| answer(s, &key(), NOW, None, vec![])).collect();
        answers.reverse();
        let answers = in_order(&signed, &answers, &key()).unwrap();
        assert!(answers.iter().all(|a| a.is_signed));
        assert_eq!(answers.iter().map(|a| a.message.id).collect::<Vec<_>>(), sent);
    }

    #[test]
    fn clocks_are_compared() {
        let question = sign(Message::query(), &key(), NOW).unwrap();
        let skew_of = |bytes: Vec<u8>| {
            let problem = verify(&question, &bytes, &key()).unwrap_err();
            let Problem::BadTime { skew } = problem else { panic!("{problem}") };
            skew
        };
        let theirs = (NOW - 500).to_be_bytes()[2..].to_vec();
        let bad_time = answer(&question, &key(), NOW, Some(TsigError::BadTime), theirs);
        assert_eq!(skew_of(bad_time), Skew(-500));
        assert_eq!(skew_of(answer(&question, &key(), NOW + 301, None, vec![])), Skew(301));
    }

    proptest! {
        /// The network's bytes may be refused, never more.
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in any::<(prop::sample::Index, u8)>()) {
            let question = sign(Message::query(), &key(), NOW).unwrap();
            let _ = verify(&question, &bytes, &key());
            let mut near = question.bytes.clone();
            let at = flip.0.index(near.len());
            near[at] ^= flip.1;
            let _ = verify(&question, &near, &key());
        }
    }
}
