//! What can go wrong with a store, in words for whoever is woken by it.

use std::time::Duration;
use thiserror::Error;

/// A store that could not be read or written. The records are as they were,
/// or, after a time-out of a write, as one of the two states that the write knows.
#[derive(Debug, Error)]
#[error("{place}: {problem}")]
pub struct Error {
    /// The server and zone.
    pub place: String,
    /// What happened, and what to do.
    pub problem: Problem,
}

/// What happened to a request.
#[derive(Debug, Error)]
pub enum Problem {
    /// Nothing listens there, or the network lost it.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No answer by the deadline.
    #[error("no answer in time: is a firewall in the way, or the server overloaded?")]
    TimedOut,
    /// Earlier failures have paused the store.
    #[error("not asked for another {} ms after {failures} failures in a row", wait.as_millis())]
    Paused {
        /// How long the pause still is.
        wait: Duration,
        /// How many requests have failed one after the other.
        failures: u32,
    },
    /// Somebody else changes the records at the same time.
    #[error("the records changed while they were written; the next attempt starts from what is there now")]
    Contended,
    /// The name is something that holds no addresses of its own.
    #[error("{0} is an alias: remove it before vipd can write addresses there")]
    Alias(String),
    /// An answer that makes no sense.
    #[error("cannot understand the answer: {0}")]
    BadAnswer(String),

    /// TSIG BADKEY.
    #[error(
        "the server does not take the key {key} with {algorithm} (BADKEY): name and algorithm must be the same on both sides (Knot: and an ACL of the zone must name the key)"
    )]
    BadKey {
        /// The key's name.
        key: String,
        /// The key's algorithm.
        algorithm: &'static str,
    },
    /// TSIG BADSIG, or an answer whose signature is wrong.
    #[error("the secret of the key {key} is not the server's (BADSIG): compare the key files")]
    BadSignature {
        /// The key's name.
        key: String,
    },
    /// TSIG BADTIME.
    #[error("{}", bad_time(*skew))]
    BadTime {
        /// How far, and in which direction.
        skew: Skew,
    },
    /// NOTAUTH to a question, without a TSIG record that tells more.
    #[error(
        "the server does not take the signature of the key {key} (NOTAUTH): compare the key's name, algorithm and secret, and both clocks; the server's log tells which"
    )]
    BadTsig {
        /// The key's name.
        key: String,
    },
    /// REFUSED.
    #[error("refused: the server does not let the key {key} {what}")]
    Refused {
        /// The key's name.
        key: String,
        /// What was asked, and where it is allowed.
        what: &'static str,
    },
    /// NOTAUTH, or an answer without authority.
    #[error("the server is not the primary of the zone {0}: name the primary in `servers`")]
    NotAuthoritative(String),
    /// NOTZONE.
    #[error(
        "the name does not lie in the server's zone {0} (NOTZONE): check `zone` for a subzone that is delegated"
    )]
    NotZone(String),
    /// NOTIMP.
    #[error("the server takes no dynamic updates (NOTIMP): switch them on (PowerDNS: `dnsupdate=yes`)")]
    NoUpdates,
    /// Another response code.
    #[error("the server answered {0}: its log tells why")]
    ResponseCode(String),

    /// The SDK found nobody to be.
    #[error("no credentials: {0}")]
    NoCredentials(String),
    /// IAM says no.
    #[error(
        "access denied for {action}: {message}; the role's policy must allow it for this zone, with conditions that include this name, its `_vipd` name and their types (docs/aws.md)"
    )]
    AccessDenied {
        /// The IAM action, as policies spell it.
        action: &'static str,
        /// AWS's words.
        message: String,
    },
    /// The zone id is wrong.
    #[error(
        "there is no such hosted zone in this account: check `zone-id` (it starts with Z) and the role's account"
    )]
    NoSuchHostedZone,
    /// Credentials that are wrong or have run out.
    #[error("the credentials are refused ({code}): {message}")]
    BadCredentials {
        /// AWS's error code.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// Signed at a time that AWS does not take.
    #[error(
        "this host's clock is {skew} from AWS's (at most 5 minutes are allowed): check NTP; AWS said: {message}"
    )]
    ClockSkew {
        /// How far, and in which direction.
        skew: Skew,
        /// AWS's words.
        message: String,
    },
    /// Too many requests in the account, or a change before it is not done yet.
    #[error(
        "throttled ({0}): 5 requests a second is the limit of the whole AWS account, shared with everything in it"
    )]
    Throttled(String),
    /// Any other refusal of AWS.
    #[error("AWS answered {code}: {message}")]
    Aws {
        /// AWS's error code.
        code: String,
        /// AWS's words.
        message: String,
    },
}

/// Seconds that two clocks may be apart (RFC 8945, section 10).
const SKEW_ALLOWED: u64 = 300;

fn bad_time(skew: Skew) -> String {
    if skew.0.unsigned_abs() > SKEW_ALLOWED {
        return format!(
            "the server's clock is {skew} from this host's (BADTIME, at most 300 s are allowed): check NTP on both"
        );
    }
    format!(
        "the server does not take when this was signed (BADTIME), though its clock is {skew} of this host's: \
         a dnsd that has begun without a journal, or has seen very many updates, takes nothing that was signed \
         before, which passes within 5 minutes; its log tells"
    )
}

/// How far another clock is from ours, in seconds; positive if it is ahead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Skew(pub i64);

impl std::fmt::Display for Skew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s {}", self.0.unsigned_abs(), if self.0 < 0 { "behind" } else { "ahead" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_refused_though_the_clocks_agree_is_not_called_their_skew() {
        let text = |skew| Problem::BadTime { skew: Skew(skew) }.to_string();
        assert!(text(301).contains("clock is 301 s ahead from this host's") && text(-500).contains("NTP"));
        for skew in [0, 300, -300] {
            assert!(!text(skew).contains("NTP") && text(skew).contains("within 5 minutes"), "{}", text(skew));
        }
    }
}
