//! The workers: a pool of fixed size whose threads make blocking calls, one burst each, and decide nothing. What comes of a
//! burst goes to the scheduler.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use ring::digest::{Context, SHA256};

use super::calls::{Answer, Call, Done, Event, Message, Page};
use super::pages::Record;
use crate::http::Clock;
use crate::http::hex::push_hex;
use crate::http::stats::Stats;
use crate::http::token::Token;
use crate::platform::{Api, Exchange, Invalid, Listed, ListedPage, PageNumber, read_record};
use crate::store::command::NewDeadLetter;
use crate::sync::key_of;

/// What the calls of one account need.
pub(super) struct Line {
    pub account: Arc<str>,
    pub api: Api,
    pub stats: Arc<Stats>,
}

/// The pool.
pub(super) struct Workers {
    pool: ThreadPool,
    events: Sender<Message>,
    clock: Arc<dyn Clock>,
}

impl Workers {
    pub(super) fn new(
        count: usize,
        events: Sender<Message>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ThreadPoolBuildError> {
        let named = |n| format!("worker-{n}");
        let pool = ThreadPoolBuilder::new().num_threads(count.max(1)).thread_name(named).build()?;
        Ok(Self { pool, events, clock })
    }

    /// Has one of the threads make these calls; never waits.
    pub(super) fn make(&self, account: usize, line: Arc<Line>, run_key: Arc<str>, call: Call) {
        let (events, clock) = (self.events.clone(), self.clock.clone());
        self.pool.spawn(move || {
            let burst = Burst { line: &line, run_key: &run_key, clock: &*clock };
            burst.make(call, &mut |done| {
                // Where nobody listens any more, nothing is left to be told.
                let _over = events.send(Message { account, event: Event::Called(done) });
            });
        });
    }
}

struct Burst<'a> {
    line: &'a Line,
    run_key: &'a str,
    clock: &'a dyn Clock,
}

impl Burst<'_> {
    fn make(&self, call: Call, tell: &mut dyn FnMut(Done)) {
        match call {
            Call::Token => {
                let (result, answer) = self.exchange(|watch| self.line.api.fetch_token(None, watch));
                tell(Done::Token(answer, result));
            }
            Call::Pages { token, page, page_size, most, until } => {
                for page in (page..).take(most) {
                    if self.is_late(until) {
                        break;
                    }
                    let (result, answer) = self.exchange(|watch| {
                        self.line.api.list_page(&token, PageNumber(page), page_size, None, watch)
                    });
                    self.line.stats.limited();
                    let result = result.map(|listed| read(page, page_size, listed));
                    let goes_on = result.as_ref().is_ok_and(|page| page.has_more);
                    tell(Done::Page(answer, result));
                    if !goes_on {
                        break;
                    }
                }
                tell(Done::PagesOver);
            }
            Call::Sync { token, tasks, until } => tell(self.sync(&token, tasks, until)),
        }
    }

    fn sync(&self, token: &Token, tasks: Vec<super::task::Task>, until: Option<Instant>) -> Done {
        let mut done = Vec::with_capacity(tasks.len());
        let mut tasks = tasks.into_iter();
        while !self.is_late(until) {
            let Some(task) = tasks.next() else { break };
            let (id, key) = (&task.campaign.id, self.idempotency_key(&task.campaign.id));
            let (result, answer) =
                self.exchange(|watch| self.line.api.sync(token, id, &key, None, watch).map(drop));
            self.line.stats.limited();
            let failed = result.is_err();
            done.push((task, answer, result));
            if failed {
                break;
            }
        }
        Done::Sync { generation: token.generation, done, unsent: tasks.collect() }
    }

    /// Turns are for now: what could not be sent in time is not sent.
    fn is_late(&self, until: Option<Instant>) -> bool {
        until.is_some_and(|until| self.clock.now() > until)
    }

    fn exchange<T>(&self, call: impl FnOnce(&mut dyn FnMut(&Exchange<'_>)) -> T) -> (T, Answer) {
        let sent_at = self.clock.now();
        let mut seen = None;
        let result = call(&mut |exchange| seen = Some(answer(exchange)));
        let unsent =
            || Answer { sent_at, answered_at: self.clock.now(), status: None, hints: Default::default() };
        (result, seen.unwrap_or_else(unsent))
    }

    /// The same for every attempt at a campaign in a run, by whatever process.
    fn idempotency_key(&self, id: &str) -> String {
        let mut context = Context::new(&SHA256);
        for part in [&*self.line.account, "\0", self.run_key, "\0", id] {
            context.update(part.as_bytes());
        }
        let hash = context.finish();
        let mut key = String::with_capacity(32);
        push_hex(&mut key, &hash.as_ref()[..16]);
        key
    }
}

fn answer(exchange: &Exchange<'_>) -> Answer {
    Answer {
        sent_at: exchange.sent_at,
        answered_at: exchange.answered_at,
        // A 403 that speaks of a limit is one of these.
        status: if exchange.refused { Some(429) } else { exchange.status },
        hints: exchange.hints.clone(),
    }
}

fn read(page: i64, page_size: i32, listed: ListedPage) -> Page {
    let before = (page - 1).saturating_mul(i64::from(page_size));
    let (mut records, mut invalid) = (Vec::with_capacity(listed.records.len()), Vec::new());
    for (raw, seq) in listed.records.into_iter().zip(before..) {
        match read_record(&raw) {
            Listed::Valid(campaign) => records.push(Record { campaign, payload: raw.get().into(), seq }),
            Listed::Invalid(wrong) => invalid.push(dead_letter(&wrong, raw.get())),
        }
    }
    for broken in listed.broken {
        let reason = format!("page {page}, record {}: no JSON: {}", broken.place, broken.fault);
        invalid.push(dead_letter(&Invalid { id: broken.id, reason }, &broken.payload));
    }
    Page {
        page,
        served: listed.page,
        page_size,
        limit: listed.limit,
        has_more: listed.has_more,
        total: listed.total,
        records,
        invalid,
    }
}

fn dead_letter(invalid: &Invalid, raw: &str) -> NewDeadLetter {
    NewDeadLetter {
        id: key_of(invalid, raw),
        named: invalid.id.is_some(),
        cause: "invalid",
        reason: invalid.reason.clone(),
        attempts: 0,
        payload: raw.into(),
        retryable: false,
    }
}
