//! Foreign text on a terminal: names and messages come from outside and may hold escape sequences.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

/// The text with every control character written out, so that a terminal shows it and obeys nothing.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
        {
            // Writing to a String cannot fail.
            let _infallible = write!(shown, "\\u{{{:x}}}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_a_name() {
        assert_eq!(visible("a\u{1b}[31mb\r\nc\u{202e}d"), "a\\u{1b}[31mb\\u{d}\\u{a}c\\u{202e}d");
        assert_eq!(visible("Über 日本"), "Über 日本");
    }

    #[test]
    fn durations_are_short() {
        let of = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        assert_eq!(
            [of(0.42), of(41.9), of(662.0), of(11_100.0)],
            ["0.4 s", "41 s", "11 min 2 s", "3 h 5 min"]
        );
    }
}
