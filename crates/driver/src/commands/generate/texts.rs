use std::path::Path;

use lighterage_device::Info;
use lighterage_pipeline::{Face, Negation, Noise, Options, Spacing, TeaCache};

use crate::device::DeviceArguments;
use crate::model_path;
use crate::picture_file::Text;

const SOFTWARE: &str = concat!("lighterage ", env!("CARGO_PKG_VERSION"));

/// The text chunks of a picture: all that is needed to make it again, and nothing that does not change it.
///
/// `parameters` is the one line that the tools of the ecosystem write and read (AUTOMATIC1111's web UI; "Distilled CFG Scale" is Forge's
/// name for the guidance that a FLUX model is told). The others are ours; they begin with capitals, as the PNG specification's own do,
/// since a lower-case `prompt` is taken for a workflow in JSON by other tools.
pub(super) fn of(options: &Options, model: &Path, loras: &[String]) -> Vec<Text> {
    let size = format!("{}x{}", options.width, options.height);
    let model = model_name(model);
    let (schedule, noise) = (schedule(options.spacing), noise(options.noise));
    let Options { prompt, seed, steps, guidance, dtype, .. } = options;
    let (negative, true_cfg) = match &options.negative {
        Some(Negation { prompt, scale }) => (format!("\nNegative prompt: {prompt}"), *scale),
        None => (String::new(), 1.0),
    };
    let parameters = format!(
        "{prompt}{negative}\nSteps: {steps}, Sampler: Euler, Schedule type: {schedule}, CFG scale: {true_cfg}, Distilled CFG Scale: {guidance}, \
         Seed: {seed}, Size: {size}, Model: {model}, RNG: {noise}, Version: {SOFTWARE}"
    );
    let mut texts = vec![
        ("parameters", parameters),
        ("Prompt", prompt.clone()),
        ("Seed", seed.to_string()),
        ("Steps", steps.to_string()),
        ("Guidance", guidance.to_string()),
        ("Size", size),
        ("Model", model),
        ("Schedule", schedule.to_owned()),
        ("Noise", noise.to_owned()),
        ("Dtype", dtype.name().to_ascii_lowercase()),
        ("Software", SOFTWARE.to_owned()),
    ];
    texts.extend(options.vae_tile.map(|pixels| ("Tile", pixels.to_string())));
    texts.extend(options.negative.iter().flat_map(|Negation { prompt, scale }| {
        [("Negative prompt", prompt.clone()), ("True CFG", scale.to_string())]
    }));
    texts.extend(options.face.as_ref().map(|face| ("InfuseNet", infusenet(face))));
    texts.extend(options.teacache.map(|TeaCache { threshold, .. }| ("TeaCache", threshold.to_string())));
    texts.extend((!loras.is_empty()).then(|| ("LoRA", loras.join(", "))));
    texts
}

/// What of the device changes bits: its instruction set, the table of who multiplies what, if one was given, and a library that does. The number of threads and the
/// budget change none.
pub(super) fn of_device(device: &DeviceArguments, info: &Info) -> Vec<Text> {
    let table =
        device.place.gemm_table.as_ref().map(|table| ("GEMM table", format!("sha256 {}", table.sha256)));
    let library = info.product_library.clone().map(|library| ("GEMM library", library));
    [("Isa", info.isa.clone())].into_iter().chain(table).chain(library).collect()
}

/// How the face was put in. The face itself is not told.
fn infusenet(face: &Face) -> String {
    let Face { scale, window, guidance, control, .. } = face;
    let pose = if control.is_some() { ", with a pose" } else { "" };
    format!("scale {scale}, steps {} to {}, guidance {guidance}{pose}", window.start, window.end)
}

/// The folder's name; of the bundled one, which is called `base`, a bit more.
fn model_name(path: &Path) -> String {
    if path == model_path::bundled() {
        return "lighterage demo".to_owned();
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

const fn schedule(spacing: Spacing) -> &'static str {
    match spacing {
        Spacing::Diffusers => "diffusers",
        Spacing::DiffSynth => "diffsynth",
        Spacing::DiffSynthOld => "diffsynth-old",
    }
}

const fn noise(noise: Noise) -> &'static str {
    match noise {
        Noise::Cpu => "cpu",
        Noise::Cuda(_) => "cuda",
        Noise::CudaSecond(_) => "official",
    }
}
