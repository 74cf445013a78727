//! An attempt as the log tells of it: what was asked the how manieth time, and what came of it. Failures are `debug`, and so
//! are tokens; all else is `trace`: a fast run makes thousands of requests a second.

use std::fmt;
use std::time::{Duration, Instant};

use log::Level;

use crate::platform::Exchange;
use crate::scope::Scope;

/// What came back of a request, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Just before the request was sent.
    pub sent_at: Instant,
    status: Option<u16>,
    latency: Duration,
}

impl Answer {
    /// Nothing yet.
    pub fn awaited(sent_at: Instant) -> Self {
        Self { sent_at, status: None, latency: Duration::ZERO }
    }

    /// The request is over.
    pub fn given(&mut self, exchange: &Exchange<'_>) {
        self.sent_at = exchange.sent_at;
        self.status = exchange.status;
        self.latency = exchange.answered_at.saturating_duration_since(exchange.sent_at);
    }

    /// From the request to the end of its answer, or to the failure; to a tenth.
    fn latency_ms(&self) -> f64 {
        (self.latency.as_secs_f64() * 10_000.0).round() / 10.0
    }
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// A token.
    Token,
    /// A page of the listing.
    Page(i64),
    /// A campaign's sync.
    Campaign(&'a str),
}

/// What comes of an attempt that has failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// Another one, after this time.
    Try(Duration),
    /// Another one, as soon as the limiter lets it through.
    Gate,
    /// Another one, with a fresh token.
    FreshToken,
    /// None: the campaign is a dead letter.
    DeadLetter,
    /// None: the listing is looked at where it ends now.
    PageBefore,
    /// None: the account's part ends.
    Stop,
    /// None: it was made to see whether the listing answers.
    NoSignOfLife,
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Try(wait) => write!(f, "next try in {} ms", wait.as_millis()),
            Self::Gate => f.write_str("next try when the limit permits"),
            Self::FreshToken => f.write_str("next try with a fresh token"),
            Self::DeadLetter => f.write_str("a dead letter"),
            Self::PageBefore => f.write_str("looking where the listing ends now"),
            Self::Stop => f.write_str("stopping"),
            Self::NoSignOfLife => f.write_str("so the listing is down too"),
        }
    }
}

/// One attempt.
pub(super) struct Attempt<'a> {
    pub scope: &'a Scope,
    pub asked: Asked<'a>,
    /// From 1. Those at a campaign are counted as `--max-attempts` counts them: a 401 or 429 costs none.
    pub number: u32,
    pub answer: Answer,
}

impl Attempt<'_> {
    /// It went well.
    pub fn succeeded(&self) {
        let what = match self.asked {
            Asked::Token => "fetched a token",
            Asked::Page(_) => "listed",
            Asked::Campaign(_) => "synced",
        };
        let level = if matches!(self.asked, Asked::Token) { Level::Debug } else { Level::Trace };
        log::log!(
            level,
            account = self.scope.account(), run = self.scope.run(), page = self.page(), campaign = self.campaign(),
            attempt = self.number, status = self.answer.status, latency_ms = self.answer.latency_ms();
            "{what}"
        );
    }

    /// It failed.
    pub fn failed(&self, cause: &str, message: impl fmt::Display, next: Next) {
        log::debug!(
            account = self.scope.account(), run = self.scope.run(), page = self.page(), campaign = self.campaign(),
            attempt = self.number, status = self.answer.status, latency_ms = self.answer.latency_ms(), cause = cause;
            "{message}; {next}"
        );
    }

    fn page(&self) -> Option<i64> {
        match self.asked {
            Asked::Page(page) => Some(page),
            Asked::Token | Asked::Campaign(_) => None,
        }
    }

    fn campaign(&self) -> Option<&str> {
        match self.asked {
            Asked::Campaign(id) => Some(id),
            Asked::Token | Asked::Page(_) => None,
        }
    }
}
