use std::fmt::Write as _;

use lighterage_pipeline::{Achieved, AchievedStep, PhaseForecast, Predicted};

use super::Seen;
use super::line::{line, source};
use super::memory::{self, as_f64, duration};
use super::page::{Page, escape, table};
use super::timeline;
use crate::count::counted;
use crate::size::Size;

/// What was asked for and what came out, as names and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// What the page is about.
    pub(crate) title: String,
    /// The options, also those that were not given.
    pub(crate) settings: Vec<(String, String)>,
    /// Of models and results.
    pub(crate) hashes: Vec<(String, String)>,
    /// HTML of what else there is to see: speed over the budget.
    pub(crate) budgets: Option<String>,
}

/// The page of one run.
pub(crate) fn run_page(device: &str, cap_bytes: u64, seen: &Seen, facts: &Facts) -> String {
    let lead = line(seen).unwrap_or_else(|| "No step of a loop was recorded.".to_owned());
    let mut page = Page::new(&facts.title, &lead);
    page.section("compared", "Predicted and achieved", &compared(seen));
    if let Some(budgets) = &facts.budgets {
        page.section("budgets", "Other budgets", budgets);
    }
    page.section("memory", "Memory", &memory::figure(&seen.recording, cap_bytes));
    page.section("steps", "One step", &steps(seen));
    page.section("resident", "What was resident", &resident(seen));
    page.section("plan", "The plan", &plan(seen));
    page.section("settings", "The run", &settings(device, cap_bytes, facts));
    if seen.recording.dropped > 0 {
        let note = format!(
            "<p>{} not recorded: there was no room for more.</p>",
            counted(seen.recording.dropped, "event")
        );
        page.section("dropped", "What is missing here", &note);
    }
    page.finish()
}

fn compared(seen: &Seen) -> String {
    let achieved = &seen.achieved;
    let predicted = seen.predicted.as_ref();
    let turn = predicted.map(|predicted| predicted.turn);
    let seconds = |name: &str, expected: Option<f64>, got: f64| {
        let share = expected
            .filter(|expected| *expected > 0.0)
            .map(|expected| format!("{:+.1} %", 100.0 * (got / expected - 1.0)));
        vec![
            name.to_owned(),
            expected.map_or_else(|| "–".to_owned(), duration),
            duration(got),
            share.unwrap_or_else(|| "–".to_owned()),
        ]
    };
    let bytes = |name: &str, expected: u64, got: f64| {
        let share = if expected > 0 {
            format!("{:+.1} %", 100.0 * (got / as_f64(expected) - 1.0))
        } else {
            "–".to_owned()
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of byte counts")]
        let got = Size(got as u64).to_string();
        vec![name.to_owned(), Size(expected).to_string(), got, share]
    };
    let planned = seen.forecast.denoise().and_then(lighterage_pager::Plan::mean_turn);
    let streamed = planned.map_or(0, |turn| turn.streamed_bytes);
    let (turn_seconds, turn_stalled) = (turn.map(|turn| turn.seconds), turn.map(|turn| turn.stalled_seconds));
    let mut rows = vec![
        seconds("a step after the first, mean", turn_seconds, achieved.seconds_per_step()),
        seconds(
            "of that stalled, waiting for weights",
            turn_stalled,
            achieved.stalled_seconds_per_step().unwrap_or(0.0),
        ),
    ];
    if let Some((number, step)) = median(achieved) {
        let name = format!("step {number}, the median of them, drawn below");
        rows.push(seconds(&name, turn_seconds, step.seconds()));
        let stalled = step.stalled_seconds.unwrap_or(0.0);
        rows.push(seconds("of that stalled, waiting for weights", turn_stalled, stalled));
    }
    rows.extend([
        seconds(
            "step 1, from the beginning of its phase: page-locking and what is to be resident included",
            predicted.and_then(|predicted| predicted.first_seconds),
            achieved.first_seconds,
        ),
        seconds(
            "from the start of the run to the end of step 1, earlier phases included",
            predicted.and_then(|predicted| predicted.first_step_after_seconds),
            achieved.first_step_after_seconds,
        ),
        bytes("weights moved per step", streamed, achieved.moved_bytes_per_step()),
        bytes("peak of device memory", seen.forecast.peak_bytes(), as_f64(seen.peak_bytes)),
    ]);
    let mut text = table("Time and bytes", &["", "predicted", "achieved", "difference"], &rows, false);
    let _ = writeln!(text, "<p class=\"note\">{}</p>", escape(&basis(predicted)));
    text
}

fn basis(predicted: Option<&Predicted>) -> String {
    let Some(predicted) = predicted else {
        return "Bytes are predicted; seconds are not, since no profile of the device was given and no step was like the plan's.".to_owned();
    };
    let bound = predicted.turn.bound_seconds;
    let bound = if bound > 0.0 {
        format!(" With these times no plan takes less than {} a step in as much memory.", duration(bound))
    } else {
        String::new()
    };
    format!("Seconds are predicted {}.{bound}", source(predicted.source))
}

/// The step that loads, and one that is like the others.
fn steps(seen: &Seen) -> String {
    let all = &seen.achieved.steps;
    let Some(first) = all.first() else { return "<p>No step was recorded.</p>".to_owned() };
    let mut text = String::from(
        "<ul class=\"legend\"><li><span class=\"swatch arrival\"></span>weights arrive</li><li><span class=\"swatch kernel\"></span>kernels</li>\
         <li><span class=\"swatch move\"></span>copies on the compute stream</li><li><span class=\"swatch wait\"></span>waits for weights</li></ul>",
    );
    text.push_str(&timeline::figure(&seen.recording, first, 1, "Step 1: weights are still being loaded"));
    if let Some((number, step)) = median(&seen.achieved) {
        let caption = format!("Step {number}: the median of the others");
        text.push_str(&timeline::figure(&seen.recording, step, number, &caption));
    }
    text
}

/// The step, counted from 1, that half of those behind the first are no longer than.
fn median(achieved: &Achieved) -> Option<(usize, &AchievedStep)> {
    let mut others: Vec<_> = (1..).zip(&achieved.steps).skip(1).collect();
    others.sort_by(|(_, a), (_, b)| a.seconds().total_cmp(&b.seconds()));
    others.get(others.len() / 2).copied()
}

fn resident(seen: &Seen) -> String {
    seen.forecast
        .phases
        .iter()
        .map(|planned| residents(planned, planned.phase == lighterage_pipeline::Phase::Denoise))
        .collect()
}

/// The units of a phase with the share of each that stays on the device.
fn residents(planned: &PhaseForecast, is_open: bool) -> String {
    let plan = &planned.plan;
    let mut seen = std::collections::BTreeSet::new();
    let units = plan.cycle().iter().filter(|unit| seen.insert(**unit)).collect::<Vec<_>>();
    let mut text = format!(
        "<details{}><summary>{} phase: {} of {} resident, {}</summary><div class=\"scroll tall\" tabindex=\"0\" role=\"group\" aria-label=\"units of the {} phase\"><table class=\"units\"><thead><tr><th scope=\"col\">unit</th><th scope=\"col\">bytes</th><th scope=\"col\">resident</th></tr></thead><tbody>\n",
        if is_open { " open" } else { "" },
        planned.phase,
        Size(plan.resident_bytes().min(plan.unit_bytes())),
        Size(plan.unit_bytes()),
        counted(units.len(), "unit"),
        planned.phase,
    );
    for unit in units {
        let spec = planned.units.get(*unit);
        let (resident, all) = plan.pages_of(*unit);
        let share = 100.0 * f64::from(resident) / f64::from(all.max(1));
        let _ = writeln!(
            text,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td><span class=\"bar\" aria-hidden=\"true\"><span style=\"width:{share:.1}%\"></span></span>{share:.0} %</td></tr>",
            escape(&spec.name),
            Size(spec.bytes())
        );
    }
    text.push_str("</tbody></table></div></details>\n");
    text
}

fn plan(seen: &Seen) -> String {
    let row = |planned: &PhaseForecast| {
        let plan = &planned.plan;
        let mut row = vec![planned.phase.to_string()];
        let bytes = [
            planned.activations_bytes,
            plan.resident_bytes(),
            plan.ring_bytes(),
            plan.streamed_bytes(),
            planned.peak_bytes(),
            planned.host_bytes,
        ];
        row.extend(bytes.map(|bytes| Size(bytes).to_string()));
        row
    };
    let rows: Vec<_> = seen.forecast.phases.iter().map(row).collect();
    let head = ["phase", "activations", "resident", "ring", "streamed a turn", "peak", "pinned"];
    let mut text = table("What each phase was given", &head, &rows, false);
    let _ = writeln!(
        text,
        "<p class=\"note\">Budget {} ({} bytes), peak {} bytes, smallest budget that runs {} bytes.</p>",
        Size(seen.forecast.budget_bytes),
        seen.forecast.budget_bytes,
        seen.peak_bytes,
        seen.forecast.minimum_bytes
    );
    text
}

fn settings(device: &str, cap_bytes: u64, facts: &Facts) -> String {
    let mut rows = vec![
        vec!["device".to_owned(), device.to_owned()],
        vec!["cap".to_owned(), format!("{cap_bytes} bytes")],
    ];
    let as_rows = |pairs: &[(String, String)]| -> Vec<Vec<String>> {
        pairs.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect()
    };
    rows.extend(as_rows(&facts.settings));
    let mut text = format!("<p>The command:</p><pre tabindex=\"0\">{}</pre>\n", escape(&command()));
    text.push_str(&table("Settings", &["", ""], &rows, true));
    if !facts.hashes.is_empty() {
        text.push_str(&table("SHA-256", &["", ""], &as_rows(&facts.hashes), true));
    }
    text
}

/// As it could be typed again.
fn command() -> String {
    let quote = |argument: String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c);
        if !argument.is_empty() && argument.chars().all(is_plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    let arguments =
        std::env::args_os().skip(1).map(|argument| quote(argument.to_string_lossy().into_owned()));
    std::iter::once("lighterage".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}
