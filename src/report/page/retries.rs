//! Attempts made again, by cause.

use std::fmt::Write as _;

use super::markup::{counted, plural};
use crate::http::retry::Cause;
use crate::store::samples::Course;

pub(super) fn section(run: &Course) -> String {
    let head = "<section>\n<h2>Retries by cause</h2>\n";
    let mut causes: Vec<(Cause, i64)> =
        Cause::ALL.into_iter().zip(run.retried.iter().copied()).filter(|(_, count)| *count > 0).collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let Some(most) = causes.first().map(|(_, count)| *count) else {
        let empty = if run.retries > 0 { "The causes were not counted." } else { "Nothing was retried." };
        return format!("{head}<p class=\"empty\">{empty}</p>\n</section>\n");
    };
    let mut rows = String::new();
    for (row, (cause, count)) in causes.iter().enumerate() {
        let (width, top) = (width(*count, most), row * 2);
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            rows,
            "<text class=\"end\" x=\"-0.6em\" y=\"{top}em\" dy=\"1.25em\">{}</text>\
             <rect class=\"failed\" x=\"0\" y=\"{}em\" width=\"{width:.2}%\" height=\"1.2em\" />\
             <text class=\"strong\" x=\"{width:.2}%\" dx=\"0.4em\" y=\"{top}em\" dy=\"1.25em\">{}</text>",
            words(*cause),
            format_args!("{top}.3"),
            counted(*count)
        );
    }
    let told: Vec<String> =
        causes.iter().map(|(cause, count)| format!("{}: {}", words(*cause), counted(*count))).collect();
    let all = causes.iter().map(|(_, count)| *count).sum();
    format!(
        "{head}<svg class=\"rows\" role=\"img\" aria-labelledby=\"retries-t retries-d\" style=\"height:{}em\">\n\
         <title id=\"retries-t\">Retries by cause</title>\n<desc id=\"retries-d\">{}: {}.</desc>\n{rows}</svg>\n</section>\n",
        causes.len() * 2,
        plural(all, "retry").replace("retrys", "retries"),
        told.join(", ")
    )
}

/// The longest bar leaves room for its number.
#[allow(clippy::cast_precision_loss)]
fn width(count: i64, most: i64) -> f64 {
    count as f64 / most as f64 * 80.0
}

fn words(cause: Cause) -> &'static str {
    match cause {
        Cause::Connect => "no connection",
        Cause::Timeout => "no answer in time",
        Cause::Interrupted => "answer cut off",
        Cause::Unparsable => "unreadable answer",
        Cause::ServerError => "server error (5xx)",
        Cause::Redirect => "redirect",
        Cause::Unauthorized => "token refused (401)",
        Cause::RateLimited => "rate limit (429)",
        Cause::Forbidden => "refused (403)",
    }
}
