//! Durations and rate limits as people write them.

use std::time::Duration;

use crate::http::RateLimit;

/// Ten years: more is a mistake.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads `500ms`, `30s`, `5m`, `1h` or `7d`: a whole number above 0 and its unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let millis_a_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis_a_unit)?);
    (!duration.is_zero() && duration <= LONGEST).then_some(duration)
}

/// Reads `10/60s`: 1 to 1,000,000 requests in a duration.
pub(super) fn rate_limit(text: &str) -> Option<RateLimit> {
    let (requests, window) = text.split_once('/')?;
    let requests = requests.parse::<u32>().ok().filter(|requests| *requests <= 1_000_000)?;
    RateLimit::new(requests, duration(window)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, seconds) in
            [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("24h", 86_400.0), ("7d", 604_800.0)]
        {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)));
        }
        for text in
            ["", "0s", "5", "s", "-5s", "1.5s", "5 s", "5sec", "99999999999999999999s", "88000h", "５s"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_rate_limit_is_a_number_in_a_duration() {
        assert_eq!(rate_limit("10/60s"), RateLimit::new(10, Duration::from_secs(60)));
        for text in ["", "10", "10/", "/60s", "0/60s", "10/0s", "10/60", "-1/60s", "1000001/1s", "10/60s/2"] {
            assert_eq!(rate_limit(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,20}") {
            let _either = (duration(&text), rate_limit(&text));
        }
    }
}
