//! How long requests took: their spread, with percentiles.

use super::axis::{Axis, as_position, to_float};
use super::markup::{counted, plural, seconds};
use super::plot::{Plot, bar};
use crate::http::spread::{BUCKETS, bound, quantile};
use crate::store::samples::Course;

const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// Room above the bars, for the percentiles' names.
const HEADROOM: f64 = 1.4;
/// The fewest buckets that are drawn, so that one alone does not look like a wall.
const FEWEST: usize = 8;

pub(super) fn section(run: &Course) -> String {
    let head = "<section>\n<h2>Time a request takes</h2>\n";
    let all: i64 = run.durations.iter().sum();
    let (Some(first), Some(last)) = (
        run.durations.iter().position(|count| *count > 0),
        run.durations.iter().rposition(|count| *count > 0),
    ) else {
        return format!("{head}<p class=\"empty\">No request was timed.</p>\n</section>\n");
    };
    let spare = FEWEST.saturating_sub(last - first + 1);
    let first = first.saturating_sub(1 + spare / 2);
    let last = (last + 1 + spare.div_ceil(2)).min(BUCKETS - 1);
    let buckets = last - first + 1;
    let most = run.durations.iter().copied().max().unwrap_or(0);
    let y = Axis::counts(to_float(most) * HEADROOM);
    let x = places(first, buckets);
    let mut drawn = String::new();
    for (place, count) in run.durations.iter().skip(first).take(buckets).enumerate() {
        let (from, to) = (x.percent(as_position(place)), x.percent(as_position(place + 1)));
        let tip = format!("up to {}: {}", seconds(bound(first + place)), plural(*count, "request"));
        drawn += &bar("synced", (from, to), 0.0, y.percent(to_float(*count)), &tip);
    }
    let marks = PERCENTILES.iter().enumerate().filter_map(|(row, (name, share))| {
        let took = quantile(&run.durations, *share)?;
        Some(mark(row, name, took, x.percent(position(took) - as_position(first))))
    });
    // All lines first: no text is crossed out.
    let (lines, names): (Vec<String>, Vec<String>) = marks.unzip();
    drawn += &(lines.concat() + &names.concat());
    let percentiles: Vec<String> = PERCENTILES
        .iter()
        .filter_map(|(name, share)| Some(format!("{name} {}", seconds(quantile(&run.durations, *share)?))))
        .collect();
    let plot = Plot {
        id: "latency",
        title: "Requests by the time they took",
        description: format!("{} timed: {}.", plural(all, "request"), percentiles.join(", ")),
        upwards: "requests",
        rightwards: "time to the whole answer",
        x: &x,
        y: &y,
        drawn,
    };
    let note = format!(
        "<p class=\"note\">All {} of the run, tokens and failures among them; percentiles within 20 %.</p>\n",
        counted(all) + " requests"
    );
    format!("{head}{note}{}</section>\n", plot.svg())
}

/// Buckets side by side, with the bounds of some of them.
fn places(first: usize, buckets: usize) -> Axis {
    let each = buckets.div_ceil(5).max(2);
    let labels = (1..buckets).filter(|place| place.is_multiple_of(each));
    let labels = labels.map(|place| (as_position(place), seconds(bound(first + place - 1)))).collect();
    Axis { end: as_position(buckets), labels }
}

/// Where a time lies among the buckets.
fn position(took: f64) -> f64 {
    let first = bound(0);
    if took < first { took / first } else { (took / first).log2().mul_add(2.0, 1.0) }
}

/// A percentile's line and its name.
fn mark(row: usize, name: &str, took: f64, x: f64) -> (String, String) {
    let (anchor, shift) = if x > 72.0 { ("end", "-0.4em") } else { ("start", "0.4em") };
    let line = 1.1f64.mul_add(as_position(row), 0.9);
    (
        format!("<line class=\"mark\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"100%\" />\n"),
        format!(
            "<text class=\"{anchor} strong\" x=\"{x:.2}%\" dx=\"{shift}\" y=\"{line:.1}em\">{name} {}</text>\n",
            seconds(took)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_its_bucket() {
        for bucket in 0..BUCKETS {
            assert!((position(bound(bucket)) - as_position(bucket + 1)).abs() < 1e-9, "{bucket}");
        }
        assert!((position(0.0005) - 0.5).abs() < 1e-9);
    }
}
