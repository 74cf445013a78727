//! What failed for good, and why.

use std::fmt::Write as _;

use super::markup::{counted, escaped, plural, time};
use crate::store::dead_letters::Letters;
use crate::store::samples::Course;

pub(super) fn section(run: &Course, letters: &Letters) -> String {
    let all: i64 = letters.causes.iter().map(|(_, count)| count).sum();
    let since = (run.failed - all).max(0);
    let head = "<section class=\"wide\">\n<h2>Dead letters</h2>\n";
    if all == 0 {
        let empty = match since {
            0 => "None: nothing failed for good.".to_owned(),
            1 => "The campaign that failed in this run was dealt with by a later one.".to_owned(),
            _ => {
                format!("None of the {} that failed in this run: later ones dealt with them.", counted(since))
            }
        };
        return format!("{head}<p class=\"empty\">{empty}</p>\n</section>\n");
    }
    let causes: String = letters
        .causes
        .iter()
        .map(|(cause, count)| format!("<li><b>{}</b> {}</li>\n", counted(*count), escaped(cause)))
        .collect();
    let mut rows = String::new();
    for letter in &letters.first {
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            rows,
            "<tr><td data-is=\"campaign\"><code>{}</code></td><td data-is=\"cause\">{}</td><td data-is=\"reason\">{}</td>\
             <td data-is=\"attempts\">{}</td><td data-is=\"when\">{}</td></tr>",
            escaped(&letter.id),
            escaped(&letter.cause),
            escaped(&letter.reason),
            letter.attempts,
            time(letter.failed_at)
        );
    }
    format!(
        "{head}<ul class=\"causes\">\n{causes}</ul>\n<table class=\"letters\">\n<thead><tr><th>campaign</th><th>cause</th>\
         <th>reason</th><th>attempts</th><th>when</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n{}\
         <p class=\"note\"><code>campaign-sync retry</code> tries them again.</p>\n</section>\n",
        remainder(all - i64::try_from(letters.first.len()).unwrap_or(i64::MAX), since)
    )
}

fn remainder(more: i64, since: i64) -> String {
    let mut text = String::new();
    if more > 0 {
        text += &format!(
            "<p class=\"note\">And {} more, in the table <code>dead_letters</code>.</p>\n",
            counted(more)
        );
    }
    if since > 0 {
        let others = plural(since, "other");
        text +=
            &format!("<p class=\"note\">{others} that failed in this run: dealt with by later runs.</p>\n");
    }
    text
}
