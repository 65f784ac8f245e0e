use std::io::Write;
use std::path::PathBuf;

use lighterage_device::{Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Job, Keep, Model, Options, Picture, Survey};
use lighterage_shape::DType;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::device::Precision;
use crate::failure::{Failure, Result};
use crate::report::{Facts, Seeing, Seen};
use crate::size::Size;
use crate::table::{self, Align};
use crate::{json, mapping, model_path};

/// Prove that the budget does not show: make one picture at many budgets and compare the latents of every step.
///
/// Each budget runs on every number of threads, and in every drawn interleaving of the streams, where copies are delayed and reordered as far as events allow and
/// memory in flight holds NaN. Ends with exit code 1 if any two differ. `--trace` and `--report` are of the first run, whose latents all others are held against.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage verify --steps 4
  lighterage verify --steps 4 --report first.html
  lighterage verify --budgets 1MiB,4MiB,16MiB --threads 1,2,8 --interleavings 1,2,3,4")]
pub(crate) struct Arguments {
    /// Budgets [default: eight, from the smallest that runs to the one where everything is resident].
    #[arg(long, value_name = "SIZE[,SIZE...]", value_delimiter = ',')]
    budgets: Vec<Size>,
    /// Numbers of worker threads.
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Seeds of the interleavings.
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "1,2")]
    interleavings: Vec<u64>,
    /// What is to be seen.
    #[arg(long, value_name = "TEXT", default_value = "red heart, noto style, white background")]
    prompt: String,
    /// The model's folder, in the layout of diffusers [default: the bundled demo model].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Steps of the loop [default: the model's].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    dtype: Precision,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    seeing: Seeing,
}

const BUDGETS: u64 = 8;

/// One run.
#[derive(Debug, Serialize)]
struct Run {
    budget_bytes: u64,
    streamed_bytes_per_step: u64,
    /// `2 threads` or `interleaving 7`.
    how: String,
    /// SHA-256 over the latents of all steps.
    sha256: String,
    /// The first step whose latents differ from the first run's.
    differs_at: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.seeing.check(&[])?;
    let path = arguments.model.clone().unwrap_or_else(model_path::bundled);
    let model = Model::open(&path, mapping::promise())?;
    let defaults = model.options(&arguments.prompt);
    let steps = arguments.steps.unwrap_or(defaults.steps);
    let job = Job::new(&model, Options { steps, dtype: DType::from(arguments.dtype), ..defaults })?;
    let runs = compare(arguments, &job, steps)?;
    if arguments.json {
        json::print(&runs)?;
    } else {
        show(&runs)?;
    }
    match runs.iter().filter(|run| run.differs_at.is_some()).count() {
        0 => Ok(()),
        count => Err(Failure::Refused(format!("{count} of {} runs differ from the first", runs.len()))),
    }
}

fn compare(arguments: &Arguments, job: &Job, steps: usize) -> Result<Vec<Run>> {
    let survey = job.survey(HostConfig::default().page_bytes)?;
    let (mut runs, mut first) = (Vec::new(), None);
    for budget in budgets(arguments, &survey) {
        for (how, config) in configurations(arguments) {
            let forecast = survey.within(budget)?;
            let device = Device::new(Host::new(config)?, Ledger::new(budget), Ledger::new(u64::MAX));
            let keep = Keep { steps: true, ..Keep::default() };
            let is_seen = first.is_none() && arguments.seeing.is_asked();
            if is_seen {
                arguments.seeing.record(&device);
            }
            let hashes = hashes(&job.run(&device, &forecast, keep, &mut ())?);
            if let Some(seen) = Seen::take(&device, &forecast).filter(|_| is_seen) {
                arguments.seeing.write(&device, &seen, &facts(arguments, &how, &hashes))?;
            }
            let expected = first.get_or_insert_with(|| hashes.clone());
            let differs_at = (0..steps).find(|step| match (hashes.get(*step), expected.get(*step)) {
                (Some(got), Some(expected)) => got != expected,
                // Latents that were not kept are no proof.
                _ => true,
            });
            runs.push(Run {
                budget_bytes: budget,
                streamed_bytes_per_step: forecast.denoise().map_or(0, lighterage_pager::Plan::streamed_bytes),
                how,
                sha256: hex(&Sha256::digest(hashes.concat())),
                differs_at,
            });
        }
    }
    Ok(runs)
}

/// For the report of the first run.
fn facts(arguments: &Arguments, how: &str, hashes: &[Vec<u8>]) -> Facts {
    let of_step = |(step, hash): (usize, &Vec<u8>)| (format!("latents of step {}", step + 1), hex(hash));
    Facts {
        title: format!("verify: the first run, {how}"),
        settings: vec![("prompt".to_owned(), arguments.prompt.clone())],
        hashes: hashes.iter().enumerate().map(of_step).collect(),
        budgets: None,
    }
}

fn budgets(arguments: &Arguments, survey: &Survey) -> Vec<u64> {
    if !arguments.budgets.is_empty() {
        return arguments.budgets.iter().map(|size| size.0).collect();
    }
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    (0..BUDGETS).map(|index| least + (most - least) * index / (BUDGETS - 1)).collect()
}

fn configurations(arguments: &Arguments) -> Vec<(String, HostConfig)> {
    let threads = arguments.threads.iter().map(|threads| {
        (format!("{threads} threads"), HostConfig { threads: *threads, ..HostConfig::default() })
    });
    let seeds = arguments.interleavings.iter().map(|seed| {
        (format!("interleaving {seed}"), HostConfig { seed: Some(*seed), ..HostConfig::default() })
    });
    threads.chain(seeds).collect()
}

/// Of the latents of each step.
fn hashes(picture: &Picture) -> Vec<Vec<u8>> {
    let bytes = |values: &Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    picture.steps.iter().map(|values| Sha256::digest(bytes(values)).to_vec()).collect()
}

fn show(runs: &[Run]) -> Result<()> {
    let mut rows = vec![["budget", "streamed/step", "how", "latents"].map(str::to_owned).to_vec()];
    for run in runs {
        let verdict = match run.differs_at {
            None => run.sha256[..16].to_owned(),
            Some(step) => format!("{} differs from step {step} on", &run.sha256[..16]),
        };
        rows.push(vec![
            Size(run.budget_bytes).to_string(),
            Size(run.streamed_bytes_per_step).to_string(),
            run.how.clone(),
            verdict,
        ]);
    }
    let out = &mut std::io::stdout().lock();
    table::print(out, &[Align::Right, Align::Right, Align::Left, Align::Left], &rows)?;
    writeln!(
        out,
        "{} runs, {} of them differ",
        runs.len(),
        runs.iter().filter(|run| run.differs_at.is_some()).count()
    )?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
