use lighterage_pipeline::{Achieved, Report, Source, Stalled};

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
    let first = seen.predicted.as_ref().and_then(|predicted| predicted.first_step_after_seconds);
    Some(format!(
        "{predicted}, {seconds:.4} achieved, {}; {} moved, first step done after {:.3} s{}",
        stalls(achieved),
        Size(achieved.moved_bytes),
        achieved.first_step_after_seconds,
        first.map_or_else(String::new, |first| format!(", {first:.3} predicted")),
    ))
}

/// Why a run with `--graphs` queued its steps piece by piece after all, if it did; in one line.
pub(crate) fn not_replayed(report: &Report) -> Option<String> {
    let why = report.not_replayed.as_ref()?;
    Some(format!("--graphs: steps were queued piece by piece, since one could not be recorded: {why}"))
}

fn stalls(achieved: &Achieved) -> String {
    match achieved.stalled() {
        Some(Stalled { share, step: None }) => format!("{:.1} % of it stalled", 100.0 * share),
        Some(Stalled { share, step: Some(step) }) => format!("{:.1} % of step {step} stalled", 100.0 * share),
        None => "stalls not recorded".to_owned(),
    }
}

/// Where a prediction's times come from.
pub(super) fn source(source: Source) -> String {
    match source {
        Source::Profile => "by the device's profile".to_owned(),
        Source::Step(number) => format!("by the launches of step {number}"),
        Source::StepOfEachKind => "by the launches of a step of each kind".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_could_not_record_says_why() {
        let report = Report {
            peak_bytes: 0,
            cap_bytes: 0,
            steps: 4,
            steps_computed: 4,
            steps_replayed: 0,
            not_replayed: Some("the driver has no graphs".to_owned()),
            phases: Vec::new(),
        };
        let line = not_replayed(&report).expect("a line");
        assert!(line.starts_with("--graphs:") && line.ends_with("the driver has no graphs"), "{line}");
        assert_eq!(not_replayed(&Report { not_replayed: None, ..report }), None);
    }
}
