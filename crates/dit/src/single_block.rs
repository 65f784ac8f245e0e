use lighterage_device::{Backend, View};
use lighterage_ops::{ActivationKind, Modulation, Tensor};

use crate::Result;
use crate::attention::JointAttention;
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::{Dims, Loader};
use crate::modulation::Columns;
use crate::norm::modulated;
use crate::trunk::Pass;

/// A single block: one set of weights for all tokens, attention and feed-forward network side by side.
///
/// 6 launches: norm, qkv, MLP, head norm and rotation, attention, output. Attention and MLP write the columns of one buffer
/// `[tokens, width + mlp]`, attention first, which the output linear reads whole.
#[derive(Debug)]
pub(crate) struct SingleBlock {
    qkv: LinearUnit,
    mlp: LinearUnit,
    out: LinearUnit,
    attention: JointAttention,
    dims: Dims,
}

impl SingleBlock {
    pub(crate) fn new(loader: &mut Loader<'_>, block: usize) -> Result<Self> {
        let (names, dims) = (loader.names, loader.dims);
        let qkv = loader.linear(&names.single_qkv(block, dims.width, dims.mlp), dims.width)?;
        let mlp = loader.linear(&names.single_mlp(block, dims.width, dims.mlp), dims.width)?;
        let out = loader.linear(&names.single_out(block, dims.width), dims.width + dims.mlp)?;
        let label = format!("single_transformer_blocks.{block}.attn.norms");
        let norms = loader.norms(&label, &names.single_norms(block))?;
        Ok(Self { qkv, mlp, out, attention: JointAttention { norms, image_norms: 0, dims }, dims })
    }

    /// Updates `x`, `[tokens, width]`, in place.
    pub(crate) fn forward<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        x: View<'_>,
        columns: Columns,
    ) -> Result<()> {
        let [shift, scale, gate] = pass.modulations.present(columns)?;
        let joined = self.attend_and_expand(run, pass, x, Modulation { shift, scale })?;
        self.out.run(run, Call::gated(joined.view(), x, gate))
    }

    /// `[tokens, width + mlp]`: attention, then GELU of the MLP's columns.
    fn attend_and_expand<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        x: View<'_>,
        modulation: Modulation<'_>,
    ) -> Result<Tensor<B>> {
        let Dims { dtype, width, mlp, .. } = self.dims;
        let tokens = x.shape()[0];
        let z = modulated(run, x, pass.text_rows, [modulation; 2])?;
        let joined = run.queue.tensor(dtype, &[tokens, width + mlp], "attention and mlp")?;
        let hidden = joined.view().narrow(1, width, mlp)?;
        self.mlp.run(run, Call::activated(z.view(), hidden, ActivationKind::GeluTanh))?;
        let qkv = run.queue.tensor(dtype, &[tokens, 3 * width], "qkv")?;
        self.qkv.run(run, Call::plain(z.view(), qkv.view()))?;
        drop(z);
        self.attention.run(run, pass, qkv.view(), joined.view().narrow(1, 0, width)?)?;
        Ok(joined)
    }
}
