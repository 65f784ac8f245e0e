use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use lighterage_pipeline::{Multiprocessors, Noise, Options, SIDE_MAX, Spacing, TeaCache};
use lighterage_shape::DType;

use super::jobs::Shard;
use super::request::Request;
use crate::device::{DeviceArguments, Precision};
use crate::inputs::Input;
use crate::report::Seeing;
use crate::{model_path, output, range};

/// Turn a prompt, and a face, into a PNG.
///
/// The same seed, model and options give the same bytes at every budget (--vram) and number of threads. A budget below the minimum is
/// refused before anything runs, with the missing bytes, the largest reason, and the smallest budget that would do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --model the bundled demo model draws small emoji and portraits. It is looked for in assets/demo/base beside the executable, then \
in the repository that the executable was built from. Defaults of size, steps and guidance come from the model's generation_config.json.

Examples:
  lighterage generate --prompt \"red heart, noto style, white background\" --seed 0 -o heart.png
  lighterage generate --prompt \"cat face, noto style, white background\" --seed 1,2,3 -o cat.png    (cat-1.png to cat-3.png)
  lighterage generate --prompt \"...\" --vram 2MiB -o small.png      (most weights streamed, the same picture)
  lighterage generate --prompt \"...\" --vram 2MiB --dry-run         (what would be resident, streamed, needed)
  lighterage generate --id-image assets/demo/faces/cleo.png --prompt \"toon portrait of a smiling person, blue background\" -o cleo.png
  lighterage generate --jobs pictures.jsonl --shard 0/4             (docs/SCALING.md)

A face comes from --id-embedding, else from --id-image: its keypoints from --id-keypoints, else from a faces.json beside it, else from a detector \
(scrfd_10g_bnkps.onnx in --face-models); with none of these only a 112 x 112 picture will do, which is taken as an aligned crop.

The three pipelines that InfiniteYou is run by are: its own (--schedule diffusers --noise official), DiffSynth-Studio until April 2025 (--schedule diffsynth-old \
--noise cuda) and since (--schedule diffsynth --noise cpu). The default is diffusers' schedule with torch's CPU noise.

The PNG's text chunks hold what made it: `parameters` as other tools write it, and Prompt, Seed, Steps, Guidance, Size, Model, Schedule, \
Noise, Dtype, Software, Isa, and what else changed it. Ctrl-C, SIGTERM and SIGHUP end after the current step; the exit \
code is then 130, 143 or 129, and the picture under way is not written. A second Ctrl-C ends at once.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) request: Request,
    /// The PNG to write; with several seeds NAME-1.png, NAME-2.png and so on. An existing file is replaced when the picture is done.
    #[arg(short, long, value_name = "FILE", default_value = "lighterage.png")]
    pub(super) output: PathBuf,
    /// The model: a folder in the layout of diffusers, or a transformer in one file [default: the bundled demo model].
    ///
    /// A file, for instance flux1-dev.safetensors as Black Forest Labs publish it, or a folder that has one in place of transformer/, needs
    /// beside it `text_encoder/`, `text_encoder_2/`, `tokenizer/`, `tokenizer_2/` in the layout of diffusers, and ae.safetensors or vae/. What
    /// scheduler/, transformer/config.json and vae/config.json say is taken from there if they exist, else as FLUX.1 has it.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// InfiniteYou's folder: `InfuseNetModel` and `image_proj_model.bin` [default: with the bundled model its own].
    #[arg(long, value_name = "DIR")]
    infinite_you: Option<PathBuf>,
    /// The folder with the face network and perhaps a detector [default: that of --infinite-you].
    #[arg(long, value_name = "DIR")]
    face_models: Option<PathBuf>,
    /// A `LoRA` file for the transformer, and its strength; may be given several times.
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub(super) lora: Vec<String>,
    /// Seed of the noise; several make several pictures. Without it one is drawn and shown.
    #[arg(
        long,
        value_name = "N[,N...]",
        allow_negative_numbers = true,
        value_delimiter = ',',
        value_parser = range::whole(0..=u64::MAX),
        conflicts_with = "jobs"
    )]
    seed: Vec<u64>,
    /// How noise levels are spaced.
    #[arg(long, value_enum, default_value_t = ScheduleName::Diffusers)]
    schedule: ScheduleName,
    /// Whose random numbers make the noise.
    #[arg(long, value_enum, default_value_t = NoiseName::Cpu)]
    noise: NoiseName,
    /// Run InfuseNet on skipped steps too, for nothing, as the reference pipelines do.
    #[arg(long)]
    teacache_keep_infusenet: bool,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    dtype: Precision,
    /// Decode the picture in tiles of so many pixels a side (a multiple of 8 from 32 to 16384; without a number 512).
    ///
    /// Without the option that is so above 1.5 megapixels only, with 1024. Tiles need less memory; the picture differs a little.
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, default_missing_value = "512", value_parser = tile)]
    vae_tile: Option<usize>,
    /// Read all weights first and refuse NaN and infinities.
    #[arg(long)]
    check_weights: bool,
    /// Also write the latents after the last step: `latents`, f32 [1, tokens, channels], packed.
    #[arg(long, value_name = "FILE", conflicts_with = "jobs")]
    pub(super) save_latents: Option<PathBuf>,
    /// Make one picture for each line of a file: JSON objects with the options above by their names, with underscores, and `output` and `seed`.
    ///
    /// The options given here hold where a line says nothing. Results are written to NAME.results.jsonl beside the file; a second run skips what
    /// is done.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["trace", "report"])]
    pub(super) jobs: Option<PathBuf>,
    /// Of the lines only those whose number (from 0) leaves the rest I when divided by N; results go to NAME.results-I-of-N.jsonl.
    #[arg(long, value_name = "I/N", requires = "jobs")]
    pub(super) shard: Option<Shard>,
    /// Run nothing; show what would be resident, streamed and needed, in bytes.
    #[arg(long, conflicts_with_all = ["trace", "report"])]
    dry_run: bool,
    /// Print a report (or the plan) as JSON on stdout.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) seeing: Seeing,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ScheduleName {
    /// Shifted by the picture's size, as the model's scheduler says.
    Diffusers,
    /// Shift 3 at every size, as in DiffSynth-Studio.
    Diffsynth,
    /// The same as until April 2025: bf16 models are told timesteps that are not rounded.
    DiffsynthOld,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NoiseName {
    /// As torch's generator on the CPU: bit for bit.
    Cpu,
    /// As torch's generator on a CUDA device (an H100).
    Cuda,
    /// As InfiniteYou's own pipeline on a CUDA device: first a sample of the control picture's latent, then the noise.
    Official,
}

impl Arguments {
    /// Whether nothing is to be made.
    pub(super) fn is_dry(&self) -> bool {
        self.dry_run || !self.device.has_bytes()
    }

    pub(super) fn model(&self) -> PathBuf {
        self.model.clone().unwrap_or_else(model_path::bundled)
    }

    /// Where InfiniteYou is, if that is known.
    pub(super) fn infinite_you(&self) -> Option<PathBuf> {
        let bundled = || self.model.is_none().then(model_path::bundled_infinite_you);
        self.infinite_you.clone().or_else(bundled)
    }

    /// Where face network and detector are, if that is known.
    pub(super) fn face_models(&self) -> Option<PathBuf> {
        self.face_models.clone().or_else(|| self.infinite_you())
    }

    /// The files and folders that a picture of that kind is made of.
    pub(super) fn inputs(&self, request: &Request) -> Vec<Input> {
        let mut inputs = [Input::model(&self.model()), request.inputs()].concat();
        let folders = [("--infinite-you", self.infinite_you()), ("--face-models", self.face_models())];
        inputs.extend(folders.into_iter().filter_map(|(option, path)| Some(Input::new(option, path?))));
        inputs.extend(self.lora.iter().flat_map(|given| Input::with_suffix("--lora", given)));
        inputs
    }

    /// The seeds that were asked for, else one that is drawn and shown.
    pub(super) fn seeds(&self) -> Vec<u64> {
        if !self.seed.is_empty() {
            return self.seed.clone();
        }
        let seed = draw_seed();
        output::note(&format!("seed {seed}"));
        vec![seed]
    }

    /// Whether the control picture's latent is a sample.
    pub(super) fn samples_control(&self) -> bool {
        self.noise == NoiseName::Official
    }

    /// What holds for all pictures of a run, in the place of the model's options.
    pub(super) fn over(&self, options: Options) -> Options {
        let keeps_infusenet = self.teacache_keep_infusenet;
        Options {
            spacing: match self.schedule {
                ScheduleName::Diffusers => Spacing::Diffusers,
                ScheduleName::Diffsynth => Spacing::DiffSynth,
                ScheduleName::DiffsynthOld => Spacing::DiffSynthOld,
            },
            noise: match self.noise {
                NoiseName::Cpu => Noise::Cpu,
                NoiseName::Cuda => Noise::Cuda(Multiprocessors::H100),
                NoiseName::Official => Noise::CudaSecond(Multiprocessors::H100),
            },
            dtype: DType::from(self.dtype),
            vae_tile: self.vae_tile,
            check_weights: self.check_weights,
            teacache: options.teacache.map(|cache| TeaCache { keeps_infusenet, ..cache }),
            ..options
        }
    }
}

/// The standard library's hashers start from random keys. 32 bits, since torch's CPU generator takes no more.
pub(super) fn draw_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

/// From the smallest that the decoder takes to a whole picture.
const TILES: RangeInclusive<usize> = 32..=SIDE_MAX;

fn tile(text: &str) -> Result<usize, String> {
    let is_one = |pixels: &usize| TILES.contains(pixels) && pixels.is_multiple_of(8);
    let pixels = text.parse().ok().filter(is_one);
    pixels.ok_or_else(|| format!("not a multiple of 8 from {} to {}", TILES.start(), TILES.end()))
}
