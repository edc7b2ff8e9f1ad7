//! The page for people: one document, with its style, its script and the
//! state at the moment it was asked for.

use super::Body;
use super::live::{LagDoc, Live};
use crate::control::api::{EventDoc, StatusDoc};
use data_encoding::BASE64;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

const HTML: &str = "text/html; charset=utf-8";

/// The page on both sides of the state, and what it may do.
static PAGE: LazyLock<(String, String, String)> = LazyLock::new(|| {
    let page = FRAME.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    let (before, after) = page.split_once("/*FIRST*/").unwrap_or((&page, ""));
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    // Nothing from elsewhere, no script and no style but these two.
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    (before.to_owned(), after.to_owned(), policy)
});

/// What the page draws before anything else has come.
#[derive(Serialize)]
struct First<'a> {
    status: &'a StatusDoc,
    lag: LagDoc,
    events: Vec<Arc<EventDoc>>,
}

/// The page with a state in it.
pub(super) fn render(status: &StatusDoc, live: &Live) -> Response<Body> {
    let first = First { status, lag: live.lag(), events: live.events.kept() };
    let text = match serde_json::to_string(&first) {
        // Names may hold anything; an element's end is none of their business.
        Ok(text) => text.replace('<', "\\u003c"),
        Err(error) => {
            return super::page(StatusCode::INTERNAL_SERVER_ERROR, super::TEXT, format!("{error}\n"));
        }
    };
    let (before, after, policy) = &*PAGE;
    let mut response = super::page(StatusCode::OK, HTML, [before, text.as_str(), after].concat());
    if let Ok(policy) = HeaderValue::from_str(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_light_and_asks_nobody_else() {
        let (before, after, _) = &*PAGE;
        assert!(before.len() + after.len() < 100_000, "{} bytes", before.len() + after.len());
        let page = [before.as_str(), after].concat();
        for needle in ["/*STYLE*/", "/*SCRIPT*/", "/*FIRST*/", "innerHTML", " style=", " onclick=", "eval("] {
            assert!(!page.contains(needle), "{needle}");
        }
        let outside = page.match_indices("http").filter(|(at, _)| {
            let rest = &page[*at..];
            rest.starts_with("http")
                && rest.contains("://")
                && !rest.starts_with("http://www.w3.org/2000/svg")
                && (rest.starts_with("http://") || rest.starts_with("https://"))
        });
        assert_eq!(outside.count(), 0, "an outside resource");
    }
}
