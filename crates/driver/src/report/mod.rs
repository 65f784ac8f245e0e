//! What a run was like: a line on stderr, a trace for Perfetto, a page for people.

mod line;
mod memory;
mod page;
mod run;
mod timeline;
mod trace;

use std::path::{Path, PathBuf};

use lighterage_device::{Backend, Detail, Device, Profile, Recording};
use lighterage_pipeline::{Achieved, Forecast, Predicted};

pub(crate) use self::line::{line, not_replayed};
pub(crate) use self::page::{escape, table};
pub(crate) use self::run::{Facts, run_page};
use crate::failure::Result;
use crate::output;

/// What is to be seen of a run afterwards.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Seeing it")]
pub(crate) struct Seeing {
    /// Write what the streams did, and when, as a trace for <https://ui.perfetto.dev>.
    ///
    /// Copies, kernels, waits and leases on the streams' own time, bytes of ledger and pool beside them. Changes no bit of the result.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) trace: Option<PathBuf>,
    /// Write a report: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
}

impl Seeing {
    /// Whether a file was asked for.
    pub(crate) const fn is_asked(&self) -> bool {
        self.trace.is_some() || self.report.is_some()
    }

    /// The paths for one of several results.
    pub(crate) fn numbered(&self, index: usize, count: usize) -> Self {
        let numbered =
            |path: &Option<PathBuf>| path.as_ref().map(|path| output::numbered(path, index, count));
        Self { trace: numbered(&self.trace), report: numbered(&self.report) }
    }

    /// The files that were asked for, by their options.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [("--trace", &self.trace), ("--report", &self.report)];
        files.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)))
    }

    /// Refuses, before any work is done, paths that could not be written, or that are those of `others`.
    pub(crate) fn check(&self, others: &[(&'static str, &Path)]) -> Result<()> {
        self.outputs().try_for_each(|(_, path)| output::check(path))?;
        output::check_apart(&others.iter().copied().chain(self.outputs()).collect::<Vec<_>>())
    }

    /// Has the device recorded: all of it for a file, else what the line says.
    pub(crate) fn record<B: Backend>(&self, device: &Device<B>) {
        device.record(self.detail());
    }

    /// How much that is.
    const fn detail(&self) -> Detail {
        if self.is_asked() { Detail::Everything } else { Detail::Summary }
    }

    /// Writes what was asked for.
    pub(crate) fn write<B: Backend>(&self, device: &Device<B>, seen: &Seen, facts: &Facts) -> Result<()> {
        self.write_of(&device.info().name, device.ledger().cap_bytes(), seen, facts)
    }

    /// The same of a device that may be gone.
    pub(crate) fn write_of(&self, device: &str, cap_bytes: u64, seen: &Seen, facts: &Facts) -> Result<()> {
        if let Some(path) = &self.trace {
            let about = trace::About { device, cap_bytes };
            output::write(path, |file| trace::write(file, &about, &seen.recording))?;
        }
        if let Some(path) = &self.report {
            let page = run_page(device, cap_bytes, seen, facts);
            output::write(path, |file| file.write_all(page.as_bytes()))?;
        }
        Ok(())
    }
}

/// A run that is over, as it was to be and as it was.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) recording: Recording,
    pub(crate) forecast: Forecast,
    pub(crate) achieved: Achieved,
    pub(crate) predicted: Option<Predicted>,
    pub(crate) peak_bytes: u64,
}

impl Seen {
    /// Takes the recording of the run that just ended; `None` where nothing was recorded.
    pub(crate) fn take<B: Backend>(device: &Device<B>, forecast: &Forecast) -> Option<Self> {
        let recording = device.take_recording()?;
        let card = Profile::of_card(&device.info().name);
        Some(Self {
            achieved: Achieved::of(&recording),
            predicted: Predicted::of(forecast, &recording, card.as_ref().map(|card| &card.rates)),
            forecast: forecast.clone(),
            peak_bytes: device.ledger().peak_bytes(),
            recording,
        })
    }
}
