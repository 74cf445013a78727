//! Progress on stderr: bars on a terminal, a line now and then elsewhere if it was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log;
use super::text::{duration, say, visible};
use crate::config;
use crate::http::RateLimit;
use crate::http::lock::lock;
use crate::store::runs::Progress;
use crate::sync::{Pace, Watcher};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// With and without a number of campaigns: of nothing, a bar would be full.
const COUNTED: &str = "{prefix} {bar:30} {pos}/{len} synced, {elapsed} {msg}";
const UNCOUNTED: &str = "{prefix} {msg}, {elapsed}";
/// The pace is that of this time: a process that has died since no longer counts.
const WINDOW: Duration = Duration::from_secs(15);
/// More bars than this are no longer read; one more tells of all accounts together.
const MOST_BARS: usize = 8;

/// Shows the runs of one or several accounts.
pub struct Display {
    bars: Option<MultiProgress>,
    lines: bool,
    accounts: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shown: BTreeMap<String, Shown>,
    finished: usize,
    all: Option<ProgressBar>,
    last_line: Option<Instant>,
}

/// What is known of one account.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    /// When so many were done, within the last [`WINDOW`].
    looks: VecDeque<(Instant, i64)>,
    done: i64,
    failed: i64,
    total: i64,
    message: String,
    /// The bar counts.
    counted: bool,
    finished: bool,
}

impl Display {
    /// A display as the user wants it, for so many accounts.
    #[must_use]
    pub fn new(wanted: config::Progress, accounts: usize) -> Self {
        let terminal = io::stderr().is_terminal();
        let bars = (terminal && wanted != config::Progress::Never)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5)));
        let lines = !terminal && wanted == config::Progress::Always;
        if let Some(bars) = &bars {
            let bars = bars.clone();
            log::through(Some(Box::new(move |write| bars.suspend(write))));
        }
        let all = bars.as_ref().filter(|_| accounts > 1).map(|bars| {
            let bar = bars.add(bar("{prefix} {bar:30} {pos}/{len}, {elapsed} {msg}"));
            bar.set_prefix("accounts");
            bar.set_length(accounts as u64);
            bar
        });
        Self { bars, lines, accounts, state: Mutex::new(State { all, ..State::default() }) }
    }

    /// Clears the bars away for good.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            log::through(None);
            // Not being able to clear a terminal changes nothing.
            let _cleared = bars.clear();
        }
    }

    fn update_bars(&self, state: &mut State, account: &str) {
        let Some(bars) = &self.bars else { return };
        let busy = state.shown.values().filter(|shown| shown.bar.is_some()).count();
        let Some(shown) = state.shown.get_mut(account) else { return };
        if shown.bar.is_none() && busy < MOST_BARS && !shown.finished {
            let bar = bar(UNCOUNTED);
            bar.set_prefix(visible(account));
            shown.bar = Some(match &state.all {
                Some(all) => bars.insert_before(all, bar),
                None => bars.add(bar),
            });
        }
        if let Some(bar) = &shown.bar {
            if shown.counted != (shown.total > 0) {
                shown.counted = !shown.counted;
                restyle(bar, if shown.counted { COUNTED } else { UNCOUNTED });
            }
            bar.set_length(u64::try_from(shown.total).unwrap_or(0));
            bar.set_position(u64::try_from(shown.done).unwrap_or(0));
            bar.set_message(shown.message.clone());
        }
        if let Some(all) = &state.all {
            all.set_position(state.finished as u64);
            all.set_message(sum(&state.shown));
        }
    }

    fn write_line(&self, state: &mut State, account: &str) {
        if !self.lines || state.last_line.is_some_and(|at| at.elapsed() < LINE_EVERY) {
            return;
        }
        state.last_line = Some(Instant::now());
        if self.accounts > 1 {
            say(&format!("{} of {} accounts done {}", state.finished, self.accounts, sum(&state.shown)));
        } else if let Some(shown) = state.shown.get(account).filter(|shown| shown.total == 0) {
            say(&format!("{}: {}", visible(account), shown.message));
        } else if let Some(shown) = state.shown.get(account) {
            let comma = if shown.message.is_empty() { "" } else { ", " };
            let synced = shown.done - shown.failed;
            say(&format!("{}: {synced} of {} synced{comma}{}", visible(account), shown.total, shown.message));
        }
    }
}

/// All accounts together.
fn sum(shown: &BTreeMap<String, Shown>) -> String {
    let of = |count: fn(&Shown) -> i64| shown.values().map(count).sum::<i64>();
    let (done, failed, total) = (of(|shown| shown.done), of(|shown| shown.failed), of(|shown| shown.total));
    let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("({} of {total} synced{failures})", done - failed)
}

impl Shown {
    fn update(&mut self, run: &Progress, pace: &Pace) {
        let Pace { connecting, waiting, limit, silent } = pace.clone();
        self.failed = run.failed;
        self.done = run.synced + run.failed;
        self.total = run.total.unwrap_or(0).max(run.listed);
        let left = self.total - self.done;
        let mut parts = Vec::new();
        if connecting {
            parts.push("connecting".to_owned());
        } else if self.total == 0 && !run.listing_done {
            parts.push("listing".to_owned());
        }
        if run.failed > 0 {
            parts.push(format!("{} failed", run.failed));
        }
        if let Some(silent) = &silent {
            // As long as it is waited for, there is neither a pace nor an end that could be told.
            parts.push(silent.to_string());
            self.looks.clear();
            self.message = parts.join(", ");
            return;
        }
        self.look(Instant::now());
        if let Some(pace) = self.pace().filter(|_| left > 0) {
            parts.push(if pace < 10.0 { format!("{pace:.1}/s") } else { format!("{pace:.0}/s") });
        }
        if let Some(finish) = self.expected(left, limit).filter(|_| left > 0) {
            parts.push(format!("about {} left", duration(finish)));
        }
        if let Some(waiting) = waiting.filter(|waiting| *waiting >= Duration::from_secs(1)) {
            parts.push(format!("waiting for the rate limit, {} s", waiting.as_secs()));
        }
        self.message = parts.join(", ");
    }

    fn look(&mut self, now: Instant) {
        self.looks.push_back((now, self.done));
        let old = |look: &(Instant, i64)| now.saturating_duration_since(look.0) > WINDOW;
        while self.looks.len() > 1 && self.looks.front().is_some_and(old) {
            self.looks.pop_front();
        }
    }

    /// Campaigns a second of late; nothing before it can be told.
    #[allow(clippy::cast_precision_loss)]
    fn pace(&self) -> Option<f64> {
        let ((since, before), (now, done)) = (self.looks.front()?, self.looks.back()?);
        let (seconds, made) = (now.saturating_duration_since(*since).as_secs_f64(), done - before);
        (made > 0 && seconds >= 1.0).then(|| made as f64 / seconds)
    }

    /// From the rate limit if there is one, else from the pace.
    #[allow(clippy::cast_precision_loss)]
    fn expected(&self, left: i64, limit: Option<RateLimit>) -> Option<Duration> {
        let pace = match limit {
            Some(limit) => f64::from(limit.requests.get()) / limit.window.as_secs_f64(),
            None => self.pace()?,
        };
        Duration::try_from_secs_f64(left as f64 / pace).ok()
    }
}

impl Watcher for Display {
    fn joined(&self, account: &str, _run_id: i64, _resumed: bool) {
        lock(&self.state).shown.entry(account.to_owned()).or_default();
    }

    fn watching(&self) -> bool {
        self.bars.is_some() || self.lines
    }

    fn progress(&self, account: &str, run: &Progress, pace: &Pace) {
        let state = &mut *lock(&self.state);
        let Some(shown) = state.shown.get_mut(account) else { return };
        shown.update(run, pace);
        self.update_bars(state, account);
        self.write_line(state, account);
    }

    fn finished(&self, account: &str) {
        let state = &mut *lock(&self.state);
        state.finished += 1;
        let shown = state.shown.entry(account.to_owned()).or_default();
        shown.finished = true;
        if let (Some(bars), Some(bar)) = (&self.bars, shown.bar.take()) {
            bars.remove(&bar);
        }
        self.update_bars(state, account);
    }
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::hidden();
    restyle(&bar, template);
    bar
}

fn restyle(bar: &ProgressBar, template: &str) {
    // The templates are constants; should one ever be wrong, the default style does too.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_tells_when_it_will_be_done_and_a_pace_only_without_one() {
        let mut shown = Shown { done: 10, ..Shown::default() };
        let limit = RateLimit::new(10, Duration::from_secs(60));
        assert_eq!(shown.expected(100, limit), Some(Duration::from_secs(600)));
        assert_eq!(shown.expected(100, None), None, "nothing was made yet");
        let start = Instant::now();
        shown.looks = VecDeque::from([(start, 0), (start + Duration::from_secs(10), 10)]);
        let expected = shown.expected(100, None).unwrap().as_secs_f64();
        assert!((99.0..102.0).contains(&expected), "{expected}");
    }

    #[test]
    fn a_process_that_has_died_no_longer_counts_as_pace() {
        let (mut shown, start) = (Shown::default(), Instant::now());
        for second in 0..60 {
            shown.done = second.min(20);
            shown.look(start + Duration::from_secs(second.unsigned_abs()));
            let pace = shown.pace();
            match second {
                0 => assert_eq!(pace, None),
                1..=20 => {
                    assert!(pace.is_some_and(|pace| (0.99..1.01).contains(&pace)), "{second}: {pace:?}")
                }
                // Only what both have done in the last seconds is left of it, and then nothing.
                21..36 => {}
                _ => assert_eq!((pace, shown.expected(100, None)), (None, None), "{second}"),
            }
        }
        assert!(shown.looks.len() < 20);
    }

    #[test]
    fn accounts_are_summed() {
        let of = |done, failed, total| Shown { done, failed, total, ..Shown::default() };
        let shown = BTreeMap::from([("a".to_owned(), of(5, 1, 10)), ("b".to_owned(), of(20, 0, 20))]);
        assert_eq!(sum(&shown), "(24 of 30 synced, 1 failed)");
    }
}
