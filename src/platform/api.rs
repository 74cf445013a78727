//! The platform's endpoints, one attempt a call: what was sent, what came back, and what it means. Retrying is the
//! caller's.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;
use ureq::http::{HeaderName, Method};
use zeroize::Zeroizing;

use super::answers;
use super::broken::Broken;
use super::wire::SyncBody;
use crate::foreign::one_line;
use crate::http::budget::Memory;
use crate::http::client::{Call, Client, LONG_BODY, NoReply, Reply, SHORT_BODY};
use crate::http::hints::Hints;
use crate::http::retry::{Cause, Verdict, classify_reply};
use crate::http::secret::Secret;
use crate::http::stats::Stats;
use crate::http::token::{Grant, Token};
use crate::http::trace_context::TRACEPARENT;
use crate::own_machine::Shortage;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// All that a path segment may not hold as it is (RFC 3986, 3.3), and some more: whatever an id holds, it stays one segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A page's number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageNumber(pub i64);

/// The platform's API for one account.
pub struct Api {
    client: Client,
    basic: Secret,
    password: Secret,
    stats: Arc<Stats>,
}

/// A page of the listing.
pub struct ListedPage {
    /// Its records, as they came.
    pub records: Vec<Box<RawValue>>,
    /// Those of its records that are no JSON; few, as a rule.
    pub broken: Vec<Broken>,
    /// Whether another page follows.
    pub has_more: bool,
    /// The number of the page that was served, when the answer told it.
    pub page: Option<i64>,
    /// How many campaigns make a page, when the answer told it: a server may allow fewer than were asked for.
    pub limit: Option<i64>,
    /// How many campaigns there are, when the answer told it.
    pub total: Option<i64>,
    /// Its part of the memory for all pages, if it is a large one.
    pub memory: Option<Memory>,
}

/// The platform has synced a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReply;

/// One exchange, for those who watch: limiter, concurrency, metrics, traces.
pub struct Exchange<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query below the base address, as they were sent.
    pub path: &'a str,
    /// Just before the request was sent.
    pub sent_at: Instant,
    /// When it had been written to the connection, as far as is known.
    pub written_at: Instant,
    /// When the reply was complete, or the failure known.
    pub answered_at: Instant,
    /// The status; none when there was no reply.
    pub status: Option<u16>,
    /// A rate limiter refused it: 429, or a 403 that speaks of a limit.
    pub refused: bool,
    /// What the reply said of limits.
    pub hints: Hints,
}

/// What came of an attempt that did not succeed.
#[derive(Debug)]
pub enum CallError {
    /// 429, or a 403 that speaks of a limit: no attempt at all. The limiter knows from the exchange when to come back.
    RateLimited {
        /// The status.
        status: u16,
        /// The server's word on when to come back.
        hint: Option<Duration>,
    },
    /// 401.
    Unauthorized,
    /// Another attempt may succeed; not before `hint`, when there is one.
    Retry {
        /// Why it failed.
        cause: Cause,
        /// The server's word on when to come back.
        hint: Option<Duration>,
        /// A line for people.
        message: String,
    },
    /// Nothing was sent, for want of something on this machine: no attempt at all.
    Shortage(Shortage),
    /// The same request would be refused again.
    Refused {
        /// The status, or 200 for `success: false`.
        status: u16,
        /// A line for people.
        message: String,
    },
}

impl CallError {
    /// A word for grouping, as metrics, traces and dead letters have it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => Cause::RateLimited.word(),
            Self::Unauthorized => Cause::Unauthorized.word(),
            Self::Retry { cause, .. } => cause.word(),
            Self::Shortage(_) => "shortage",
            Self::Refused { status, .. } => refusal_word(*status),
        }
    }

    /// What another attempt counts for: of what was never sent there is none.
    #[must_use]
    pub fn retried(&self) -> Option<Cause> {
        match self {
            Self::RateLimited { .. } => Some(Cause::RateLimited),
            Self::Unauthorized => Some(Cause::Unauthorized),
            Self::Refused { .. } => Some(Cause::Forbidden),
            Self::Retry { cause, .. } => Some(*cause),
            Self::Shortage(_) => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RateLimited { status, .. } => write!(f, "refused by the rate limiter ({status})"),
            Self::Unauthorized => f.write_str("the token was refused (401)"),
            Self::Shortage(shortage) => shortage.fmt(f),
            Self::Retry { message, .. } | Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl Api {
    /// The API for these credentials.
    #[must_use]
    pub fn new(client: Client, email: &str, password: &Secret, stats: Arc<Stats>) -> Self {
        let pair = Secret::joined(&[email, ":", password.reveal()]);
        // Every buffer has its final size from the start: one that grows leaves what it held behind.
        let mut encoded = Zeroizing::new(vec![0; pair.reveal().len().div_ceil(3) * 4]);
        let written = STANDARD.encode_slice(pair.reveal(), &mut encoded).unwrap_or_default();
        let basic = Secret::joined(&["Basic ", str::from_utf8(&encoded[..written]).unwrap_or_default()]);
        Self { client, basic, password: password.clone(), stats }
    }

    /// The base address of all calls, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> &str {
        self.client.base_url()
    }

    /// See [`Client::abandon`].
    pub fn abandon(&self) {
        self.client.abandon();
    }

    /// `POST /auth/token`, once. `trace` is the value of `traceparent`, here and below.
    ///
    /// # Errors
    /// [`CallError`]; `Unauthorized` means the credentials.
    pub fn fetch_token(
        &self,
        trace: Option<&str>,
        watch: &mut dyn FnMut(&Exchange<'_>),
    ) -> Result<Grant, CallError> {
        let headers = trace.map(|value| [(&TRACEPARENT, value)]);
        let call = Call {
            method: Method::POST,
            path: "/auth/token",
            authorization: Some(&self.basic),
            body: Some(b"{}"),
            headers: headers.as_ref().map_or(&[], |headers| headers),
            most_bytes: SHORT_BODY,
        };
        let reply = self.send(&call, watch)?;
        let grant = answers::grant(&reply.body)?;
        self.stats.token_refreshed();
        Ok(grant)
    }

    /// `GET /api/campaigns`, once.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn list_page(
        &self,
        token: &Token,
        page: PageNumber,
        page_size: i32,
        trace: Option<&str>,
        watch: &mut dyn FnMut(&Exchange<'_>),
    ) -> Result<ListedPage, CallError> {
        let path = format!("/api/campaigns?page={}&limit={page_size}", page.0);
        let headers = trace.map(|value| [(&TRACEPARENT, value)]);
        let call = Call {
            method: Method::GET,
            path: &path,
            authorization: Some(&token.authorization),
            body: None,
            headers: headers.as_ref().map_or(&[], |headers| headers),
            most_bytes: LONG_BODY,
        };
        let reply = self.send(&call, watch)?;
        let read = answers::page(&reply.body).map_err(|error| match error {
            CallError::Retry { cause, hint, message } => {
                CallError::Retry { cause, hint, message: format!("page {}: {message}", page.0) }
            }
            other => other,
        })?;
        Ok(ListedPage { memory: reply.memory, ..read })
    }

    /// `POST /api/campaigns/{id}/sync`, once. `key` is the same for every attempt of one logical sync.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn sync(
        &self,
        token: &Token,
        id: &str,
        key: &str,
        trace: Option<&str>,
        watch: &mut dyn FnMut(&Exchange<'_>),
    ) -> Result<SyncReply, CallError> {
        let path = ["/api/campaigns/", &segment(id), "/sync"].concat();
        let body = serde_json::to_vec(&SyncBody { campaign_id: id }).unwrap_or_default();
        let headers = [(&IDEMPOTENCY_KEY, key), (&TRACEPARENT, trace.unwrap_or_default())];
        let call = Call {
            method: Method::POST,
            path: &path,
            authorization: Some(&token.authorization),
            body: Some(&body),
            headers: if trace.is_some() { &headers } else { &headers[..1] },
            most_bytes: SHORT_BODY,
        };
        let reply = self.send(&call, watch)?;
        answers::sync_reply(&reply.body, id, &self.secrets(&token.authorization))
    }

    /// `GET /health`, once; the platform's own word, free of the rate limit.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn health(&self, trace: Option<&str>, watch: &mut dyn FnMut(&Exchange<'_>)) -> Result<(), CallError> {
        let headers = trace.map(|value| [(&TRACEPARENT, value)]);
        let call = Call {
            method: Method::GET,
            path: "/health",
            authorization: None,
            body: None,
            headers: headers.as_ref().map_or(&[], |headers| headers),
            most_bytes: SHORT_BODY,
        };
        self.send(&call, watch).map(|_| ())
    }

    /// What a message must not repeat: what was sent, and what a token is asked for with.
    fn secrets<'a>(&'a self, sent: &'a Secret) -> [&'a Secret; 3] {
        [sent, &self.basic, &self.password]
    }

    fn redirect(&self, call: &Call<'_>, status: u16, location: Option<&str>) -> String {
        let target = location.and_then(|location| own_target(self.base_url(), location));
        match target {
            Some(target) => {
                let secrets = self.secrets(call.authorization.unwrap_or(&self.basic));
                let target = answers::told(target, &secrets);
                format!(
                    "the platform redirects to {target} on the same host ({status}), which is not followed; is --api-url right?"
                )
            }
            None => redirect(status, location),
        }
    }

    fn send(&self, call: &Call<'_>, watch: &mut dyn FnMut(&Exchange<'_>)) -> Result<Reply, CallError> {
        let started = Instant::now();
        let sent = match self.client.send(call) {
            Err(NoReply::Shortage(shortage)) => return Err(CallError::Shortage(shortage)),
            sent => sent,
        };
        let exchange = match &sent {
            Ok(reply) => Exchange {
                method: &call.method,
                path: call.path,
                sent_at: reply.sent_at,
                written_at: reply.written_at,
                answered_at: reply.answered_at,
                status: Some(reply.status),
                refused: classify_reply(reply.status, &reply.hints) == Verdict::RateLimited,
                hints: reply.hints.clone(),
            },
            Err(_) => Exchange {
                method: &call.method,
                path: call.path,
                sent_at: started,
                written_at: started,
                answered_at: Instant::now(),
                status: None,
                refused: false,
                hints: Hints::default(),
            },
        };
        let took = exchange.answered_at.saturating_duration_since(exchange.sent_at);
        self.stats.exchanged(exchange.status, exchange.refused, took);
        watch(&exchange);
        let reply = sent.map_err(|failure| no_reply(&failure))?;
        match classify_reply(reply.status, &reply.hints) {
            Verdict::Success => Ok(reply),
            Verdict::RateLimited => {
                Err(CallError::RateLimited { status: reply.status, hint: reply.hints.wait() })
            }
            Verdict::Unauthorized => Err(CallError::Unauthorized),
            Verdict::Refused => {
                let secrets = self.secrets(call.authorization.unwrap_or(&self.basic));
                let message = answers::refusal(reply.status, &reply.body, &secrets);
                Err(CallError::Refused { status: reply.status, message })
            }
            Verdict::Retry(Cause::Redirect) => Err(CallError::Retry {
                cause: Cause::Redirect,
                hint: None,
                message: self.redirect(call, reply.status, reply.location.as_deref()),
            }),
            Verdict::Retry(cause) => Err(CallError::Retry {
                cause,
                hint: reply.hints.retry_after,
                // Never the body: the platform's 500s carry a stack trace.
                message: format!("the platform answered {}", reply.status),
            }),
        }
    }
}

fn refusal_word(status: u16) -> &'static str {
    match status {
        200..=299 => "refused",
        403 => "forbidden",
        404 => "not_found",
        410 => "gone",
        _ => "rejected",
    }
}

fn no_reply(failure: &NoReply) -> CallError {
    CallError::Retry {
        cause: failure.into(),
        hint: None,
        message: one_line(&failure.to_string(), answers::MESSAGE_CHARACTERS),
    }
}

/// Where a redirect on the same host leads, without its query: that may carry anything.
fn own_target<'a>(base_url: &str, location: &'a str) -> Option<&'a str> {
    let target = location.split(['?', '#']).next().unwrap_or_default();
    if target.starts_with('/') && !target.starts_with("//") {
        return Some(target);
    }
    let host = |url: &str| Some(url.parse::<ureq::http::Uri>().ok()?.host()?.to_lowercase());
    (!target.contains('@') && target.contains("://") && host(target)? == host(base_url)?).then_some(target)
}

fn redirect(status: u16, location: Option<&str>) -> String {
    // Only the host: a redirect's query may carry anything.
    let host = location.and_then(|text| text.parse::<ureq::http::Uri>().ok());
    match host.as_ref().and_then(|uri| uri.host()) {
        Some(host) => {
            format!("the platform redirects to {host} ({status}), where credentials must not follow")
        }
        None => format!("the platform redirects ({status}), where credentials must not follow"),
    }
}

/// An id as one path segment. The two names that mean a folder are written so that nothing on the way resolves them.
fn segment(id: &str) -> Cow<'_, str> {
    match id {
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => utf8_percent_encode(id, SEGMENT).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_stay_one_path_segment() {
        assert_eq!(segment("campaign_17"), "campaign_17");
        assert_eq!(segment("a/b?c#d%e f"), "a%2Fb%3Fc%23d%25e%20f");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("../x"), "..%2Fx");
        assert_eq!(segment("über"), "%C3%BCber");
    }

    proptest! {
        #[test]
        fn every_id_comes_back_from_its_segment(id in "\\PC{1,40}") {
            let segment = segment(&id);
            prop_assert!(segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b)));
            let decoded = percent_encoding::percent_decode_str(&segment).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(decoded, id);
        }
    }

    #[test]
    fn a_redirect_on_the_same_host_shows_its_target_without_the_query() {
        for (location, expected) in [
            ("/api/campaigns/?page=1", Some("/api/campaigns/")),
            ("https://ADS.example/v2?token=hunter2", Some("https://ADS.example/v2")),
            ("http://ads.example:8080/x#y", Some("http://ads.example:8080/x")),
            ("https://elsewhere.example/x", None),
            ("//elsewhere.example/x", None),
            ("https://user:hunter2@ads.example/x", None),
            ("", None),
        ] {
            assert_eq!(own_target("https://ads.example/base", location), expected, "{location}");
        }
    }

    #[test]
    fn a_redirect_shows_its_host_only() {
        let message = redirect(302, Some("https://elsewhere.example/x?token=hunter2"));
        assert_eq!(
            message,
            "the platform redirects to elsewhere.example (302), where credentials must not follow"
        );
    }
}
