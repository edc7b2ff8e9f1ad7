//! What the SDK's errors mean.

use crate::error::{Problem, Skew};
use aws_config::imds::client::error::ImdsError;
use aws_sdk_route53::config::http::HttpResponse;
use aws_sdk_route53::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_route53::primitives::{DateTime, DateTimeFormat};
use std::error::Error;
use std::time::SystemTime;

/// From this difference on, a refused signature is the clock's fault: AWS
/// allows 5 minutes.
const SKEW_ALLOWED: i64 = 4 * 60;

/// What became of a request.
#[derive(Debug)]
pub(super) struct Trouble {
    /// It may have been carried out.
    pub(super) is_unknown: bool,
    pub(super) problem: Problem,
}

pub(super) fn trouble<E>(error: &SdkError<E, HttpResponse>, action: &'static str) -> Trouble
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let text = || format!("{}", DisplayErrorContext(error));
    let unknown = |problem| Trouble { is_unknown: true, problem };
    match error {
        SdkError::ConstructionFailure(_) => Trouble {
            is_unknown: false,
            problem: no_credentials(error).unwrap_or_else(|| Problem::BadAnswer(text())),
        },
        SdkError::TimeoutError(_) => unknown(Problem::TimedOut),
        SdkError::DispatchFailure(failure) => match no_credentials(error) {
            Some(problem) => Trouble { is_unknown: false, problem },
            None if failure.is_timeout() => unknown(Problem::TimedOut),
            None => unknown(Problem::Unreachable(root_cause(error))),
        },
        SdkError::ResponseError(_) => unknown(Problem::BadAnswer(text())),
        SdkError::ServiceError(refusal) => {
            let raw = refusal.raw();
            let status = raw.status().as_u16();
            let (code, message) = (refusal.err().code(), refusal.err().message());
            // An older form of the answer, without a code, is still documented.
            let code = code.map_or_else(|| root_element(raw.body().bytes()), str::to_owned);
            let message = message.map_or_else(|| "no message".to_owned(), str::to_owned);
            let date = raw.headers().get("date").map(str::to_owned);
            Trouble {
                // A batch that does not fit may be our own, repeated or delayed.
                is_unknown: status >= 500 || code == "InvalidChangeBatch",
                problem: refused(action, code, message, date.as_deref().and_then(skew)),
            }
        }
        // The SDK may add kinds of errors.
        _ => unknown(Problem::BadAnswer(text())),
    }
}

fn refused(action: &'static str, code: String, message: String, skew: Option<Skew>) -> Problem {
    match code.as_str() {
        "AccessDenied" | "AccessDeniedException" | "NotAuthorizedException" => {
            Problem::AccessDenied { action, message }
        }
        "NoSuchHostedZone" => Problem::NoSuchHostedZone,
        "Throttling" | "ThrottlingException" | "PriorRequestNotComplete" | "TooManyRequestsException" => {
            Problem::Throttled(code)
        }
        "SignatureDoesNotMatch" | "RequestExpired" | "RequestTimeTooSkewed" => match skew {
            Some(skew) if skew.0.abs() >= SKEW_ALLOWED => Problem::ClockSkew { skew, message },
            Some(_) | None => Problem::BadCredentials { code, message },
        },
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken" => Problem::BadCredentials { code, message },
        _ => Problem::Aws { code, message },
    }
}

/// How far AWS's clock is from ours, by the `Date` of its answer.
fn skew(date: &str) -> Option<Skew> {
    let theirs = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?.secs();
    Some(Skew(theirs - DateTime::from(SystemTime::now()).secs()))
}

fn no_credentials(error: &(dyn Error + 'static)) -> Option<Problem> {
    let mut link = Some(error);
    while let Some(cause) = link {
        // The error of a link of the chain, or the chain's own.
        if cause.is::<aws_credential_types::provider::error::CredentialsError>() || cause.is::<ImdsError>() {
            return Some(Problem::NoCredentials(root_cause(cause)));
        }
        link = cause.source();
    }
    None
}

/// The innermost cause: what outer errors say of it is about the SDK.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The name of an XML document's first element.
fn root_element(body: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(body.unwrap_or_default());
    let mut elements = text.split('<').skip(1).filter(|e| !e.starts_with('?'));
    let name = elements.next().and_then(|e| e.split([' ', '>', '/']).next()).unwrap_or_default();
    if name.is_empty() { "without a code".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_element_names_an_older_answer() {
        let body = br#"<?xml version="1.0"?><InvalidChangeBatch xmlns="x"><Messages/></InvalidChangeBatch>"#;
        assert_eq!(root_element(Some(body)), "InvalidChangeBatch");
        assert_eq!(root_element(Some(b"gone")), "without a code");
        assert_eq!(root_element(None), "without a code");
    }

    #[test]
    fn only_a_wrong_clock_is_blamed_for_a_signature() {
        let of = |skew| refused("", "SignatureDoesNotMatch".to_owned(), String::new(), skew);
        assert!(matches!(of(Some(Skew(-600))), Problem::ClockSkew { .. }));
        assert!(matches!(of(Some(Skew(10))), Problem::BadCredentials { .. }));
        assert!(matches!(of(None), Problem::BadCredentials { .. }));
    }
}
