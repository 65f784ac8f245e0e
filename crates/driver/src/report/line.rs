use lighterage_pipeline::{Achieved, AchievedStep, Source};

use super::Seen;
use crate::size::Size;

/// Predicted against achieved, in one line; nothing where no step was recorded (an interleaving that is drawn has no time).
pub(crate) fn line(seen: &Seen) -> Option<String> {
    let achieved = &seen.achieved;
    if achieved.steps.is_empty() {
        return None;
    }
    let seconds = achieved.seconds_per_step();
    let predicted = match &seen.predicted {
        Some(predicted) => {
            format!("{:.4} s/step predicted ({})", predicted.turn.seconds, source(predicted.source))
        }
        None => "no profile: bytes are predicted, times are not".to_owned(),
    };
    Some(format!(
        "{predicted}, {seconds:.4} achieved, {}; {} moved, first step done after {:.3} s",
        stalls(achieved),
        Size(achieved.moved_bytes),
        achieved.first_step_after_seconds,
    ))
}

/// Of all steady steps where their waits were recorded, else of the one that was looked at closely.
fn stalls(achieved: &Achieved) -> String {
    let percent = |stalled: f64, seconds: f64| 100.0 * stalled / seconds.max(f64::MIN_POSITIVE);
    if let Some(stalled) = achieved.stalled_seconds_per_step() {
        return format!("{:.1} % of it stalled", percent(stalled, achieved.seconds_per_step()));
    }
    let seen =
        |(index, step): (usize, &AchievedStep)| Some((index + 1, step.stalled_seconds?, step.seconds()));
    match achieved.steps.iter().enumerate().find_map(seen) {
        Some((number, stalled, seconds)) => {
            format!("{:.1} % of step {number} stalled", percent(stalled, seconds))
        }
        None => "stalls not recorded".to_owned(),
    }
}

/// Where a prediction's times come from.
pub(super) fn source(source: Source) -> String {
    match source {
        Source::Profile => "by the device's profile".to_owned(),
        Source::Step(number) => format!("by the launches of step {number}"),
    }
}
