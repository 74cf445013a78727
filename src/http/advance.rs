//! Turns that are taken in advance under a generous limit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rate_limit::RateLimit;

/// Turns taken in advance are good for this long; the margin allows for it.
pub(super) const ADVANCE: Duration = Duration::from_millis(25);
/// At most so many are taken at once, and no more than this share of the limit: below a hundred requests none is.
const MOST_ADVANCED: u32 = 1_024;
const ADVANCED_SHARE: u32 = 100;
/// From so many on, the next ones are taken when half of them are left: nobody waits for the ledger then.
pub(super) const EARLY: u32 = 16;

/// Whether turns are taken in advance under this limit.
pub(super) fn worth_it(limit: RateLimit) -> bool {
    limit.requests.get() >= 2 * ADVANCED_SHARE
}

/// Turns that were taken in advance under a generous limit: asking the ledger for each would cost more than the request.
/// They are on record from when they were taken, so they are good for a moment only.
#[derive(Default)]
pub(super) struct Advance {
    /// Those that were taken together, and until when they are good; the oldest first.
    taken: VecDeque<(u32, Instant)>,
    /// How many are taken at once: twice as many when the last ones were all used in time, fewer when not.
    size: u32,
    used: u32,
    wasted: bool,
    /// Somebody is about to take the next ones.
    awaited: bool,
    /// How often all of them were forfeited.
    forfeits: u32,
}

impl Advance {
    /// Uses one; tells until when it is good, and whether it is time for the next ones: whoever is told so takes them.
    pub fn use_one(&mut self, now: Instant) -> Option<(Instant, bool)> {
        while let Some((left, until)) = self.taken.front_mut() {
            if *left > 0 && now < *until {
                let until = *until;
                *left -= 1;
                self.used += 1;
                let left: u32 = self.taken.iter().map(|(left, _)| left).sum();
                let early = !self.awaited && self.size >= EARLY && left <= self.size / 2;
                self.awaited |= early;
                return Some((until, early));
            }
            self.wasted |= *left > 0;
            self.taken.pop_front();
        }
        None
    }

    /// How many to take now under this limit.
    pub fn next_size(&mut self, limit: Option<RateLimit>) -> u32 {
        let most = limit.map_or(1, |limit| limit.requests.get() / ADVANCED_SHARE).clamp(1, MOST_ADVANCED);
        self.size = if self.wasted { self.used.max(1) } else { self.size.max(1) * 2 }.min(most);
        (self.used, self.wasted) = (0, false);
        self.size
    }

    /// Adds turns that were granted.
    pub fn add(&mut self, count: u32, now: Instant) {
        self.taken.push_back((count, now + ADVANCE));
    }

    /// So many of those that were granted are used without having been here.
    pub fn used_at_once(&mut self, count: u32) {
        self.used += count;
    }

    /// Whoever took the next ones is back.
    pub fn arrived(&mut self) {
        self.awaited = false;
    }

    /// None is good any more.
    pub fn forfeit(&mut self) {
        *self = Self { forfeits: self.forfeits + 1, awaited: self.awaited, ..Self::default() };
    }

    /// How often that was so.
    pub fn forfeits(&self) -> u32 {
        self.forfeits
    }

    /// How many were taken at once, and how many of the newest are left.
    #[cfg(test)]
    pub fn newest(&self) -> (u32, u32) {
        (self.size, self.taken.back().map_or(0, |(left, _)| *left))
    }
}
