use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;

use crate::error::{expect_rows, expect_view};
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::Loader;
use crate::trunk::{Pass, Place, Trunk};
use crate::{Conditioning, Config, Modulations, Result, Rope};

/// InfuseNet, the `ControlNet` of InfiniteYou: a shorter FLUX transformer with one linear behind each block, whose outputs are added to
/// the image rows of the transformer.
///
/// Its text stream is the eight identity tokens in place of the prompt, its guidance is its own (1.0 by default), and
/// its image stream is latents plus control image. Timesteps and pooled text are the transformer's.
#[derive(Debug)]
pub struct InfuseNet {
    trunk: Trunk,
    control_in: LinearUnit,
    doubles: Vec<LinearUnit>,
    singles: Vec<LinearUnit>,
}

/// What one step of an InfuseNet needs.
#[derive(Debug)]
pub struct InfuseInputs<'a, B: Backend> {
    /// `[image, in_channels]`: packed latents.
    pub latents: View<'a>,
    /// `[text, width]`, contiguous: what `embed_text` made of the identity tokens.
    pub text: View<'a>,
    /// `[image, width]`: what `embed_control` gave.
    pub control: View<'a>,
    /// What `condition` gave, with the step [selected](Modulations::select).
    pub modulations: &'a Modulations<B>,
    /// Rotations of `text + image` tokens.
    pub rope: &'a Rope<B>,
}

/// What an InfuseNet gives for one step, `[image, width]` each, not yet scaled: the factor is part of [`Residuals`](crate::Residuals), where it costs no pass
/// of its own.
#[derive(Debug)]
pub struct InfuseOutputs<B: Backend> {
    /// One for each of its double blocks.
    pub double: Vec<Tensor<B>>,
    /// One for each of its single blocks.
    pub single: Vec<Tensor<B>>,
}

impl InfuseNet {
    /// Registers the model's units; `dtype` (bf16 or f32) is that of all its tensors.
    ///
    /// # Errors
    /// As [`Transformer::new`](crate::Transformer::new).
    pub fn new(config: Config, checkpoint: &Checkpoint, dtype: DType, units: &mut Units) -> Result<Self> {
        let mut loader = Loader::new(&config, checkpoint, dtype, units, "infusenet.")?;
        let trunk = Trunk::new(config, &mut loader, false)?;
        let (names, width) = (loader.names, trunk.dims.width);
        let mut linear = |name: &str, inner| loader.linear(&names.whole(name, name, width), inner);
        let control_in = linear("controlnet_x_embedder", trunk.config.in_channels)?;
        let doubles = (0..trunk.config.num_layers)
            .map(|block| linear(&format!("controlnet_blocks.{block}"), width))
            .collect::<Result<_>>()?;
        let singles = (0..trunk.config.num_single_layers)
            .map(|block| linear(&format!("controlnet_single_blocks.{block}"), width))
            .collect::<Result<_>>()?;
        Ok(Self { trunk, control_in, doubles, singles })
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.trunk.config
    }

    /// Element type of all tensors.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.trunk.dims.dtype
    }

    /// Every modulation vector of every step, as [`Transformer::condition`](crate::Transformer::condition).
    ///
    /// # Errors
    /// As there.
    pub fn condition<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        conditioning: &Conditioning<'_>,
    ) -> Result<Modulations<B>> {
        self.trunk.conditioner.condition(queue, pager, conditioning)
    }

    /// The text stream at the first block, `[text, width]`, from the identity tokens `[text, joint]`. The same for all steps.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input), or what ops and pager report.
    pub fn embed_text<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        tokens: View<'_>,
    ) -> Result<Tensor<B>> {
        self.trunk.embed_text(Run { queue, pager }, tokens)
    }

    /// What the control image adds to the image stream, `[image, width]`, from its packed latents `[image, in_channels]`. The same for
    /// all steps.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input), or what ops and pager report.
    pub fn embed_control<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        control: View<'_>,
    ) -> Result<Tensor<B>> {
        let rows = expect_rows("control latents", control, self.dtype(), self.config().in_channels)?;
        let out = queue.tensor(self.dtype(), &[rows, self.trunk.dims.width], "control embedding")?;
        self.control_in.run(Run { queue, pager }, Call::plain(control, out.view()))?;
        Ok(out)
    }

    /// The outputs behind every block.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) or [`Error::Value`](crate::Error::Value) with the numbers, or what ops and pager report.
    pub fn step<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &InfuseInputs<'_, B>,
    ) -> Result<InfuseOutputs<B>> {
        let run = Run { queue, pager };
        let image_rows = expect_rows("latents", inputs.latents, self.dtype(), self.config().in_channels)?;
        expect_view("control", inputs.control, self.dtype(), &[image_rows, self.trunk.dims.width])?;
        let x = self.trunk.embed(run, inputs.latents, inputs.text, Some(inputs.control))?;
        let text_rows = inputs.text.shape()[0];
        let pass = Pass { modulations: inputs.modulations, rope: inputs.rope, text_rows };
        let mut outputs = InfuseOutputs { double: Vec::new(), single: Vec::new() };
        self.trunk.blocks(run, &pass, x.view(), None, |place, image| {
            let (linear, list) = match place {
                Place::Double(block) => (&self.doubles[block], &mut outputs.double),
                Place::Single(block) => (&self.singles[block], &mut outputs.single),
            };
            let out = queue.tensor(self.dtype(), image.shape(), "infusenet output")?;
            linear.run(run, Call::plain(image, out.view()))?;
            list.push(out);
            Ok(())
        })?;
        Ok(outputs)
    }
}
