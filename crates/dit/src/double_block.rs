use lighterage_device::{Backend, View};
use lighterage_ops::{ActivationKind, Modulation, Tensor};

use crate::attention::JointAttention;
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::{Dims, Loader};
use crate::modulation::Columns;
use crate::names::Side;
use crate::norm::modulated;
use crate::trunk::Pass;
use crate::views::text_and_image;
use crate::{Modulations, Result};

/// A double block: text and image each have their own weights and meet in one attention.
///
/// 12 launches: norm, two qkv, head norm and rotation, attention, two projections, norm, and two feed-forward networks of two. The linears
/// write into the rows of joint buffers, so nothing is ever concatenated.
#[derive(Debug)]
pub(crate) struct DoubleBlock {
    /// Text and image.
    sides: [Weights; 2],
    attention: JointAttention,
    dims: Dims,
}

/// The linears of one stream.
#[derive(Clone, Debug)]
struct Weights {
    qkv: LinearUnit,
    out: LinearUnit,
    up: LinearUnit,
    down: LinearUnit,
}

impl Weights {
    fn new(loader: &mut Loader<'_>, block: usize, side: Side) -> Result<Self> {
        let (names, dims) = (loader.names, loader.dims);
        Ok(Self {
            qkv: loader.linear(&names.double_qkv(block, side, dims.width), dims.width)?,
            out: loader.linear(&names.double_out(block, side, dims.width), dims.width)?,
            up: loader.linear(&names.double_up(block, side, dims.mlp), dims.width)?,
            down: loader.linear(&names.double_down(block, side, dims.width), dims.mlp)?,
        })
    }
}

/// The modulation of one stream at one step.
#[derive(Clone, Copy, Debug)]
struct Vectors<'a> {
    before_attention: Modulation<'a>,
    attention_gate: View<'a>,
    before_mlp: Modulation<'a>,
    mlp_gate: View<'a>,
}

impl<'a> Vectors<'a> {
    /// Those of the present step.
    fn new<B: Backend>(modulations: &'a Modulations<B>, columns: Columns) -> Result<Self> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = modulations.present(columns)?;
        Ok(Self {
            before_attention: Modulation { shift: shift1, scale: scale1 },
            attention_gate: gate1,
            before_mlp: Modulation { shift: shift2, scale: scale2 },
            mlp_gate: gate2,
        })
    }
}

impl DoubleBlock {
    pub(crate) fn new(loader: &mut Loader<'_>, block: usize) -> Result<Self> {
        let sides = [Weights::new(loader, block, Side::Text)?, Weights::new(loader, block, Side::Image)?];
        let label = format!("transformer_blocks.{block}.attn.norms");
        let norms = loader.norms(&label, &loader.names.double_norms(block))?;
        let dims = loader.dims;
        Ok(Self { sides, attention: JointAttention { norms, image_norms: 2, dims }, dims })
    }

    /// Updates `x`, `[tokens, width]`, in place; the columns are the modulations of text and image.
    pub(crate) fn forward<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        x: View<'_>,
        [text, image]: [Columns; 2],
    ) -> Result<()> {
        let vectors = [Vectors::new(pass.modulations, text)?, Vectors::new(pass.modulations, image)?];
        let streams = text_and_image(x, pass.text_rows)?;
        let attended = self.attend(run, pass, x, vectors.map(|vectors| vectors.before_attention))?;
        let rows = text_and_image(attended.view(), pass.text_rows)?;
        for index in [0, 1] {
            let call = Call::gated(rows[index], streams[index], vectors[index].attention_gate);
            self.sides[index].out.run(run, call)?;
        }
        drop(attended);
        let z = modulated(run, x, pass.text_rows, vectors.map(|vectors| vectors.before_mlp))?;
        let rows = text_and_image(z.view(), pass.text_rows)?;
        for index in [0, 1] {
            self.feed_forward(run, &self.sides[index], rows[index], streams[index], vectors[index].mlp_gate)?;
        }
        Ok(())
    }

    /// `[tokens, width]`: the attention's result, before the projections.
    fn attend<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        x: View<'_>,
        modulations: [Modulation<'_>; 2],
    ) -> Result<Tensor<B>> {
        let tokens = x.shape()[0];
        let z = modulated(run, x, pass.text_rows, modulations)?;
        let qkv = run.queue.tensor(self.dims.dtype, &[tokens, 3 * self.dims.width], "qkv")?;
        let inputs = text_and_image(z.view(), pass.text_rows)?;
        let outputs = text_and_image(qkv.view(), pass.text_rows)?;
        for index in [0, 1] {
            self.sides[index].qkv.run(run, Call::plain(inputs[index], outputs[index]))?;
        }
        drop(z);
        let out = run.queue.tensor(self.dims.dtype, &[tokens, self.dims.width], "attention")?;
        self.attention.run(run, pass, qkv.view(), out.view())?;
        Ok(out)
    }

    /// `stream += gate * down(gelu(up(z)))`, one stream: its hidden columns are gone before the other's are made.
    fn feed_forward<B: Backend>(
        &self,
        run: Run<'_, B>,
        weights: &Weights,
        z: View<'_>,
        stream: View<'_>,
        gate: View<'_>,
    ) -> Result<()> {
        let hidden = run.queue.tensor(self.dims.dtype, &[z.shape()[0], self.dims.mlp], "mlp hidden")?;
        weights.up.run(run, Call::activated(z, hidden.view(), ActivationKind::GeluTanh))?;
        weights.down.run(run, Call::gated(hidden.view(), stream, gate))
    }
}
