//! How long requests took: their spread, with percentiles.

use super::axis::{Axis, as_position, to_float};
use super::markup::{plural, seconds};
use super::plot::{Plot, bar};
use crate::http::spread::{BUCKETS, bound, quantile};
use crate::store::samples::Course;

const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// Room above the bars, for the percentiles' names.
const HEADROOM: f64 = 1.4;
/// A name to the right of a line further on would not fit into the plot.
const RIGHTMOST: f64 = 72.0;
/// Lines less than this apart have their names side by side, in percent.
const CLOSE: f64 = 30.0;
/// The fewest buckets that are drawn, so that one alone does not look like a wall.
const FEWEST: usize = 8;

pub(super) fn section(run: &Course) -> String {
    let head = "<section>\n<h2>Request latency</h2>\n";
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
    let marks = PERCENTILES.iter().filter_map(|(name, share)| {
        let took = quantile(&run.durations, *share)?;
        Some((format!("{name} {}", seconds(took)), x.percent(position(took) - as_position(first))))
    });
    let (names, places): (Vec<String>, Vec<f64>) = marks.unzip();
    let labels = labels(&places);
    // All lines first: no text is crossed out.
    drawn.extend(labels.iter().zip(&places).map(|(label, x)| label.lines(*x)));
    drawn.extend(labels.iter().zip(&names).map(|(label, name)| label.text(name)));
    let percentiles: Vec<String> = PERCENTILES
        .iter()
        .filter_map(|(name, share)| Some(format!("{name} {}", seconds(quantile(&run.durations, *share)?))))
        .collect();
    let plot = Plot {
        id: "latency",
        title: "Requests by latency",
        description: format!("{} timed: {}.", plural(all, "request"), percentiles.join(", ")),
        upwards: "requests",
        rightwards: "time to the whole answer",
        x: &x,
        y: &y,
        drawn,
    };
    let note = format!(
        "<p class=\"note\">{} of the run, logins and failures included; percentiles within 20 %.</p>\n",
        plural(all, "request")
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

/// Where a percentile's name stands, so that close ones neither touch nor cross each other's lines.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Label {
    /// The side of the name that its line is not on: it stands to the left of the line, or to the right.
    left: bool,
    /// What it stands beside, in percent: its own line, or the last of several that are close.
    column: f64,
    /// From above.
    row: usize,
}

/// Labels for lines at these places, in rising order. Those on one side of close lines share a column, and each has the row
/// that its leader reaches above the lines between.
fn labels(places: &[f64]) -> Vec<Label> {
    let rights = places.iter().filter(|x| **x <= RIGHTMOST).count();
    let label = |(place, x): (usize, &f64)| {
        let left = place >= rights;
        let close = places
            .iter()
            .enumerate()
            .filter(|(other, at)| (*other >= rights) == left && (*at - x).abs() < CLOSE);
        let close = close.map(|(_, at)| *at);
        let column = if left { close.fold(*x, f64::min) } else { close.fold(*x, f64::max) };
        Label { left, column, row: if left { places.len() - 1 - (place - rights) } else { place } }
    };
    places.iter().enumerate().map(label).collect()
}

impl Label {
    /// The line at `x`, and the leader from its name.
    fn lines(self, x: f64) -> String {
        let Self { column, .. } = self;
        let top = self.middle();
        format!(
            "<line class=\"mark\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"{top:.2}em\" y2=\"100%\" />\n\
             <line class=\"mark\" x1=\"{column:.2}%\" x2=\"{x:.2}%\" y1=\"{top:.2}em\" y2=\"{top:.2}em\" />\n"
        )
    }

    fn text(self, name: &str) -> String {
        let (anchor, shift) = if self.left { ("end", "-0.5em") } else { ("start", "0.5em") };
        let (x, y) = (self.column, self.middle());
        format!(
            "<text class=\"{anchor} strong\" x=\"{x:.2}%\" dx=\"{shift}\" y=\"{y:.2}em\" dy=\"0.35em\">{name}</text>\n"
        )
    }

    /// Its row's, from the top of the plot.
    fn middle(self) -> f64 {
        1.4f64.mul_add(as_position(self.row), 0.5)
    }
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

    #[test]
    fn names_of_close_lines_stand_in_one_column_and_their_leaders_cross_no_line() {
        let rows = |places: &[f64]| labels(places).iter().map(|label| label.row).collect::<Vec<_>>();
        let columns = |places: &[f64]| labels(places).iter().map(|label| label.column).collect::<Vec<_>>();
        // To the left of the lines, the furthest line's name is the highest; to the right, the nearest one's.
        assert_eq!((rows(&[92.0, 94.0, 95.0]), columns(&[92.0, 94.0, 95.0])), (vec![2, 1, 0], vec![92.0; 3]));
        assert_eq!((rows(&[12.0, 14.0, 15.0]), columns(&[12.0, 14.0, 15.0])), (vec![0, 1, 2], vec![15.0; 3]));
        // Those far apart keep to their own lines.
        assert_eq!(
            (rows(&[20.0, 30.0, 95.0]), columns(&[20.0, 30.0, 95.0])),
            (vec![0, 1, 2], vec![30.0, 30.0, 95.0])
        );
    }
}
