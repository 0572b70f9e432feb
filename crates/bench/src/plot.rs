//! The distributions of reports as a picture: SVG, written by hand, since it is little more than text. Pure.
//!
//! Every time is a row: a line from the shortest to the longest, a box around the middle half, a mark at the median
//! and at p99, and a dot for each of some. The scale is logarithmic and the same for all rows of one report.

use std::fmt::Write as _;
use std::time::Duration;

use crate::Report;
use crate::report::Timing;
use crate::stats::{millis, percentile};

const WIDTH: f64 = 960.0;
/// Where the scale begins: names stand to the left of it.
const LEFT: f64 = 380.0;
const RIGHT: f64 = 930.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 30.0;
const FOOT: f64 = 40.0;
/// More dots than this say nothing more.
const DOTS: usize = 100;

/// The picture of all times of these reports.
#[must_use]
pub fn svg(reports: &[Report]) -> String {
    let mut body = String::new();
    let mut top = 10.0;
    for report in reports {
        let rows: Vec<&Timing> = report
            .timings
            .iter()
            .filter(|timing| !timing.sorted.is_empty())
            .collect();
        if let Some(scale) = Scale::of(&rows) {
            top = panel(&mut body, report.bench, &rows, scale, top);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top:.0}\" \
         viewBox=\"0 0 {WIDTH} {top:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Whole powers of ten, between which everything lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    fn of(rows: &[&Timing]) -> Option<Self> {
        let ends = |pick: fn(&[Duration]) -> Option<&Duration>| {
            rows.iter()
                .filter_map(move |row| pick(&row.sorted))
                .map(|time| millis(*time).max(1e-6).log10())
        };
        let low = ends(<[Duration]>::first).min_by(f64::total_cmp)?.floor();
        let high = ends(<[Duration]>::last).max_by(f64::total_cmp)?.ceil();
        let (first, last) = (power(low), power(high));
        Some(Self {
            first,
            last: last.max(first + 1),
        })
    }

    fn x(self, time: Duration) -> f64 {
        let (first, last) = (f64::from(self.first), f64::from(self.last));
        let share = (millis(time).max(1e-6).log10() - first) / (last - first);
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

/// The power of ten that a whole number of a few is. Times from nanoseconds to days lie between.
fn power(of: f64) -> i32 {
    (-6..=9).find(|power| f64::from(*power) >= of).unwrap_or(9)
}

/// Draws one report from `top` on, and returns where it ends.
fn panel(body: &mut String, name: &str, rows: &[&Timing], scale: Scale, top: f64) -> f64 {
    let first = top + HEAD;
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let bottom = first + f64::from(count) * ROW;
    text(
        body,
        10.0,
        top + 18.0,
        "start",
        &format!("{name} (milliseconds)"),
    );
    for power in scale.first..=scale.last {
        let value = Duration::from_secs_f64(10_f64.powi(power) / 1000.0);
        let x = scale.x(value);
        element(
            body,
            &format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{first:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>"
            ),
        );
        text(
            body,
            x,
            bottom + 16.0,
            "middle",
            &10_f64.powi(power).to_string(),
        );
    }
    let mut y = first + ROW / 2.0;
    for timing in rows {
        row(body, timing, scale, y);
        y += ROW;
    }
    bottom + FOOT
}

fn row(body: &mut String, timing: &Timing, scale: Scale, y: f64) {
    let at = |percent| scale.x(percentile(&timing.sorted, percent));
    let (lower, upper, middle, late) = (at(25), at(75), at(50), at(99));
    let failed = match timing.times.failures {
        0 => String::new(),
        failures => format!(" ({failures} failed)"),
    };
    let name = format!("{}{failed}", timing.what);
    text(body, LEFT - 12.0, y + 4.0, "end", &name);
    let line = format!(
        "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#888\"/>",
        at(0),
        at(100)
    );
    element(body, &line);
    let step = timing.sorted.len().div_ceil(DOTS).max(1);
    for time in timing.sorted.iter().step_by(step) {
        let x = scale.x(*time);
        element(
            body,
            &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.5\" fill=\"#36c\" fill-opacity=\"0.35\"/>"
            ),
        );
    }
    let (box_top, width) = (y - 6.0, (upper - lower).max(1.0));
    element(
        body,
        &format!(
            "<rect x=\"{lower:.1}\" y=\"{box_top:.1}\" width=\"{width:.1}\" height=\"12\" fill=\"#9bf\" fill-opacity=\"0.6\" stroke=\"#36c\"/>"
        ),
    );
    for (x, colour) in [(middle, "#000"), (late, "#c33")] {
        element(
            body,
            &format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                y - 8.0,
                y + 8.0
            ),
        );
    }
}

fn element(body: &mut String, element: &str) {
    body.push_str(element);
    body.push('\n');
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(words)
    );
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Samples;

    fn report() -> Report {
        let mut samples = Samples::new();
        (1..=250).for_each(|ms| samples.add(Duration::from_millis(ms)));
        samples.fail(&"refused");
        let mut report = Report::new("create");
        report.timing("a < b & c", &samples, None);
        report.timing("nothing", &Samples::new(), None);
        report
    }

    #[test]
    fn one_row_for_each_time_that_was_measured() {
        let picture = svg(&[report()]);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(picture.contains(">a &lt; b &amp; c (1 failed)</text>"));
        assert!(!picture.contains("nothing"));
        assert_eq!(picture.matches("<circle").count(), 84);
        // The background and one box.
        assert_eq!(picture.matches("<rect").count(), 2);
    }

    #[test]
    fn a_report_without_times_has_no_panel() {
        let mut report = Report::new("figures");
        report.figure("memory", 1.0, "MB", None);
        assert!(!svg(&[report]).contains("figures"));
    }

    #[test]
    fn the_scale_holds_all() {
        let report = report();
        let rows: Vec<&Timing> = report.timings.iter().take(1).collect();
        let scale = Scale::of(&rows).unwrap();
        assert_eq!(scale, Scale { first: 0, last: 3 });
        assert!((scale.x(Duration::from_millis(1)) - LEFT).abs() < 1e-6);
        assert!((scale.x(Duration::from_secs(1)) - RIGHT).abs() < 1e-6);
        assert_eq!(Scale::of(&[]), None);
    }
}
