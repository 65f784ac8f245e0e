use std::fmt::Write as _;

use super::outlook::{Outlook, Row};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 48.0;

/// Seconds per step over the budget, with the lower bound below them.
pub(super) fn plot(outlook: &Outlook) -> String {
    let rows: Vec<&Row> = outlook.rows.iter().filter(|row| row.refused.is_none()).collect();
    let most = |value: fn(&Row) -> f64| rows.iter().map(|row| value(row)).fold(f64::MIN_POSITIVE, f64::max);
    let (right, top) = (most(gib), most(|row| row.seconds_per_step) * 1.1);
    let x = |gib: f64| MARGIN + (WIDTH - 2.0 * MARGIN) * gib / right;
    let y = |seconds: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * seconds / top;
    let line = |value: fn(&Row) -> f64| {
        let points = rows.iter().map(|row| format!("{:.1},{:.1}", x(gib(row)), y(value(row))));
        points.collect::<Vec<_>>().join(" ")
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">{} at {:.0} GB/s: seconds per step (blue) and lower bound (grey) over the budget in GiB</text>\n",
        outlook.gpu,
        outlook.link_bytes_per_second / 1e9,
    );
    for row in &rows {
        let (at, label) = (x(gib(row)), gib(row));
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" y1=\"{MARGIN}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label:.0}</text>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#1f77b4\">{:.3}</text>",
            HEIGHT - MARGIN,
            HEIGHT - MARGIN + 18.0,
            y(row.seconds_per_step) - 8.0,
            row.seconds_per_step,
        );
    }
    for (value, color) in [
        ((|row| row.bound_seconds_per_step) as fn(&Row) -> f64, "#999"),
        (|row| row.seconds_per_step, "#1f77b4"),
    ] {
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            line(value)
        );
    }
    text.push_str("</svg>\n");
    text
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
const fn gib(row: &Row) -> f64 {
    row.budget_bytes as f64 / (1 << 30) as f64
}
