use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lighterage_device::Ledger;
use lighterage_pipeline::{Observer, Phase};

use crate::size::Size;
use crate::{interrupt, output};

/// Shows how far a run is, on stderr: a bar on a terminal, about ten plain lines elsewhere. Stops it on Ctrl-C.
pub(crate) struct Progress {
    ledger: Ledger,
    /// None where stderr is no terminal, or one that cannot go back (`TERM=dumb`).
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
    phase_start: Instant,
}

/// What does not fit the terminal's width is cut off: a line that wraps is not drawn over.
const SPINNER: &str = "{spinner} {wide_msg}";
const BAR: &str = "[{bar:16}] {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Lines for a loop where there is no bar.
const LINES: usize = 10;

impl Progress {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        let bar =
            std::io::stderr().is_terminal().then(ProgressBar::new_spinner).filter(|bar| !bar.is_hidden());
        Self { ledger: ledger.clone(), bar, phase: None, phase_start: Instant::now() }
    }

    /// What the device holds, of what it may.
    fn memory(&self) -> String {
        format!("VRAM {} of {}", Size(self.ledger.granted_bytes()), Size(self.ledger.cap_bytes()))
    }

    /// For instance `step 3/20, 12.5 it/s, 1 s left`.
    fn steps(&self, done: usize, steps: usize) -> String {
        let Rate { per_second, left } = Rate::of(done, steps, self.phase_start.elapsed());
        format!(
            "step {done}/{steps}, {per_second:.2} it/s, {:.0} s left, {}",
            left.as_secs_f64().ceil(),
            self.memory()
        )
    }
}

impl Observer for Progress {
    fn phase(&mut self, phase: Phase) {
        (self.phase, self.phase_start) = (Some(phase), Instant::now());
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(SPINNER));
                bar.set_message(format!("{phase}, {}", self.memory()));
                bar.tick();
            }
            None => output::note(&format!("{phase}, {}", self.memory())),
        }
    }

    fn step(&mut self, done: usize, steps: usize) {
        let Some(bar) = &self.bar else {
            if is_shown(done, steps) {
                output::note(&self.steps(done, steps));
            }
            return;
        };
        if done == 1 {
            bar.set_style(style(BAR));
            bar.set_length(steps as u64);
        }
        bar.set_position(done as u64);
        bar.set_message(self.steps(done, steps));
        bar.tick();
    }

    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Whether this step gets a line: about [`LINES`] of them, and the first and the last.
const fn is_shown(done: usize, steps: usize) -> bool {
    done <= 1 || done == steps || done * LINES / steps != (done - 1) * LINES / steps
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    per_second: f64,
    left: Duration,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
    fn of(done: usize, steps: usize, elapsed: Duration) -> Self {
        let per_step = elapsed.as_secs_f64() / done.max(1) as f64;
        let left = Duration::from_secs_f64(per_step * steps.saturating_sub(done) as f64);
        Self { per_second: if per_step > 0.0 { per_step.recip() } else { 0.0 }, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_of_any_length_gets_about_ten_lines() {
        for steps in [1, 2, 9, 10, 11, 20, 999] {
            let shown: Vec<usize> = (1..=steps).filter(|done| is_shown(*done, steps)).collect();
            assert!(shown.len() <= LINES + 1 && shown.len() >= steps.min(LINES), "{steps}: {shown:?}");
            assert_eq!((shown[0], shown[shown.len() - 1]), (1, steps));
        }
    }

    #[test]
    fn templates_are_read() {
        for template in [SPINNER, BAR] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn time_left_follows_from_the_steps_so_far() {
        let rate = Rate::of(5, 20, Duration::from_secs(10));
        assert_eq!(rate, Rate { per_second: 0.5, left: Duration::from_secs(30) });
        assert_eq!(Rate::of(0, 20, Duration::ZERO).left, Duration::ZERO);
    }
}
