use std::io::Write;

use lighterage_device::{Backend, Detail, Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Forecast, Job, Keep, Picture};
use lighterage_shape::DType;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::budgets::{self, PictureArguments, Ran, Took, cell};
use crate::count::{counted, one_or};
use crate::device::{Done, PlaceArguments, Precision, Work};
use crate::failure::{Failure, Result};
use crate::report::{Facts, Seeing};
use crate::size::Size;
use crate::table::{self, Align};
use crate::{device, inputs, json, output, range};

/// Prove that the budget does not show: make one picture at many budgets and compare the latents of every step.
///
/// On the host each budget runs on every number of threads, and in every drawn interleaving of the streams, where copies are delayed and reordered as far as events
/// allow and memory in flight holds NaN. On another device budgets run one after the other in one process, within a cap that means what `--vram` means
/// elsewhere. Ends with exit code 1 if any two differ, or if a latent is NaN or infinite. `--trace` and `--report` are of the first run, whose latents all others are
/// held against.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage verify --steps 4
  lighterage verify --steps 4 --report first.html
  lighterage verify --budgets 1MiB,4MiB,16MiB --threads 1,2,8 --interleavings 1,2,3,4
  lighterage verify --id-embedding assets/demo/faces/embeddings.safetensors:cleo
  lighterage verify --device cuda --model FLUX.1-dev --size 1024x1024 --steps 4 --budgets 6GiB,12GiB,24GiB")]
pub(crate) struct Arguments {
    /// Budgets [default: eight, from the smallest that runs to the one where everything is resident, or to what the device has].
    #[arg(long, value_name = "SIZE[,SIZE...]", value_delimiter = ',')]
    budgets: Vec<Size>,
    /// Numbers of worker threads, of the host device [default: 1,2].
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = device::threads)]
    threads: Vec<usize>,
    /// Seeds of the interleavings, of the host device [default: 1,2].
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', value_parser = range::whole(0..=u64::MAX))]
    interleavings: Vec<u64>,
    /// Runs at each budget, and on the host of each kind, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = range::whole(1..=1000_u32))]
    rounds: u32,
    /// What is to be seen.
    #[arg(long, value_name = "TEXT", default_value = "red heart, noto style, white background")]
    prompt: String,
    #[command(flatten)]
    picture: PictureArguments,
    /// Steps of the loop [default: the model's].
    #[arg(long, value_name = "N", value_parser = range::steps)]
    steps: Option<usize>,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    dtype: Precision,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    seeing: Seeing,
    #[command(flatten)]
    place: PlaceArguments,
}

/// Numbers of threads, and seeds of interleavings, where none are given.
const THREADS: [usize; 2] = [1, 2];
const INTERLEAVINGS: [u64; 2] = [1, 2];

/// One run.
#[derive(Debug, Serialize)]
struct Run {
    #[serde(flatten)]
    took: Took,
    /// The device, or on the host `2 threads` or `interleaving 7`.
    how: String,
    /// SHA-256 over those of all steps.
    sha256: String,
    /// SHA-256 of the latents (f32, packed) after each step.
    steps_sha256: Vec<String>,
    /// The first step whose latents differ from the first run's.
    differs_at: Option<usize>,
    /// Values of the latents, of all steps, that are NaN or infinite: equal ones are no proof.
    not_finite: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.seeing.check(&[])?;
    inputs::check(&arguments.seeing.outputs().collect::<Vec<_>>(), &arguments.picture.inputs())?;
    let job = arguments.picture.job(&arguments.prompt, arguments.steps, DType::from(arguments.dtype))?;
    let steps = job.options().steps;
    let mut compared = Compared { arguments, job: &job, steps, runs: Vec::new(), first: None };
    match arguments.place.run_unless_host(OnDevice(&mut compared))? {
        Done::Elsewhere(()) => (),
        Done::OnHost(OnDevice(compared)) => compared.run_on_host()?,
    }
    let runs = compared.runs;
    if arguments.json {
        json::print(&runs)?;
    } else {
        show(&runs)?;
    }
    let (differ, broken) =
        (count(&runs, |run| run.differs_at.is_some()), count(&runs, |run| run.not_finite > 0));
    match (differ, broken) {
        (0, 0) => Ok(()),
        (0, broken) => {
            let all = counted(runs.len(), "run");
            Err(Failure::Refused(format!("latents of {broken} of {all} are NaN or infinite")))
        }
        (differ, _) => {
            let (all, differs) = (counted(runs.len(), "run"), one_or(differ, "differs", "differ"));
            Err(Failure::Refused(format!("{differ} of {all} {differs} from the first")))
        }
    }
}

fn count(runs: &[Run], is_meant: impl Fn(&&Run) -> bool) -> usize {
    runs.iter().filter(is_meant).count()
}

/// The runs so far.
struct Compared<'a> {
    arguments: &'a Arguments,
    job: &'a Job,
    steps: usize,
    runs: Vec<Run>,
    /// Hashes of the first run's latents.
    first: Option<Vec<Vec<u8>>>,
}

/// Runs that share a device.
struct OnDevice<'a, 'b>(&'a mut Compared<'b>);

impl Work for OnDevice<'_, '_> {
    type Output = ();

    fn run<B: Backend>(self, device: &Device<B>) -> Result<()> {
        let Self(compared) = self;
        let arguments = compared.arguments;
        if !arguments.threads.is_empty() || !arguments.interleavings.is_empty() {
            let why =
                "--threads and --interleavings are of the host device: on this one --rounds repeats a run";
            return Err(Failure::Usage(format!("{}: {why}", device.info().name)));
        }
        let survey = budgets::survey(compared.job, device, &arguments.place)?;
        let forecasts = budgets::forecasts(&arguments.budgets, &survey, device.ledger().limit_bytes())?;
        arguments.seeing.record(device);
        for forecast in &forecasts {
            for _ in 0..arguments.rounds {
                let took = compared.add(device, forecast, &device.info().name)?;
                output::note(&took.line());
            }
        }
        Ok(())
    }
}

impl Compared<'_> {
    fn run_on_host(&mut self) -> Result<()> {
        let survey = self.arguments.place.plans(self.job.survey(HostConfig::default().page_bytes)?);
        for forecast in &budgets::forecasts(&self.arguments.budgets, &survey, u64::MAX)? {
            for (how, config) in configurations(self.arguments) {
                for _ in 0..self.arguments.rounds {
                    let host_ledger = self.arguments.place.host_ledger();
                    let device =
                        Device::new(Host::new(config)?, Ledger::new(forecast.budget_bytes), host_ledger);
                    let is_seen = self.first.is_none() && self.arguments.seeing.is_asked();
                    // A drawn interleaving has no time.
                    if config.seed.is_none() || is_seen {
                        self.arguments.seeing.record(&device);
                    }
                    self.add(&device, forecast, &how)?;
                }
            }
        }
        Ok(())
    }

    /// One run more; the first is written if that is asked for, and from then on less is recorded.
    fn add<B: Backend>(&mut self, device: &Device<B>, forecast: &Forecast, how: &str) -> Result<&Took> {
        let is_seen = self.first.is_none() && self.arguments.seeing.is_asked();
        if let Some(recorder) = device.recorder().filter(|_| !is_seen) {
            recorder.set_detail(Detail::Summary);
        }
        let keep = Keep { steps: true, ..Keep::default() };
        let Ran { picture, seen, took } = Ran::new(self.job, device, forecast, keep)?;
        let hashes = hashes(&picture);
        if let Some(seen) = seen.filter(|_| is_seen) {
            self.arguments.seeing.write(device, &seen, &facts(self.arguments, how, &hashes))?;
        }
        let expected = self.first.get_or_insert_with(|| hashes.clone());
        let differs_at = (0..self.steps).find(|step| match (hashes.get(*step), expected.get(*step)) {
            (Some(got), Some(expected)) => got != expected,
            // Latents that were not kept are no proof.
            _ => true,
        });
        self.runs.push(Run {
            took,
            how: how.to_owned(),
            sha256: hex(&Sha256::digest(hashes.concat())),
            steps_sha256: hashes.iter().map(|hash| hex(hash)).collect(),
            differs_at,
            not_finite: picture.steps.iter().flatten().filter(|value| !value.is_finite()).count(),
        });
        Ok(&self.runs[self.runs.len() - 1].took)
    }
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

fn configurations(arguments: &Arguments) -> Vec<(String, HostConfig)> {
    let host = arguments.place.host_config();
    let threads = given(&arguments.threads, &THREADS)
        .iter()
        .map(|threads| (counted(*threads, "thread"), HostConfig { threads: *threads, ..host }));
    let seeds = given(&arguments.interleavings, &INTERLEAVINGS)
        .iter()
        .map(|seed| (format!("interleaving {seed}"), HostConfig { seed: Some(*seed), ..host }));
    threads.chain(seeds).collect()
}

/// What was given, else the default.
const fn given<'a, T>(given: &'a [T], default: &'a [T]) -> &'a [T] {
    if given.is_empty() { default } else { given }
}

/// Of the latents of each step.
fn hashes(picture: &Picture) -> Vec<Vec<u8>> {
    let bytes = |values: &Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    picture.steps.iter().map(|values| Sha256::digest(bytes(values)).to_vec()).collect()
}

fn show(runs: &[Run]) -> Result<()> {
    let head = ["budget", "peak", "streamed/step", "how", "s to step 1", "s/step", "s in all", "latents"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for Run { took, how, sha256, differs_at, not_finite, .. } in runs {
        let verdict = match (differs_at, not_finite) {
            (Some(step), _) => format!("{} differs from step {step} on", &sha256[..16]),
            (None, 0) => sha256[..16].to_owned(),
            (None, count) => format!("{}, NaN or infinite values: {count}", &sha256[..16]),
        };
        rows.push(vec![
            Size(took.budget_bytes).to_string(),
            Size(took.peak_bytes).to_string(),
            Size(took.streamed_bytes_per_step).to_string(),
            how.clone(),
            cell(took.first_step_after_seconds),
            cell(took.step_seconds),
            cell(Some(took.seconds)),
            verdict,
        ]);
    }
    let out = &mut output::stdout();
    let [left, right] = [Align::Left, Align::Right];
    table::print(out, &[right, right, right, left, right, right, right, left], &rows)?;
    let differ = count(runs, |run| run.differs_at.is_some());
    let (all, differs) = (counted(runs.len(), "run"), one_or(differ, "differs", "differ"));
    writeln!(out, "{all}, {differ} of them {differs}")?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
