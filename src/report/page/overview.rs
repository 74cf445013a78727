//! Several accounts at a glance, the worst first: what `report` shows when no run is named.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::markup::{counted, escaped, time};
use super::{document, footnote};
use crate::report::standing::{self, Standing};
use crate::report::status;
use crate::store::overview::Overview;

/// The whole page of these accounts.
#[must_use]
pub fn html(seen: &[(String, Overview)], made_at: SystemTime) -> String {
    let mut sorted: Vec<&(String, Overview)> = seen.iter().collect();
    // The sort is stable: names stay in their order.
    sorted.sort_by_key(|(_, overview)| Standing::of(overview));
    let standings: Vec<Standing> = seen.iter().map(|(_, overview)| Standing::of(overview)).collect();
    let troubled = errors(&sorted);
    let rows: String = sorted.iter().map(|(account, overview)| row(account, overview)).collect();
    let body = format!(
        "<header>\n<p class=\"over\">campaign-sync</p>\n<h1>{} accounts</h1>\n<p class=\"lead\">{}</p>\n</header>\n<main>\n\
         {troubled}<section class=\"wide\">\n<h2>The last run of each account</h2>\n<p class=\"note\"><code>campaign-sync report RUN --html FILE</code> \
         shows one of them.</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table class=\"runs\">\n<thead><tr><th>account</th>\
         <th>standing</th><th>run</th><th>state</th><th>started</th><th>synced</th><th>listed</th><th>failed</th><th>dead letters</th>\
         <th>last success</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n</section>\n</main>\n{}",
        seen.len(),
        escaped(standing::total(&standings).trim_end()),
        footnote(made_at, None),
    );
    document(&format!("{} accounts", seen.len()), &body)
}

/// What has stopped accounts: above the table, where it is seen on a narrow screen as well.
fn errors(sorted: &[&(String, Overview)]) -> String {
    let mut lines = String::new();
    for (account, overview) in sorted.iter().filter(|(_, overview)| Standing::of(overview).needs_a_person()) {
        if let Some(error) = overview.run.as_ref().and_then(|run| run.last_error.as_deref()) {
            lines += &format!(
                "<p class=\"error\"><strong>{}</strong>: {}</p>\n",
                escaped(account),
                escaped(error)
            );
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!("<section class=\"wide\">\n<h2>Last errors</h2>\n{lines}</section>\n")
}

fn row(account: &str, overview: &Overview) -> String {
    let mut row = format!("<tr><td>{}</td><td>{}</td>", escaped(account), status::standing(overview));
    let success = overview.freshness.last_success.map_or_else(|| "never".into(), time);
    let letters: i64 = overview.dead_letters.iter().map(|heap| heap.count).sum();
    // Writing to a String cannot fail.
    let _infallible = match &overview.run {
        None => write!(row, "{}<td>{}</td>", "<td>–</td>".repeat(6), counted(letters)),
        Some(run) => write!(
            row,
            "<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            run.run_id,
            escaped(&run.state),
            time(run.started_at),
            counted(run.synced),
            counted(run.listed),
            counted(run.failed),
            counted(letters)
        ),
    };
    row + &format!("<td>{success}</td></tr>\n")
}
