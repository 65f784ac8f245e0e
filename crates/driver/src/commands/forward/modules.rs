use std::path::Path;
use std::sync::Arc;

use half::bf16;
use lighterage_device::Backend;
use lighterage_dit as dit;
use lighterage_identity::Resampler;
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;
use lighterage_text::{clip, t5};
use lighterage_vae as vae;

use super::Module;
use super::inputs::{Folder, upload};
use crate::failure::{Failure, Result};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Empty where memory has no bytes.
    values: Vec<f32>,
}

impl Output {
    /// Little-endian f32.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// A tensor of the device, behind a batch dimension of 1.
    fn read<B: Backend>(name: impl Into<String>, tensor: &Tensor<B>, queue: &Queue<B>) -> Result<Self> {
        let shape = [&[1], tensor.shape()].concat();
        Ok(Self { name: name.into(), shape, values: read(tensor, queue)? })
    }

    /// A picture, channels last on the device, as `[1, channels, height, width]`.
    fn picture(name: &str, values: &[f32], shape: [usize; 3]) -> Self {
        let [height, width, channels] = shape;
        let values = if values.is_empty() { Vec::new() } else { vae::channels_first(values, shape) };
        Self { name: name.to_owned(), shape: vec![1, channels, height, width], values }
    }
}

pub(super) fn run<B: Backend>(
    module: Module,
    dir: &Path,
    dtype: DType,
    queue: &Queue<B>,
) -> Result<Vec<Output>> {
    let run = Run { folder: Folder::open(dir)?, dtype, queue };
    match module {
        Module::Flux => run.flux(),
        Module::Infusenet => run.infusenet(),
        Module::T5 => run.t5(),
        Module::Clip => run.clip(),
        Module::VaeEncode => run.encode(),
        Module::VaeDecode => run.decode(),
        Module::Resampler => run.resample(),
    }
}

struct Run<'a, B: Backend> {
    folder: Folder,
    dtype: DType,
    queue: &'a Queue<B>,
}

impl<B: Backend> Run<'_, B> {
    fn flux(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let config = dit::Config::read(&self.folder.config)?;
        let model = dit::Transformer::new(config, &self.folder.weights, self.dtype, &mut units)?;
        let sample = dit::forward_transformer(&model, self.queue, &self.pager(units)?, &self.folder.inputs)?;
        Ok(vec![Output::read("sample", &sample, self.queue)?])
    }

    fn infusenet(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let config = dit::Config::read(&self.folder.config)?;
        let model = dit::InfuseNet::new(config, &self.folder.weights, self.dtype, &mut units)?;
        let residuals = dit::forward_infusenet(&model, self.queue, &self.pager(units)?, &self.folder.inputs)?;
        residuals.iter().map(|(name, tensor)| Output::read(name, tensor, self.queue)).collect()
    }

    fn t5(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let config = t5::Config::open(&self.folder.config)?;
        let model = t5::T5::new(config, &self.folder.weights, self.dtype, &self.folder.ids()?, &mut units)?;
        let hidden = model.forward(self.queue, &self.pager(units)?)?;
        Ok(vec![Output::read("last_hidden_state", &hidden, self.queue)?])
    }

    fn clip(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let config = clip::Config::open(&self.folder.config)?;
        let model =
            clip::Clip::new(config, &self.folder.weights, self.dtype, &self.folder.ids()?, &mut units)?;
        let output = model.forward(self.queue, &self.pager(units)?)?;
        let pooled = Output {
            name: "pooler_output".to_owned(),
            shape: output.pooled.shape().to_vec(),
            values: read(&output.pooled, self.queue)?,
        };
        Ok(vec![Output::read("last_hidden_state", &output.last_hidden_state, self.queue)?, pooled])
    }

    fn encode(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let config = vae::Config::open(&self.folder.config)?;
        let factor = config.factor();
        let model = vae::Encoder::new(config, &self.folder.weights, self.dtype, &mut units)?;
        let (picture, [_, height, width]) = self.picture("image")?;
        let tiling = vae::Tiling::choose(height, width, factor, None)?;
        let moments = model.encode(self.queue, &self.pager(units)?, picture.view(), tiling)?;
        let values = moments.read(self.queue)?;
        let (mean, log_variance) =
            values.map(|values| (values.mean, values.log_variance)).unwrap_or_default();
        let shape = moments.shape();
        Ok(vec![
            Output::picture("moments.mean", &mean, shape),
            Output::picture("moments.logvar", &log_variance, shape),
        ])
    }

    fn decode(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let config = vae::Config::open(&self.folder.config)?;
        let factor = config.factor();
        let model = vae::Decoder::new(config, &self.folder.weights, self.dtype, &mut units)?;
        let (latent, [_, height, width]) = self.picture("latent")?;
        let side = |extent: usize| extent.saturating_mul(factor);
        let tiling = vae::Tiling::choose(side(height), side(width), factor, None)?;
        let decoded = model.decode(self.queue, &self.pager(units)?, latent.view(), tiling)?;
        let &[height, width, channels] = decoded.shape() else { return Ok(Vec::new()) };
        Ok(vec![Output::picture("decoded", &read(&decoded, self.queue)?, [height, width, channels])])
    }

    fn resample(&self) -> Result<Vec<Output>> {
        let mut units = Units::default();
        let head = Resampler::head_of(&self.folder.config)?;
        let model = Resampler::new(&self.folder.weights, head, self.dtype, &mut units)?;
        let values = self.folder.values("id_embedding")?;
        if values.len() != model.embedding() {
            let (got, expected) = (values.len(), model.embedding());
            return Err(Failure::Refused(format!("id_embedding should have {expected} numbers, has {got}")));
        }
        let embedding = upload(self.queue, self.dtype, &values, &[1, values.len()])?;
        let tokens = model.forward(self.queue, &self.pager(units)?, embedding.view())?;
        Ok(vec![Output::read("tokens", &tokens, self.queue)?])
    }

    fn pager(&self, units: Units) -> Result<Pager<B>> {
        Ok(Pager::resident(self.queue.stream(), Arc::new(units))?)
    }

    /// An input on the device, channels last, and its extents in the file.
    fn picture(&self, name: &str) -> Result<(Tensor<B>, [usize; 3])> {
        let (values, shape) = self.folder.picture(name)?;
        let [channels, height, width] = shape;
        let values = vae::channels_last(&values, shape);
        Ok((upload(self.queue, self.dtype, &values, &[height, width, channels])?, shape))
    }
}

/// All values as f32; none where memory has no bytes.
fn read<B: Backend>(tensor: &Tensor<B>, queue: &Queue<B>) -> Result<Vec<f32>> {
    let values = match tensor.dtype() {
        DType::Bf16 => {
            let values: Option<Vec<bf16>> = queue.read(tensor.view())?;
            values.map(|values| values.into_iter().map(bf16::to_f32).collect())
        }
        _ => queue.read(tensor.view())?,
    };
    Ok(values.unwrap_or_default())
}
