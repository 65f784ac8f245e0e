use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, View};
use lighterage_ops::{Modulation, Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;

use crate::error::{expect_rows, expect_shape};
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::Loader;
use crate::norm::modulated;
use crate::trunk::{Pass, Trunk};
use crate::views::{row_chunks, text_and_image};
use crate::{Conditioning, Config, Error, Modulations, Residuals, Result, Rope};

/// The FLUX transformer, dev or schnell: predicts the velocity, noise minus image, of packed latents.
///
/// It holds no weights, only the numbers of its units; the pager that it is given decides where they are.
/// One image is [`condition`](Self::condition) and [`embed_text`](Self::embed_text) once, then [`step`](Self::step) for every step.
/// These are two phases: their units are disjoint, and each phase leases its own in the same order every time.
#[derive(Debug)]
pub struct Transformer {
    trunk: Trunk,
    out: LinearUnit,
}

/// What one step needs.
#[derive(Debug)]
pub struct StepInputs<'a, B: Backend> {
    /// `[image, in_channels]`: packed latents.
    pub latents: View<'a>,
    /// `[text, width]`, contiguous: what `embed_text` gave.
    pub text: View<'a>,
    /// What `condition` gave.
    pub modulations: &'a Modulations<B>,
    /// The row of `modulations`.
    pub step: usize,
    /// Rotations of `text + image` tokens.
    pub rope: &'a Rope<B>,
    /// What a `ControlNet` adds behind the blocks.
    pub residuals: Option<Residuals<'a>>,
}

impl Transformer {
    /// Registers the model's units, in either layout of the checkpoint; `dtype` (bf16 or f32) is that of all its tensors.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Layout`]; [`Error::Checkpoint`] or [`Error::Pager`] with file, tensor and shapes if one is
    /// missing or misshapen.
    pub fn new(config: Config, checkpoint: &Checkpoint, dtype: DType, units: &mut Units) -> Result<Self> {
        let mut loader = Loader::new(&config, checkpoint, dtype, units, "")?;
        let trunk = Trunk::new(config, &mut loader, true)?;
        let out = loader.names.whole("proj_out", "final_layer.linear", trunk.config.out_channels());
        let out = loader.linear(&out, trunk.dims.width)?;
        Ok(Self { trunk, out })
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

    /// Every modulation vector of every step. The hoisted phase: each modulation linear runs once, with the steps as its rows.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Input`], or what ops and pager report.
    pub fn condition<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        conditioning: &Conditioning<'_>,
    ) -> Result<Modulations<B>> {
        self.trunk.conditioner.condition(queue, pager, conditioning)
    }

    /// The text stream at the first block, `[text, width]`, from T5's states `[text, joint]`. The same for all steps.
    ///
    /// # Errors
    /// [`Error::Input`], or what ops and pager report.
    pub fn embed_text<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        states: View<'_>,
    ) -> Result<Tensor<B>> {
        self.trunk.embed_text(Run { queue, pager }, states)
    }

    /// The velocity, `[image, out_channels]`: [`embed`](Self::embed), [`blocks`](Self::blocks), [`finish`](Self::finish).
    ///
    /// # Errors
    /// As those three.
    pub fn step<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &StepInputs<'_, B>,
    ) -> Result<Tensor<B>> {
        let x = self.embed(queue, pager, inputs)?;
        self.blocks(queue, pager, inputs, &x)?;
        let [_, image] = text_and_image(x.view(), inputs.text.shape()[0])?;
        self.finish(queue, pager, inputs, image)
    }

    /// The residual stream before the first block, `[text + image, width]`, text rows first.
    ///
    /// # Errors
    /// [`Error::Input`] or [`Error::Value`] with the numbers, or what ops and pager report.
    pub fn embed<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &StepInputs<'_, B>,
    ) -> Result<Tensor<B>> {
        self.trunk.embed(Run { queue, pager }, inputs.latents, inputs.text, None)
    }

    /// Runs all blocks on the residual stream `x`, `[text + image, width]`, in place, with the residuals.
    ///
    /// # Errors
    /// [`Error::Input`] or [`Error::Value`] with the numbers, or what ops and pager report.
    pub fn blocks<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &StepInputs<'_, B>,
        x: &Tensor<B>,
    ) -> Result<()> {
        let config = self.config();
        let text_rows = expect_rows("text", inputs.text, self.dtype(), config.width())?;
        let image_rows = expect_rows("latents", inputs.latents, self.dtype(), config.in_channels)?;
        expect_shape("residual stream", x.shape(), &[text_rows + image_rows, config.width()])?;
        if let Some(residuals) = &inputs.residuals {
            residuals.check(config, self.dtype(), image_rows)?;
        }
        let pass = Pass { modulations: inputs.modulations, step: inputs.step, rope: inputs.rope, text_rows };
        self.trunk.blocks(Run { queue, pager }, &pass, x.view(), |place, image| match &inputs.residuals {
            Some(residuals) => residuals.add(queue, config, place, image),
            None => Ok(()),
        })
    }

    /// The velocity `[image, out_channels]` from the image rows behind the last block, `[image, width]`.
    ///
    /// # Errors
    /// [`Error::Input`] or [`Error::Value`] with the numbers, or what ops and pager report.
    pub fn finish<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &StepInputs<'_, B>,
        image: View<'_>,
    ) -> Result<Tensor<B>> {
        let run = Run { queue, pager };
        let rows = expect_rows("image stream", image, self.dtype(), self.trunk.dims.width)?;
        inputs.modulations.check_step(inputs.step)?;
        let Some(modulation) = &inputs.modulations.last else {
            let needs = "those of a transformer".to_owned();
            return Err(Error::Value { name: "modulations", got: "those of an InfuseNet".to_owned(), needs });
        };
        let [shift, scale] = row_chunks(modulation.view(), inputs.step)?;
        let z = modulated(run, image, 0, [Modulation { shift, scale }; 2])?;
        let out = queue.tensor(self.dtype(), &[rows, self.config().out_channels()], "velocity")?;
        self.out.run(run, Call::plain(z.view(), out.view()))?;
        Ok(out)
    }
}
