//! Requests under the rate limit, a bar for each window or for several, with those that it refused.

use std::time::Duration;

use super::axis::{Axis, as_position, to_float};
use super::markup::{counted, plural, seconds, window};
use super::plot::{Plot, bar, legend};
use crate::store::samples::{Course, Sample};

/// More could not be told apart on a phone.
const MOST_BARS: f64 = 48.0;
/// Where no limit is known, requests are told by the second.
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn section(run: &Course) -> String {
    let head = "<section>\n<h2>Requests under the rate limit</h2>\n";
    if run.limited == 0 {
        return format!("{head}<p class=\"empty\">No request was counted.</p>\n</section>\n");
    }
    let unit = run.limit.map_or(SECOND, |limit| limit.window);
    let ceiling = run.limit.map_or(0.0, |limit| f64::from(limit.requests.get()));
    let bars = bars(&run.samples, unit, ceiling);
    let most = bars.iter().map(|bar| bar.accepted + bar.refused).fold(ceiling, f64::max);
    let x = Axis::time(run.lasted.as_secs_f64());
    let y = Axis::counts(most);
    let upwards = match run.limit {
        Some(limit) => format!("requests a window of {}", window(limit.window)),
        None => "requests a second".into(),
    };
    let mut drawn: String = bars.iter().map(|bar| bar.drawn(&x, &y)).collect();
    let mut keys = vec![("synced", format!("let in: {}", counted(run.limited - run.refused)))];
    keys.push(("failed", format!("refused (429): {}", counted(run.refused))));
    if let Some(limit) = run.limit {
        let height = 100.0 - y.percent(ceiling);
        drawn += &format!(
            "<line class=\"line bound\" x1=\"0\" x2=\"100%\" y1=\"{height:.2}%\" y2=\"{height:.2}%\" />\n"
        );
        keys.push(("bound", format!("the limit: {}", limit.requests)));
    }
    let plot = Plot {
        id: "requests",
        title: "Requests over time",
        description: description(run, &bars),
        upwards: &upwards,
        rightwards: "time since the start of the run",
        x: &x,
        y: &y,
        drawn,
    };
    format!("{head}{}{}</section>\n", legend(&keys), plot.svg())
}

/// A stretch of time, in seconds, and its requests for each unit of time.
#[derive(Debug, PartialEq)]
struct Bar {
    from: f64,
    to: f64,
    accepted: f64,
    refused: f64,
}

impl Bar {
    fn drawn(&self, x: &Axis, y: &Axis) -> String {
        let place = (x.percent(self.from), x.percent(self.to));
        let (accepted, refused) = (y.percent(self.accepted), y.percent(self.refused));
        let tip = format!(
            "{} to {}: {:.1} let in, {:.1} refused",
            seconds(self.from),
            seconds(self.to),
            self.accepted,
            self.refused
        );
        let mut drawn = bar("synced", place, 0.0, accepted, &tip);
        if self.refused > 0.0 {
            drawn += &bar("failed", place, accepted, refused, &tip);
        }
        drawn
    }
}

/// Bars of one window each, or of several where they would be too many. What lies between two samples is spread over the
/// time between them; but a limit that was kept (`ceiling` requests a `unit`) says that what is too much for one bar came
/// after it.
fn bars(samples: &[Sample], unit: Duration, ceiling: f64) -> Vec<Bar> {
    let lasted = samples.last().map_or(0.0, |end| end.at.as_secs_f64());
    let unit = unit.as_secs_f64();
    let windows = (lasted / unit / MOST_BARS).ceil().max(1.0);
    let stretch = windows * unit;
    let room = if ceiling > 0.0 { ceiling * windows } else { f64::INFINITY };
    let mut counts: Vec<(f64, f64)> = Vec::new();
    let mut before = Sample::default();
    for sample in samples {
        let refused = to_float((sample.refused - before.refused).max(0));
        let accepted = (to_float(sample.limited - before.limited) - refused).max(0.0);
        let (from, to) = (before.at.as_secs_f64(), sample.at.as_secs_f64());
        let mut place = index(from / stretch);
        let last = index(to / stretch).max(place);
        counts.resize(counts.len().max(last + 1), (0.0, 0.0));
        let (mut left, mut left_refused) = (accepted, refused);
        while place < last {
            let begun = (as_position(place) * stretch).max(from);
            let share = (as_position(place + 1) * stretch - begun) / (to - begun);
            let here = (left * share).min((room - counts[place].0).max(0.0));
            counts[place].0 += here;
            counts[place].1 += left_refused * share;
            left -= here;
            left_refused -= left_refused * share;
            place += 1;
        }
        counts[last].0 += left;
        counts[last].1 += left_refused;
        before = *sample;
    }
    let bar = |(place, (accepted, refused)): (usize, (f64, f64))| {
        let from = as_position(place) * stretch;
        let to = (from + stretch).min(lasted).max(from);
        let units = ((to - from) / unit).max(1.0);
        Bar { from, to, accepted: accepted / units, refused: refused / units }
    };
    let bars = counts.into_iter().enumerate().map(bar);
    bars.filter(|bar| bar.to > bar.from || bar.accepted + bar.refused > 0.0).collect()
}

/// The bar that a moment lies in, counted in bars.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn index(bars: f64) -> usize {
    bars as usize
}

fn description(run: &Course, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.accepted + bar.refused).fold(0.0, f64::max);
    let unit =
        run.limit.map_or_else(|| "second".into(), |limit| format!("window of {}", window(limit.window)));
    let limit = run.limit.map_or_else(String::new, |limit| format!(" The limit is {}.", limit.requests));
    format!(
        "{} counted towards the rate limit, {} of them refused; at most {most:.1} a {unit}.{limit}",
        plural(run.limited, "request"),
        counted(run.refused)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(samples: &[(u64, i64)]) -> Vec<Sample> {
        let sample = |(seconds, limited): &(u64, i64)| Sample {
            at: Duration::from_secs(*seconds),
            limited: *limited,
            ..Sample::default()
        };
        samples.iter().map(sample).collect()
    }

    fn accepted(bars: &[Bar]) -> Vec<f64> {
        bars.iter().map(|bar| bar.accepted.round()).collect()
    }

    #[test]
    fn no_bar_is_higher_than_the_limit_that_was_kept() {
        // Ten at once every 60 s, seen every 7 s.
        let seen: Vec<(u64, i64)> =
            (1..=60u64).map(|n| (n * 7, (n * 7 / 60 + 1).cast_signed() * 10)).collect();
        let bars = bars(&run(&seen), Duration::from_secs(60), 10.0);
        assert_eq!(accepted(&bars), [10.0; 8], "{bars:?}");
    }

    #[test]
    fn what_was_too_much_is_shown() {
        let bars = bars(&run(&[(2, 10), (4, 30), (6, 40)]), Duration::from_secs(5), 10.0);
        assert_eq!(accepted(&bars), [30.0, 10.0], "{bars:?}");
    }

    #[test]
    fn samples_farther_apart_than_a_window_give_the_mean() {
        let bars = bars(&run(&[(10, 100), (20, 300)]), Duration::from_secs(1), 0.0);
        assert_eq!(accepted(&bars), [[10.0; 10], [20.0; 10]].concat());
    }

    #[test]
    fn a_long_run_has_a_bounded_number_of_bars() {
        let seen: Vec<(u64, i64)> = (1..=250u64).map(|n| (n * 100, n.cast_signed())).collect();
        assert!(bars(&run(&seen), Duration::from_secs(1), 5.0).len() <= 48);
        assert_eq!(accepted(&bars(&run(&[(0, 7)]), Duration::from_secs(1), 5.0)), [7.0]);
    }
}
