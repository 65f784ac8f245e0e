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
        let attend = if self.channels > FUSED_CHANNELS_MAX { attend_wide } else { attend };
        attend(qkv.view(), normal.view(), run)?;
        drop(qkv);
        run.pointwise(self.out, normal.view(), Some(x), x)
    }
}

/// `qkv` is `[pixels, 3 channels]`, `out` `[pixels, channels]`.
fn attend<B: Backend>(qkv: View<'_>, out: View<'_>, run: &Run<'_, B>) -> Result<()> {
    let channels = out.shape()[1];
    let part = |index: usize| qkv.narrow(1, index * channels, channels)?.split(1, 1);
    let args = lighterage_ops::Attention {
        q: part(0)?,
        k: part(1)?,
        v: part(2)?,
        out: out.split(1, 1)?,
        scale: scale(channels),
        mask: Mask::None,
    };
    Ok(attention(run.queue, &args)?)
}

/// The same for some queries at a time, in memory that depends on the number of pixels alone.
fn attend_wide<B: Backend>(qkv: View<'_>, out: View<'_>, run: &Run<'_, B>) -> Result<()> {
    let channels = out.shape()[1];
    let part = |index: usize| qkv.narrow(1, index * channels, channels);
    let keys = qkv.shape()[0];
    let queries = wide_attention_queries(keys, keys);
    // Rows of 16 bytes, which the matrix products want.
    let padded = keys.next_multiple_of(8);
    let scores = run.queue.tensor(DType::F32, &[queries, keys], "vae scores")?;
    let probabilities = run.queue.tensor(run.dtype, &[queries, padded], "vae probabilities")?;
    let values = run.queue.tensor(run.dtype, &[channels, padded], "vae values")?;
    let args = WideAttention {
        q: part(0)?,
        k: part(1)?,
        v: part(2)?,
        out,
        scale: scale(channels),
        workspace: WideWorkspace {
            scores: scores.view(),
            probabilities: probabilities.view().narrow(1, 0, keys)?,
            values: values.view().narrow(1, 0, keys)?,
        },
    };
    Ok(wide_attention(run.queue, &args)?)
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^24 channels")]
fn scale(channels: usize) -> f32 {
    (channels as f32).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lighterage_allocator::{Config, Pool};
    use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
    use lighterage_ops::Queue;
    use lighterage_pager::{Pager, Units};
    use lighterage_testkit::{Rng, assert_close};

    use super::*;

    #[test]
    fn a_head_that_goes_through_memory_attends_as_one_that_does_not() {
        const PIXELS: usize = 45;
        const CHANNELS: usize = 160;
        let device =
            Device::new(Host::new(HostConfig::default()).unwrap(), Ledger::new(1 << 28), Ledger::new(0));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let config = Config { purpose: Purpose::Activations, reserve_bytes: 1 << 28 };
        let queue = Queue::new(Pool::new(&stream, config).unwrap());
        let pager = Pager::resident(queue.stream(), Arc::new(Units::default())).unwrap();
        let values = Rng::from_env(2).normals(PIXELS * 3 * CHANNELS, 1.0);
        // Both round sums of f32 in their own order; both round probabilities and outputs to bf16, at different scales: twice 2.3e-3.
        for (dtype, bound) in [(DType::F32, 3.0e-6), (DType::Bf16, 4.6e-3)] {
            let run = Run { queue: &queue, pager: &pager, dtype, groups: 1 };
            let qkv = queue.upload_as(dtype, &values, &[PIXELS, 3 * CHANNELS], "qkv").unwrap();
            let out = queue.tensor(dtype, &[PIXELS, CHANNELS], "out").unwrap();
            let mut results = Vec::new();
            for attend in [attend, attend_wide] {
                attend(qkv.view(), out.view(), &run).unwrap();
                results.push(queue.read_f32(out.view()).unwrap().unwrap());
            }
            assert_close(&dtype.to_string(), &results[1], &results[0], bound);
        }
    }
}
