//! Axes: how far they go, and where their labels are.

use super::markup::seconds;

/// An axis from nought to its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// The value at its end; never nought.
    pub end: f64,
    /// Where, in values, and what is written there.
    pub labels: Vec<(f64, String)>,
}

/// Steps between the labels of a time axis, in seconds.
const TIMES: [f64; 17] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0,
    21_600.0, 43_200.0,
];

/// A count as a value on an axis; those that are drawn are far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(in crate::report) fn to_float(count: i64) -> f64 {
    count as f64
}

/// A place in a row as a value on an axis.
#[allow(clippy::cast_precision_loss)]
pub(super) fn as_position(place: usize) -> f64 {
    place as f64
}

impl Axis {
    /// An axis for counts, which ends with the highest.
    pub fn counts(most: f64) -> Self {
        let step = step(most, 4.0).max(1.0);
        let end = most.max(1.0);
        Self { end, labels: labels(step, end, short) }
    }

    /// An axis for a time, in seconds, that ends with it.
    pub fn time(end: f64) -> Self {
        let end = end.max(0.001);
        let known = TIMES.into_iter().find(|step| *step >= end / 5.0);
        let step = match known {
            Some(step) if end > 4.0 => step,
            Some(_) => step(end, 5.0),
            None => (end / 5.0 / 86_400.0).ceil() * 86_400.0,
        };
        let label = |at: f64| match step {
            _ if at == 0.0 => "0".to_owned(),
            ..1.0 => seconds(at),
            ..60.0 => format!("{at:.0} s"),
            _ if end < 7200.0 && step < 3600.0 => format!("{:.0} min", at / 60.0),
            _ => format!("{:.1} h", at / 3600.0).replace(".0 ", " "),
        };
        Self { end, labels: labels(step, end, label) }
    }

    /// An axis for times of bars, in seconds, which ends at a label.
    pub fn durations(most: f64) -> Self {
        let mut axis = Self::time(most.max(0.001));
        if let [first, second, ..] = &axis.labels[..] {
            let step = second.0 - first.0;
            let end = (axis.end / step).ceil() * step;
            let exact = Self::time(end);
            axis = if exact.labels.len() >= axis.labels.len() { exact } else { axis };
        }
        axis
    }

    /// A value's place, in percent.
    pub fn percent(&self, value: f64) -> f64 {
        (value / self.end * 100.0).clamp(0.0, 100.0)
    }
}

/// A round step, of which at most `pieces` make `most`.
fn step(most: f64, pieces: f64) -> f64 {
    let least = (most / pieces).max(1e-6);
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|n| n * power)
        .find(|step| *step >= least * 0.999_999)
        .unwrap_or(power * 10.0)
}

fn labels(step: f64, end: f64, label: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let mut labels = Vec::new();
    let mut at = 0.0;
    while at <= end * 1.000_001 && labels.len() < 16 {
        labels.push((at, label(at)));
        at = step * f64::from(u32::try_from(labels.len()).unwrap_or(u32::MAX));
    }
    labels
}

/// A round count in few characters.
fn short(count: f64) -> String {
    match count {
        ..10_000.0 => format!("{count:.0}"),
        ..1_000_000.0 => format!("{:.0}k", count / 1e3),
        ..10_000_000.0 => format!("{:.1}M", count / 1e6),
        _ => format!("{:.0}M", count / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.labels.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn counts_have_round_labels() {
        assert_eq!(texts(&Axis::counts(0.0)), ["0", "1"]);
        assert_eq!(texts(&Axis::counts(3.0)), ["0", "1", "2", "3"]);
        assert_eq!(texts(&Axis::counts(100.0)), ["0", "50", "100"]);
        assert_eq!(texts(&Axis::counts(1_050_000.0)), ["0", "500k", "1.0M"]);
    }

    #[test]
    fn times_have_few_labels_with_units() {
        assert_eq!(texts(&Axis::time(0.035)), ["0", "10 ms", "20 ms", "30 ms"]);
        assert_eq!(texts(&Axis::time(3.0)), ["0", "1 s", "2 s", "3 s"]);
        assert_eq!(texts(&Axis::time(658.0)), ["0", "5 min", "10 min"]);
        assert_eq!(texts(&Axis::time(90_000.0)), ["0", "6 h", "12 h", "18 h", "24 h"]);
        assert_eq!(texts(&Axis::time(7200.0)), ["0", "0.5 h", "1 h", "1.5 h", "2 h"]);
        for end in [0.0, 0.0007, 0.4, 4.1, 59.0, 61.0, 3599.0, 86_400.0 * 90.0] {
            let axis = Axis::time(end);
            assert!((2..=6).contains(&axis.labels.len()), "{end}: {axis:?}");
        }
    }
}
