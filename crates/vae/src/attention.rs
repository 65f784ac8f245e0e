use lighterage_device::{Backend, View};
use lighterage_ops::{
    Mask, Tensor, WideAttention, WideWorkspace, attention, wide_attention, wide_attention_queries,
};
use lighterage_pager::UnitId;
use lighterage_shape::DType;

use crate::Result;
use crate::names::Names;
use crate::registry::Registry;
use crate::run::{Run, pixels};

/// A wider head than this goes through memory as matrix products: no kernel holds 512 columns of a tile in registers.
const FUSED_CHANNELS_MAX: usize = 128;

/// The middle's self-attention over all pixels: one head, as wide as the channels.
#[derive(Debug)]
pub(crate) struct Attention {
    channels: usize,
    norm: UnitId,
    qkv: UnitId,
    out: UnitId,
}

impl Attention {
    pub(crate) fn new(names: Names, channels: usize, registry: &mut Registry<'_>) -> Result<Self> {
        let names = names.attention();
        let unit = format!("{}+k+v", names.qkv[0]);
        Ok(Self {
            channels,
            norm: registry.norm(&names.norm, channels)?,
            qkv: registry.qkv(&unit, &names.qkv, channels)?,
            out: registry.pointwise(&names.out, channels, channels)?,
        })
    }

    /// `x + out(attention(norm x))`, in place.
    pub(crate) fn forward<B: Backend>(&self, x: &Tensor<B>, run: &Run<'_, B>) -> Result<()> {
        let x = pixels(x.view())?;
        let normal = run.queue.tensor(run.dtype, x.shape(), "vae normalised")?;
        run.norm(self.norm, x, None, normal.view())?;
        let qkv = run.queue.tensor(run.dtype, &[x.shape()[0], 3 * self.channels], "vae qkv")?;
        run.pointwise(self.qkv, normal.view(), None, qkv.view())?;
        if self.channels > FUSED_CHANNELS_MAX {
            self.attend_wide(qkv.view(), normal.view(), run)?;
        } else {
            self.attend(qkv.view(), normal.view(), run)?;
        }
        drop(qkv);
        run.pointwise(self.out, normal.view(), Some(x), x)
    }

    /// `qkv` is `[pixels, 3 channels]`, `out` `[pixels, channels]`.
    fn attend<B: Backend>(&self, qkv: View<'_>, out: View<'_>, run: &Run<'_, B>) -> Result<()> {
        let part = |index: usize| qkv.narrow(1, index * self.channels, self.channels)?.split(1, 1);
        let args = lighterage_ops::Attention {
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out: out.split(1, 1)?,
            scale: self.scale(),
            mask: Mask::None,
        };
        Ok(attention(run.queue, &args)?)
    }

    /// The same for some queries at a time, in memory that depends on the number of pixels alone.
    fn attend_wide<B: Backend>(&self, qkv: View<'_>, out: View<'_>, run: &Run<'_, B>) -> Result<()> {
        let part = |index: usize| qkv.narrow(1, index * self.channels, self.channels);
        let keys = qkv.shape()[0];
        let queries = wide_attention_queries(keys, keys);
        // Rows of 16 bytes, which the matrix products want.
        let padded = keys.next_multiple_of(8);
        let scores = run.queue.tensor(DType::F32, &[queries, keys], "vae scores")?;
        let probabilities = run.queue.tensor(run.dtype, &[queries, padded], "vae probabilities")?;
        let values = run.queue.tensor(run.dtype, &[self.channels, padded], "vae values")?;
        let args = WideAttention {
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out,
            scale: self.scale(),
            workspace: WideWorkspace {
                scores: scores.view(),
                probabilities: probabilities.view().narrow(1, 0, keys)?,
                values: values.view().narrow(1, 0, keys)?,
            },
        };
        Ok(wide_attention(run.queue, &args)?)
    }

    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^24 channels")]
    fn scale(&self) -> f32 {
        (self.channels as f32).sqrt().recip()
    }
}
