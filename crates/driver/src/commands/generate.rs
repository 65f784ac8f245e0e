mod arguments;
mod jobs;
mod models;
mod plans;
mod record;
mod request;
mod texts;

use std::path::{Path, PathBuf};

use lighterage_checkpoint::NewTensor;
use lighterage_device::{Backend, Device};
use lighterage_pipeline::{Forecast, Job, Keep, Options, Picture};
use lighterage_shape::DType;

pub(crate) use self::arguments::Arguments;
use self::models::Models;
pub(crate) use self::models::{adapters, read_embedding};
use self::record::{Gemm, Planned, Record};
use crate::count::one_or;
use crate::device::Work;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::report::{self, Facts, Seeing, Seen};
use crate::size::Size;
use crate::{hash, inputs, interrupt, json, output, picture_file};

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.request.warn();
    if let Some(path) = &arguments.jobs {
        return jobs::run(arguments, path);
    }
    let seeds = arguments.seeds();
    if !arguments.is_dry() {
        (0..seeds.len()).try_for_each(|index| check_outputs(arguments, index, seeds.len()))?;
    }
    let models = Models::open(arguments, arguments.request.has_face())?;
    let job = models.job(models.options(arguments, &arguments.request)?)?;
    arguments.device.run(Generate { arguments, models, job, seeds })
}

/// Each can be written, and none is another's file or one that is read.
fn check_outputs(arguments: &Arguments, index: usize, count: usize) -> Result<()> {
    let latents = arguments.save_latents.as_deref();
    if let Some(latents) = latents {
        output::check_apart(&[("--output", &arguments.output), ("--save-latents", latents)])?;
    }
    let mut outputs = vec![("--output", arguments.output.as_path())];
    outputs.extend(latents.map(|path| ("--save-latents", path)));
    arguments.seeing.check(&outputs)?;
    outputs.extend(arguments.seeing.outputs());
    let numbered = |(option, path)| (option, output::numbered(path, index, count));
    let numbered: Vec<(&str, PathBuf)> = outputs.into_iter().map(numbered).collect();
    let numbered: Vec<(&str, &Path)> = numbered.iter().map(|(option, path)| (*option, &**path)).collect();
    numbered.iter().try_for_each(|(_, path)| output::check(path))?;
    inputs::check(&numbered, &arguments.inputs(&arguments.request))
}

struct Generate<'a> {
    arguments: &'a Arguments,
    models: Models,
    job: Job,
    seeds: Vec<u64>,
}

impl Work for Generate<'_> {
    type Output = ();

    fn run<B: Backend>(mut self, device: &Device<B>) -> Result<()> {
        let survey = self.job.survey(device.info().page_bytes)?;
        let (survey, forecast) = self.arguments.device.place.plans(survey).on(device)?;
        forecast.check_host(device)?;
        if self.arguments.is_dry() {
            return show_forecast(&forecast, survey.maximum_bytes(), self.arguments.json);
        }
        self.arguments.seeing.record(device);
        let (mut records, count) = (Vec::new(), self.seeds.len());
        for (index, seed) in self.seeds.iter().enumerate() {
            self.job.reseed(*seed);
            let path = output::numbered(&self.arguments.output, index, count);
            let latents = self.arguments.save_latents.as_ref();
            let latents = latents.map(|path| output::numbered(path, index, count));
            let seeing = self.arguments.seeing.numbered(index, count);
            let shot = Shot { arguments: self.arguments, models: &self.models, seeing };
            records.push(shot.take(&self.job, device, &forecast, &path, latents.as_deref())?);
        }
        if self.arguments.json { json::print(&records) } else { Ok(()) }
    }
}

/// One picture, made and written.
struct Shot<'a> {
    arguments: &'a Arguments,
    models: &'a Models,
    seeing: Seeing,
}

impl Shot<'_> {
    fn take<B: Backend>(
        &self,
        job: &Job,
        device: &Device<B>,
        forecast: &Forecast,
        path: &Path,
        latents: Option<&Path>,
    ) -> Result<Record> {
        interrupt::leave_to_command();
        let keep = Keep { latents: latents.is_some() || self.seeing.report.is_some(), ..Keep::default() };
        let mut progress = Progress::new(device.ledger());
        // What was recorded before is another picture's.
        drop(device.take_recording());
        let picture = job.run(device, forecast, keep, &mut progress)?;
        drop(progress);
        let seen = Seen::take(device, forecast);
        stop_if_asked()?;
        if let Some(rgb) = &picture.rgb {
            let sides = [picture.width, picture.height];
            let mut texts = texts::of(job.options(), self.models.model.path(), &self.arguments.lora);
            texts.extend(texts::of_device(&self.arguments.device, device.info()));
            output::write(path, |file| picture_file::write(file, sides, rgb, &texts))?;
        }
        if let Some(latents) = latents {
            save_latents(latents, &picture)?;
        }
        if picture.not_finite > 0 {
            output::note(&not_finite(&picture));
        }
        report::not_replayed(&picture.report).iter().for_each(|line| output::note(line));
        let Options { seed, .. } = *job.options();
        output::note(&report_line(&picture, forecast, seed, path));
        if let Some(seen) = seen {
            report::line(&seen).iter().for_each(|line| output::note(line));
            self.seeing.write(device, &seen, &self.facts(job, &picture))?;
        }
        let gemm = Gemm::new(&self.arguments.device, device.info());
        let record = Record::new(path.to_owned(), seed, &picture, forecast).by(gemm);
        Ok(record.with_unaccounted(device.unaccounted_bytes()))
    }
}

impl Shot<'_> {
    /// For the report.
    fn facts(&self, job: &Job, picture: &Picture) -> Facts {
        let texts = texts::of(job.options(), self.models.model.path(), &self.arguments.lora);
        let named = |(name, value): (&str, String)| (name.to_owned(), value);
        let [registered, pinned] = picture.report.locked_bytes();
        let locked =
            format!("{} in the files, {} elsewhere, at most at once", Size(registered), Size(pinned));
        let mut hashes =
            vec![("transformer (names, shapes, sizes)".to_owned(), self.models.model.fingerprint())];
        let latents =
            picture.latents.iter().flatten().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        hashes.extend(
            picture
                .latents
                .is_some()
                .then(|| ("latents after the last step (f32)".to_owned(), hash::sha256(&latents))),
        );
        hashes.extend(picture.rgb.as_ref().map(|rgb| ("picture (RGB)".to_owned(), hash::sha256(rgb))));
        Facts {
            title: job.options().prompt.clone(),
            settings: texts
                .into_iter()
                .filter(|(name, _)| *name != "parameters")
                .chain([("Host memory page-locked", locked)])
                .map(named)
                .collect(),
            hashes,
            budgets: None,
        }
    }
}

/// The run looks before every phase and step; this is for a signal in its last phase.
fn stop_if_asked() -> Result<()> {
    if !interrupt::requested() {
        return Ok(());
    }
    Err(Failure::Interrupted("stopped before the picture was written".to_owned()))
}

/// Packed, `[1, tokens, channels]`, after the last step; f32, exact also of a bf16 run.
fn save_latents(path: &Path, picture: &Picture) -> Result<()> {
    let values = picture.latents.as_deref().unwrap_or_default();
    let tokens = picture.width / 16 * (picture.height / 16);
    let shape = [1, tokens, values.len() / tokens.max(1)];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = NewTensor { name: "latents", dtype: DType::F32, shape: &shape, bytes: &bytes };
    output::write_tensors(path, &[tensor])
}

fn show_forecast(forecast: &Forecast, maximum_bytes: u64, as_json: bool) -> Result<()> {
    use std::io::Write as _;
    if as_json {
        return json::print(&Planned::new(forecast, maximum_bytes));
    }
    writeln!(output::stdout(), "{forecast}, everything resident from {maximum_bytes} bytes on")?;
    Ok(())
}

fn not_finite(picture: &Picture) -> String {
    let (count, of) = (picture.not_finite, 3 * picture.width * picture.height);
    format!(
        "warning: {count} of {of} values of the picture {} NaN or infinite; look for broken weights with --check-weights, or at --guidance",
        one_or(count, "is", "are")
    )
}

fn report_line(picture: &Picture, forecast: &Forecast, seed: u64, path: &Path) -> String {
    let report = &picture.report;
    let denoise = record::denoise(forecast);
    let (resident, streamed) = denoise.map_or((0, 0), |plan| (plan.resident_bytes(), plan.streamed_bytes()));
    let skipped = match report.steps - report.steps_computed {
        0 => String::new(),
        skipped => format!("{skipped} of {} steps skipped, ", report.steps),
    };
    let replayed = match report.steps_replayed {
        0 => String::new(),
        replayed => format!("{replayed} of {} steps replayed, ", report.steps),
    };
    format!(
        "{}: seed {seed}, {skipped}{replayed}resident {}, streamed {} a step, peak {} of {}, {:.4} s/step, {:.3} s in all",
        path.display(),
        Size(resident),
        Size(streamed),
        Size(report.peak_bytes),
        Size(report.cap_bytes),
        report.seconds_per_step(),
        report.seconds(),
    )
}
