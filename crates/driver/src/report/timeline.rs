use std::fmt::Write as _;

use lighterage_device::{Recording, Span, StreamKind, What};
use lighterage_pipeline::AchievedStep;

use super::memory::{as_f64, duration};
use super::page::escape;
use crate::size::Size;

/// Units of the drawing across a step; what is shorter than one of `FINEST` is drawn with its neighbours of the same kind.
const WIDTH: f64 = 1000.0;
const FINEST: f64 = 0.05;
const LANE: f64 = 34.0;

/// A bar of a lane.
struct Bar {
    from: f64,
    to: f64,
    class: &'static str,
    title: String,
    count: usize,
}

/// One step: what the copy streams brought, what the compute streams ran, and where these stood still.
pub(super) fn figure(recording: &Recording, step: &AchievedStep, number: usize, caption: &str) -> String {
    let lanes = [("copies", StreamKind::Copy), ("compute", StreamKind::Compute)].map(|(name, kind)| {
        let is_of = |span: &&Span| {
            recording.streams.iter().any(|(id, known)| Some(*id) == span.stream && *known == kind)
                && span.end_ns > step.begin_ns
                && span.begin_ns < step.end_ns
                && class(span, kind).is_some()
        };
        (name, bars(recording.spans.iter().filter(is_of), step, kind))
    });
    let told = format!(
        "Step {number} took {}: copies ran for {:.1} % of it, kernels for {:.1} %, and it stood still, waiting for weights, for {:.1} %.",
        duration(step.seconds()),
        100.0 * covered(&lanes[0].1),
        100.0 * covered(&lanes[1].1),
        // As the table counts it, waits that are too short to draw included.
        100.0 * step.stalled_seconds.unwrap_or(0.0) / step.seconds().max(f64::MIN_POSITIVE),
    );
    let height = 2.0 * LANE + 8.0;
    let mut text = format!(
        "<figure class=\"timeline\" data-seconds=\"{:e}\"><figcaption>{}</figcaption><p class=\"note\">{told}</p>\n<div class=\"lanes\"><div class=\"names\" aria-hidden=\"true\"><span>copies</span><span>compute</span></div>\
         <svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\" tabindex=\"0\">\n",
        step.seconds(),
        escape(caption),
        escape(&told),
    );
    for (row, (_, bars)) in lanes.iter().enumerate() {
        let y = as_f64(row as u64) * (LANE + 8.0);
        let _ = write!(text, "<rect class=\"lane\" x=\"0\" y=\"{y}\" width=\"{WIDTH}\" height=\"{LANE}\"/>");
        for Bar { from, to, class, title, count } in bars {
            let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            let _ = write!(
                text,
                "<rect class=\"{class}\" x=\"{from:.3}\" y=\"{y}\" width=\"{:.3}\" height=\"{LANE}\"><title>{}{more}</title></rect>",
                to - from,
                escape(title)
            );
        }
        text.push('\n');
    }
    text.push_str("</svg></div><p class=\"range\" aria-live=\"polite\"></p></figure>\n");
    text
}

/// The share of the step in which something runs: bars may lie over one another, and what lies under two is counted once.
fn covered(bars: &[Bar]) -> f64 {
    let (mut sum, mut end) = (0.0, 0.0_f64);
    for bar in bars.iter().filter(|bar| bar.class != "wait") {
        sum += (bar.to - bar.from.max(end)).max(0.0);
        end = end.max(bar.to);
    }
    sum / WIDTH
}

/// How a span is drawn on a stream of that kind, if it is.
const fn class(span: &Span, kind: StreamKind) -> Option<&'static str> {
    match (span.what, kind) {
        (What::Wait, StreamKind::Compute) => Some("wait"),
        (What::Arrival, _) => Some("arrival"),
        // An arrival covers the copies of its own.
        (What::Kernel, _) => Some("kernel"),
        (What::CopyIn | What::CopyOut | What::Move, StreamKind::Compute) => Some("move"),
        _ => None,
    }
}

fn bars<'r>(spans: impl Iterator<Item = &'r Span>, step: &AchievedStep, kind: StreamKind) -> Vec<Bar> {
    let length = as_f64(step.end_ns.saturating_sub(step.begin_ns)).max(1.0);
    let x = |at_ns: u64| WIDTH * as_f64(at_ns.clamp(step.begin_ns, step.end_ns) - step.begin_ns) / length;
    let mut spans: Vec<&Span> = spans.collect();
    spans.sort_by_key(|span| span.begin_ns);
    let mut bars: Vec<Bar> = Vec::new();
    for span in spans {
        let Some(class) = class(span, kind) else { continue };
        let (from, to) = (x(span.begin_ns), x(span.end_ns));
        // A wait that was over before it began.
        if class == "wait" && to - from < FINEST {
            continue;
        }
        match bars.last_mut() {
            Some(last) if last.class == class && to - last.from < FINEST => {
                (last.to, last.count) = (last.to.max(to), last.count + 1);
            }
            _ => bars.push(Bar { from, to, class, title: title(span), count: 1 }),
        }
    }
    bars
}

fn title(span: &Span) -> String {
    let bytes = if span.bytes > 0 { format!(", {}", Size(span.bytes)) } else { String::new() };
    let name = if span.what == What::Wait { "waits for weights" } else { &span.name };
    format!("{name}, {}{bytes}", duration(span.seconds()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_over_one_another_count_once() {
        let bar = |from, to, class| Bar { from, to, class, title: String::new(), count: 1 };
        let bars = [
            bar(0.0, 300.0, "kernel"),
            bar(100.0, 200.0, "move"),
            bar(250.0, 400.0, "kernel"),
            bar(400.0, 500.0, "wait"),
            bar(700.0, 800.0, "kernel"),
        ];
        assert!((covered(&bars) - 0.5).abs() < 1e-12, "{}", covered(&bars));
    }
}
