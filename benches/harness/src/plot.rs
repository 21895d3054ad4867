//! Bars on a logarithmic axis, as SVG: rates of peers are orders of magnitude apart.

use std::fmt::Write as _;

/// A title, and a rate for each name.
pub type Bars = (String, Vec<(String, f64)>);

const WIDTH: f64 = 900.0;
const NAMES: f64 = 330.0;
const FIGURES: f64 = 110.0;
const LINE: f64 = 20.0;

/// Draws the bars of each table below each other.
pub fn draw(title: &str, tables: &[Bars]) -> String {
    let lines: usize = tables.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = LINE * (lines as f64 + 2.0);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>"##
    );
    let mut y = LINE;
    text(
        &mut svg,
        10.0,
        y,
        "bold",
        &format!("{title}: operations a second, logarithmic"),
    );
    for (name, bars) in tables {
        y += LINE * 1.5;
        text(&mut svg, 10.0, y, "bold", name);
        let rates = || {
            bars.iter()
                .map(|(_, rate)| *rate)
                .filter(|rate| *rate > 0.0)
        };
        let (low, high) = axis(rates());
        for (name, rate) in bars {
            y += LINE;
            text(&mut svg, 20.0, y, "normal", name);
            let length = bar(*rate, low, high) * (WIDTH - NAMES - FIGURES);
            // Writing to a string does not fail.
            let _ = write!(
                svg,
                r##"<rect x="{NAMES}" y="{:.1}" width="{length:.1}" height="12" fill="#4a78b0"/>"##,
                y - 10.0
            );
            text(
                &mut svg,
                NAMES + length + 6.0,
                y,
                "normal",
                &format!("{rate:.0}"),
            );
        }
        y += LINE * 0.5;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The powers of ten around the rates.
fn axis(rates: impl Iterator<Item = f64>) -> (f64, f64) {
    let logs: Vec<f64> = rates.map(f64::log10).collect();
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min).floor();
    let high = logs
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max)
        .ceil();
    if low < high {
        (low, high)
    } else {
        (low, low + 1.0)
    }
}

/// The share of the axis that a rate takes.
fn bar(rate: f64, low: f64, high: f64) -> f64 {
    let share = (rate.log10() - low) / (high - low);
    if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    }
}

fn text(svg: &mut String, x: f64, y: f64, weight: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = write!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" font-weight="{weight}">{words}</text>"#
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_as_fast_is_one_step_of_the_axis() {
        let (low, high) = axis([5.0, 5_000.0].into_iter());
        assert_eq!((low, high), (0.0, 4.0));
        let step = bar(500.0, low, high) - bar(50.0, low, high);
        assert!((step - 0.25).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_drawn_outside_and_names_are_escaped() {
        let bars = vec![("a < b & c".to_owned(), 0.0), ("d".to_owned(), 10.0)];
        let svg = draw("t", &[("table".to_owned(), bars)]);
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(bar(0.0, 0.0, 1.0), 0.0);
        assert_eq!(bar(1e9, 0.0, 1.0), 1.0);
    }
}
