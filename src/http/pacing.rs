//! The first sends to a platform whose limit, if it has one, is not known. Each waits until it is known, or all but certain,
//! that the ones before are not refused, later on all but a few of them: a small limit is met with a single refusal then, and
//! not with a burst of them.

use std::time::{Duration, Instant};

/// So many sends are paced, over all processes of the account. A near platform without a limit loses some 10 ms in all.
pub const PACED_SENDS: u32 = 64;
/// A refusal is quick, where the work itself may take seconds: what has no answer after so long is taken for accepted. So
/// long for the first dozen, hardly at all from the third dozen on: 13 times as long in all.
const PATIENCE: Duration = Duration::from_millis(8);
const PATIENT_SENDS: f64 = 12.0;
/// Far from the platform, so many of its quickest answers, and at most 200 ms.
const ANSWERS: u32 = 4;
const FARTHEST: Duration = Duration::from_millis(50);
/// One send in so many that were accepted may be without an answer, …
const SHARE: u32 = 8;
/// … and is put on record together with the next ones, which have to be used as soon as this. While nobody else sends,
/// there are as many of them as were sent before, from four to eight: whoever is refused takes back what is left.
const AHEAD: Duration = Duration::from_millis(50);
const ALONE: (u32, u32) = (4, 8);
/// How often to look whether the answer is there.
const SOONEST_LOOK: Duration = Duration::from_micros(100);
const LATEST_LOOK: Duration = Duration::from_millis(1);

/// Where an account stands in its first sends.
#[derive(Debug, Default)]
pub struct Pacing {
    /// Sends so far, those of other processes included as far as they are known.
    sent: u32,
    /// Those of this process.
    own: u32,
    /// Its sends that may still be refused.
    open: Vec<Instant>,
    /// Sends on record that are still to be made, …
    ahead: u32,
    /// … and until when.
    ahead_until: Option<Instant>,
    quickest: Option<Duration>,
}

impl Pacing {
    /// Whether enough were accepted to take it that there is no limit, or none that could be met gently.
    #[must_use]
    pub fn over(&self) -> bool {
        self.made() >= PACED_SENDS
    }

    /// Those of the sends on record that have begun.
    fn made(&self) -> u32 {
        self.sent - self.ahead
    }

    /// Whether there were sends that others have made.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.sent > self.own
    }

    /// How long a send may still be refused, and how far apart the sends of different processes are.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let answers = self.quickest.map_or(Duration::ZERO, |quickest| quickest.min(FARTHEST) * ANSWERS);
        PATIENCE.max(answers).div_f64(1.0 + (f64::from(self.made()) / PATIENT_SENDS).powi(4))
    }

    /// How many may be under way without it being known whether they are refused.
    fn most_open(&self) -> u32 {
        (self.made() / SHARE).max(1)
    }

    /// How long to wait before the next send; nothing when it may be made now.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let patience = self.patience();
        self.open.retain(|sent| *sent + patience > now);
        if self.open.len() < self.most_open() as usize {
            return None;
        }
        let until = self.open.first().map_or(Duration::ZERO, |oldest| *oldest + patience - now);
        let look = self.quickest.unwrap_or(LATEST_LOOK) / 2;
        Some(until.min(look.clamp(SOONEST_LOOK, LATEST_LOOK)))
    }

    /// A send begins now; [`Self::cancel`] when it comes to nothing.
    pub fn begin(&mut self, now: Instant) {
        self.open.push(now);
    }

    /// The send that was begun at `begun` was not to be.
    pub fn cancel(&mut self, begun: Instant) {
        if let Some(place) = self.open.iter().rposition(|sent| *sent == begun) {
            self.open.remove(place);
        }
    }

    /// Takes a send that is on record already.
    pub fn take_ahead(&mut self, now: Instant) -> bool {
        let good = self.ahead > 0 && self.ahead_until.is_some_and(|until| now < until);
        if good {
            self.ahead -= 1;
        }
        good
    }

    /// How many sends to put on record at once.
    #[must_use]
    pub fn batch(&self) -> u32 {
        // The first one tells whether there is a limit on record, or somebody else.
        let alone = if self.shared() || self.own == 0 { 1 } else { self.own.clamp(ALONE.0, ALONE.1) };
        self.most_open().max(alone).min(PACED_SENDS.saturating_sub(self.sent)).max(1)
    }

    /// So many were put on record, after `before` others; the first of them is being made.
    pub fn recorded(&mut self, granted: u32, before: u32, now: Instant) {
        self.own = self.own.saturating_add(granted);
        self.sent = before.saturating_add(granted).max(self.own);
        // Another thread may have put some on record at the same time.
        self.ahead = (self.ahead + granted.saturating_sub(1)).min(self.sent);
        self.ahead_until = Some(now + AHEAD);
    }

    /// Sends on record that will not be made: how many are to be taken back.
    pub fn forfeit(&mut self) -> u32 {
        let forfeited = std::mem::take(&mut self.ahead);
        self.own = self.own.saturating_sub(forfeited);
        self.sent = self.sent.saturating_sub(forfeited);
        forfeited
    }

    /// A send at this moment was answered, after so long.
    pub fn answered(&mut self, sent_at: Instant, trip: Duration) {
        self.quickest = Some(self.quickest.map_or(trip, |quickest| quickest.min(trip)));
        // It began with its turn, the last one before it was sent: those of one process are taken one by one.
        if let Some(place) = self.open.iter().rposition(|begun| *begun <= sent_at) {
            self.open.remove(place);
        }
    }

    /// How many sends of this process may still be refused, as far as is known.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The quickest answer so far.
    #[must_use]
    pub fn quickest(&self) -> Option<Duration> {
        self.quickest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Makes all paced sends, each answered after so long, if at all; gives how long that takes, and the most that were
    /// without an answer at once among the first sixteen.
    fn pace(answer: Option<Duration>) -> (Duration, usize) {
        let begun = Instant::now();
        let (mut pacing, mut now, mut most) = (Pacing::default(), begun, 0);
        let mut answers: Vec<Instant> = Vec::new();
        while !pacing.over() {
            if let Some(answer) = answer {
                for sent_at in answers.extract_if(.., |sent_at| *sent_at + answer <= now) {
                    pacing.answered(sent_at, answer);
                }
            }
            if let Some(wait) = pacing.wait(now) {
                assert!(!wait.is_zero());
                now += wait;
                continue;
            }
            pacing.begin(now);
            answers.push(now);
            if pacing.sent < 16 {
                most = most.max(pacing.open.len());
            }
            if !pacing.take_ahead(now) {
                let (batch, before) = (pacing.batch(), pacing.sent);
                pacing.recorded(batch, before, now);
            }
        }
        (now - begun, most)
    }

    #[test]
    fn sends_wait_for_the_answer_to_the_one_before_and_never_for_long() {
        let (took, most) = pace(Some(MS / 5));
        assert!(took < 20 * MS && most == 1, "{took:?}, {most}");
        let (took, most) = pace(None);
        assert!((80 * MS..120 * MS).contains(&took) && most == 1, "{took:?}, {most}");
        let (took, _) = pace(Some(50 * MS));
        assert!(took < 1000 * MS, "{took:?}");
    }

    #[test]
    fn one_refusal_is_known_before_the_next_send() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        for _ in 0..11 {
            pacing.begin(now);
            pacing.recorded(1, pacing.sent, now);
            pacing.answered(now, MS);
        }
        pacing.begin(now);
        assert!(pacing.wait(now).is_some() && pacing.wait(now + 4 * MS).is_some());
        assert_eq!(pacing.wait(now + 7 * MS), None);
    }

    #[test]
    fn what_others_have_sent_counts_and_what_is_not_sent_does_not() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        pacing.recorded(1, 40, now);
        assert!(pacing.shared());
        assert_eq!((pacing.sent, pacing.batch()), (41, 5));
        pacing.recorded(5, 41, now);
        assert!(pacing.take_ahead(now + AHEAD - MS) && !pacing.take_ahead(now + AHEAD));
        assert_eq!((pacing.forfeit(), pacing.sent), (3, 43));
        assert_eq!(pacing.forfeit(), 0);
    }

    #[test]
    fn whoever_is_alone_puts_more_and_more_on_record_at_once() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        let batches = std::iter::from_fn(|| {
            let batch = pacing.batch();
            pacing.recorded(batch, pacing.sent, now);
            while pacing.take_ahead(now) {}
            Some(batch)
        });
        assert_eq!(batches.take(10).collect::<Vec<_>>(), [1, 4, 5, 8, 8, 8, 8, 8, 8, 6]);
    }

    #[test]
    fn what_is_on_record_and_not_made_yet_makes_nobody_impatient() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        let patience = pacing.patience();
        pacing.recorded(40, 0, now);
        assert!(pacing.patience() > patience.mul_f64(0.99), "one of 40 was made");
        assert_eq!(pacing.most_open(), 1);
        while pacing.take_ahead(now) {}
        assert!(pacing.patience() < patience / 50);
        assert_eq!(pacing.most_open(), 5);
    }

    #[test]
    fn two_threads_that_put_sends_on_record_at_once_make_them_all() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        pacing.recorded(32, 0, now);
        pacing.forfeit();
        pacing.recorded(4, 32, now);
        pacing.recorded(4, 36, now);
        assert_eq!((0..9).filter(|_| pacing.take_ahead(now)).count(), 6);
        assert_eq!(pacing.forfeit(), 0);
    }

    #[test]
    fn a_send_that_was_not_to_be_keeps_nobody_waiting() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        pacing.begin(now);
        assert!(pacing.wait(now).is_some());
        pacing.cancel(now);
        assert_eq!(pacing.wait(now), None);
    }
}
