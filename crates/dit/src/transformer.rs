use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, Event, View};
use lighterage_ops::{Modulation, Queue, Tensor};
use lighterage_pager::{Pager, UnitId, Units};
use lighterage_shape::DType;

use crate::error::{expect_rows, expect_shape};
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::Loader;
use crate::norm::modulated;
use crate::trunk::{Pass, Trunk};
use crate::views::text_and_image;
use crate::{Adapters, Conditioning, Config, Error, Modulations, Residuals, Result, Rope};

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
    /// What `condition` gave, with the step [selected](Modulations::select).
    pub modulations: &'a Modulations<B>,
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
        Self::adapted(config, checkpoint, None, dtype, units)
    }

    /// The same with low-rank changes to its linears.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Adapter`] if one does not fit the model.
    pub fn adapted(
        config: Config,
        checkpoint: &Checkpoint,
        adapters: Option<&Adapters>,
        dtype: DType,
        units: &mut Units,
    ) -> Result<Self> {
        let mut loader = Loader::new(&config, checkpoint, dtype, units, "")?.adapted(adapters);
        let trunk = Trunk::new(config, &mut loader, true)?;
        let out = loader.names.whole("proj_out", "final_layer.linear", trunk.config.out_channels());
        let out = loader.linear(&out, trunk.dims.width)?;
        loader.check_adapters()?;
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

    /// The units that a step reads outside of its blocks, in [`embed`](Self::embed) and [`finish`](Self::finish): all that is left of a step whose blocks are
    /// skipped. They may be leased from a pager of their own, so that the blocks' pager sees whole cycles only.
    #[must_use]
    pub fn edges(&self) -> Vec<UnitId> {
        self.trunk.image_in().units().chain(self.out.units()).collect()
    }

    /// What the first double block's attention reads of the image rows, `[image, width]`: the norm of `x`, `[text + image, width]`, under the modulation
    /// of this step. `TeaCache` compares it from step to step.
    ///
    /// # Errors
    /// [`Error::Value`] for a model without double blocks; [`Error::Input`], or what ops report.
    pub fn first_input<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &StepInputs<'_, B>,
        x: &Tensor<B>,
    ) -> Result<Tensor<B>> {
        inputs.modulations.check_selected()?;
        let Some([_, columns]) = inputs.modulations.doubles.first() else {
            let needs = "at least 1: the first one's input is compared".to_owned();
            return Err(Error::Value { name: "num_layers", got: "0".to_owned(), needs });
        };
        let text_rows = expect_rows("text", inputs.text, self.dtype(), self.config().width())?;
        let [_, image] = text_and_image(x.view(), text_rows)?;
        let [shift, scale, ..] = inputs.modulations.present::<6>(*columns)?;
        modulated(Run { queue, pager }, image, 0, [Modulation { shift, scale }; 2])
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
        self.blocks_marked(queue, pager, inputs, x, None)
    }

    /// The same, with `mark` recorded on the queue's stream in front of the last block (nowhere, if there are none): who waits for it knows that the
    /// step is nearly done, early enough to queue the next one before the device runs dry.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn blocks_marked<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        inputs: &StepInputs<'_, B>,
        x: &Tensor<B>,
        mark: Option<&Event<B>>,
    ) -> Result<()> {
        let config = self.config();
        let text_rows = expect_rows("text", inputs.text, self.dtype(), config.width())?;
        let image_rows = expect_rows("latents", inputs.latents, self.dtype(), config.in_channels)?;
        expect_shape("residual stream", x.shape(), &[text_rows + image_rows, config.width()])?;
        if let Some(residuals) = &inputs.residuals {
            residuals.check(config, self.dtype(), image_rows)?;
        }
        let pass = Pass { modulations: inputs.modulations, rope: inputs.rope, text_rows };
        self.trunk.blocks(Run { queue, pager }, &pass, x.view(), mark, |place, image| {
            match &inputs.residuals {
                Some(residuals) => residuals.add(queue, config, place, image),
                None => Ok(()),
            }
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
        inputs.modulations.check_selected()?;
        let Some(columns) = inputs.modulations.last else {
            let needs = "those of a transformer".to_owned();
            return Err(Error::Value { name: "modulations", got: "those of an InfuseNet".to_owned(), needs });
        };
        let [shift, scale] = inputs.modulations.present(columns)?;
        let z = modulated(run, image, 0, [Modulation { shift, scale }; 2])?;
        let out = queue.tensor(self.dtype(), &[rows, self.config().out_channels()], "velocity")?;
        self.out.run(run, Call::plain(z.view(), out.view()))?;
        Ok(out)
    }
}
