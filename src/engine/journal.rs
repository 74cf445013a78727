//! What is told of an account's calls: counts, log and trace, here and nowhere else. Workers tell of what went well, the
//! scheduler of what has failed and what was decided.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::calls::{Answer, Asked, Failure, Told};
use crate::http::lock::lock;
use crate::http::stats::Stats;
use crate::platform::{CallError, Campaign, Exchange};
use crate::scope::Scope;
use crate::store::command::Opened;
use crate::sync::Outcome;
use crate::sync::attempt::Attempt;
use crate::sync::decision::Decision;
use crate::sync::trace::{Attempted, CampaignSpan, Purpose, Step, Trace};

/// Of one account.
pub(super) struct Journal {
    pub stats: Arc<Stats>,
    pub trace: Arc<Trace>,
    scope: Scope,
    api: String,
    give_up_after: Duration,
    max_age: Duration,
    is_fresh: bool,
    is_retry: bool,
    spans: Mutex<Spans>,
}

/// Steps of the trace that have begun; none where no trace is kept.
#[derive(Default)]
struct Spans {
    campaigns: HashMap<String, Box<CampaignSpan>>,
    page: Option<(i64, Step, u32)>,
}

/// How an account's part begins, for the words about it.
pub(super) struct Beginning {
    pub max_age: Duration,
    pub is_fresh: bool,
    pub is_retry: bool,
    pub give_up_after: Duration,
}

impl Journal {
    pub(super) fn new(stats: Arc<Stats>, trace: Arc<Trace>, scope: Scope, api: &str, of: &Beginning) -> Self {
        Self {
            stats,
            trace,
            scope,
            api: api.to_owned(),
            give_up_after: of.give_up_after,
            max_age: of.max_age,
            is_fresh: of.is_fresh,
            is_retry: of.is_retry,
            spans: Mutex::default(),
        }
    }

    /// Makes one attempt, given the value of `traceparent` and whom to tell of the exchange.
    pub(super) fn attempt<T>(
        &self,
        asked: &Asked,
        call: impl FnOnce(&str, &mut dyn FnMut(&Exchange<'_>)) -> Result<T, CallError>,
    ) -> (Result<T, CallError>, Option<Attempted>) {
        if self.trace.is_kept() {
            self.begin(asked);
        }
        self.trace.attempt(call)
    }

    fn begin(&self, asked: &Asked) {
        let spans = &mut *lock(&self.spans);
        match asked {
            Asked::Token => {}
            Asked::Page(page) => {
                let same = spans.page.filter(|(other, ..)| other == page);
                let (_, step, attempts) = same.unwrap_or_else(|| (*page, self.trace.begin(), 0));
                spans.page = Some((*page, step, attempts + 1));
            }
            Asked::Campaign(campaign) => {
                if !spans.campaigns.contains_key(&campaign.id)
                    && let Some(span) = CampaignSpan::begin(&self.trace, &campaign.id)
                {
                    spans.campaigns.insert(campaign.id.clone(), span);
                }
                if let Some(span) = spans.campaigns.get_mut(&campaign.id) {
                    span.attempt();
                }
            }
        }
    }

    /// An attempt went well.
    pub(super) fn succeeded(&self, asked: &Asked, number: u32, answer: &mut Answer) {
        self.tell(asked, number, answer, Ok(()), &Decision::Done);
        if let (Asked::Campaign(campaign), true) = (asked, self.trace.is_kept()) {
            let span = lock(&self.spans).campaigns.remove(&campaign.id);
            span.into_iter().for_each(|mut span| span.synced());
        }
    }

    /// A page with so many records was listed, or what was wrong with it.
    pub(super) fn listed(&self, page: i64, page_size: i32, records: Result<usize, &'static str>) {
        let begun = lock(&self.spans).page.take_if(|(other, ..)| *other == page);
        if let Some((_, step, _)) = begun {
            self.trace.page(step, page, page_size, records);
        }
    }

    /// Has log, trace and counts tell of what the state machine has to say.
    pub(super) fn told(&self, told: Told) {
        let (account, run) = (self.scope.account(), self.scope.run());
        match told {
            Told::Failed(failure) => self.failed(*failure),
            Told::AnswersAgain(time) => {
                log::info!(account, run; "{} answers again, after {} s", self.api, time.as_secs());
            }
            Told::Opened(opened) => self.opened(&opened),
            Told::SmallerPages(smaller, size) => {
                log::info!(account, run; "the platform allows {smaller} campaigns a page, not {size}");
            }
            Told::ListingForgotten => log::debug!(account, run; "the listing is to go on"),
            Told::Endless(reason) => log::debug!(account, run; "the listing does not end: {reason}"),
            Told::Found(tasks) => {
                log::info!(account, run; "{tasks} task(s) that this process holds without having them in hand are worked");
            }
            Told::Unstorable(id, error) => {
                log::debug!(account, run, campaign = id.as_str(); "neither stored nor a dead letter: {error}");
            }
        }
    }

    fn dead(&self, campaign: &Campaign, cause: &'static str, reason: &str) {
        let span = lock(&self.spans).campaigns.remove(&campaign.id);
        span.into_iter().for_each(|mut span| span.dead(cause, reason));
    }

    fn opened(&self, opened: &Opened) {
        self.scope.joined(opened.run.run_id);
        let (account, run_id) = (self.scope.account(), opened.run.run_id);
        if let Some(lost) = &opened.abandoned {
            let why = if self.is_fresh {
                "--fresh".to_owned()
            } else {
                let (idle, most) = (lost.idle.as_secs(), self.max_age.as_secs());
                format!("nothing has happened in it for {idle} s, longer than --max-run-age ({most} s)")
            };
            log::warn!(
                account, run = lost.run_id;
                "run {} abandoned: {why}; of {} campaigns listed {} are synced, {} that were pending are left to run {run_id}",
                lost.run_id, lost.listed, lost.synced, lost.pending
            );
        }
        if opened.run.new {
            log::debug!(account, run = run_id; "new run");
        } else {
            log::info!(account, run = run_id; "resuming the open run");
        }
        if self.is_retry {
            log::info!(account, run = run_id; "{} dead letter(s) put back", opened.requeued);
        }
        log::debug!(account, run = run_id; "requests carry the trace id {}", self.trace.id());
    }

    fn failed(&self, failure: Failure) {
        let Failure { asked, number, mut answer, error, decision, warns } = failure;
        if let CallError::Shortage(shortage) = &error {
            shortage.warn();
        }
        if decision.is_retry() {
            error.retried().into_iter().for_each(|cause| self.stats.retry(cause));
        }
        if warns {
            let (method, path) = name(&asked).split_once(' ').unwrap_or_default();
            log::warn!(
                account = self.scope.account(), run = self.scope.run();
                "{method} {}{path}: {error}; {decision}, and so on until it works or {} s have passed without one success (--give-up-after)",
                self.api,
                self.give_up_after.as_secs()
            );
        }
        self.tell(&asked, number, &mut answer, Err(&error), &decision);
        match (&asked, &decision) {
            (Asked::Campaign(campaign), Decision::DeadLetter { cause, reason }) => {
                self.dead(campaign, cause, reason);
            }
            (Asked::Page(page), Decision::PageGone) => self.listed(*page, 0, Err("refused")),
            (Asked::Page(page), Decision::Stop(_)) => {
                self.listed(*page, 0, Err("stopped before it was there"));
            }
            _ => {}
        }
    }

    fn tell(
        &self,
        asked: &Asked,
        number: u32,
        answer: &mut Answer,
        result: Result<(), &CallError>,
        next: &Decision,
    ) {
        let (step, counted) = self.step(asked);
        let campaign = match asked {
            Asked::Campaign(campaign) => Some(campaign.id.as_str()),
            Asked::Token | Asked::Page(_) => None,
        };
        let purpose = Purpose { step, name: name(asked), number: counted.unwrap_or(number), campaign };
        let mut attempt = Attempt::new(asked.as_ref(), purpose, answer.sent_at);
        attempt.number = number;
        (attempt.status, attempt.latency) = (answer.status, answer.latency());
        attempt.log(&self.scope, result, next);
        let seen = answer.seen.take().map(|seen| *seen);
        self.trace.attempted(seen, &attempt.purpose, result.err(), Some(next));
    }

    /// The step that an attempt belongs to, and how many attempts it has had.
    fn step(&self, asked: &Asked) -> (Option<Step>, Option<u32>) {
        if !self.trace.is_kept() {
            return (None, None);
        }
        let spans = lock(&self.spans);
        match asked {
            Asked::Token => (None, None),
            Asked::Page(page) => spans
                .page
                .filter(|(other, ..)| other == page)
                .map(|(_, step, attempts)| (step, attempts))
                .unzip(),
            Asked::Campaign(campaign) => spans.campaigns.get(&campaign.id).map(|span| span.step()).unzip(),
        }
    }

    /// The account's part is over.
    pub(super) fn over(&self, outcome: &Outcome) {
        // What is left of its campaigns is told before the run.
        let left = std::mem::take(&mut lock(&self.spans).campaigns);
        drop(left);
        self.trace.run(outcome);
    }
}

fn name(asked: &Asked) -> &'static str {
    match asked {
        Asked::Token => "POST /auth/token",
        Asked::Page(_) => "GET /api/campaigns",
        Asked::Campaign(_) => "POST /api/campaigns/{id}/sync",
    }
}
