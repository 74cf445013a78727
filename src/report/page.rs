//! A run as a page with pictures: one file that needs nothing from elsewhere, runs no script, and can be read on a phone, in
//! the dark and by a screen reader.

pub(super) mod axis;
mod course;
mod history;
mod latency;
mod letters;
mod markup;
pub mod overview;
mod plot;
mod requests;
mod retries;

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;

use self::markup::{counted, escaped, plural};
use super::text::duration;
use crate::http::spread::quantile;
use crate::store::dead_letters::Letters;
use crate::store::samples::Course;
use crate::sync::lower_bound;
use crate::version::VERSION;

/// So many runs are compared.
pub const RUNS: i64 = 30;
/// So many dead letters of each cause are shown.
pub const LETTERS: i64 = 25;

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Page {
    /// The account's name.
    pub account: String,
    /// The run, with its points.
    pub run: Course,
    /// The last [`RUNS`], newest first.
    pub recent: Vec<Course>,
    /// What failed of the run, at most [`LETTERS`] of each cause.
    pub letters: Vec<Letters>,
    /// When the page is made.
    pub made_at: SystemTime,
}

/// The whole page. All that comes from outside is escaped.
#[must_use]
pub fn html(page: &Page) -> String {
    let run = &page.run;
    let account = escaped(&page.account);
    let sections = [
        course::section(run),
        requests::section(run),
        latency::section(run),
        retries::section(run),
        history::section(run, &page.recent),
        letters::section(run, &page.letters),
    ];
    let body = format!(
        "{}<main>\n{}</main>\n{}",
        header(&account, run),
        sections.concat(),
        footnote(page.made_at, Some(&run.binary_version))
    );
    document(&format!("Run {} of {account}: {}", run.run_id, escaped(&run.state)), &body)
}

/// A page of its own; title and body are escaped.
fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n\
         <meta name=\"color-scheme\" content=\"light dark\" />\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        include_str!("page/style.css"),
    )
}

fn header(account: &str, run: &Course) -> String {
    let state = escaped(&run.state);
    let mut header = format!(
        "<header>\n<p class=\"over\">campaign-sync, account {account}, started {}</p>\n\
         <h1>Run {}{} <span class=\"state {state}\">{state}</span></h1>\n<p class=\"lead\">{}</p>\n",
        markup::time(run.started_at),
        run.run_id,
        if run.lists { "" } else { " (retry)" },
        lead(run),
    );
    if let Some(error) = &run.last_error {
        // Writing to a String cannot fail.
        let _infallible = writeln!(header, "<p class=\"error\">Last error: {}</p>", escaped(error));
    }
    header + &figures(run) + "</header>\n"
}

/// What there is to say, in two sentences.
fn lead(run: &Course) -> String {
    let left = pending(run);
    let failed = if run.failed > 0 { format!(", {} failed", counted(run.failed)) } else { String::new() };
    let pending = if left > 0 { format!(", {} pending", counted(left)) } else { String::new() };
    let mut lead = format!(
        "{} of {} synced in {}{failed}{pending}.",
        counted(run.synced),
        plural(goal(run), "campaign"),
        duration(run.lasted)
    );
    if let (Some(limit), Some(bound)) = (run.limit, least(run)) {
        let window = markup::window(limit.window);
        let requests = plural(i64::from(limit.requests.get()), "request");
        // Writing to a String cannot fail.
        let _infallible = if bound.is_zero() {
            write!(lead, " The rate limit of {requests} in {window} did not slow it down.")
        } else {
            write!(
                lead,
                " The minimum under the rate limit of {requests} in {window} is {}.",
                duration(bound)
            )
        };
    }
    lead
}

fn figures(run: &Course) -> String {
    let percentile = |share| quantile(&run.durations, share).map_or("–".to_owned(), markup::seconds);
    let mut figures = vec![
        ("requests", counted(run.requests)),
        ("429s, retried too", counted(run.refused)),
        ("retries", counted(run.retries)),
        ("logins", counted(run.token_refreshes)),
        ("median latency", percentile(0.5)),
        ("p99 latency", percentile(0.99)),
    ];
    if run.removed > 0 {
        figures.push(("marked removed", counted(run.removed)));
    }
    let figures: String =
        figures.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect();
    format!("<dl class=\"figures\">\n{figures}</dl>\n")
}

/// When the page was made, and by which versions.
fn footnote(made_at: SystemTime, opened_by: Option<&str>) -> String {
    let opened_by = opened_by
        .map_or_else(String::new, |version| format!("; the run was opened by version {}", escaped(version)));
    format!(
        "<footer><p>Made {} by campaign-sync {}{opened_by}. Times are UTC.</p></footer>\n",
        markup::time(made_at),
        VERSION,
    )
}

/// How many campaigns the run is about, as far as it knows.
fn goal(run: &Course) -> i64 {
    let announced = if run.listing_done { 0 } else { run.total.unwrap_or(0) };
    announced.max(run.listed).max(run.synced + run.failed)
}

fn pending(run: &Course) -> i64 {
    (goal(run) - run.synced - run.failed).max(0)
}

/// The requests that it takes: those that were let in, and at the least one for each campaign that is left.
fn needed(run: &Course) -> i64 {
    (run.limited - run.refused).max(0) + pending(run)
}

/// The least time for them under the rate limit; none where no limit is known.
fn least(run: &Course) -> Option<std::time::Duration> {
    lower_bound(needed(run), run.limit)
}

/// Seconds since 1970 in UTC, for people and for machines.
fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::from_second(Timestamp::try_from(time).ok()?.as_second()).ok()
}
