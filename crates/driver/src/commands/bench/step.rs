//! A step of a whole model at many budgets, on the device at hand.

use std::io::Write;
use std::path::PathBuf;

use lighterage_device::{Backend, Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Job, Keep, Model, Options, Phase};
use lighterage_shape::DType;
use serde::Serialize;

use super::timing::median;
use crate::failure::Result;
use crate::size::Size;
use crate::table::{self, Align};
use crate::{json, mapping, model_path};

/// Time a step of the loop at many budgets, against the longer of the launches alone and the copies alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage bench step
  lighterage bench step --link 50 --budgets 1MiB,2MiB,4MiB,8MiB
  lighterage bench step --model FLUX.1-dev --steps 4 --rounds 1 --json")]
pub(crate) struct Arguments {
    /// The model's folder, in the layout of diffusers [default: the bundled demo model].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Steps of the loop.
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// Budgets [default: eight, from the smallest that runs to the one where everything is resident].
    #[arg(long, value_name = "SIZE[,SIZE...]", value_delimiter = ',')]
    budgets: Vec<Size>,
    /// Slows copies to the device down to so many MB/s [default: as fast as they go].
    #[arg(long, value_name = "MB/s")]
    link: Option<f64>,
    /// Runs at each budget; their median counts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    budget_bytes: u64,
    streamed_bytes_per_step: u64,
    /// Of the loop, its first step's loading included.
    seconds_per_step: f64,
    /// The longer of a step with everything resident and of its copies alone; none without a link's rate, if anything is streamed.
    bound_seconds: Option<f64>,
}

const BUDGETS: u64 = 8;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.model.clone().unwrap_or_else(model_path::bundled);
    let model = Model::open(&path, mapping::promise())?;
    let options = Options { steps: arguments.steps, dtype: DType::Bf16, ..model.options("") };
    let job = Job::new(&model, options)?;
    let survey = job.survey(HostConfig::default().page_bytes)?;
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let budgets: Vec<u64> = if arguments.budgets.is_empty() {
        (0..BUDGETS).map(|index| least + (most - least) * index / (BUDGETS - 1)).collect()
    } else {
        arguments.budgets.iter().map(|size| size.0).collect()
    };
    let seconds = |budget: u64| -> Result<(u64, f64)> {
        let forecast = survey.within(budget)?;
        let mut times = Vec::new();
        for _ in 0..arguments.rounds.max(1) {
            let link_bytes_per_second = arguments.link.map(|link| link * 1e6);
            let host = Host::new(HostConfig { link_bytes_per_second, ..HostConfig::default() })?;
            let device = Device::new(host, Ledger::new(budget), Ledger::new(u64::MAX));
            times.push(loop_seconds(&job, &device, &forecast)? / arguments.steps as f64);
        }
        Ok((forecast.denoise().map_or(0, lighterage_pager::Plan::streamed_bytes), median(times)))
    };
    let (_, resident) = seconds(most)?;
    let mut lines = Vec::new();
    for budget in budgets {
        let (streamed, took) = seconds(budget)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let copies = arguments.link.map(|link| streamed as f64 / (link * 1e6));
        let bound = if streamed == 0 { Some(resident) } else { copies.map(|copies| copies.max(resident)) };
        lines.push(Line {
            budget_bytes: budget,
            streamed_bytes_per_step: streamed,
            seconds_per_step: took,
            bound_seconds: bound,
        });
    }
    if arguments.json { json::print(&lines) } else { print(&lines) }
}

fn loop_seconds<B: Backend>(
    job: &Job,
    device: &Device<B>,
    forecast: &lighterage_pipeline::Forecast,
) -> Result<f64> {
    let report = job.run(device, forecast, Keep::default(), &mut ())?.report;
    let is_loop =
        |phase: &&lighterage_pipeline::PhaseReport| matches!(phase.phase, Phase::Denoise | Phase::Bare);
    Ok(report.phases.iter().filter(is_loop).map(|phase| phase.seconds).sum())
}

fn print(lines: &[Line]) -> Result<()> {
    let head = ["budget", "streamed/step", "s/step", "bound", "/ bound"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(|line| {
        let over = line.bound_seconds.map(|bound| line.seconds_per_step / bound);
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        vec![
            Size(line.budget_bytes).to_string(),
            Size(line.streamed_bytes_per_step).to_string(),
            figure(Some(line.seconds_per_step)),
            figure(line.bound_seconds),
            figure(over),
        ]
    }));
    let out = &mut std::io::stdout().lock();
    table::print(out, &[Align::Right; 5], &rows)?;
    Ok(out.flush()?)
}
