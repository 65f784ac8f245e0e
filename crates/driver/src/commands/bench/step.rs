//! A step of a whole model at many budgets, on the device at hand.

use std::cmp::Ordering;
use std::io::Write;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Backend, Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::Queue;
use lighterage_pipeline::{Forecast, Job, Keep, Options, Survey};
use lighterage_shape::DType;
use serde::Serialize;

use super::{LINKS, machine};
use crate::commands::budgets::{self, PictureArguments, Ran, Took, cell};
use crate::count::counted;
use crate::device::{Done, PlaceArguments, Work};
use crate::failure::{Failure, Result};
use crate::report::{Facts, Seeing};
use crate::size::Size;
use crate::table::{self, Align};
use crate::{inputs, json, output, range};

/// Time a step of the loop at many budgets, against the longer of the launches alone and the copies alone.
///
/// With `--trace` and `--report` the run that counts at each budget is shown; of several budgets each has its files, numbered. Its times are then those of a recorded run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage bench step
  lighterage bench step --link 50 --budgets 1MiB,2MiB,4MiB,8MiB
  lighterage bench step --device cuda --model FLUX.1-dev --size 1280x720 --steps 4 --rounds 1 --json
  lighterage bench step --steps 4 --rounds 1 --budgets 1MiB,8MiB --trace step.json --report step.html")]
pub(crate) struct Arguments {
    #[command(flatten)]
    picture: PictureArguments,
    /// Steps of the loop.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = range::steps)]
    steps: usize,
    /// Budgets [default: eight, from the smallest that runs to the one where everything is resident, or to what the device has].
    #[arg(long, value_name = "SIZE[,SIZE...]", value_delimiter = ',')]
    budgets: Vec<Size>,
    /// Slow copies of the host device down to so many MB/s, of 10^6 bytes [default: as fast as they go].
    #[arg(long, value_name = "MB/s", value_parser = range::real(LINKS))]
    link: Option<f64>,
    /// Runs at each budget, 1 to 1000; the one whose step is their median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = range::whole(1..=1000_usize))]
    rounds: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceArguments,
    #[command(flatten)]
    seeing: Seeing,
}

/// Bytes of the copy by which a link's rate is known.
const COPY_BYTES: u64 = 256 << 20;

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    width: usize,
    height: usize,
    steps: usize,
    /// Of page-locked memory to the device: measured here, or as it was slowed down to; none where nobody knows.
    link_bytes_per_second: Option<f64>,
    compute: Option<Compute>,
    lines: Vec<Line>,
}

/// The launches of a step if they never wait.
#[derive(Clone, Copy, Debug, Serialize)]
struct Compute {
    seconds: f64,
    from: ComputeFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum ComputeFrom {
    #[serde(rename = "a run with everything resident")]
    Resident,
    #[serde(rename = "the launches of one step of a run that streams")]
    Launches,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    took: Took,
    /// The longer of a step's launches and of its copies alone; none where one of them is not known.
    bound_seconds: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.seeing.check(&[])?;
    inputs::check(&arguments.seeing.outputs().collect::<Vec<_>>(), &arguments.picture.inputs())?;
    let job = arguments.picture.job("", Some(arguments.steps), DType::Bf16)?;
    let report = match arguments.place.run_unless_host(Steps { arguments, job: &job })? {
        Done::Elsewhere(report) => report,
        Done::OnHost(steps) => steps.run_on_host()?,
    };
    if arguments.json { json::print(&report) } else { report.print() }
}

struct Steps<'a> {
    arguments: &'a Arguments,
    job: &'a Job,
}

impl Work for Steps<'_> {
    type Output = Report;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Report> {
        if self.arguments.link.is_some() {
            let why = "--link slows the host device: add --device host";
            return Err(Failure::Usage(format!("{}: {why}", device.info().name)));
        }
        let survey = budgets::survey(self.job, device, &self.arguments.place)?;
        let limit_bytes = device.ledger().limit_bytes();
        let forecasts = budgets::forecasts(&self.arguments.budgets, &survey, limit_bytes)?;
        self.arguments.seeing.record(device);
        let link = link(device)?;
        let at = |forecast: &Forecast| Ran::new(self.job, device, forecast, Keep::default());
        self.report(&device.info().name, link, limit_bytes, (&survey, &forecasts), at)
    }
}

impl Steps<'_> {
    fn run_on_host(&self) -> Result<Report> {
        let link = self.arguments.link.map(|link| link * 1e6);
        let config = HostConfig { link_bytes_per_second: link, ..self.arguments.place.host_config() };
        let survey = self.arguments.place.plans(self.job.survey(config.page_bytes)?);
        let forecasts = budgets::forecasts(&self.arguments.budgets, &survey, u64::MAX)?;
        let name = Host::new(config)?.info().name.clone();
        self.report(&name, link, u64::MAX, (&survey, &forecasts), |forecast| {
            let host_ledger = self.arguments.place.host_ledger();
            let device = Device::new(Host::new(config)?, Ledger::new(forecast.budget_bytes), host_ledger);
            self.arguments.seeing.record(&device);
            Ran::new(self.job, &device, forecast, Keep::default())
        })
    }

    /// Runs every budget, and one more for the launches alone where none of them has everything resident and the device could.
    fn report(
        &self,
        device: &str,
        link: Option<f64>,
        limit_bytes: u64,
        (survey, forecasts): (&Survey, &[Forecast]),
        at: impl Fn(&Forecast) -> Result<Ran>,
    ) -> Result<Report> {
        let median = |forecast: &Forecast| -> Result<Ran> {
            let rounds = (0..self.arguments.rounds).map(|_| at(forecast));
            let mut rounds = rounds.collect::<Result<Vec<_>>>()?;
            rounds.sort_by(|a, b| {
                a.took.step_seconds.partial_cmp(&b.took.step_seconds).unwrap_or(Ordering::Equal)
            });
            Ok(rounds.swap_remove(rounds.len() / 2))
        };
        let (mut compute, mut lines) = (None, Vec::new());
        let most = survey.maximum_bytes();
        if most <= limit_bytes && forecasts.iter().all(|forecast| forecast.budget_bytes < most) {
            compute = Compute::of(&median(&survey.within(most)?)?);
        }
        for (index, forecast) in forecasts.iter().enumerate() {
            let ran = median(forecast)?;
            output::note(&ran.took.line());
            let seeing = self.arguments.seeing.numbered(index, forecasts.len());
            if let Some(seen) = ran.seen.as_ref().filter(|_| seeing.is_asked()) {
                seeing.write_of(device, forecast.budget_bytes, seen, &self.facts(device, forecast))?;
            }
            compute = Compute::better(compute, Compute::of(&ran));
            lines.push(Line { took: ran.took, bound_seconds: None });
        }
        for line in &mut lines {
            line.bound_seconds = bound(compute, link, line.took.streamed_bytes_per_step);
        }
        let Options { width, height, steps, .. } = *self.job.options();
        let device = device.to_owned();
        Ok(Report { device, width, height, steps, link_bytes_per_second: link, compute, lines })
    }
}

impl Steps<'_> {
    /// What a run's page says of it.
    fn facts(&self, device: &str, forecast: &Forecast) -> Facts {
        let Options { width, height, steps, .. } = *self.job.options();
        Facts {
            title: format!("A step on {device} within {}", Size(forecast.budget_bytes)),
            settings: vec![
                ("size".to_owned(), format!("{width}x{height}")),
                ("steps".to_owned(), steps.to_string()),
            ],
            ..Facts::default()
        }
    }
}

impl Compute {
    /// What a run says of the launches.
    fn of(ran: &Ran) -> Option<Self> {
        if ran.took.streamed_bytes_per_step == 0 {
            return Some(Self { seconds: ran.took.step_seconds?, from: ComputeFrom::Resident });
        }
        let turn = ran.seen.as_ref()?.predicted.as_ref()?.turn;
        Some(Self { seconds: turn.compute_seconds, from: ComputeFrom::Launches })
    }

    /// A resident run knows best; of others the last, which streams least where budgets grow.
    fn better(known: Option<Self>, new: Option<Self>) -> Option<Self> {
        match (known, new) {
            (Some(known), Some(new)) if known.from == ComputeFrom::Resident && new.from != known.from => {
                Some(known)
            }
            (known, new) => new.or(known),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn bound(compute: Option<Compute>, link: Option<f64>, streamed: u64) -> Option<f64> {
    let compute = compute?.seconds;
    if streamed == 0 { Some(compute) } else { Some(compute.max(streamed as f64 / link?)) }
}

/// Bytes a second of page-locked memory to the device, the median of several copies; none where it cannot be pinned.
fn link<B: Backend>(device: &Device<B>) -> Result<Option<f64>> {
    let page = device.info().page_bytes;
    let bytes = COPY_BYTES.min(device.ledger().free_bytes() / 4 / page * page).max(page);
    let stream = device.stream(StreamKind::Compute)?;
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 40 };
    let queue = Queue::new(Pool::new(&stream, config)?);
    let seconds = machine::pinned(&queue, bytes)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(seconds.filter(|seconds| *seconds > 0.0).map(|seconds| bytes as f64 / seconds))
}

impl Report {
    fn print(&self) -> Result<()> {
        let out = &mut output::stdout();
        let giga = |rate: f64| format!("{:.1} GB/s", rate / 1e9);
        let Self { device, width, height, steps, .. } = self;
        let link = self.link_bytes_per_second.map_or_else(|| "of unknown rate".to_owned(), giga);
        writeln!(out, "{device}, {width}x{height}, {}, link {link}", counted(*steps, "step"))?;
        match self.compute {
            Some(Compute { seconds, from: ComputeFrom::Resident }) => {
                writeln!(out, "launches alone {seconds:.4} s, as a run with everything resident took")?;
            }
            Some(Compute { seconds, from: ComputeFrom::Launches }) => {
                writeln!(out, "launches alone {seconds:.4} s, as those of one step took beside copies")?;
            }
            None => writeln!(out, "launches alone: not known, since no step was recorded")?,
        }
        let head =
            ["budget", "peak", "streamed/step", "s to step 1", "s/step", "stalled", "bound", "/ bound"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.lines.iter().map(Line::row));
        table::print(out, &[Align::Right; 8], &rows)?;
        Ok(out.flush()?)
    }
}

impl Line {
    fn row(&self) -> Vec<String> {
        let Self { took, bound_seconds } = self;
        let over = took.step_seconds.zip(*bound_seconds).map(|(seconds, bound)| seconds / bound);
        vec![
            Size(took.budget_bytes).to_string(),
            Size(took.peak_bytes).to_string(),
            Size(took.streamed_bytes_per_step).to_string(),
            cell(took.first_step_after_seconds),
            cell(took.step_seconds),
            took.stalled_share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
            cell(*bound_seconds),
            cell(over),
        ]
    }
}
