use std::fmt::Write as _;

use lighterage_device::{Counter, Purpose, Recording, What};

use super::page::escape;
use crate::size::Size;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 84.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 34.0;
/// Moments that are drawn: between them the fullest counts, so that no peak is lost.
const COLUMNS: u64 = 1500;

/// What was granted between two moments, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    at_ns: u64,
    bytes: [u64; PURPOSES.len()],
}

/// From the bottom up: what stays is below what comes and goes.
const PURPOSES: [Purpose; 6] = [
    Purpose::Context,
    Purpose::Modules,
    Purpose::Workspace,
    Purpose::Resident,
    Purpose::Ring,
    Purpose::Activations,
];

impl Level {
    fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// Device memory over time by purpose, against the cap.
pub(super) fn figure(recording: &Recording, cap_bytes: u64) -> String {
    let levels = levels(recording);
    let peak = levels.iter().map(Level::total).max().unwrap_or(0);
    let is_cap_near = cap_bytes <= peak.saturating_mul(4);
    let top = as_f64(if is_cap_near { cap_bytes.max(peak) } else { peak }).max(1.0) * 1.06;
    let span_ns = as_f64(recording.end_ns.saturating_sub(recording.begin_ns)).max(1.0);
    let chart = Chart { begin_ns: recording.begin_ns, span_ns, top };
    let used = |place: &usize| levels.iter().any(|level| level.bytes[*place] > 0);
    let places: Vec<usize> = (0..PURPOSES.len()).filter(used).collect();

    let mut text = String::from(
        "<figure id=\"memory\"><figcaption>Device memory over time, by purpose</figcaption>\n<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"chart of device memory\">",
    );
    let _ = writeln!(
        text,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"memory-title\"><title id=\"memory-title\">Device memory: at most {} of {}</title>",
        Size(peak),
        Size(cap_bytes)
    );
    chart.grid(&mut text);
    chart.phases(&mut text, recording);
    let mut floor = vec![0_u64; levels.len()];
    for place in &places {
        chart.area(&mut text, &levels, &mut floor, *place);
    }
    if is_cap_near {
        let y = chart.y(as_f64(cap_bytes));
        let _ = write!(
            text,
            "<line class=\"cap\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"cap-text\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">cap {}</text>",
            WIDTH - 4.0,
            y + 13.0,
            Size(cap_bytes)
        );
    }
    text.push_str("</svg></div>\n");
    if !is_cap_near {
        let _ =
            writeln!(text, "<p class=\"note\">The cap, {}, is far above what is drawn.</p>", Size(cap_bytes));
    }
    text.push_str("<ul class=\"legend\">");
    for place in places.iter().rev() {
        let most = levels.iter().map(|level| level.bytes[*place]).max().unwrap_or(0);
        let _ = write!(
            text,
            "<li><span class=\"swatch p{place}\"></span>{} <span class=\"soft\">at most {}</span></li>",
            PURPOSES[*place],
            Size(most)
        );
    }
    text.push_str("</ul></figure>\n");
    text
}

struct Chart {
    begin_ns: u64,
    span_ns: f64,
    top: f64,
}

impl Chart {
    fn x(&self, at_ns: u64) -> f64 {
        LEFT + (WIDTH - LEFT) * (as_f64(at_ns.saturating_sub(self.begin_ns)) / self.span_ns).clamp(0.0, 1.0)
    }

    fn y(&self, bytes: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * bytes / self.top
    }

    fn grid(&self, text: &mut String) {
        for part in 0..=4 {
            let bytes = self.top / 1.06 * f64::from(part) / 4.0;
            let y = self.y(bytes);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a part of a number of bytes"
            )]
            let size = Size(bytes as u64);
            let _ = write!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"axis\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{size}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for part in 0..=5 {
            let share = f64::from(part) / 5.0;
            let x = LEFT + (WIDTH - LEFT) * share;
            let anchor = if part == 5 { "end" } else { "middle" };
            let _ = write!(
                text,
                "<text class=\"axis\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
                HEIGHT - 12.0,
                duration(self.span_ns * share * 1e-9)
            );
        }
    }

    fn phases(&self, text: &mut String, recording: &Recording) {
        for (number, phase) in recording.spans.iter().filter(|span| span.what == What::Phase).enumerate() {
            let (from, to) = (self.x(phase.begin_ns), self.x(phase.end_ns));
            let _ = write!(
                text,
                "<rect class=\"phase{}\" x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{:.1}\"><title>{} phase, {}</title></rect>",
                number % 2,
                TOP - 22.0,
                (to - from).max(0.5),
                HEIGHT - BOTTOM - TOP + 22.0,
                escape(&phase.name),
                duration(phase.seconds())
            );
            // Seven pixels a letter; a label that does not fit is in the title.
            if to - from > as_f64(phase.name.len() as u64) * 7.0 + 8.0 {
                let _ = write!(
                    text,
                    "<text class=\"axis\" x=\"{:.1}\" y=\"{}\">{}</text>",
                    from + 5.0,
                    TOP - 8.0,
                    escape(&phase.name)
                );
            }
        }
    }

    /// One purpose on top of those below it, in steps.
    fn area(&self, text: &mut String, levels: &[Level], floor: &mut [u64], place: usize) {
        let (mut above, mut below) = (String::new(), Vec::new());
        for (index, level) in levels.iter().enumerate() {
            let next = levels.get(index + 1).map_or(WIDTH, |next| self.x(next.at_ns));
            let x = self.x(level.at_ns);
            let (low, high) =
                (self.y(as_f64(floor[index])), self.y(as_f64(floor[index] + level.bytes[place])));
            let _ =
                write!(above, "{}{x:.1},{high:.1}L{next:.1},{high:.1}", if index == 0 { "M" } else { "L" });
            below.push(format!("L{next:.1},{low:.1}L{x:.1},{low:.1}"));
            floor[index] += level.bytes[place];
        }
        let below: String = below.into_iter().rev().collect();
        let _ = writeln!(
            text,
            "<path class=\"p{place}\" d=\"{above}{below}Z\"><title>{}</title></path>",
            PURPOSES[place]
        );
    }
}

/// What was granted, change by change; of changes that lie closer than a column the fullest.
fn levels(recording: &Recording) -> Vec<Level> {
    let column = |at_ns: u64| {
        let span = u128::from(recording.end_ns.saturating_sub(recording.begin_ns).max(1));
        u128::from(at_ns.saturating_sub(recording.begin_ns)) * u128::from(COLUMNS) / span
    };
    let mut now = Level { at_ns: recording.begin_ns, ..Level::default() };
    let mut levels = vec![now];
    for sample in &recording.samples {
        let Counter::Granted(purpose) = sample.counter else { continue };
        let Some(place) = PURPOSES.iter().position(|known| *known == purpose) else { continue };
        // What was there until now holds to the end of its column, unless something fuller comes.
        let last = levels.len() - 1;
        now.bytes[place] = sample.bytes;
        now.at_ns = sample.at_ns.max(recording.begin_ns);
        if column(levels[last].at_ns) == column(now.at_ns) && last > 0 {
            if now.total() >= levels[last].total() {
                levels[last].bytes = now.bytes;
            }
        } else {
            levels.push(now);
        }
    }
    // The last change counts, also where a fuller one shares its column.
    levels.push(Level { at_ns: now.at_ns, ..now });
    levels
}

/// Seconds as people say them.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        s if s.abs() < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s.abs() < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for a drawing")]
pub(super) const fn as_f64(value: u64) -> f64 {
    value as f64
}
