use lighterage_device::{Backend, View};
use lighterage_ops::{Mask, Tensor, attention};
use lighterage_pager::UnitId;

use crate::Result;
use crate::names::Names;
use crate::registry::Registry;
use crate::run::{Run, pixels};

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
        self.attend(qkv.view(), normal.view(), run)?;
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
            #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^24 channels")]
            scale: (self.channels as f32).sqrt().recip(),
            mask: Mask::None,
        };
        Ok(attention(run.queue, &args)?)
    }
}
