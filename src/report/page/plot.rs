//! The frame of a picture: axes in percent of its width and texts in their own size, so that it can be as narrow as a phone.

use std::fmt::Write as _;

use super::axis::Axis;

/// What is drawn within axes.
pub(super) struct Plot<'a> {
    /// A word that no other plot of the page has.
    pub id: &'a str,
    /// What it is, for those who do not see it.
    pub title: &'a str,
    /// What it shows, in numbers.
    pub description: String,
    /// What is counted upwards, with its unit.
    pub upwards: &'a str,
    /// What goes to the right, with its unit.
    pub rightwards: &'a str,
    pub x: &'a Axis,
    pub y: &'a Axis,
    /// Elements with their places in percent.
    pub drawn: String,
}

impl Plot<'_> {
    /// The picture; its texts must be escaped.
    pub fn svg(&self) -> String {
        let Self { id, title, description, upwards, rightwards, .. } = self;
        format!(
            "<svg class=\"plot\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
             <title id=\"{id}-t\">{title}</title>\n<desc id=\"{id}-d\">{description}</desc>\n{}{}{}\
             <text class=\"unit\" x=\"-2.6em\" y=\"-0.9em\">{upwards}</text>\n\
             <text class=\"unit end\" x=\"100%\" y=\"100%\" dy=\"2.9em\">{rightwards}</text>\n</svg>\n",
            self.grid(),
            self.drawn,
            self.below(),
        )
    }

    fn grid(&self) -> String {
        let mut grid = String::new();
        for (value, label) in &self.y.labels {
            let y = 100.0 - self.y.percent(*value);
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                grid,
                "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{y:.2}%\" y2=\"{y:.2}%\" />\
                 <text class=\"end\" x=\"-0.5em\" y=\"{y:.2}%\" dy=\"0.35em\">{label}</text>"
            );
        }
        grid
    }

    fn below(&self) -> String {
        let mut below = String::new();
        for (value, label) in &self.x.labels {
            let x = self.x.percent(*value);
            let anchor = if x > 96.0 { "end" } else { "middle" };
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                below,
                "<text class=\"{anchor}\" x=\"{x:.2}%\" y=\"100%\" dy=\"1.4em\">{label}</text>"
            );
        }
        below
    }
}

/// A bar from `from` to `to` in percent, standing on `floor` and so many percent high.
pub(super) fn bar(class: &str, (from, to): (f64, f64), floor: f64, height: f64, tip: &str) -> String {
    let gap = (to - from) * 0.08;
    format!(
        "<rect class=\"{class}\" x=\"{:.2}%\" width=\"{:.2}%\" y=\"{:.2}%\" height=\"{height:.2}%\"><title>{tip}</title></rect>\n",
        from + gap,
        (to - from - 2.0 * gap).max(0.05),
        100.0 - floor - height,
    )
}

/// Points in percent as a path in a box of a thousand by a thousand.
pub(super) fn path(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let command = if path.is_empty() { 'M' } else { 'L' };
        // Writing to a String cannot fail.
        let _infallible = write!(path, "{command}{:.1} {:.1}", x * 10.0, 1000.0 - y * 10.0);
    }
    path
}

/// Paths on all of the plot, whose lines keep their width however it is stretched.
pub(super) fn stretched(paths: &str) -> String {
    format!(
        "<svg x=\"0\" y=\"0\" width=\"100%\" height=\"100%\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\">\n{paths}</svg>\n"
    )
}

/// What the colours mean.
pub(super) fn legend(entries: &[(&str, String)]) -> String {
    let entries: String = entries
        .iter()
        .map(|(class, text)| format!("<li><i class=\"key {class}\"></i>{text}</li>\n"))
        .collect();
    format!("<ul class=\"legend\">\n{entries}</ul>\n")
}
