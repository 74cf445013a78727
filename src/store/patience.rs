//! How long a transaction may wait for the database's answer, and what is done then: a decision without any I/O.
//!
//! A server that works is waited for; one that waits itself, for a lock or a standby, or that has gone silent, is waited for
//! until patience ends. Then the statement is cancelled, and the connection left if that does not help either.

use std::time::{Duration, Instant};

/// After so long without an answer it is asked who blocks the statement.
pub(crate) const ASK_AFTER: Duration = Duration::from_secs(5);
/// How old an answer to that may be.
const ANSWER_LASTS: Duration = Duration::from_secs(5);
/// How long that answer may take, before the server is taken for silent.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// No patience is shorter.
const SHORTEST: Duration = Duration::from_secs(1);
/// What is under way when the account's part is to stop has so long; …
pub(crate) const AFTER_STOP: Duration = Duration::from_secs(1);
/// … later transactions have less, once one had to be broken off; …
const HURRIED: Duration = Duration::from_millis(300);
/// … and one that the server works on has longer.
const WORKING: Duration = Duration::from_secs(10);
/// How long a cancelled statement may take to end.
const CANCEL_TIME: Duration = Duration::from_millis(500);
/// A connection that could be left has been by then.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// What the server says of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is worked on.
    Working,
    /// It waits for a lock, or a commit for a standby.
    Blocked,
    /// The server knows nothing of it, or does not answer.
    Silent,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Ask the server, by another connection, what it does.
    Ask,
    /// Have the server cancel the statement.
    Cancel,
    /// Leave the connection.
    Cut,
    /// Nothing has helped.
    Lost,
}

/// One transaction's wait.
#[derive(Debug)]
pub(super) struct Wait {
    begun: Instant,
    patience: Duration,
    /// When it was first seen that the account's part is to stop.
    stopping: Option<Instant>,
    asked: Option<Instant>,
    answer: Option<(Verdict, Instant)>,
    cancelled: Option<Instant>,
    cut: Option<Instant>,
}

impl Wait {
    pub(super) fn new(begun: Instant, patience: Duration) -> Self {
        let patience = patience.max(SHORTEST);
        Self { begun, patience, stopping: None, asked: None, answer: None, cancelled: None, cut: None }
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether it is ended before its answer.
    pub(super) fn broken_off(&self) -> bool {
        self.cancelled.is_some()
    }

    pub(super) fn answered(&mut self, verdict: Verdict, now: Instant) {
        (self.asked, self.answer) = (None, Some((verdict, now)));
    }

    /// `hurried`: another transaction had to be broken off after the stop.
    pub(super) fn step(&mut self, now: Instant, stop: bool, hurried: bool) -> Step {
        let since = |at: Instant| now.saturating_duration_since(at);
        if let Some(at) = self.cut {
            return if since(at) >= LEAVE_TIME { Step::Lost } else { Step::Nothing };
        }
        if let Some(at) = self.cancelled {
            if since(at) < CANCEL_TIME {
                return Step::Nothing;
            }
            self.cut = Some(now);
            return Step::Cut;
        }
        let stopping = stop.then(|| *self.stopping.get_or_insert(now));
        let stopping = stopping.map(|at| since(at.max(self.begun)));
        let grace = if hurried { HURRIED } else { AFTER_STOP };
        let waited = since(self.begun);
        let over = waited >= self.patience || stopping.is_some_and(|time| time >= grace);
        if !over && waited < ASK_AFTER {
            return Step::Nothing;
        }
        let answer = self.answer.filter(|(_, at)| since(*at) < ANSWER_LASTS).map(|(verdict, _)| verdict);
        match (answer, self.asked) {
            (Some(Verdict::Working), _) if stopping.is_none_or(|time| time < WORKING) => Step::Nothing,
            (Some(_), _) if !over => Step::Nothing,
            (None, None) => {
                self.asked = Some(now);
                Step::Ask
            }
            (None, Some(at)) if !over || since(at) < ANSWER_TIME => Step::Nothing,
            _ => {
                self.cancelled = Some(now);
                Step::Cancel
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tenths of seconds at which each step is taken, for a server that answers `verdict` after 0.2 s, if it does.
    fn steps(patience: u64, stop: Option<u64>, hurried: bool, verdict: Option<Verdict>) -> Vec<(u64, Step)> {
        let start = Instant::now();
        let mut wait = Wait::new(start, Duration::from_secs(patience));
        let (mut steps, mut asked) = (Vec::new(), None);
        for tenth in 0..2_000 {
            let now = start + Duration::from_millis(tenth * 100);
            if let (Some(at), Some(verdict)) = (asked, verdict)
                && tenth == at + 2
            {
                wait.answered(verdict, now);
            }
            match wait.step(now, stop.is_some_and(|stop| tenth >= stop), hurried) {
                Step::Nothing => {}
                Step::Ask => {
                    asked = Some(tenth);
                    steps.push((tenth, Step::Ask));
                }
                step => steps.push((tenth, step)),
            }
        }
        steps
    }

    fn but_for_questions(steps: &[(u64, Step)]) -> Vec<(u64, Step)> {
        steps.iter().copied().filter(|(_, step)| *step != Step::Ask).collect()
    }

    #[test]
    fn it_is_asked_after_five_seconds_and_broken_off_when_patience_ends() {
        for verdict in [Some(Verdict::Blocked), Some(Verdict::Silent), None] {
            let steps = steps(20, None, false, verdict);
            assert_eq!(steps[0], (50, Step::Ask), "{verdict:?}");
            let [(cancel, Step::Cancel), (cut, Step::Cut), (_, Step::Lost), ..] =
                but_for_questions(&steps)[..]
            else {
                panic!("{verdict:?}: {steps:?}")
            };
            assert!((200..=212).contains(&cancel) && cut == cancel + 5, "{verdict:?}: {steps:?}");
        }
    }

    #[test]
    fn a_stop_breaks_off_what_waits_within_two_seconds() {
        for (hurried, most) in [(false, 20), (true, 13)] {
            for verdict in [Some(Verdict::Blocked), Some(Verdict::Silent), None] {
                let steps = steps(300, Some(0), hurried, verdict);
                let cancel = but_for_questions(&steps)[0];
                assert!(cancel.1 == Step::Cancel && cancel.0 <= most, "{verdict:?}: {steps:?}");
            }
        }
    }

    #[test]
    fn a_server_that_works_is_waited_for() {
        assert_eq!(but_for_questions(&steps(20, None, false, Some(Verdict::Working))), []);
        let stopped = but_for_questions(&steps(20, Some(0), false, Some(Verdict::Working)));
        assert!(stopped[0].1 == Step::Cancel && (100..=112).contains(&stopped[0].0), "{stopped:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_said_a_stop_ends_it(
            patience in 0_u64..1_000,
            stop in 0_u64..1_000,
            hurried: bool,
            verdict in prop::option::of(prop::sample::select(vec![Verdict::Working, Verdict::Blocked, Verdict::Silent])),
        ) {
            let steps = but_for_questions(&steps(patience, Some(stop), hurried, verdict));
            prop_assert!(steps.len() >= 2 && steps[0].1 == Step::Cancel && steps[1].1 == Step::Cut);
            prop_assert!(steps[0].0 <= stop + 125, "{:?}", steps);
        }
    }
}
