//! Requests under the rate limit, a bar for each window or for several, with those that it refused.

use std::time::Duration;

use super::axis::Axis;
use super::markup::{counted, plural, seconds};
use super::plot::{Plot, bar, legend};
use crate::http::RateLimit;
use crate::report::text::duration;
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
    let bars = bars(&run.samples, unit, run.lasted);
    let ceiling = run.limit.map_or(0.0, |limit| f64::from(limit.requests.get()));
    let most = bars.iter().map(|bar| bar.accepted + bar.refused).fold(ceiling, f64::max);
    let x = Axis::time(run.lasted.as_secs_f64());
    let y = Axis::counts(most);
    let upwards = match run.limit {
        Some(limit) => format!("requests a window of {}", seconds(limit.window.as_secs_f64())),
        None => "requests a second".into(),
    };
    let mut drawn: String = bars.iter().map(|bar| bar.drawn(&x, &y, unit)).collect();
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

/// Requests between two samples, for each unit of time.
#[derive(Debug, PartialEq)]
struct Bar {
    from: Duration,
    to: Duration,
    accepted: f64,
    refused: f64,
}

impl Bar {
    fn drawn(&self, x: &Axis, y: &Axis, unit: Duration) -> String {
        let place = (x.percent(self.from.as_secs_f64()), x.percent(self.to.as_secs_f64()));
        let (accepted, refused) = (y.percent(self.accepted), y.percent(self.refused));
        let tip = format!(
            "{} to {}: {:.1} let in, {:.1} refused, in {}",
            duration(self.from),
            duration(self.to),
            self.accepted,
            self.refused,
            seconds(unit.as_secs_f64())
        );
        let mut drawn = bar("synced", place, 0.0, accepted, &tip);
        if self.refused > 0.0 {
            drawn += &bar("failed", place, accepted, refused, &tip);
        }
        drawn
    }
}

/// Stretches from sample to sample, each as long as the samples allow and no longer than one window, or several where they
/// would be too many. So a stretch holds no more than its windows do, wherever the samples lie.
fn bars(samples: &[Sample], unit: Duration, lasted: Duration) -> Vec<Bar> {
    let windows = (lasted.as_secs_f64() / unit.as_secs_f64() / MOST_BARS).ceil().max(1.0);
    let stretch = Duration::try_from_secs_f64(unit.as_secs_f64() * windows).unwrap_or(Duration::MAX);
    let mut bars = Vec::new();
    let mut from = Sample::default();
    let mut last = Sample::default();
    for sample in samples {
        if sample.at.saturating_sub(from.at) > stretch && last.at > from.at {
            bars.push(between(&from, &last, unit, windows));
            from = last;
        }
        last = *sample;
    }
    bars.push(between(&from, &last, unit, windows));
    bars
}

#[allow(clippy::cast_precision_loss)]
fn between(from: &Sample, to: &Sample, unit: Duration, windows: f64) -> Bar {
    let units = ((to.at.saturating_sub(from.at)).as_secs_f64() / unit.as_secs_f64()).max(windows);
    let refused = (to.refused - from.refused).max(0) as f64;
    let sent = (to.limited - from.limited).max(0) as f64;
    Bar { from: from.at, to: to.at, accepted: (sent - refused).max(0.0) / units, refused: refused / units }
}

fn description(run: &Course, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.accepted + bar.refused).fold(0.0, f64::max);
    let unit = run.limit.map_or_else(|| "second".into(), |limit| format!("window of {}", window(limit)));
    let limit = run.limit.map_or_else(String::new, |limit| format!(" The limit is {}.", limit.requests));
    format!(
        "{} counted towards the rate limit, {} of them refused; at most {most:.1} a {unit}.{limit}",
        plural(run.limited, "request"),
        counted(run.refused)
    )
}

fn window(limit: RateLimit) -> String {
    seconds(limit.window.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64, limited: i64) -> Sample {
        Sample { at: Duration::from_secs(seconds), limited, ..Sample::default() }
    }

    #[test]
    fn no_bar_is_higher_than_the_limit_that_was_kept() {
        // Ten at once every 60 s, seen every 7 s.
        let samples: Vec<Sample> =
            (1..80).map(|n| sample(n * 7, (n * 7 / 60 + 1).cast_signed() * 10)).collect();
        let bars = bars(&samples, Duration::from_secs(60), Duration::from_secs(553));
        assert!(bars.iter().all(|bar| bar.accepted <= 10.0), "{bars:?}");
        let longest = bars.iter().map(|bar| bar.to - bar.from).max();
        assert_eq!((bars.len(), longest), (10, Some(Duration::from_secs(56))));
    }

    #[test]
    fn samples_farther_apart_than_a_window_give_the_mean() {
        let bars = bars(&[sample(10, 100), sample(20, 300)], Duration::from_secs(1), Duration::from_secs(20));
        assert_eq!(bars.iter().map(|bar| bar.accepted).collect::<Vec<_>>(), [10.0, 20.0]);
    }

    #[test]
    fn a_long_run_has_a_bounded_number_of_bars() {
        let samples: Vec<Sample> = (1..=250).map(|n| sample(n * 100, n.cast_signed())).collect();
        assert!(bars(&samples, Duration::from_secs(1), Duration::from_secs(25_000)).len() <= 60);
    }
}
