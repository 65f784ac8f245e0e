use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, Mask, QkNormRope, QkWeights};
use lighterage_pager::UnitId;

use crate::Result;
use crate::linear::Run;
use crate::loader::Dims;
use crate::trunk::Pass;
use crate::views::column_chunks;

/// Added to the mean square of a head.
const EPS: f32 = 1e-6;

/// The attention of both kinds of block: RMSNorm of each head of q and k, rotation, attention over all tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JointAttention {
    /// Weights of the norms: q and k of the text, q and k of the image; or q and k once for both.
    pub(crate) norms: UnitId,
    /// Tensors of `norms` where the image's two begin.
    pub(crate) image_norms: usize,
    pub(crate) dims: Dims,
}

impl JointAttention {
    /// `qkv` is `[tokens, 3 width]` and its q and k are overwritten; `out` is `[tokens, width]`.
    pub(crate) fn run<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        qkv: View<'_>,
        out: View<'_>,
    ) -> Result<()> {
        let [q, k, v] = column_chunks(qkv)?;
        let heads = self.dims.heads;
        let (q, k, v) = (q.split(1, heads)?, k.split(1, heads)?, v.split(1, heads)?);
        self.normalize(run, pass, q, k)?;
        let out = out.split(1, heads)?;
        ops::attention(run.queue, &ops::Attention { q, k, v, out, scale: self.scale(), mask: Mask::None })?;
        Ok(())
    }

    fn normalize<B: Backend>(
        &self,
        run: Run<'_, B>,
        pass: &Pass<'_, B>,
        q: View<'_>,
        k: View<'_>,
    ) -> Result<()> {
        let lease = run.pager.lease(self.norms)?;
        let pair = |first| QkWeights { q: lease.tensor(first), k: lease.tensor(first + 1) };
        ops::qk_norm_rope(
            run.queue,
            &QkNormRope {
                q,
                k,
                split: pass.text_rows,
                first: pair(0),
                second: pair(self.image_norms),
                cos: pass.rope.cos.view(),
                sin: pass.rope.sin.view(),
                eps: EPS,
            },
        )?;
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "rounded to f32 on purpose"
    )]
    fn scale(&self) -> f32 {
        (1.0 / (self.dims.head as f64).sqrt()) as f32
    }
}
