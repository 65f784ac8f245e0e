use lighterage_pipeline::Source;

use super::Seen;
use crate::size::Size;

/// Predicted against achieved, in one line; nothing where no step was recorded (an interleaving that is drawn has no time).
pub(crate) fn line(seen: &Seen) -> Option<String> {
    let achieved = &seen.achieved;
    if achieved.steps.is_empty() {
        return None;
    }
    let (seconds, stalled) = (achieved.seconds_per_step(), achieved.stalled_seconds_per_step());
    let predicted = match &seen.predicted {
        Some(predicted) => {
            format!("{:.4} s/step predicted ({})", predicted.turn.seconds, source(predicted.source))
        }
        None => "no profile: bytes are predicted, times are not".to_owned(),
    };
    Some(format!(
        "{predicted}, {seconds:.4} achieved, {:.1} % of it stalled; {} moved, first step done after {:.3} s",
        100.0 * stalled / seconds.max(f64::MIN_POSITIVE),
        Size(achieved.moved_bytes),
        achieved.first_step_after_seconds,
    ))
}

/// Where a prediction's times come from.
pub(super) fn source(source: Source) -> String {
    match source {
        Source::Profile => "by the device's profile".to_owned(),
        Source::Step(number) => format!("by the launches of step {number}"),
    }
}
