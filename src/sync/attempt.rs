//! An attempt as the log tells of it: what was asked the how manieth time, and what came of it. Failures are `debug`, and so
//! are tokens; all else is `trace`: a fast run makes thousands of requests a second.

use std::fmt;
use std::time::{Duration, Instant};

use log::Level;

use super::trace::Purpose;
use crate::platform::{CallError, Exchange};
use crate::scope::Scope;

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    /// A token.
    Token,
    /// A page of the listing.
    Page(i64),
    /// A campaign's sync.
    Campaign(&'a str),
}

/// One attempt.
pub(crate) struct Attempt<'a> {
    pub asked: Asked<'a>,
    pub purpose: Purpose<'a>,
    /// From 1. Those at a campaign are counted as `--max-attempts` counts them: a 401 or 429 costs none.
    pub number: u32,
    /// Just before the request was sent.
    pub sent_at: Instant,
    pub status: Option<u16>,
    pub latency: Duration,
}

impl<'a> Attempt<'a> {
    /// Nothing has come back yet.
    pub fn new(asked: Asked<'a>, purpose: Purpose<'a>, sent_at: Instant) -> Self {
        let number = purpose.number;
        Self { asked, purpose, number, sent_at, status: None, latency: Duration::ZERO }
    }

    /// The request is over.
    pub fn answered(&mut self, exchange: &Exchange<'_>) {
        self.sent_at = exchange.sent_at;
        self.status = exchange.status;
        self.latency = exchange.answered_at.saturating_duration_since(exchange.sent_at);
    }

    /// Tells the log of it, and what comes next when it has failed.
    pub fn log(&self, scope: &Scope, result: Result<(), &CallError>, next: &dyn fmt::Display) {
        match result {
            Ok(()) => self.log_success(scope),
            Err(error) => log::debug!(
                account = scope.account(), run = scope.run(), page = self.page(), campaign = self.campaign(),
                attempt = self.number, status = self.status, latency_ms = self.latency_ms(), cause = error.word();
                "{error}; {next}"
            ),
        }
    }

    fn log_success(&self, scope: &Scope) {
        let what = match self.asked {
            Asked::Token => "fetched a token",
            Asked::Page(_) => "listed",
            Asked::Campaign(_) => "synced",
        };
        let level = if matches!(self.asked, Asked::Token) { Level::Debug } else { Level::Trace };
        log::log!(
            level,
            account = scope.account(), run = scope.run(), page = self.page(), campaign = self.campaign(),
            attempt = self.number, status = self.status, latency_ms = self.latency_ms();
            "{what}"
        );
    }

    /// From the request to the end of its answer, or to the failure; to a tenth.
    fn latency_ms(&self) -> f64 {
        (self.latency.as_secs_f64() * 10_000.0).round() / 10.0
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
