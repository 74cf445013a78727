//! The calls themselves: a page and a token, each with as many attempts as it takes. What comes of each
//! attempt is decided in `sync::decision`.

use super::caller::{Caller, Halt};
use crate::http::retry::Cause;
use crate::http::token::{Grant, Token};
use crate::platform::{CallError, ListedPage, PageNumber};
use crate::sync::Ending;
use crate::sync::attempt::{Asked, Attempt};
use crate::sync::decision::{Decision, History};
use crate::sync::trace::Purpose;

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
        let mut history = History::default();
        let mut number = 0;
        loop {
            number += 1;
            self.wait_for_breaker()?;
            let token = self.token_and_turn()?;
            let (listed, attempt) = self.list_once(&token, page, page_size, number);
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

    /// One attempt at a page; `number` counts them from 1.
    fn list_once(
        &self,
        token: &Token,
        page: PageNumber,
        page_size: i32,
        number: u32,
    ) -> (Result<ListedPage, CallError>, Attempt<'static>) {
        let purpose = Purpose { step: None, name: "GET /api/campaigns", number, campaign: None };
        let mut attempt = Attempt::new(Asked::Page(page.0), purpose, self.clock.now());
        let (listed, _) = self.trace.attempt(|header, watch| {
            self.api.list_page(token, page, page_size, Some(header), &mut |exchange| {
                attempt.answered(exchange);
                self.observe(exchange);
                watch(exchange);
            })
        });
        (listed, attempt)
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
            let (fetched, _) = self.trace.attempt(|header, watch| {
                self.api.fetch_token(Some(header), &mut |exchange| {
                    attempt.answered(exchange);
                    watch(exchange);
                })
            });
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
