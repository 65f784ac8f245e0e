use std::path::PathBuf;

use lighterage_checkpoint::NewTensor;
use lighterage_device::{Backend, Device};
use lighterage_pipeline::{Latents, Trajectory};
use lighterage_shape::DType;

use crate::count::{counted, one_or};
use crate::device::{DeviceArguments, Precision, Work};
use crate::failure::Result;
use crate::inputs::Input;
use crate::progress::Progress;
use crate::report::{self, Facts, Seeing, Seen};
use crate::size::Size;
use crate::{hash, inputs, interrupt, mapping, output};

/// Run the bare denoising loop on given tensors.
///
/// Writes `latents.0`, `latents.1` and so on, f32 [1, tokens, channels]: the latents after each step. The budget (--vram) may be smaller
/// than the weights; the values do not depend on it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
DIR holds transformer/ and perhaps infusenet/ (config.json and weights each), inputs.safetensors (latents, prompt_embeds, pooled_prompt_embeds; \
with infusenet/ also id_tokens and control_latents) and run.json (steps, latent_height and latent_width in tokens, guidance; perhaps \
infusenet_guidance, conditioning_scale, guidance_start, guidance_end, teacache_threshold, true_cfg_scale: with this inputs.safetensors has \
negative_prompt_embeds and negative_pooled_prompt_embeds).

Example:
  lighterage denoise --dir tests/golden/loop-tiny --out latents.safetensors
  lighterage compare latents.safetensors tests/golden/loop-tiny/expected.safetensors --tolerance 1e-4")]
pub(crate) struct Arguments {
    /// The folder with the model, inputs and settings.
    #[arg(long)]
    dir: PathBuf,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// The safetensors file to write.
    #[arg(long, visible_alias = "output", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    seeing: Seeing,
    #[command(flatten)]
    device: DeviceArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    output::check(&arguments.out)?;
    let mut outputs = vec![("--out", arguments.out.as_path())];
    arguments.seeing.check(&outputs)?;
    outputs.extend(arguments.seeing.outputs());
    let read = ["inputs.safetensors", "run.json", "transformer", "infusenet"];
    inputs::check(&outputs, &Input::of_folder("--dir", &arguments.dir, &read))?;
    interrupt::leave_to_command();
    let trajectory = Trajectory::open(&arguments.dir, mapping::promise(), DType::from(arguments.dtype))?;
    let latents = arguments.device.run(Denoise(&trajectory, arguments))?;
    let Some(steps) = &latents.steps else { return Ok(()) };
    let named: Vec<(String, Vec<u8>)> =
        steps.iter().enumerate().map(|(step, values)| named(step, values)).collect();
    let tensors: Vec<_> = named
        .iter()
        .map(|(name, bytes)| NewTensor { name, dtype: DType::F32, shape: &latents.shape, bytes })
        .collect();
    output::write_tensors(&arguments.out, &tensors)
}

fn named(step: usize, values: &[f32]) -> (String, Vec<u8>) {
    (format!("latents.{step}"), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

struct Denoise<'a>(&'a Trajectory, &'a Arguments);

impl Work for Denoise<'_> {
    type Output = Latents;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Latents> {
        let survey = self.1.device.place.plans(self.0.survey(device.info().page_bytes)?);
        let (_, forecast) = survey.on(device)?;
        forecast.check_host(device)?;
        self.1.seeing.record(device);
        let mut progress = Progress::new(device.ledger());
        let latents = self.0.run(device, &forecast, &mut progress)?;
        drop(progress);
        let report = &latents.report;
        let (peak, cap) = (Size(report.peak_bytes), Size(report.cap_bytes));
        let skipped: Vec<String> = latents
            .ran
            .iter()
            .enumerate()
            .filter(|(_, ran)| !**ran)
            .map(|(step, _)| step.to_string())
            .collect();
        let skipped = match skipped.len() {
            0 => String::new(),
            count => format!(", skipped {} {}", one_or(count, "step", "steps"), skipped.join(" ")),
        };
        let replayed = match report.steps_replayed {
            0 => String::new(),
            replayed => format!(", {} replayed", counted(replayed, "step")),
        };
        output::note(&format!(
            "peak {peak} of {cap}, {:.4} s/step{skipped}{replayed}",
            report.seconds_per_step()
        ));
        report::not_replayed(report).iter().for_each(|line| output::note(line));
        if let Some(seen) = Seen::take(device, &forecast) {
            report::line(&seen).iter().for_each(|line| output::note(line));
            self.1.seeing.write(device, &seen, &facts(self.1, &latents))?;
        }
        Ok(latents)
    }
}

/// For the report.
fn facts(arguments: &Arguments, latents: &Latents) -> Facts {
    let hash = |(step, values): (usize, &Vec<f32>)| {
        (format!("latents.{step}"), hash::sha256(&named(step, values).1))
    };
    Facts {
        title: format!("denoise {}", arguments.dir.display()),
        settings: vec![
            ("steps".to_owned(), latents.ran.len().to_string()),
            ("element type".to_owned(), DType::from(arguments.dtype).name().to_owned()),
        ],
        hashes: latents.steps.iter().flatten().enumerate().map(hash).collect(),
        budgets: None,
    }
}
