//! The last runs side by side.

use std::fmt::Write as _;

use super::axis::{Axis, as_position, to_float};
use super::markup::{counted, escaped, plural, seconds, time};
use super::plot::{Plot, bar, legend};
use super::timestamp;
use crate::http::spread::quantile;
use crate::report::text::duration;
use crate::store::samples::Course;

/// A few runs stand to the left of as much room as these would take.
const FEWEST: usize = 10;
const STATES: [&str; 5] = ["complete", "partial", "stopped", "abandoned", "running"];

pub(super) fn section(shown: &Course, newest_first: &[Course]) -> String {
    let runs: Vec<&Course> = newest_first.iter().rev().collect();
    let title = match runs.len() {
        0 | 1 => "The only run so far".to_owned(),
        several => format!("The last {several} runs"),
    };
    let x = places(&runs);
    format!(
        "<section class=\"wide\">\n<h2>{title}</h2>\n<div class=\"pair\">\n<div>\n{}</div>\n<div>\n{}</div>\n</div>\n{}</section>\n",
        durations(&runs, shown, &x),
        campaigns(&runs, shown, &x),
        table(newest_first, shown)
    )
}

/// A place for each run, oldest first; the first, the last and some between say when they began.
fn places(runs: &[&Course]) -> Axis {
    let each = label_step(runs.len());
    let last = runs.len().saturating_sub(1);
    let numbered = runs.iter().enumerate().filter(|(place, _)| (last - place).is_multiple_of(each));
    let labels = numbered.map(|(place, run)| (as_position(place) + 0.5, started(runs, run))).collect();
    Axis { end: as_position(runs.len().max(FEWEST)), labels }
}

/// Of how many places one says when its run began: a telephone has room for six.
fn label_step(runs: usize) -> usize {
    runs.max(FEWEST).div_ceil(6)
}

/// When a run began: its day, or the time where all are of one day.
fn started(runs: &[&Course], run: &Course) -> String {
    let days = |run: &&Course| timestamp(run.started_at).map(|moment| moment.strftime("%m-%d").to_string());
    let one_day = runs.iter().map(days).collect::<std::collections::BTreeSet<_>>().len() == 1;
    let form = if one_day { "%H:%M" } else { "%m-%d" };
    timestamp(run.started_at)
        .map_or_else(|| run.run_id.to_string(), |moment| moment.strftime(form).to_string())
}

fn durations(runs: &[&Course], shown: &Course, x: &Axis) -> String {
    let longest = runs.iter().map(|run| run.lasted).max().unwrap_or_default();
    let y = Axis::durations(longest.as_secs_f64());
    let mut drawn = String::new();
    for (place, run) in runs.iter().enumerate() {
        let height = y.percent(run.lasted.as_secs_f64()).max(0.6);
        drawn += &bar(&class(&run.state, run, shown), between(x, place), 0.0, height, &tip(run));
    }
    let seen = |state: &&str| runs.iter().any(|run| run.state == **state);
    let keys: Vec<(&str, String)> =
        STATES.into_iter().filter(seen).map(|state| (state, state.to_owned())).collect();
    let told: Vec<String> = runs
        .iter()
        .map(|run| format!("{} {} {}", run.run_id, escaped(&run.state), duration(run.lasted)))
        .collect();
    let plot = Plot {
        id: "durations",
        title: "How long the last runs took, and how they ended",
        description: format!("Oldest first: {}.", told.join(", ")),
        upwards: "duration, by how it ended",
        rightwards: "started (UTC)",
        x,
        y: &y,
        drawn,
    };
    legend(&keys) + &plot.svg()
}

fn campaigns(runs: &[&Course], shown: &Course, x: &Axis) -> String {
    let most = runs.iter().map(|run| run.synced + run.failed).max().unwrap_or(0);
    let y = Axis::counts(to_float(most));
    let mut drawn = String::new();
    for (place, run) in runs.iter().enumerate() {
        let (synced, failed) = (y.percent(to_float(run.synced)), y.percent(to_float(run.failed)));
        drawn += &bar(&class("synced", run, shown), between(x, place), 0.0, synced, &tip(run));
        if run.failed > 0 {
            // However few they are, they are seen.
            drawn +=
                &bar(&class("failed", run, shown), between(x, place), synced, failed.max(1.0), &tip(run));
        }
    }
    let told: Vec<String> =
        runs.iter().map(|run| format!("{}: {} and {}", run.run_id, run.synced, run.failed)).collect();
    let plot = Plot {
        id: "campaigns",
        title: "How many campaigns the last runs synced, and how many failed",
        description: format!("Synced and failed, oldest run first: {}.", told.join(", ")),
        upwards: "campaigns",
        rightwards: "started (UTC)",
        x,
        y: &y,
        drawn,
    };
    legend(&[("synced", "synced".into()), ("failed", "failed".into())]) + &plot.svg()
}

fn table(newest_first: &[Course], shown: &Course) -> String {
    let mut rows = String::new();
    for run in newest_first {
        let percentile = |share| quantile(&run.durations, share).map_or("–".to_owned(), seconds);
        let this = if run.run_id == shown.run_id { " class=\"this\" aria-current=\"true\"" } else { "" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            rows,
            "<tr{this}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            run.run_id,
            time(run.started_at),
            escaped(&run.state),
            duration(run.lasted),
            counted(run.synced),
            counted(run.failed),
            counted(run.requests),
            counted(run.refused),
            percentile(0.5),
            percentile(0.99)
        );
    }
    format!(
        "<details>\n<summary>As a table</summary>\n<div class=\"scroll\" tabindex=\"0\">\n<table class=\"runs\">\n<thead><tr>\
         <th>run</th><th>started</th><th>state</th><th>duration</th><th>synced</th><th>failed</th><th>requests</th>\
         <th>refused</th><th>p50</th><th>p99</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n</details>\n"
    )
}

fn tip(run: &Course) -> String {
    format!(
        "run {}: {}, {}, {} synced, {} failed",
        run.run_id,
        escaped(&run.state),
        duration(run.lasted),
        plural(run.synced, "campaign"),
        counted(run.failed)
    )
}

/// The run that the page is about stands out.
fn class(name: &str, run: &Course, shown: &Course) -> String {
    let other = if run.run_id == shown.run_id { "" } else { " other" };
    format!("{}{other}", escaped(name))
}

fn between(x: &Axis, place: usize) -> (f64, f64) {
    (x.percent(as_position(place)), x.percent(as_position(place + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_room_on_a_telephone_however_few_the_runs() {
        for runs in 1..=30_usize {
            let places = runs.max(FEWEST);
            assert!(places / label_step(runs) <= 6, "{runs} runs");
        }
        assert_eq!((label_step(2), label_step(10), label_step(30)), (2, 2, 5));
    }
}
