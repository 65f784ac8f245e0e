use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, Modulation, NormMod, Tensor};

use crate::Result;
use crate::linear::Run;

/// Added to the variance of a row.
const EPS: f32 = 1e-6;

/// `LayerNorm(x) * (1 + scale) + shift` as a tensor of its own, `[rows, width]`: rows below `text_rows` with the first modulation, the others with
/// the second, in one launch.
pub(crate) fn modulated<B: Backend>(
    run: Run<'_, B>,
    x: View<'_>,
    text_rows: usize,
    [first, second]: [Modulation<'_>; 2],
) -> Result<Tensor<B>> {
    let out = run.queue.tensor(x.dtype(), x.shape(), "modulated")?;
    ops::norm_mod(
        run.queue,
        &NormMod { x, out: out.view(), update: None, split: text_rows, first, second, eps: EPS },
    )?;
    Ok(out)
}
