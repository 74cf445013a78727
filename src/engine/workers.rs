//! The workers: a pool of fixed size whose threads make blocking calls, one burst each, and decide nothing. What comes of a
//! burst goes to the scheduler.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use ring::digest::{Context, SHA256};

use super::calls::{Answer, Asked, Call, Done, Event, Message, Page};
use super::journal::Journal;
use super::orders::Orders;
use super::pages::Record;
use crate::http::Clock;
use crate::http::hex::push_hex;
use crate::http::lock::lock;
use crate::http::retry::Cause;
use crate::http::token::Token;
use crate::platform::{
    Api, CallError, Exchange, Invalid, Listed, ListedPage, PageNumber, key_of, read_record,
};
use crate::rate::limiter::Permit;
use crate::store::command::NewDeadLetter;

/// A worker's stack: its deepest calls are TLS and JSON of a known shape.
const STACK_BYTES: usize = 512 << 10;

/// What the calls of one account need.
pub(super) struct Line {
    pub account: Arc<str>,
    pub api: Api,
    pub journal: Journal,
}

/// The pool. Each of its threads makes our calls until it is dismissed: given one by one to rayon, jobs would have every idle
/// thread look for them at every other, again and again before it sleeps.
pub(super) struct Workers {
    _pool: ThreadPool,
    orders: Arc<Orders<Order>>,
}

struct Order {
    account: usize,
    line: Arc<Line>,
    run_key: Arc<str>,
    call: Call,
}

impl Workers {
    pub(super) fn new(
        count: usize,
        events: Sender<Message>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ThreadPoolBuildError> {
        let named = |n| format!("worker-{n}");
        let pool = ThreadPoolBuilder::new()
            .num_threads(count.max(1))
            .stack_size(STACK_BYTES)
            .thread_name(named)
            .build()?;
        let given = Arc::new(Orders::default());
        let orders = given.clone();
        let events = Mutex::new(events);
        pool.spawn_broadcast(move |_| {
            let events = lock(&events).clone();
            while let Some(Order { account, line, run_key, call }) = orders.take() {
                let burst = Burst { line: &line, run_key: &run_key, clock: &*clock };
                burst.make(call, &mut |done| {
                    // Where nobody listens any more, nothing is left to be told.
                    let _over = events.send(Message { account, event: Event::Called(done) });
                });
            }
        });
        Ok(Self { _pool: pool, orders: given })
    }

    /// Has one of the threads make these calls; never waits.
    pub(super) fn make(&self, account: usize, line: Arc<Line>, run_key: Arc<str>, call: Call) {
        self.orders.give(Order { account, line, run_key, call }, false);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.orders.end();
    }
}

struct Burst<'a> {
    line: &'a Line,
    run_key: &'a str,
    clock: &'a dyn Clock,
}

impl Burst<'_> {
    fn make(&self, call: Call, tell: &mut dyn FnMut(Done)) {
        let Line { api, journal, .. } = self.line;
        match call {
            Call::Token(number) => {
                let asked = Asked::Token;
                let (result, mut answer) =
                    self.exchange(&asked, |trace, watch| api.fetch_token(Some(trace), watch));
                if result.is_ok() {
                    journal.succeeded(&asked, number, &mut answer);
                }
                tell(Done::Token(answer, result));
            }
            Call::Pages { token, page, page_size, most, attempt, permit } => {
                let mut unsent = u32::try_from(most).unwrap_or(u32::MAX);
                for (page, before) in (page..).zip(0..).take(most) {
                    if self.is_late(permit) {
                        break;
                    }
                    unsent -= 1;
                    let asked = Asked::Page(page);
                    let (result, mut answer) = self.exchange(&asked, |trace, watch| {
                        api.list_page(&token, PageNumber(page), page_size, Some(trace), watch)
                    });
                    journal.stats.limited();
                    let result = result.and_then(|listed| match listed.page {
                        Some(served) if served != page => Err(another(page)),
                        _ => Ok(read(page, page_size, listed)),
                    });
                    if let Ok(read) = &result {
                        journal.succeeded(&asked, if before == 0 { attempt } else { 1 }, &mut answer);
                        let records = read.records.len() + read.invalid.len();
                        journal.listed(page, page_size, Ok(records));
                    }
                    let goes_on = result.as_ref().is_ok_and(|page| page.has_more);
                    tell(Done::Page { generation: token.generation, page, permit, answer, result });
                    if !goes_on {
                        break;
                    }
                }
                tell(Done::PagesOver { permit, unsent });
            }
            Call::Sync { token, tasks, permit } => tell(self.sync(&token, tasks, permit)),
        }
    }

    fn sync(&self, token: &Token, tasks: Vec<super::task::Task>, permit: Option<Permit>) -> Done {
        let mut done = Vec::with_capacity(tasks.len());
        let mut tasks = tasks.into_iter();
        while !self.is_late(permit) {
            let Some(task) = tasks.next() else { break };
            let (id, key) = (&task.campaign.id, self.idempotency_key(&task.campaign.id));
            let asked = Asked::Campaign(task.campaign.clone());
            let (result, mut answer) = self.exchange(&asked, |trace, watch| {
                self.line.api.sync(token, id, &key, Some(trace), watch).map(drop)
            });
            self.line.journal.stats.limited();
            let failed = result.is_err();
            if !failed {
                self.line.journal.succeeded(&asked, task.history.tries + 1, &mut answer);
            }
            done.push((task, answer, result));
            if failed {
                break;
            }
        }
        Done::Sync { generation: token.generation, permit, done, unsent: tasks.collect() }
    }

    /// Turns are for now: what could not be sent in time is not sent.
    fn is_late(&self, permit: Option<Permit>) -> bool {
        permit.is_some_and(|permit| self.clock.now() > permit.until)
    }

    fn exchange<T>(
        &self,
        asked: &Asked,
        call: impl FnOnce(&str, &mut dyn FnMut(&Exchange<'_>)) -> Result<T, CallError>,
    ) -> (Result<T, CallError>, Answer) {
        let sent_at = self.clock.now();
        let mut answered = None;
        let (result, seen) = self.line.journal.attempt(asked, |trace, watch| {
            call(trace, &mut |exchange| {
                answered = Some(answer(exchange));
                watch(exchange);
            })
        });
        let unsent = || Answer::new(sent_at, self.clock.now(), None, Default::default());
        let mut answer = answered.unwrap_or_else(unsent);
        answer.seen = seen.map(Box::new);
        (result, answer)
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
    let answer = Answer::new(exchange.sent_at, exchange.answered_at, exchange.status, exchange.hints.clone());
    Answer { refused: exchange.refused, written_at: exchange.written_at, ..answer }
}

fn another(page: i64) -> CallError {
    let message = format!("asked for page {page}, the platform served another");
    CallError::Retry { cause: Cause::Unparsable, hint: None, message }
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
        page_size,
        limit: listed.limit,
        has_more: listed.has_more,
        total: listed.total,
        records,
        invalid,
        moved: false,
        memory: listed.memory,
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
        seq: None,
    }
}
