//! A run's pictures in small, for a terminal: a line of blocks each.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::Duration;

use super::page::axis::to_float;
use super::text::duration;
use crate::store::samples::{Course, Sample};

/// Characters a picture has.
const WIDTH: u32 = 40;
/// From next to nothing to all; nothing is a space.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Whether stdout shows blocks: a terminal that is not dumb, where texts are UTF-8. They are not coloured: `NO_COLOR` does
/// not matter.
pub fn are_shown(environment: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let set = |name| environment(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase().replace('-', "");
    let dumb = set("TERM").is_none_or(|term| term == "dumb");
    !dumb && locale.ends_with("utf8") && io::stdout().is_terminal()
}

/// What was synced and sent over the run's time, and how long the last runs took (`recent`, newest first); only what there
/// is something to see of.
#[must_use]
pub fn lines(run: &Course, recent: &[Course]) -> Vec<String> {
    let mut lines = Vec::new();
    if run.synced > 0 {
        let all = run.listed.max(run.synced + run.failed);
        let synced = cells(run).map(|(_, until)| share(at(&run.samples, until, |sample| sample.synced), all));
        lines.push(format!("  synced   {}  over {}", blocks(synced), duration(run.lasted)));
    }
    if run.limited > 0 {
        let count = |time| at(&run.samples, time, |sample| sample.limited);
        let sent: Vec<f64> = cells(run).map(|(from, until)| count(until) - count(from)).collect();
        let most = sent.iter().copied().fold(0.0, f64::max);
        let limit = run.limit.map_or_else(String::new, |limit| format!("  limit {limit}"));
        lines.push(format!("  requests {}{limit}", blocks(sent.iter().map(|count| count / most))));
    }
    if recent.len() > 1 {
        let longest = recent.iter().map(|run| run.lasted).max().unwrap_or_default().as_secs_f64();
        let took = recent.iter().rev().map(|run| run.lasted.as_secs_f64() / longest);
        let longest = duration(Duration::try_from_secs_f64(longest).unwrap_or_default());
        lines.push(format!("  runs     {}  the last {}, at most {longest}", blocks(took), recent.len()));
    }
    lines
}

/// The run's time in pieces.
fn cells(run: &Course) -> impl Iterator<Item = (Duration, Duration)> {
    let cell = run.lasted / WIDTH;
    (0..WIDTH).map(move |n| (cell * n, cell * (n + 1)))
}

/// A count at some time, between two samples by proportion.
fn at(samples: &[Sample], time: Duration, count: fn(&Sample) -> i64) -> f64 {
    let mut before = Sample::default();
    for sample in samples {
        if sample.at >= time {
            let span = sample.at.saturating_sub(before.at).as_secs_f64();
            let part = if span > 0.0 { time.saturating_sub(before.at).as_secs_f64() / span } else { 1.0 };
            return to_float(count(&before)) + to_float(count(sample) - count(&before)) * part;
        }
        before = *sample;
    }
    to_float(count(&before))
}

fn share(count: f64, all: i64) -> f64 {
    count / to_float(all.max(1))
}

/// Shares, 0 to 1, as blocks.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn blocks(shares: impl Iterator<Item = f64>) -> String {
    let block = |share: f64| match (share * 8.0).ceil() as usize {
        0 => ' ',
        level => BLOCKS[level.min(8) - 1],
    };
    shares.map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_blocks() {
        let shares = [0.0, 0.01, 0.125, 0.5, 0.99, 1.0, 1.1, f64::NAN];
        assert_eq!(blocks(shares.into_iter()), " ▁▁▄███ ");
    }

    #[test]
    fn counts_between_samples_are_by_proportion() {
        let sample =
            |seconds, synced| Sample { at: Duration::from_secs(seconds), synced, ..Sample::default() };
        let samples = [sample(10, 100), sample(20, 100), sample(30, 200)];
        let seen =
            [0, 5, 10, 15, 25, 30, 99].map(|s| at(&samples, Duration::from_secs(s), |sample| sample.synced));
        assert_eq!(seen, [0.0, 50.0, 100.0, 100.0, 150.0, 200.0, 200.0]);
        assert!(at(&[], Duration::ZERO, |sample| sample.synced).abs() < 1e-9);
    }

    #[test]
    fn only_a_terminal_that_can_shows_blocks() {
        let with = |term: &'static str, lang: &'static str| {
            are_shown(&move |name| match name {
                "TERM" => Some(term.into()),
                "LANG" => Some(lang.into()),
                _ => None,
            })
        };
        assert!(!with("dumb", "en_US.UTF-8") && !with("xterm", "C") && !with("", "C.UTF-8"));
    }
}
