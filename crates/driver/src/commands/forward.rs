mod inputs;
mod modules;

use std::path::PathBuf;

use lighterage_allocator::{Config, Pool};
use lighterage_checkpoint::NewTensor;
use lighterage_device::{Backend, Device, Purpose, StreamKind};
use lighterage_ops::Queue;
use lighterage_shape::DType;

use self::modules::Output;
use crate::device::{DeviceArguments, Precision, Work};
use crate::failure::Result;
use crate::inputs::Input;
use crate::output;
use crate::size::Size;

/// Run one module on given tensors.
///
/// All weights of the module are on the device. Outputs are written as f32 (a bf16 run's values are exact in it), under the names that the
/// reference uses: flux `sample`; infusenet `controlnet_block_samples.N` and `controlnet_single_block_samples.N`; t5 `last_hidden_state`;
/// clip `last_hidden_state` and `pooler_output`; vae-encode `moments.mean` and `moments.logvar`; vae-decode `decoded`; resampler
/// `tokens`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
DIR holds config.json, model.safetensors and inputs.safetensors, whose tensors are, by module:
  flux        hidden_states, encoder_hidden_states, pooled_projections, timestep, guidance, img_ids, txt_ids
  infusenet   the same, controlnet_cond, conditioning_scale (1 if missing)
  t5, clip    input_ids
  vae-encode  image [1, 3, height, width], -1 to 1
  vae-decode  latent [1, channels, height, width], neither scaled nor shifted
  resampler   id_embedding [1, 1, numbers]; the weights may be image_proj_model.bin, a head has 64 numbers where config.json names no dim_head

Example:
  lighterage forward --module flux --dir tests/golden/flux-dev-tiny --out sample.safetensors
  lighterage compare sample.safetensors tests/golden/flux-dev-tiny/expected.safetensors --common --tolerance 1e-5")]
pub(crate) struct Arguments {
    /// What to run.
    #[arg(long, value_enum)]
    module: Module,
    /// The folder with configuration, weights and inputs.
    #[arg(long)]
    dir: PathBuf,
    /// Element type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// The safetensors file to write.
    #[arg(long, visible_alias = "output", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Module {
    /// The transformer: a velocity.
    Flux,
    /// The control network of `InfiniteYou`: residuals.
    Infusenet,
    /// The T5 encoder.
    T5,
    /// The CLIP text encoder.
    Clip,
    /// Picture to latent.
    VaeEncode,
    /// Latent to picture.
    VaeDecode,
    /// A face's embedding to the tokens that stand for it.
    Resampler,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    output::check(&arguments.out)?;
    let read = ["config.json", "model.safetensors", "inputs.safetensors", "image_proj_model.bin"];
    crate::inputs::check(&[("--out", &arguments.out)], &Input::of_folder("--dir", &arguments.dir, &read))?;
    let outputs = arguments.device.run(Forward(arguments))?;
    if !arguments.device.has_bytes() {
        return Ok(());
    }
    let bytes: Vec<Vec<u8>> = outputs.iter().map(Output::bytes).collect();
    let tensors: Vec<_> = outputs
        .iter()
        .zip(&bytes)
        .map(|(output, bytes)| NewTensor {
            name: &output.name,
            dtype: DType::F32,
            shape: &output.shape,
            bytes,
        })
        .collect();
    output::write_tensors(&arguments.out, &tensors)
}

struct Forward<'a>(&'a Arguments);

/// Addresses that the pool reserves; memory comes later, as it is asked for.
const ADDRESS_BYTES: u64 = 1 << 40;

impl Work for Forward<'_> {
    type Output = Vec<Output>;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Vec<Output>> {
        let stream = device.stream(StreamKind::Compute)?;
        let config = Config { purpose: Purpose::Activations, reserve_bytes: ADDRESS_BYTES };
        let queue = Queue::new(Pool::new(&stream, config)?);
        let Arguments { module, dir, dtype, .. } = self.0;
        let outputs = modules::run(*module, dir, DType::from(*dtype), &queue)?;
        let (peak, cap) = (device.ledger().peak_bytes(), device.ledger().cap_bytes());
        output::note(&format!("peak {} of {} ({peak} of {cap} bytes)", Size(peak), Size(cap)));
        Ok(outputs)
    }
}
