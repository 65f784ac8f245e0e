use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use lighterage_pipeline::{Model, Multiprocessors, Noise, Options, SIDE_MAX, SIDE_STEP, STEPS_MAX, Spacing};
use lighterage_shape::DType;

use crate::device::{DeviceArguments, Precision};
use crate::{model_path, output};

/// Turn a prompt into a PNG.
///
/// The same seed, model and options give the same bytes at every budget (--vram) and number of threads. A budget below the minimum is
/// refused before anything runs, with the missing bytes, the largest reason, and the smallest budget that would do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --model the bundled demo model draws small emoji and portraits. It is looked for in assets/demo/base beside the executable, then
in the repository that the executable was built from. Defaults of size, steps and guidance come from the model's generation_config.json.

Examples:
  lighterage generate --prompt \"red heart, noto style, white background\" --seed 0 -o heart.png
  lighterage generate --prompt \"cat face, noto style, white background\" --seed 1,2,3 -o cat.png    (cat-1.png to cat-3.png)
  lighterage generate --prompt \"...\" --vram 2MiB -o small.png      (most weights streamed, the same picture)
  lighterage generate --prompt \"...\" --vram 2MiB --dry-run         (what would be resident, streamed, needed)

The PNG's text chunks hold what made it: `parameters` as other tools write it, and Prompt, Seed, Steps, Guidance, Size, Model, Schedule,
Noise, Dtype, Software. Ctrl-C ends after the current step and writes nothing; the exit code is then 130.")]
pub(crate) struct Arguments {
    /// What is to be seen; may be empty.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// The PNG to write; with several seeds NAME-1.png, NAME-2.png and so on. An existing file is replaced when the picture is done.
    #[arg(short, long, value_name = "FILE", default_value = "lighterage.png")]
    pub(super) output: PathBuf,
    /// The model: a folder in the layout of diffusers, or a transformer in one file [default: the bundled demo model].
    ///
    /// A file, for instance flux1-dev.safetensors as Black Forest Labs publish it, or a folder that has one in place of transformer/, needs
    /// beside it text_encoder/, text_encoder_2/, tokenizer/, tokenizer_2/ in the layout of diffusers, and ae.safetensors or vae/. What
    /// scheduler/, transformer/config.json and vae/config.json say is taken from there if they exist, else as FLUX.1 has it.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Seed of the noise; several make several pictures. Without it one is drawn and shown.
    #[arg(long, value_name = "N[,N...]", allow_negative_numbers = true, value_delimiter = ',')]
    seed: Vec<u64>,
    /// Steps of the loop, 1 to 1000 [default: the model's].
    #[arg(long, value_name = "N", value_parser = steps)]
    steps: Option<usize>,
    /// Width in pixels, a multiple of 16 [default: the model's].
    #[arg(long, value_name = "PIXELS", value_parser = side)]
    width: Option<usize>,
    /// Height in pixels, a multiple of 16 [default: the model's].
    #[arg(long, value_name = "PIXELS", value_parser = side)]
    height: Option<usize>,
    /// Guidance that the model is told, 0 or more; models without guidance ignore it [default: the model's].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, value_parser = guidance)]
    guidance: Option<f32>,
    /// How noise levels are spaced.
    #[arg(long, value_enum, default_value_t = ScheduleName::Diffusers)]
    schedule: ScheduleName,
    /// Whose random numbers make the noise.
    #[arg(long, value_enum, default_value_t = NoiseName::Cpu)]
    noise: NoiseName,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    dtype: Precision,
    /// Decode the picture in tiles of so many pixels a side (a multiple of 8, at least 32; without a number 512).
    ///
    /// Without the option that is so above 1.5 megapixels only, with 1024. Tiles need less memory; the picture differs a little.
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, default_missing_value = "512", value_parser = tile)]
    vae_tile: Option<usize>,
    /// Read all weights first and refuse NaN and infinities.
    #[arg(long)]
    check_weights: bool,
    /// Also write the latents after the last step: `latents`, f32 [1, tokens, channels], packed.
    #[arg(long, value_name = "FILE")]
    pub(super) save_latents: Option<PathBuf>,
    /// Run nothing; show what would be resident, streamed and needed, in bytes.
    #[arg(long)]
    dry_run: bool,
    /// Print a report (or the plan) as JSON on stdout.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ScheduleName {
    /// Shifted by the picture's size, as the model's scheduler says.
    Diffusers,
    /// Shift 3 at every size, as in DiffSynth-Studio.
    Diffsynth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NoiseName {
    /// As torch's generator on the CPU: bit for bit.
    Cpu,
    /// As torch's generator on a CUDA device (an H100).
    Cuda,
}

impl Arguments {
    /// Whether nothing is to be made.
    pub(super) fn is_dry(&self) -> bool {
        self.dry_run || !self.device.has_bytes()
    }

    pub(super) fn model(&self) -> PathBuf {
        self.model.clone().unwrap_or_else(model_path::bundled)
    }

    /// The seeds that were asked for, else one that is drawn and shown.
    pub(super) fn seeds(&self) -> Vec<u64> {
        if !self.seed.is_empty() {
            return self.seed.clone();
        }
        // The standard library's hashers start from random keys. 32 bits, since torch's CPU generator takes no more.
        let seed = RandomState::new().build_hasher().finish() >> 32;
        output::note(&format!("seed {seed}"));
        vec![seed]
    }

    /// The model's options with what was given in their place.
    pub(super) fn options(&self, model: &Model) -> Options {
        let defaults = model.options(&self.prompt);
        Options {
            steps: self.steps.unwrap_or(defaults.steps),
            width: self.width.unwrap_or(defaults.width),
            height: self.height.unwrap_or(defaults.height),
            guidance: self.guidance.unwrap_or(defaults.guidance),
            spacing: match self.schedule {
                ScheduleName::Diffusers => Spacing::Diffusers,
                ScheduleName::Diffsynth => Spacing::DiffSynth,
            },
            noise: match self.noise {
                NoiseName::Cpu => Noise::Cpu,
                NoiseName::Cuda => Noise::Cuda(Multiprocessors::H100),
            },
            dtype: DType::from(self.dtype),
            vae_tile: self.vae_tile,
            check_weights: self.check_weights,
            ..defaults
        }
    }
}

fn steps(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=STEPS_MAX).contains(count));
    count.ok_or_else(|| format!("not a number of steps from 1 to {STEPS_MAX}"))
}

fn tile(text: &str) -> Result<usize, String> {
    let pixels = text.parse().ok().filter(|pixels: &usize| *pixels >= 32 && pixels.is_multiple_of(8));
    pixels.ok_or_else(|| "not a multiple of 8 that is 32 or more".to_owned())
}

fn guidance(text: &str) -> Result<f32, String> {
    let scale = text.parse().ok().filter(|scale: &f32| scale.is_finite() && *scale >= 0.0);
    scale.ok_or_else(|| "not a finite number that is 0 or more".to_owned())
}

fn side(text: &str) -> Result<usize, String> {
    let range = format!("not a multiple of {SIDE_STEP} from {SIDE_STEP} to {SIDE_MAX}");
    let pixels: usize = text.parse().map_err(|_| range.clone())?;
    if !(SIDE_STEP..=SIDE_MAX).contains(&pixels) {
        return Err(range);
    }
    let below = pixels - pixels % SIDE_STEP;
    if below == pixels {
        Ok(pixels)
    } else {
        Err(format!("not a multiple of {SIDE_STEP}; the two nearest are {below} and {}", below + SIDE_STEP))
    }
}
