//! The calls themselves: a page, a campaign's sync and a token, each with as many attempts as it takes. What comes of each
//! attempt is decided in [`super::decision`].

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::attempt::{Asked, Attempt};
use super::caller::{Caller, Halt};
use super::decision::{Decision, History, Proof};
use super::ending::Ending;
use super::inbox::Work;
use super::trace::{CampaignSpan, Purpose, Step};
use crate::http::concurrency::Outcome;
use crate::http::health::Lane;
use crate::http::retry::Cause;
use crate::http::token::{Grant, Token};
use crate::platform::{CallError, ListedPage, PageNumber};

impl Caller {
    /// The first page of the listing, however many attempts it takes.
    ///
    /// # Errors
    /// [`Halt`].
    pub fn list_first_page(&self, page_size: i32) -> Result<ListedPage, Halt> {
        self.try_to_list(PageNumber(1), page_size)?
            .map_err(|refusal| self.end(Ending::RequestRefused(refusal)))
    }

    /// A page of the listing, however many attempts it takes; or in one line that the platform refuses a page other than the
    /// first: then the settings are right, and the page is no longer there.
    pub(super) fn try_to_list(
        &self,
        page: PageNumber,
        page_size: i32,
    ) -> Result<Result<ListedPage, String>, Halt> {
        let step = self.trace.begin();
        let listed = self.try_page(page, page_size, step);
        let records = match &listed {
            Ok(Ok(listed)) => Ok(listed.records.len() + listed.broken.len()),
            Ok(Err(_)) => Err("refused"),
            Err(_) => Err("stopped before it was there"),
        };
        self.trace.page(step, page.0, page_size, records);
        listed
    }

    fn try_page(
        &self,
        page: PageNumber,
        page_size: i32,
        step: Step,
    ) -> Result<Result<ListedPage, String>, Halt> {
        let mut history = History::default();
        let mut number = 0;
        loop {
            number += 1;
            self.wait_for_breaker()?;
            let token = self.token_and_turn()?;
            let (listed, attempt) = self.list_once(&token, page, page_size, (Some(step), number));
            let error = match listed {
                Ok(listed) if listed.page.is_none_or(|served| served == page.0) => {
                    self.succeeded(attempt, Some(&token));
                    return Ok(Ok(listed));
                }
                Ok(_) => CallError::Retry {
                    cause: Cause::Unparsable,
                    hint: None,
                    message: format!("asked for page {}, the platform served another", page.0),
                },
                Err(error) => error,
            };
            self.note(&attempt, Some(&token), &error, &mut history);
            match self.conclude(attempt, &error, &history) {
                Decision::PageGone => return Ok(Err(error.to_string())),
                decision => self.carry_out(decision, &error)?,
            }
        }
    }

    /// One attempt at a page, the so manieth of a step.
    fn list_once(
        &self,
        token: &Token,
        page: PageNumber,
        page_size: i32,
        (step, number): (Option<Step>, u32),
    ) -> (Result<ListedPage, CallError>, Attempt<'static>) {
        let purpose = Purpose { step, name: "GET /api/campaigns", number, campaign: None };
        let mut attempt = Attempt::new(Asked::Page(page.0), purpose, self.clock.now());
        let (listed, seen) = self.trace.attempt(|header, watch| {
            self.api.list_page(token, page, page_size, Some(header), &mut |exchange| {
                attempt.answered(exchange);
                self.observe(exchange);
                watch(exchange);
            })
        });
        attempt.seen = seen;
        (listed, attempt)
    }

    /// One attempt at one campaign; its turn was taken. Says what comes of it, what it tells of the server's load, and when it
    /// was sent. `is_last` tells whether this process has hardly any other task left, and of `page_size` pages to look at.
    pub(super) fn sync(
        &self,
        work: &mut Work,
        key: &str,
        is_last: impl FnOnce(&Work) -> Option<i32>,
    ) -> (Result<Decision, Halt>, Outcome, Instant) {
        let sent_at = self.clock.now();
        let Ok(token) = self.token() else { return (Err(Halt), Outcome::Neutral, sent_at) };
        if work.span.is_none() {
            work.span = CampaignSpan::begin(&self.trace, &work.campaign.id);
        }
        let campaign = work.campaign.clone();
        let id = &campaign.id;
        let (step, number) = work.span.as_deref_mut().map(CampaignSpan::attempt).unzip();
        let name = "POST /api/campaigns/{id}/sync";
        let purpose = Purpose { step, name, number: number.unwrap_or(1), campaign: Some(id) };
        let mut attempt = Attempt::new(Asked::Campaign(id), purpose, sent_at);
        let (called, seen) = self.trace.attempt(|header, watch| {
            self.api.sync(&token, id, key, Some(header), &mut |exchange| {
                attempt.answered(exchange);
                self.observe(exchange);
                watch(exchange);
            })
        });
        attempt.seen = seen;
        let sent_at = attempt.sent_at;
        let error = match called {
            Ok(_) => {
                attempt.number = work.tries + 1;
                self.succeeded(attempt, Some(&token));
                return (Ok(Decision::Done), Outcome::Success, sent_at);
            }
            Err(error) => error,
        };
        let overload = match &error {
            CallError::Retry { cause, .. } => cause.is_overload(),
            // Fewer requests at once need less of it.
            CallError::Shortage(_) => true,
            _ => false,
        };
        let outcome = if overload { Outcome::Overload } else { Outcome::Neutral };
        let decision = self.after_sync(work, attempt, &token, &error, is_last);
        (Ok(decision), outcome, sent_at)
    }

    fn after_sync(
        &self,
        work: &mut Work,
        mut attempt: Attempt<'_>,
        token: &Token,
        error: &CallError,
        is_last: impl FnOnce(&Work) -> Option<i32>,
    ) -> Decision {
        let failed = matches!(error, CallError::Retry { .. });
        if failed && self.abandoned.load(Ordering::Acquire) {
            attempt.number = work.tries + 1;
            return self.conclude(attempt, error, &History { abandoned: true, ..History::default() });
        }
        let recoveries = self.health.recoveries(Lane::Sync);
        if failed && work.recoveries != recoveries {
            // The API was down in between: what failed then says nothing of the campaign.
            (work.tries, work.first_failed, work.recoveries) = (0, None, recoveries);
        }
        attempt.number = work.tries + 1;
        let unauthorized = if failed { 0 } else { work.unauthorized };
        let mut history = History { failures: work.tries, unauthorized, ..History::default() };
        let now = self.clock.now();
        self.note(&attempt, Some(token), error, &mut history);
        (work.tries, work.unauthorized) = (history.failures, history.unauthorized);
        if failed {
            let first_failed = *work.first_failed.get_or_insert(now);
            if self.health.succeeded_since(Lane::Sync, first_failed) {
                history.proof = Some(Proof::Others);
            } else if work.tries >= self.patience.max_attempts
                && history.given_up.is_none()
                && let Some(page_size) = is_last(work)
                && self.list_answers(page_size)
            {
                history.proof = Some(Proof::Listing);
            }
        }
        self.conclude(attempt, error, &history)
    }

    /// Whether those that are left to this process are so few, or were judged before, that no other campaign may ever prove
    /// that one fails for a reason of its own: the listing has to.
    pub(super) fn are_few(&self, remaining: usize, retrying: bool) -> bool {
        retrying || remaining as u64 <= (self.health.successes(Lane::Sync) / 20).max(3)
    }

    /// One attempt at the listing, as a sign of life.
    fn list_answers(&self, page_size: i32) -> bool {
        let Ok(token) = self.token_and_turn() else { return false };
        let (listed, attempt) = self.list_once(&token, PageNumber(1), page_size, (None, 1));
        match &listed {
            Ok(_) => self.tell(attempt, Ok(()), &Decision::Done),
            Err(error) => self.tell(attempt, Err(error), &"so the listing is down too"),
        }
        listed.is_ok()
    }

    pub(super) fn fetch_token(&self) -> Result<Grant, Halt> {
        let mut history = History::default();
        let mut number = 0;
        loop {
            number += 1;
            if self.stop.requested() {
                return Err(Halt);
            }
            let purpose = Purpose { step: None, name: "POST /auth/token", number, campaign: None };
            let mut attempt = Attempt::new(Asked::Token, purpose, self.clock.now());
            let (fetched, seen) = self.trace.attempt(|header, watch| {
                self.api.fetch_token(Some(header), &mut |exchange| {
                    attempt.answered(exchange);
                    watch(exchange);
                })
            });
            attempt.seen = seen;
            let error = match fetched {
                Ok(grant) => {
                    self.succeeded(attempt, None);
                    return Ok(grant);
                }
                Err(error) => error,
            };
            self.note(&attempt, None, &error, &mut history);
            let decision = self.conclude(attempt, &error, &history);
            self.carry_out(decision, &error)?;
        }
    }
}
