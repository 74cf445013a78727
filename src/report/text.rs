//! Lines and durations for people.

use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

pub use crate::foreign::visible;

/// Writes a line to stderr. A message that nobody can read (closed pipe, full disk) changes nothing: `eprintln!` would panic.
pub fn say(line: &str) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{line}");
}

/// A duration for people: `0.4 s`, `41 s`, `11 min 2 s`, `3 h 5 min`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How long ago something was, for people: as [`duration`], but `9 days` from two days on.
#[must_use]
pub fn age(age: Duration) -> String {
    match age.as_secs() / 86_400 {
        0..2 => duration(age),
        days => format!("{days} days"),
    }
}

/// A moment as RFC 3339 has it, in UTC, to the millisecond.
#[must_use]
pub fn rfc3339(moment: SystemTime) -> Option<String> {
    Timestamp::try_from(moment).ok().map(|moment| format!("{moment:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_473_859_250);
        assert_eq!(rfc3339(moment).as_deref(), Some("2026-01-03T20:57:39.250Z"));
    }

    #[test]
    fn durations_are_short() {
        let of = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        assert_eq!(
            [of(0.42), of(41.9), of(662.0), of(11_100.0), age(Duration::from_secs(777_600))],
            ["0.4 s", "41 s", "11 min 2 s", "3 h 5 min", "9 days"]
        );
    }
}
