//! Notices a run that is not at its end while nothing is left to be done for it: somebody keeps its rows from being changed.

use std::time::{Duration, Instant};

use crate::sync::Ending;

/// A standstill is none before this time: what another process has begun meanwhile is seen by then.
const SHORTEST: Duration = Duration::from_secs(5);
/// Two looks count for at most this much: a database that is slow to answer is no standstill.
const LONGEST_STEP: Duration = Duration::from_secs(3);

/// What a process with nothing in hand, and alone on its run, has seen so far; each counts up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Requests begun and results delivered: while they stand still, nothing moves.
    pub moves: u64,
    /// Answers of the database that the listing cannot be taken, or that the run is not at its end.
    pub refusals: u64,
    /// Heartbeats that it answered: this process is alive, and whether others are there is known.
    pub beats: u64,
}

/// For how long nothing has moved.
pub(crate) struct Standstill {
    most: Duration,
    /// The last look that counts.
    last: Option<(Seen, Instant)>,
    still: Duration,
}

impl Standstill {
    /// Allows as much as `--give-up-after`.
    pub fn new(most: Duration) -> Self {
        Self { most: most.max(SHORTEST), last: None, still: Duration::ZERO }
    }

    /// Looks at what was seen so far, if nothing is under way; gives for how long nothing has moved, when that is too long.
    pub fn look(&mut self, now: Instant, seen: Option<Seen>) -> Option<Duration> {
        match (self.last, seen) {
            (Some((last, at)), Some(seen)) if last.moves == seen.moves => {
                if seen.refusals > last.refusals && seen.beats > last.beats {
                    self.still += now.saturating_duration_since(at).min(LONGEST_STEP);
                    self.last = Some((seen, now));
                }
            }
            _ => (self.last, self.still) = (seen.map(|seen| (seen, now)), Duration::ZERO),
        }
        Some(self.still).filter(|still| *still >= self.most)
    }
}

/// The end of such a run.
pub(crate) fn ending(time: Duration, listing_done: bool, pending: i64) -> Ending {
    let left = match (listing_done, pending) {
        (false, _) => "its listing cannot be taken on".to_owned(),
        (true, 0) => "it cannot be closed".to_owned(),
        (true, tasks) => format!("{tasks} task(s) can be neither claimed nor finished"),
    };
    Ending::DatabaseRefused(format!(
        "the run has stood still for {} s (--give-up-after): {left}; does a trigger, rule or policy drop changes of sync_runs, sync_tasks or workers? Remove it, then run again to resume",
        time.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(300);

    /// A look every two seconds, until it says that it is too long: how many seconds were that?
    fn seconds(most: Duration, seen: impl Fn(u64) -> Option<Seen>) -> Option<u64> {
        let (start, mut standstill) = (Instant::now(), Standstill::new(most));
        let mut looks = (0..10_000).step_by(2);
        looks.find(|second| standstill.look(start + Duration::from_secs(*second), seen(*second)).is_some())
    }

    fn refused(second: u64) -> Seen {
        Seen { moves: 1, refusals: second, beats: second }
    }

    #[test]
    fn only_what_stands_still_for_the_whole_time_is_given_up() {
        assert_eq!(seconds(MOST, |second| Some(refused(second))), Some(300));
        assert_eq!(seconds(MOST, |second| (second != 298).then(|| refused(second))), Some(600));
        assert_eq!(seconds(MOST, |second| Some(Seen { moves: second / 298, ..refused(second) })), None);
        assert_eq!(
            seconds(Duration::ZERO, |second| Some(refused(second))),
            Some(6),
            "others may be seen late"
        );
    }

    #[test]
    fn a_database_that_does_not_answer_is_no_standstill() {
        assert_eq!(seconds(MOST, |second| Some(Seen { beats: 0, ..refused(second) })), None);
        assert_eq!(seconds(MOST, |second| Some(Seen { refusals: 7, ..refused(second) })), None);
        let slow = seconds(MOST, |second| Some(Seen { beats: second / 20, ..refused(second) }));
        assert!(slow.is_some_and(|seconds| seconds > 1_900), "{slow:?}");
    }
}
