//! What failed permanently, and why.

use std::fmt::Write as _;

use super::markup::{counted, escaped, plural, time};
use crate::store::dead_letters::{Letter, Letters};
use crate::store::samples::Course;

/// When there are more, they are folded by cause.
const MOST_UNFOLDED: i64 = 20;

pub(super) fn section(run: &Course, letters: &[Letters]) -> String {
    let all: i64 = letters.iter().map(|letters| letters.count).sum();
    let head = "<section class=\"wide\">\n<h2>Dead letters</h2>\n";
    // A run of `retry` may have met letters of others.
    let since = (run.failed - all).max(0);
    if all == 0 {
        let empty = match since {
            0 => "None: no campaign failed permanently.".to_owned(),
            1 => "The campaign that failed in this run was dealt with later.".to_owned(),
            _ => format!("The {} campaigns that failed in this run were dealt with later.", counted(since)),
        };
        return format!("{head}<p class=\"empty\">{empty}</p>\n</section>\n");
    }
    let heaps: String = letters.iter().map(|letters| heap(letters, all <= MOST_UNFOLDED)).collect();
    let since = match since {
        0 => String::new(),
        _ => format!(
            "<p class=\"note\">{} that failed in this run: dealt with later.</p>\n",
            plural(since, "other")
        ),
    };
    let retryable: i64 = letters.iter().map(|letters| letters.retryable).sum();
    let again = match retryable {
        0 => "None has a record that can be retried: the next sync stores those that the platform has fixed."
            .to_owned(),
        some if some == all => "<code>campaign-sync retry</code> retries them.".to_owned(),
        some => format!("<code>campaign-sync retry</code> retries {} of them.", counted(some)),
    };
    format!(
        "{head}<p class=\"note\">{}, by cause. {again}</p>\n{heaps}{since}</section>\n",
        plural(all, "campaign")
    )
}

fn heap(letters: &Letters, open: bool) -> String {
    let rows: String = letters.first.iter().map(row).collect();
    let more = letters.count - i64::try_from(letters.first.len()).unwrap_or(i64::MAX);
    let more = match more {
        ..=0 => String::new(),
        more => format!(
            "<p class=\"note\">And {} more, in the table <code>dead_letters</code>.</p>\n",
            counted(more)
        ),
    };
    format!(
        "<details{}>\n<summary><b>{}</b> {}</summary>\n<table class=\"letters\">\n<thead><tr><th>campaign</th><th>reason</th>\
         <th>attempts</th><th>when</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n{more}</details>\n",
        if open { " open=\"open\"" } else { "" },
        escaped(&letters.cause),
        counted(letters.count)
    )
}

fn row(letter: &Letter) -> String {
    let mut row = String::new();
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        row,
        "<tr><td data-is=\"campaign\"><code>{}</code></td><td data-is=\"reason\">{}</td><td data-is=\"attempts\">{}</td>\
         <td data-is=\"when\">{}</td></tr>",
        escaped(&letter.id),
        escaped(&letter.reason),
        letter.attempts,
        time(letter.failed_at)
    );
    row
}
