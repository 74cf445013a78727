//! Progress on stderr: a bar on a terminal, a line now and then elsewhere if it was asked for.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log;
use super::text::{duration, say, visible};
use crate::config;
use crate::http::RateLimit;
use crate::store::runs::Progress;
use crate::sync::Watcher;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows one account's run.
pub struct Display {
    bar: Option<ProgressBar>,
    lines: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    first: Option<(Instant, i64)>,
    last_line: Option<Instant>,
}

impl Display {
    /// A display as the user wants it.
    #[must_use]
    pub fn new(wanted: config::Progress) -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = (terminal && wanted != config::Progress::Never).then(bar);
        let lines = !terminal && wanted == config::Progress::Always;
        if let Some(bar) = &bar {
            let bar = bar.clone();
            log::through(Some(Box::new(move |write| bar.suspend(write))));
        }
        Self { bar, lines, state: Mutex::default() }
    }

    /// Clears the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            log::through(None);
            bar.finish_and_clear();
        }
    }

    /// What is to be said of a run, and how long it may still take.
    fn message(&self, run: &Progress, waiting: Option<Duration>, limit: Option<RateLimit>) -> String {
        let done = run.synced + run.failed;
        let left = run.total.unwrap_or(run.listed).max(run.listed) - done;
        let mut parts = Vec::new();
        if run.failed > 0 {
            parts.push(format!("{} failed", run.failed));
        }
        if let Some(finish) = self.expected(done, left, limit).filter(|_| left > 0) {
            parts.push(format!("about {} left", duration(finish)));
        }
        if let Some(waiting) = waiting.filter(|waiting| *waiting >= Duration::from_secs(1)) {
            parts.push(format!("waiting for the rate limit, {} s", waiting.as_secs()));
        }
        parts.join(", ")
    }

    /// From the pace since this process began, or from the rate limit, whichever is slower.
    #[allow(clippy::cast_precision_loss)]
    fn expected(&self, done: i64, left: i64, limit: Option<RateLimit>) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state.lock().ok()?;
        let (since, before) = *state.first.get_or_insert((now, done));
        let by_limit =
            limit.map(|limit| left as f64 * limit.window.as_secs_f64() / f64::from(limit.requests.get()));
        let made = done - before;
        let by_pace = (made > 0 && limit.is_none())
            .then(|| now.saturating_duration_since(since).as_secs_f64() / made as f64 * left as f64);
        Duration::try_from_secs_f64(by_limit.into_iter().chain(by_pace).reduce(f64::max)?).ok()
    }
}

impl Watcher for Display {
    fn joined(&self, account: &str, _run_id: i64, _resumed: bool) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(visible(account));
        }
    }

    fn progress(&self, account: &str, run: &Progress, waiting: Option<Duration>, limit: Option<RateLimit>) {
        let message = self.message(run, waiting, limit);
        let total = run.total.unwrap_or(0).max(run.listed);
        if let Some(bar) = &self.bar {
            bar.set_length(u64::try_from(total).unwrap_or(0));
            bar.set_position(u64::try_from(run.synced + run.failed).unwrap_or(0));
            bar.set_message(message.clone());
        }
        let due = |state: &State| state.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if self.lines
            && let Ok(mut state) = self.state.lock()
            && due(&state)
        {
            state.last_line = Some(Instant::now());
            let comma = if message.is_empty() { "" } else { ", " };
            say(&format!("{}: {} of {total} synced{comma}{message}", visible(account), run.synced));
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    // The template is a constant; should it ever be wrong, the default style does too.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} synced, {elapsed} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
