//! Progress on stderr: bars on a terminal, a line now and then elsewhere if it was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::env;
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
/// The pace is that of this time: a process that has died since no longer counts.
const WINDOW: Duration = Duration::from_secs(15);
/// More bars than this are no longer read; one more tells of all accounts together.
const MOST_BARS: usize = 10;
/// Columns of a terminal that does not tell its size.
const COLUMNS: usize = 80;

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
    /// Columns of the longest account's name so far.
    names: usize,
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
    finished: bool,
}

impl Display {
    /// A display as the user wants it, for so many accounts.
    #[must_use]
    pub fn new(wanted: config::Progress, accounts: usize) -> Self {
        // Lines cannot be redrawn on a dumb terminal.
        let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminal = io::stderr().is_terminal() && !dumb;
        let bars = (terminal && wanted != config::Progress::Never)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5)));
        let lines = !terminal && wanted == config::Progress::Always;
        if let Some(bars) = &bars {
            let bars = bars.clone();
            log::through(Some(Box::new(move |write| bars.suspend(write))));
        }
        let all = bars.as_ref().filter(|_| accounts > MOST_BARS).map(|bars| bars.add(bar()));
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
        let columns = columns();
        let busy = state.shown.values().filter(|shown| shown.bar.is_some()).count();
        let Some(shown) = state.shown.get_mut(account) else { return };
        if shown.bar.is_none() && busy < MOST_BARS && !shown.finished {
            let bar = bar();
            shown.bar = Some(match &state.all {
                Some(all) => bars.insert_before(all, bar),
                None => bars.add(bar),
            });
        }
        let name = visible(account);
        state.names = state.names.max(width(&name)).max(if state.all.is_some() { width(ALL) } else { 0 });
        if let Some(bar) = &shown.bar {
            let elapsed = duration(bar.elapsed());
            let (counts, message) = match shown.total {
                0 => (None, format!("{}, {elapsed}", shown.message)),
                _ if shown.message.is_empty() => (Some(shown.counts()), format!("synced, {elapsed}")),
                _ => (Some(shown.counts()), format!("synced, {}, {elapsed}", shown.message)),
            };
            bar.set_message(line(columns, state.names, &name, counts, &message));
        }
        if let Some(all) = &state.all {
            let finished = i64::try_from(state.finished).unwrap_or(i64::MAX);
            let counts = Some((finished, finished, i64::try_from(self.accounts).unwrap_or(i64::MAX)));
            let message = format!("{}, {}", sum(&state.shown), duration(all.elapsed()));
            all.set_message(line(columns, state.names, ALL, counts, &message));
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
    /// Campaigns stored, those done with, and all.
    fn counts(&self) -> (i64, i64, i64) {
        (self.done - self.failed, self.done, self.total)
    }

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

/// What stands where an account's name does, for all together.
const ALL: &str = "accounts";

/// One line of at most so many columns: the name in `names` columns or a third of the line, a bar where there is room for
/// one, how many of how many, and what there is to say. `counts` has what is told, what fills the bar, and the whole.
fn line(columns: usize, names: usize, name: &str, counts: Option<(i64, i64, i64)>, message: &str) -> String {
    let names = names.min(columns / 3);
    let mut line = cut(name, names);
    line.push_str(&" ".repeat(names - width(&line)));
    if let Some((told, done, total)) = counts {
        let bar = match columns {
            100.. => 30,
            80.. => 20,
            60.. => 10,
            _ => 0,
        };
        if bar > 0 {
            let full =
                usize::try_from(done.clamp(0, total.max(0)).saturating_mul(bar) / total.max(1)).unwrap_or(0);
            let bar = usize::try_from(bar).unwrap_or(0);
            let head = if full < bar { ">" } else { "" };
            line.push_str(&format!(" [{:<bar$}]", "=".repeat(full) + head));
        }
        let total = total.to_string();
        line.push_str(&format!(" {told:>0$}/{total}", total.len()));
    }
    line.push(' ');
    line.push_str(message);
    cut(&line, columns)
}

/// As much of it as so many columns hold.
fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |char: &char| {
        let fits = of(*char) <= left;
        left = left.saturating_sub(of(*char));
        fits
    };
    let mut shown: String = text.chars().take_while(fits).collect();
    if columns > 0 {
        shown.push('…');
    }
    shown
}

/// Columns that it takes at most.
fn width(text: &str) -> usize {
    text.chars().map(of).sum()
}

/// Scripts whose characters take two columns, and signs that may, begin with Hangul.
fn of(char: char) -> usize {
    if char < '\u{1100}' || char == '…' { 1 } else { 2 }
}

/// Asked for each line: the window may have been resized.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(COLUMNS)
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::hidden();
    // The template is a constant; should it ever be wrong, the default style does too. It cuts what a smaller window has no
    // room for.
    if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            columns in 0_usize..200,
            names in 0_usize..100,
            name in any::<String>(),
            counts in any::<Option<(i64, i64, i64)>>(),
            message in any::<String>(),
        ) {
            let line = line(columns, names, &name, counts, &message);
            prop_assert!(width(&line) <= columns, "{columns}: {line:?}");
        }
    }

    #[test]
    fn lines_are_aligned_and_drop_the_bar_before_the_numbers() {
        let of = |columns, name| line(columns, 9, name, Some((4, 5, 120)), "2.0/s, 1 failed, 3 s");
        assert_eq!(of(80, "north"), "north     [>                   ]   4/120 2.0/s, 1 failed, 3 s");
        assert_eq!(of(60, "north-sea"), "north-sea [>         ]   4/120 2.0/s, 1 failed, 3 s");
        assert_eq!(of(40, "north"), "north       4/120 2.0/s, 1 failed, 3 s");
        assert_eq!(of(24, "north-sea"), "north-s…   4/120 2.0/s,…");
        assert_eq!(line(60, 5, "north", Some((10, 10, 10)), "9 s"), "north [==========] 10/10 9 s");
        assert_eq!(line(40, 9, "北北北北北", None, "listing"), "北北北北… listing");
    }

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
