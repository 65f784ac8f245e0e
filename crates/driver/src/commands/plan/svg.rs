use std::fmt::Write as _;

use super::outlook::{Outlook, Point};
use crate::report::escape;
use crate::size::Size;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 52.0;
/// Of the legend: a line for each card, and one for what is drawn how.
const LINE: f64 = 20.0;
/// About so many lines of the grid.
const TICKS: f64 = 6.0;
/// As many as there are colours below.
const COLOURS: usize = 6;

const STYLE: &str = "\
.budgets{--b-paper:#fbfaf7;--b-ink:#1d232b;--b-soft:#5c6672;--b-rule:#d9d6ce;--b0:#1f5f99;--b1:#b4560f;--b2:#2c7a57;--b3:#7a4fa3;--b4:#a3324a;--b5:#6b6412;background:var(--b-paper)}\
@media(prefers-color-scheme:dark){.budgets{--b-paper:#14181d;--b-ink:#e4e7ea;--b-soft:#9aa5b1;--b-rule:#303842;--b0:#7db6e8;--b1:#e39a48;--b2:#54b389;--b3:#b79bdb;--b4:#ef8094;--b5:#c9bf55}}\
.budgets text{font:13px system-ui,\"DejaVu Sans\",sans-serif;fill:var(--b-ink)}.budgets .b-axis{fill:var(--b-soft)}.budgets .b-grid{stroke:var(--b-rule)}\
.budgets .b-curve{fill:none;stroke-width:2}.budgets .b-bound{fill:none;stroke-width:1.5;stroke-dasharray:2 4}\
.budgets .b-drop{stroke-width:1;stroke-dasharray:6 4}.budgets .b-dot{fill:none;stroke-width:3}.budgets .b-knee{fill:var(--b-paper);stroke-width:2.5}\
.b-0{stroke:var(--b0)}.b-1{stroke:var(--b1)}.b-2{stroke:var(--b2)}.b-3{stroke:var(--b3)}.b-4{stroke:var(--b4)}.b-5{stroke:var(--b5)}.b-key{stroke:var(--b-soft)}";

/// Seconds per step over the budget for each card, its lower bound, its knee and the budgets that were asked for.
pub(super) fn plot(outlooks: &[Outlook]) -> String {
    let points = || outlooks.iter().flat_map(|outlook| &outlook.curve);
    let most = |value: fn(&Point) -> f64| points().map(value).fold(f64::MIN_POSITIVE, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "a handful of cards")]
    let top = 16.0 + LINE * (outlooks.len() + 1) as f64;
    let scale = Scale {
        right: most(|point| gib(point.budget_bytes)) * 1.02,
        most: most(|point| point.seconds_per_step) * 1.1,
        top,
        height: HEIGHT + top,
    };
    let told: Vec<String> = outlooks.iter().map(told).collect();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"budgets\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{}\" style=\"fill:var(--b-paper)\"/>\n",
        scale.height,
        escape(&format!("Seconds per step over the budget. {}", told.join("; "))),
        scale.height,
    );
    for (index, told) in told.iter().enumerate() {
        legend(&mut text, index, told);
    }
    key(&mut text, top - 8.0);
    grid(&mut text, &scale);
    for (index, outlook) in outlooks.iter().enumerate() {
        curves(&mut text, &scale, outlook, index % COLOURS);
    }
    text.push_str("</svg>\n");
    text
}

/// From GiB and seconds to places of the drawing.
struct Scale {
    right: f64,
    most: f64,
    top: f64,
    height: f64,
}

impl Scale {
    fn x(&self, gib: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * gib / self.right
    }

    fn y(&self, seconds: f64) -> f64 {
        let floor = self.floor();
        floor - (floor - self.top - 8.0) * seconds / self.most
    }

    fn floor(&self) -> f64 {
        self.height - BOTTOM
    }
}

fn told(outlook: &Outlook) -> String {
    format!(
        "{} at {:.0} GB/s: knee at {}, everything resident from {}",
        outlook.gpu,
        outlook.link_bytes_per_second / 1e9,
        Size(outlook.knee_bytes),
        Size(outlook.maximum_bytes),
    )
}

fn legend(text: &mut String, index: usize, told: &str) {
    #[expect(clippy::cast_precision_loss, reason = "a handful of cards")]
    let y = 16.0 + LINE * index as f64;
    let _ = writeln!(
        text,
        "<line class=\"b-curve b-{}\" x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/><text x=\"{}\" y=\"{}\">{}</text>",
        index % COLOURS,
        LEFT + 26.0,
        LEFT + 34.0,
        y + 4.5,
        escape(told),
    );
}

/// What is drawn how, whatever the card.
fn key(text: &mut String, y: f64) {
    let label = |x: f64, said: &str| {
        format!("<text class=\"b-axis\" x=\"{}\" y=\"{}\">{said}</text>", x + 34.0, y + 4.5)
    };
    let line = |x: f64, class: &str| {
        format!("<line class=\"{class} b-key\" x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>", x + 26.0)
    };
    let (plan, bound, knee) = (LEFT, LEFT + 120.0, LEFT + 420.0);
    let _ = writeln!(
        text,
        "{}{}{}{}<circle class=\"b-knee b-key\" cx=\"{}\" cy=\"{y}\" r=\"5\"/>{}",
        line(plan, "b-curve"),
        label(plan, "the plan"),
        line(bound, "b-bound"),
        label(bound, "bound that no policy beats"),
        knee + 18.0,
        label(knee, "knee"),
    );
}

fn grid(text: &mut String, scale: &Scale) {
    let (floor, right) = (scale.floor(), WIDTH - RIGHT);
    for seconds in ticks(scale.most) {
        let y = scale.y(seconds);
        let _ = writeln!(
            text,
            "<line class=\"b-grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/><text class=\"b-axis\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.5,
            short(seconds),
        );
    }
    for gib in ticks(scale.right) {
        let x = scale.x(gib);
        let _ = writeln!(
            text,
            "<line class=\"b-grid\" x1=\"{x:.1}\" y1=\"{floor}\" x2=\"{x:.1}\" y2=\"{}\"/><text class=\"b-axis\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            floor + 5.0,
            floor + 19.0,
            short(gib),
        );
    }
    let _ = writeln!(
        text,
        "<text class=\"b-axis\" x=\"{right}\" y=\"{}\" text-anchor=\"end\">budget, GiB</text>\
         <text class=\"b-axis\" transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">seconds per step</text>",
        floor + 40.0,
        f64::midpoint(scale.top, floor),
    );
}

fn curves(text: &mut String, scale: &Scale, outlook: &Outlook, colour: usize) {
    let points = |value: fn(&Point) -> f64| {
        let place =
            |point: &Point| format!("{:.1},{:.1}", scale.x(gib(point.budget_bytes)), scale.y(value(point)));
        outlook.curve.iter().map(place).collect::<Vec<_>>().join(" ")
    };
    let _ = writeln!(
        text,
        "<polyline class=\"b-bound b-{colour}\" points=\"{}\"/>\n<polyline class=\"b-curve b-{colour}\" points=\"{}\"/>",
        points(|point| point.bound_seconds_per_step),
        points(|point| point.seconds_per_step),
    );
    for row in outlook.rows.iter().filter(|row| row.refused.is_none()) {
        let budget = gib(row.budget_bytes);
        // Far beyond what everything takes nothing is drawn.
        if budget > scale.right {
            continue;
        }
        let _ = writeln!(
            text,
            "<circle class=\"b-dot b-{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.5\"><title>{}: {:.4} s/step, bound {:.4}</title></circle>",
            scale.x(budget),
            scale.y(row.seconds_per_step),
            Size(row.budget_bytes),
            row.seconds_per_step,
            row.bound_seconds_per_step,
        );
    }
    let Some(knee) = outlook.curve.iter().find(|point| point.budget_bytes == outlook.knee_bytes) else {
        return;
    };
    let (x, y) = (scale.x(gib(knee.budget_bytes)), scale.y(knee.seconds_per_step));
    let _ = writeln!(
        text,
        "<line class=\"b-drop b-{colour}\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{}\"/>\
         <circle class=\"b-knee b-{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>knee of {}: {}, {:.4} s/step</title></circle>",
        scale.floor(),
        escape(&outlook.gpu),
        Size(knee.budget_bytes),
        knee.seconds_per_step,
    );
}

/// Round numbers from 0 to `most`.
fn ticks(most: f64) -> Vec<f64> {
    let rough = most / TICKS;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * decade).find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0u32..).map(|index| f64::from(index) * step).take_while(|tick| *tick <= most).collect()
}

/// Without noughts at its end.
fn short(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
const fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 30) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(32.0), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!((short(0.6000000000000001), short(20.0)), ("0.6".to_owned(), "20".to_owned()));
    }
}
