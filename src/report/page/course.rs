//! The run's course: what was synced when, beside the fastest that the rate limit permits.

use std::time::Duration;

use super::axis::{Axis, to_float};
use super::markup::{counted, plural};
use super::plot::{Plot, legend, path, stretched};
use super::{goal, least, needed};
use crate::report::text::duration;
use crate::store::samples::{Course, Sample};

/// A staircase of more steps would look like a slope.
const MOST_STEPS: i64 = 100;

pub(super) fn section(run: &Course) -> String {
    let goal = goal(run);
    if goal == 0 {
        return "<section class=\"wide\">\n<h2>Progress</h2>\n<p class=\"empty\">No campaign was listed.</p>\n</section>\n"
            .into();
    }
    let bound = least(run).filter(|bound| !bound.is_zero());
    let x = Axis::time(run.lasted.as_secs_f64());
    let y = Axis::counts(to_float(goal));
    let mut keys = vec![
        ("synced", format!("synced: {}", counted(run.synced))),
        ("listed", format!("listed: {}", counted(run.listed))),
    ];
    if run.failed > 0 {
        keys.push(("failed", format!("failed: {}", counted(run.failed))));
    }
    if let Some(bound) = bound {
        keys.push(("bound", format!("the fastest that the rate limit permits: {}", duration(bound))));
    }
    let plot = Plot {
        id: "course",
        title: "Campaigns over time",
        description: description(run, bound),
        upwards: "campaigns",
        rightwards: "time since the start of the run",
        x: &x,
        y: &y,
        drawn: stretched(&lines(run, &x, &y)),
    };
    format!("<section class=\"wide\">\n<h2>Progress</h2>\n{}{}</section>\n", legend(&keys), plot.svg())
}

fn lines(run: &Course, x: &Axis, y: &Axis) -> String {
    let samples = &run.samples;
    let point = |at: Duration, value: f64| (x.percent(at.as_secs_f64()), y.percent(value));
    let line = |value: fn(&Sample) -> i64| {
        let points = samples.iter().map(|sample| point(sample.at, to_float(value(sample))));
        path(std::iter::once((0.0, 0.0)).chain(points))
    };
    let synced = line(|sample| sample.synced);
    let mut lines = format!(
        "<path class=\"area synced\" d=\"{synced}L1000 1000Z\" />\n<path class=\"line listed\" d=\"{}\" />\n\
         <path class=\"line synced\" d=\"{synced}\" />\n",
        line(|sample| sample.listed)
    );
    if run.failed > 0 {
        lines += &format!("<path class=\"line failed\" d=\"{}\" />\n", line(|sample| sample.failed));
    }
    if let Some(points) = fastest(run) {
        let points = points.into_iter().map(|(at, value)| point(at, value));
        lines += &format!("<path class=\"line bound\" d=\"{}\" />\n", path(points));
    }
    lines
}

/// The course that the rate limit permits: with each window, its number of requests, and of the campaigns the share that
/// they are of all requests. None where it does not slow the run down.
fn fastest(run: &Course) -> Option<Vec<(Duration, f64)>> {
    let limit = run.limit?;
    let (needed, goal) = (needed(run), to_float(goal(run)));
    let a_window = i64::from(limit.requests.get());
    let steps = (needed - 1).max(0) / a_window;
    if steps == 0 {
        return None;
    }
    let reached = |window: i64| {
        let at = limit.window.saturating_mul(u32::try_from(window).unwrap_or(u32::MAX));
        (at, goal * (to_float((window + 1) * a_window) / to_float(needed)).min(1.0))
    };
    if steps > MOST_STEPS {
        return Some(vec![reached(0), reached(steps)]);
    }
    let mut points = vec![(Duration::ZERO, 0.0)];
    for window in 0..=steps {
        let (at, value) = reached(window);
        let before = points.last().map_or(0.0, |point| point.1);
        points.extend([(at, before), (at, value)]);
    }
    Some(points)
}

fn description(run: &Course, bound: Option<Duration>) -> String {
    let half = run.samples.iter().find(|sample| sample.synced * 2 >= run.synced.max(1));
    let half = half.map_or_else(String::new, |sample| {
        format!(" Half of that was reached after {}.", duration(sample.at))
    });
    let bound = bound.map_or_else(String::new, |bound| {
        format!(" The rate limit permits nothing faster than {}.", duration(bound))
    });
    format!(
        "{} listed, {} synced and {} failed in {}.{half}{bound}",
        plural(run.listed, "campaign"),
        counted(run.synced),
        counted(run.failed),
        duration(run.lasted)
    )
}
