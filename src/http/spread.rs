//! How durations are spread: counts by logarithmic buckets, fine enough for percentiles and small enough for a row.

use std::time::Duration;

/// Buckets of a spread; the last is for all above the last bound.
pub const BUCKETS: usize = 32;
/// The first bucket's upper bound, in seconds; each next is the square root of 2 times as large, the last 32.8 s.
const FIRST: f64 = 0.001;

/// The upper bound of a bucket, in seconds; of the last one, what would be its own.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn bound(bucket: usize) -> f64 {
    FIRST * (bucket as f64 / 2.0).exp2()
}

/// Where a duration is counted.
#[must_use]
pub fn bucket(duration: Duration) -> usize {
    let seconds = duration.as_secs_f64();
    (0..BUCKETS - 1).find(|bucket| seconds <= bound(*bucket)).unwrap_or(BUCKETS - 1)
}

/// The duration, in seconds, below which this share (0 to 1) of those counted lie, between its bucket's bounds by
/// proportion: off by a fifth at most. None when nothing was counted.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn quantile(counts: &[i64], share: f64) -> Option<f64> {
    let all: i64 = counts.iter().sum();
    let wanted = all as f64 * share;
    let mut below = 0.0;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if below + count >= wanted {
            let from = if bucket == 0 { 0.0 } else { bound(bucket - 1) };
            return Some(from + (bound(bucket) - from) * ((wanted - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_below_their_bucket_s_bound_and_above_the_one_before() {
        for micros in [1, 999, 1_000, 1_001, 1_414, 1_415, 50_000, 2_000_000, 32_000_000] {
            let duration = Duration::from_micros(micros);
            let bucket = bucket(duration);
            assert!(duration.as_secs_f64() <= bound(bucket), "{micros}");
            assert!(bucket == 0 || duration.as_secs_f64() > bound(bucket - 1), "{micros}");
        }
        assert_eq!(bucket(Duration::from_secs(600)), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut counts = [0; BUCKETS];
        for millis in 1..=1000 {
            counts[bucket(Duration::from_millis(millis))] += 1;
        }
        for (share, truth) in [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99)] {
            let found = quantile(&counts, share).unwrap();
            assert!((found / truth - 1.0).abs() < 0.06, "{share}: {found}");
        }
        assert_eq!((quantile(&[], 0.5), quantile(&[0; BUCKETS], 0.5)), (None, None));
    }
}
