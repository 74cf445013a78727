//! What the answers to requests that count say of the limit: a wait, a limit, or that a wait was not meant.

use std::time::{Duration, Instant};

use super::{Discovery, Limiter, MIN_MARGIN, Observation, REMEMBERED, SETTLE, Turns, Why};
use crate::http::RateLimit;
use crate::http::hints::Hints;
use crate::rate::learning::{self, FIRST_WAIT};
use crate::rate::ledger::Order;

/// How long nobody may send.
#[derive(Clone, Copy)]
struct Wait {
    time: Duration,
    why: Why,
    /// What the platform asked for, where that is beyond belief.
    beyond: Option<Duration>,
}

impl Wait {
    fn asked(time: Duration) -> Self {
        Self { time, why: Why::Gate, beyond: None }
    }

    fn own(time: Duration) -> Self {
        Self { time, why: Why::Backoff, beyond: None }
    }
}

impl Limiter {
    /// Every answer to a request that counts goes in here. `jitter` is between 0 and 1.
    pub fn observe(&mut self, seen: &Observation<'_>, jitter: f64) -> Vec<Order> {
        let trip = seen.answered_at.saturating_duration_since(seen.sent_at);
        self.pacing.answered(seen.sent_at, trip);
        if !seen.refused {
            if self.accepted.len() == REMEMBERED {
                self.accepted.pop_front();
            }
            self.accepted.push_back(seen.sent_at);
        }
        let opened = !seen.refused && self.proved(seen.sent_at);
        let told = self.told_limit(seen.hints);
        let believable = |reset| reset <= self.max_wait || !self.reset_distrusted;
        let exhausted = seen.hints.remaining == Some(0) && seen.hints.reset.is_some_and(believable);
        if !seen.refused && !exhausted && !opened && told.is_none() && !self.refusals.searching() {
            return Vec::new();
        }
        let found = if seen.refused { None } else { self.refusals.accepted(seen.sent_at) };
        let mut orders = Vec::new();
        let known = self.limit().or(told).is_some();
        if opened {
            orders.push(Order::OpenGate);
        }
        let wait = self.wait_of(seen, exhausted, jitter);
        if let Some(wait) = wait {
            self.turns.left = 0;
            self.close(seen.answered_at + wait.time, wait.why);
            let time = wait.time.min(self.max_wait);
            orders.push(match wait.beyond {
                Some(asked) => Order::Doubt(time, asked),
                None => Order::CloseGate(time),
            });
        }
        let hint = wait.filter(|wait| wait.why == Why::Gate).map(|wait| wait.time);
        let learned = match told.or(found) {
            None if seen.refused => self.refused(seen, hint, known),
            learned => learned,
        };
        orders.extend(self.adopt(learned, seen.answered_at));
        if self.correcting.is_some_and(|(at, _)| at == seen.answered_at) {
            orders.push(Order::TellSends);
        }
        orders
    }

    /// The ages of the sends on record, oldest first: what a refusal under a known limit shows.
    pub fn sends(&mut self, ages: &[Duration], now: Instant) -> Option<Order> {
        let (moment, hint) = self.correcting.take()?;
        let since = now.saturating_duration_since(moment);
        // They are on record as of the latest moment at which they may be made.
        let late = self.limit().map_or(Duration::ZERO, |limit| self.turns.late.max(self.late(limit, now)));
        let made = ages.iter().filter(|age| **age + late >= since);
        let ages: Vec<Duration> = made.map(|age| age.saturating_sub(since)).collect();
        let learned = learning::from_refusal(self.limit(), &ages, hint);
        self.adopt(learned, now)
    }

    /// A refusal that tells no limit: what it shows, if that is clear already.
    fn refused(&mut self, seen: &Observation<'_>, hint: Option<Duration>, known: bool) -> Option<RateLimit> {
        if known && self.is_old(seen.sent_at) {
            return None;
        }
        let ages = self.ages(seen.answered_at);
        let limit = self.limit();
        match hint {
            Some(hint) if !known => {
                let (first, last) = (seen.answered_at, seen.answered_at);
                self.discovery.get_or_insert(Discovery { first, last, hint }).last = last;
                None
            }
            Some(hint) => {
                // Others may have sent as well: what is on record tells.
                self.corrected = Some(seen.answered_at);
                self.correcting = Some((seen.answered_at, hint));
                None
            }
            None => {
                self.refusals.refused(seen.sent_at, seen.answered_at, &ages, limit);
                None
            }
        }
    }

    /// Whether its refusal says nothing new: it was sent before the limit was last corrected.
    fn is_old(&self, sent_at: Instant) -> bool {
        self.corrected.is_some_and(|at| sent_at <= at)
    }

    /// Works out the limit behind a burst's refusals, once all of them are in. To be called whenever time has passed.
    pub fn settle(&mut self, now: Instant) -> Vec<Order> {
        // The record is being asked what others have learned.
        let is_asking = self.limit().is_none() && self.turns.asked.is_some();
        let due = self.discovery.filter(|discovery| now >= discovery.last + SETTLE && !is_asking);
        let Some(discovery) = due else { return Vec::new() };
        self.discovery = None;
        // Stragglers of the burst are no reason to think it was one too many.
        self.corrected = Some(now);
        let learned = learning::from_refusal(None, &self.ages(discovery.first), discovery.hint);
        self.adopt(learned, now).into_iter().collect()
    }

    fn adopt(&mut self, learned: Option<RateLimit>, now: Instant) -> Option<Order> {
        let limit = learned.filter(|_| self.configured.is_none())?;
        self.learned = Some(limit);
        self.turns = Turns { asked: self.turns.asked, ..Turns::default() };
        let span = limit.window + self.margin(limit);
        let ages = self.ages(now).into_iter().filter(|age| *age < span).collect();
        Some(Order::Learn(limit, ages))
    }

    /// The ages at `moment` of the sends that were accepted, or seem to be, oldest first.
    fn ages(&self, moment: Instant) -> Vec<Duration> {
        let sends = self.accepted.iter().copied().chain(self.pacing.unanswered());
        let before = sends.filter(|at| *at <= moment);
        let mut ages: Vec<Duration> = before.map(|at| moment.saturating_duration_since(at)).collect();
        // Answers come in another order than their requests were sent in.
        ages.sort_unstable_by(|a, b| b.cmp(a));
        ages
    }

    /// A limit that the answer tells, when it is news.
    fn told_limit(&mut self, hints: &Hints) -> Option<RateLimit> {
        if self.configured.is_some() {
            return None;
        }
        let told = match (hints.limit, hints.quota, hints.reset) {
            (Some(limit), _, _) => limit,
            (None, Some(quota), Some(reset)) if reset <= self.max_wait => {
                // The longest reset seen is the best guess at the window; `remaining` 0 covers for a wrong one.
                self.longest_reset = self.longest_reset.max(reset);
                RateLimit::new(quota, self.longest_reset)?
            }
            _ => return None,
        };
        (self.learned != Some(told)).then_some(told)
    }

    /// For how long nobody may send after this answer.
    fn wait_of(&mut self, seen: &Observation<'_>, exhausted: bool, jitter: f64) -> Option<Wait> {
        // Jittered, lest all accounts try again at the same moment.
        let jittered = |wait: Duration| wait.mul_f64(1.0 + jitter / 50.0);
        if !seen.refused {
            let reset = seen.hints.reset.filter(|_| exhausted)?;
            if reset <= self.max_wait {
                return Some(Wait::asked(reset));
            }
            // It may be senseless: whoever asks now is told soon enough.
            let news = self.doubted_since.is_none();
            self.doubted_since.get_or_insert(seen.answered_at);
            return news.then(|| Wait { beyond: Some(reset), ..Wait::own(jittered(FIRST_WAIT)) });
        }
        if self.limit().is_some() && !self.is_old(seen.sent_at) {
            // The platform counts differently than we do: keep a little more distance.
            self.extra_margin = self.extra_margin.saturating_mul(2).max(MIN_MARGIN);
        }
        self.disproved |= self.hint_until.is_some_and(|until| seen.sent_at >= until);
        let own = Wait::own(jittered(self.refusals.wait(seen.answered_at)));
        Some(match seen.hints.wait() {
            Some(hint) if hint > self.max_wait => {
                (self.doubted_since, self.next_try) = (Some(seen.answered_at), None);
                Wait { beyond: Some(hint), ..own }
            }
            Some(hint) if !hint.is_zero() && !self.disproved => {
                self.hint_until = self.hint_until.max(Some(seen.answered_at + hint));
                Wait::asked(hint)
            }
            // It was wrong, or says nothing: it lengthens our own wait, and that is all.
            hint => Wait { time: own.time.max(hint.unwrap_or_default()), ..own },
        })
    }

    /// A request that was sent then was accepted: what the last hint said was true, and a wait that was doubted is not meant.
    /// Tells whether one was.
    fn proved(&mut self, sent_at: Instant) -> bool {
        if self.hint_until.is_some_and(|until| sent_at >= until) {
            (self.hint_until, self.disproved) = (None, false);
        }
        let opened = self.doubted_since.is_some_and(|since| sent_at >= since);
        if opened {
            (self.doubted_since, self.next_try, self.reset_distrusted) = (None, None, true);
        }
        opened
    }
}
