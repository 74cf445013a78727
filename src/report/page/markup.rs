//! Texts and numbers as they stand in the page.

use std::time::{Duration, SystemTime};

use super::timestamp;
use crate::report::text::{duration, visible};

/// A longer text says no more to people.
const MOST_CHARACTERS: usize = 400;

/// A foreign text, such that the page shows it and obeys nothing: neither markup nor control characters.
pub(super) fn escaped(text: &str) -> String {
    let mut shown: String = text.chars().take(MOST_CHARACTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    let shown = visible(&shown);
    let mut safe = String::with_capacity(shown.len());
    for c in shown.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A count with its thousands apart.
pub(super) fn counted(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut text = if count < 0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things.
pub(super) fn plural(count: i64, thing: &str) -> String {
    format!("{} {thing}{}", counted(count), if count == 1 { "" } else { "s" })
}

/// A short time, in seconds, to two or three digits.
pub(super) fn seconds(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    match millis {
        ..10.0 => format!("{millis:.1} ms").replace(".0 ", " "),
        ..999.5 => format!("{millis:.0} ms"),
        ..9_995.0 => format!("{seconds:.2} s").replace(".00 ", " "),
        _ => duration(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
    }
}

/// A rate limit's window, as people set it: in seconds up to two minutes.
pub(super) fn window(window: Duration) -> String {
    match window.as_secs() {
        _ if window.subsec_nanos() > 0 => seconds(window.as_secs_f64()),
        short @ 1..=120 => format!("{short} s"),
        _ => duration(window).replace(" min 0 s", " min").replace(" h 0 min", " h"),
    }
}

/// A moment.
pub(super) fn time(time: SystemTime) -> String {
    let Some(at) = timestamp(time).map(|at| at.to_string()) else { return "–".into() };
    let shown = at.replace('T', " ").replace('Z', "");
    format!("<time datetime=\"{at}\">{shown}</time>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        assert_eq!(escaped("<a b='\"c\"'>&\u{1b}"), "&lt;a b=&#39;&quot;c&quot;&#39;&gt;&amp;\\u{1b}");
        assert_eq!(escaped(&"ä".repeat(500)), "ä".repeat(400) + "…");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, -1234].map(counted),
            ["0", "999", "1,000", "1,234,567", "-1,234"]
        );
        assert_eq!(
            [0.0004, 0.001, 0.0123, 0.9996, 2.0, 75.0].map(seconds),
            ["0.4 ms", "1 ms", "12 ms", "1 s", "2 s", "1 min 15 s"]
        );
        assert_eq!(
            [500, 60_000, 300_000, 86_400_000].map(|ms| window(Duration::from_millis(ms))),
            ["500 ms", "60 s", "5 min", "24 h"]
        );
    }
}
