use lighterage_device::{Backend, Event, View};
use lighterage_ops::{Residual, Tensor};

use crate::double_block::DoubleBlock;
use crate::error::{expect_rows, expect_shape, expect_view};
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::{Dims, Loader};
use crate::modulation::Conditioner;
use crate::single_block::SingleBlock;
use crate::views::text_and_image;
use crate::{Config, Modulations, Result, Rope};

/// What transformer and InfuseNet share: embedders, hoisted modulation and blocks.
#[derive(Debug)]
pub(crate) struct Trunk {
    pub(crate) config: Config,
    pub(crate) dims: Dims,
    pub(crate) conditioner: Conditioner,
    image_in: LinearUnit,
    text_in: LinearUnit,
    doubles: Vec<DoubleBlock>,
    singles: Vec<SingleBlock>,
}

/// What stays the same for all blocks of one step.
#[derive(Debug)]
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) modulations: &'a Modulations<B>,
    pub(crate) rope: &'a Rope<B>,
    pub(crate) text_rows: usize,
}

/// A place behind a block, where residuals go in or come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind the double block of this index.
    Double(usize),
    /// Behind the single block of this index.
    Single(usize),
}

impl Trunk {
    /// `label` goes before the units' names; `has_last`: whether there is a modulated norm after the blocks.
    pub(crate) fn new(config: Config, loader: &mut Loader<'_>, has_last: bool) -> Result<Self> {
        let (names, dims) = (loader.names, loader.dims);
        loader.check_layers("num_layers", config.num_layers, "transformer_blocks.", "double_blocks.")?;
        let singles = ["single_transformer_blocks.", "single_blocks."];
        loader.check_layers("num_single_layers", config.num_single_layers, singles[0], singles[1])?;
        let conditioner = Conditioner::new(&config, loader, has_last)?;
        let text_in = names.whole("context_embedder", "txt_in", dims.width);
        let text_in = loader.linear(&text_in, config.joint_attention_dim)?;
        let image_in = loader.linear(&names.whole("x_embedder", "img_in", dims.width), config.in_channels)?;
        let doubles =
            (0..config.num_layers).map(|block| DoubleBlock::new(loader, block)).collect::<Result<_>>()?;
        let singles = (0..config.num_single_layers)
            .map(|block| SingleBlock::new(loader, block))
            .collect::<Result<_>>()?;
        Ok(Self { config, dims, conditioner, image_in, text_in, doubles, singles })
    }

    /// The embedder of the latents.
    pub(crate) const fn image_in(&self) -> &LinearUnit {
        &self.image_in
    }

    /// `[text, joint]` to `[text, width]`.
    pub(crate) fn embed_text<B: Backend>(&self, run: Run<'_, B>, states: View<'_>) -> Result<Tensor<B>> {
        let rows = expect_rows("text states", states, self.dims.dtype, self.config.joint_attention_dim)?;
        let out = run.queue.tensor(self.dims.dtype, &[rows, self.dims.width], "text embedding")?;
        self.text_in.run(run, Call::plain(states, out.view()))?;
        Ok(out)
    }

    /// The residual stream `[text + image, width]`: embedded text, then embedded latents, plus `control` `[image, width]` if there is one.
    pub(crate) fn embed<B: Backend>(
        &self,
        run: Run<'_, B>,
        latents: View<'_>,
        text: View<'_>,
        control: Option<View<'_>>,
    ) -> Result<Tensor<B>> {
        let image_rows = expect_rows("latents", latents, self.dims.dtype, self.config.in_channels)?;
        let text_rows = expect_rows("text", text, self.dims.dtype, self.dims.width)?;
        let x = run.queue.tensor(
            self.dims.dtype,
            &[text_rows + image_rows, self.dims.width],
            "residual stream",
        )?;
        let [text_part, image_part] = text_and_image(x.view(), text_rows)?;
        run.queue.stream().copy(text_part, text)?;
        let residual = control.map(|x| Residual { x, gate: None });
        self.image_in.run(run, Call { residual, ..Call::plain(latents, image_part) })?;
        Ok(x)
    }

    /// All blocks, in place. `after` is called with the image rows behind every block; `mark` is recorded in front of the last one.
    pub(crate) fn blocks<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        x: View<'_>,
        mark: Option<&Event<B>>,
        mut after: impl FnMut(Place, View<'_>) -> Result<()>,
    ) -> Result<()> {
        self.check_pass(pass, x)?;
        let [_, image] = text_and_image(x, pass.text_rows)?;
        let last = self.last();
        let record = |place| match mark {
            Some(event) if Some(place) == last => run.queue.stream().record(event),
            _ => Ok(()),
        };
        for (index, (block, columns)) in self.doubles.iter().zip(&pass.modulations.doubles).enumerate() {
            record(Place::Double(index))?;
            block.forward(run, pass, x, *columns)?;
            after(Place::Double(index), image)?;
        }
        for (index, (block, columns)) in self.singles.iter().zip(&pass.modulations.singles).enumerate() {
            record(Place::Single(index))?;
            block.forward(run, pass, x, *columns)?;
            after(Place::Single(index), image)?;
        }
        Ok(())
    }

    /// The last block, if there is any.
    fn last(&self) -> Option<Place> {
        let single = self.singles.len().checked_sub(1).map(Place::Single);
        single.or_else(|| self.doubles.len().checked_sub(1).map(Place::Double))
    }

    fn check_pass<B: Backend>(&self, pass: &Pass<'_, B>, x: View<'_>) -> Result<()> {
        pass.modulations.check_selected()?;
        let expected = [self.doubles.len(), self.singles.len()];
        let got = [pass.modulations.doubles.len(), pass.modulations.singles.len()];
        expect_shape("modulated double and single blocks", &got, &expected)?;
        expect_view("residual stream", x, self.dims.dtype, &[pass.rope.tokens(), self.dims.width])
    }
}
