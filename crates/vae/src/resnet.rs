use lighterage_device::Backend;
use lighterage_ops::{ActivationKind, Tensor};
use lighterage_pager::UnitId;

use crate::Result;
use crate::registry::Registry;
use crate::run::{Run, Step};

/// `skip(x) + conv2(silu(norm2(conv1(silu(norm1 x)))))`; skip is a linear over pixels where the channels change.
#[derive(Debug)]
pub(crate) struct Resnet {
    out: usize,
    shortcut: Option<UnitId>,
    norm1: UnitId,
    conv1: UnitId,
    norm2: UnitId,
    conv2: UnitId,
}

impl Resnet {
    pub(crate) fn new(
        name: &str,
        shortcut: &str,
        inner: usize,
        out: usize,
        registry: &mut Registry<'_>,
    ) -> Result<Self> {
        let shortcut = match inner == out {
            true => None,
            false => Some(registry.pointwise(&format!("{name}.{shortcut}"), out, inner)?),
        };
        Ok(Self {
            out,
            shortcut,
            norm1: registry.norm(&format!("{name}.norm1"), inner)?,
            conv1: registry.conv(&format!("{name}.conv1"), out, inner)?,
            norm2: registry.norm(&format!("{name}.norm2"), out)?,
            conv2: registry.conv(&format!("{name}.conv2"), out, out)?,
        })
    }

    pub(crate) fn forward<B: Backend>(&self, x: Tensor<B>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let (skip, normal) = self.split(x, run)?;
        let inner = run.conv(self.conv1, normal.view(), Step::Every, self.out)?;
        drop(normal);
        run.norm_silu(self.norm2, &inner)?;
        run.conv_onto(self.conv2, inner.view(), &skip)?;
        Ok(skip)
    }

    /// The skip path and `silu(norm1 x)`. One of the two takes over the memory of x.
    fn split<B: Backend>(&self, x: Tensor<B>, run: &Run<'_, B>) -> Result<(Tensor<B>, Tensor<B>)> {
        if let Some(shortcut) = self.shortcut {
            let skip = run.pointwise_image(shortcut, x.view(), self.out)?;
            run.norm_silu(self.norm1, &x)?;
            return Ok((skip, x));
        }
        let normal = run.queue.tensor(x.dtype(), x.shape(), "vae normalised")?;
        run.norm(self.norm1, x.view(), Some(ActivationKind::Silu), normal.view())?;
        Ok((x, normal))
    }
}
