mod arguments;
mod record;
mod texts;

use std::path::Path;

use lighterage_checkpoint::{NewTensor, write};
use lighterage_device::{Backend, Device};
use lighterage_pipeline::{Forecast, Job, Keep, Model, Options, Picture};
use lighterage_shape::DType;

pub(crate) use self::arguments::Arguments;
use self::record::{Planned, Record};
use crate::device::Work;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::size::Size;
use crate::{interrupt, json, mapping, output, picture_file};

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let seeds = arguments.seeds();
    if !arguments.is_dry() {
        (0..seeds.len()).try_for_each(|index| check_outputs(arguments, index, seeds.len()))?;
        interrupt::install()?;
    }
    let model = Model::open(&arguments.model(), mapping::promise())?;
    let options = arguments.options(&model);
    let texts_of = |seed| texts::of(&Options { seed, ..options.clone() }, model.path());
    let texts = seeds.iter().map(|seed| texts_of(*seed)).collect();
    let job = Job::new(&model, options)?;
    arguments.device.run(Generate { arguments, job, seeds, texts })
}

fn check_outputs(arguments: &Arguments, index: usize, count: usize) -> Result<()> {
    let latents = arguments.save_latents.as_deref();
    if let Some(latents) = latents {
        output::check_apart(["--output", "--save-latents"], [&arguments.output, latents])?;
    }
    for path in latents.into_iter().chain([arguments.output.as_path()]) {
        output::check(&output::numbered(path, index, count))?;
    }
    Ok(())
}

struct Generate<'a> {
    arguments: &'a Arguments,
    job: Job,
    seeds: Vec<u64>,
    /// Of each picture.
    texts: Vec<Vec<picture_file::Text>>,
}

impl Work for Generate<'_> {
    type Output = ();

    fn run<B: Backend>(mut self, device: &Device<B>) -> Result<()> {
        let survey = self.job.survey(device.info().page_bytes)?;
        let forecast = survey.within(device.ledger().cap_bytes())?;
        forecast.check_host(device.host_ledger().cap_bytes())?;
        if self.arguments.is_dry() {
            return show_forecast(&forecast, survey.maximum_bytes(), self.arguments.json);
        }
        let mut records = Vec::new();
        for index in 0..self.seeds.len() {
            records.push(self.picture(index, device, &forecast)?);
        }
        if self.arguments.json { json::print(&records) } else { Ok(()) }
    }
}

impl Generate<'_> {
    fn picture<B: Backend>(
        &mut self,
        index: usize,
        device: &Device<B>,
        forecast: &Forecast,
    ) -> Result<Record> {
        let count = self.seeds.len();
        let seed = self.seeds[index];
        self.job.reseed(seed);
        let keep = Keep { latents: self.arguments.save_latents.is_some(), ..Keep::default() };
        let mut progress = Progress::new(device.ledger());
        let picture = self.job.run(device, forecast, keep, &mut progress)?;
        drop(progress);
        stop_if_asked()?;
        let path = output::numbered(&self.arguments.output, index, count);
        if let Some(rgb) = &picture.rgb {
            let sides = [picture.width, picture.height];
            output::write(&path, |file| picture_file::write(file, sides, rgb, &self.texts[index]))?;
        }
        if let Some(latents) = &self.arguments.save_latents {
            save_latents(&output::numbered(latents, index, count), &picture)?;
        }
        if picture.not_finite > 0 {
            output::note(&not_finite(&picture));
        }
        output::note(&report_line(&picture, forecast, seed, &path));
        Ok(Record::new(path, seed, &picture, forecast))
    }
}

/// The loop looks by itself; this is for a Ctrl-C after its last step.
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
    write(path, &[NewTensor { name: "latents", dtype: DType::F32, shape: &shape, bytes: &bytes }])?;
    Ok(())
}

fn show_forecast(forecast: &Forecast, maximum_bytes: u64, as_json: bool) -> Result<()> {
    use std::io::Write as _;
    if as_json {
        return json::print(&Planned::new(forecast, maximum_bytes));
    }
    writeln!(std::io::stdout().lock(), "{forecast}, everything resident from {maximum_bytes} bytes on")?;
    Ok(())
}

fn not_finite(picture: &Picture) -> String {
    let (count, of) = (picture.not_finite, 3 * picture.width * picture.height);
    format!(
        "warning: {count} of {of} values of the picture are NaN or infinite; look for broken weights with --check-weights, or at --guidance"
    )
}

fn report_line(picture: &Picture, forecast: &Forecast, seed: u64, path: &Path) -> String {
    let report = &picture.report;
    let denoise = record::denoise(forecast);
    let (resident, streamed) = denoise.map_or((0, 0), |plan| (plan.resident_bytes(), plan.streamed_bytes()));
    format!(
        "{}: seed {seed}, resident {}, streamed {} a step, peak {} of {}, {:.4} s/step, {:.3} s in all",
        path.display(),
        Size(resident),
        Size(streamed),
        Size(report.peak_bytes),
        Size(report.cap_bytes),
        report.seconds_per_step(),
        report.seconds(),
    )
}
