//! The first sends to a platform whose limit, if it has one, is not known. Each waits until it is known, or all but certain,
//! that the ones before are not refused, later on all but a few of them: a small limit is met with one refusal then, and not
//! with a burst of them.

use std::time::{Duration, Instant};

/// Sends that are paced. A near platform without a limit loses some 10 ms in all.
pub const PACED_SENDS: u32 = 64;
/// A refusal is quick, where the work itself may take seconds: a send without an answer after this time is taken for accepted.
/// The time holds for the first dozen sends and fades to almost nothing by the third dozen.
const PATIENCE: Duration = Duration::from_millis(8);
const PATIENT_SENDS: f64 = 12.0;
/// The patience is at least this multiple of the quickest answer, which counts for at most [`FARTHEST`].
const ANSWERS: u32 = 4;
const FARTHEST: Duration = Duration::from_millis(50);
/// One in this many of the sends that were made may be without an answer.
const SHARE: u32 = 8;

/// Where an account stands in its first sends.
#[derive(Clone, Debug, Default)]
pub struct Pacing {
    made: u32,
    /// Sends that may still be refused.
    open: Vec<Instant>,
    /// All that have no answer yet; there are never more than are paced.
    unanswered: Vec<Instant>,
    quickest: Option<Duration>,
}

impl Pacing {
    /// Whether enough sends were accepted to take it that there is no limit, or none that could be met gently.
    #[must_use]
    pub fn over(&self) -> bool {
        self.made >= PACED_SENDS
    }

    fn patience(&self) -> Duration {
        let answers = self.quickest.map_or(Duration::ZERO, |quickest| quickest.min(FARTHEST) * ANSWERS);
        PATIENCE.max(answers).div_f64(1.0 + (f64::from(self.made) / PATIENT_SENDS).powi(4))
    }

    /// When the next send may be made; nothing when that is now. An answer may come earlier.
    pub fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        let patience = self.patience();
        self.open.retain(|sent| *sent + patience > now);
        if self.open.len() < (self.made / SHARE).max(1) as usize {
            return None;
        }
        self.open.first().map(|oldest| *oldest + patience)
    }

    /// A send is made now.
    pub fn sent(&mut self, now: Instant) {
        self.made += 1;
        self.open.push(now);
        self.unanswered.push(now);
    }

    /// A send was answered, after this time.
    pub fn answered(&mut self, sent_at: Instant, trip: Duration) {
        self.quickest = Some(self.quickest.map_or(trip, |quickest| quickest.min(trip)));
        for sends in [&mut self.open, &mut self.unanswered] {
            // It was handed out a moment before it was sent.
            if let Some(place) = sends.iter().rposition(|begun| *begun <= sent_at) {
                sends.remove(place);
            }
        }
    }

    /// The sends without an answer: since a refusal is quick, they are as good as accepted.
    pub fn unanswered(&self) -> impl Iterator<Item = Instant> {
        self.unanswered.iter().copied()
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

    /// Makes all paced sends, each answered after this time, if at all; gives how long that takes, and the most that were without
    /// an answer at once among the first sixteen.
    fn pace(answer: Option<Duration>) -> (Duration, usize) {
        let begun = Instant::now();
        let (mut pacing, mut now, mut most) = (Pacing::default(), begun, 0);
        let mut unanswered: Vec<Instant> = Vec::new();
        while !pacing.over() {
            if let Some(until) = pacing.wait_until(now) {
                assert!(until > now);
                let next = answer.and_then(|answer| unanswered.first().map(|sent_at| *sent_at + answer));
                now = next.map_or(until, |next| next.min(until));
                if next.is_some_and(|next| next <= now) {
                    pacing.answered(unanswered.remove(0), answer.unwrap_or_default());
                }
                continue;
            }
            pacing.sent(now);
            unanswered.push(now);
            if pacing.made < 16 {
                most = most.max(pacing.open.len());
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
        for _ in 0..10 {
            pacing.sent(now);
            pacing.answered(now, MS);
        }
        pacing.sent(now);
        assert!(pacing.wait_until(now).is_some() && pacing.wait_until(now + 4 * MS).is_some());
        assert_eq!(pacing.wait_until(now + 7 * MS), None);
    }

    #[test]
    fn the_more_sends_were_made_the_less_each_answer_is_waited_for() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        let patience = pacing.patience();
        for _ in 0..40 {
            pacing.sent(now);
            pacing.answered(now, MS);
        }
        assert!(pacing.patience() < patience / 50);
        for _ in 0..5 {
            assert_eq!(pacing.wait_until(now), None);
            pacing.sent(now);
        }
        assert!(pacing.wait_until(now).is_some(), "one in eight may be without an answer");
    }
}
