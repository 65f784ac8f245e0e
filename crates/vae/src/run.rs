use lighterage_device::{Backend, View};
use lighterage_ops::{
    ActivationKind, Conv2d, GroupNorm, Linear, Padding, Queue, Residual, Tensor, conv2d, group_norm,
    group_norm_workspace, linear,
};
use lighterage_pager::{Pager, UnitId};
use lighterage_shape::DType;

use crate::Result;

/// diffusers writes this number into every norm of its autoencoders.
const NORM_EPS: f32 = 1e-6;

/// What every launch of a pass shares.
pub(crate) struct Run<'a, B: Backend> {
    pub(crate) queue: &'a Queue<B>,
    pub(crate) pager: &'a Pager<B>,
    pub(crate) dtype: DType,
    pub(crate) groups: usize,
}

/// How a 3x3 convolution moves over its image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Every pixel, zeros all around: the size stays.
    Every,
    /// Every other pixel, zeros below and at the right only: half the size, rounded down.
    Second,
}

impl Step {
    const fn stride(self) -> usize {
        match self {
            Self::Every => 1,
            Self::Second => 2,
        }
    }

    const fn padding(self) -> Padding {
        match self {
            Self::Every => Padding::all(1),
            Self::Second => Padding { top: 0, bottom: 1, left: 0, right: 1 },
        }
    }
}

impl<B: Backend> Run<'_, B> {
    pub(crate) fn image(&self, shape: [usize; 3], tag: &'static str) -> Result<Tensor<B>> {
        Ok(self.queue.tensor(self.dtype, &shape, tag)?)
    }

    /// Group norm; `out` may be `x`.
    pub(crate) fn norm(
        &self,
        unit: UnitId,
        x: View<'_>,
        then: Option<ActivationKind>,
        out: View<'_>,
    ) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let (weight, bias) = (lease.tensor(0), lease.tensor(1));
        let [pixels, channels] = [x.layout().elements() / weight.shape()[0], weight.shape()[0]];
        let numbers = group_norm_workspace(pixels, channels, self.groups);
        let workspace = self.queue.tensor(DType::F32, &[numbers], "vae norm statistics")?;
        let args = GroupNorm {
            x,
            weight,
            bias,
            groups: self.groups,
            eps: NORM_EPS,
            activation: then,
            out,
            workspace: workspace.view(),
        };
        Ok(group_norm(self.queue, &args)?)
    }

    /// `silu(norm(x))` in place.
    pub(crate) fn norm_silu(&self, unit: UnitId, x: &Tensor<B>) -> Result<()> {
        self.norm(unit, x.view(), Some(ActivationKind::Silu), x.view())
    }

    /// A 3x3 convolution into a new image of `out` channels.
    pub(crate) fn conv(&self, unit: UnitId, x: View<'_>, step: Step, out: usize) -> Result<Tensor<B>> {
        let [height, width] = [x.shape()[0], x.shape()[1]].map(|side| side / step.stride());
        let image = self.image([height, width, out], "vae convolution")?;
        self.convolve(unit, x, step, None, image.view())?;
        Ok(image)
    }

    /// `onto += conv(x)`.
    pub(crate) fn conv_onto(&self, unit: UnitId, x: View<'_>, onto: &Tensor<B>) -> Result<()> {
        self.convolve(unit, x, Step::Every, Some(onto.view()), onto.view())
    }

    /// A linear over pixels: `x` is `[pixels, inner]`, so are the others.
    pub(crate) fn pointwise(
        &self,
        unit: UnitId,
        x: View<'_>,
        residual: Option<View<'_>>,
        out: View<'_>,
    ) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let weight = lease.tensor(0).reshape(&[out.shape()[1], x.shape()[1]])?;
        let residual = residual.map(|x| Residual { x, gate: None });
        let args = Linear { x, weight, bias: Some(lease.tensor(1)), activation: None, residual, out };
        Ok(linear(self.queue, &args)?)
    }

    /// A linear over the pixels of an image, into a new one of `out` channels.
    pub(crate) fn pointwise_image(&self, unit: UnitId, x: View<'_>, out: usize) -> Result<Tensor<B>> {
        let image = self.image([x.shape()[0], x.shape()[1], out], "vae pointwise")?;
        self.pointwise(unit, pixels(x)?, None, pixels(image.view())?)?;
        Ok(image)
    }

    fn convolve(
        &self,
        unit: UnitId,
        x: View<'_>,
        step: Step,
        residual: Option<View<'_>>,
        out: View<'_>,
    ) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let (weight, bias) = (lease.tensor(0), Some(lease.tensor(1)));
        let args = Conv2d { x, weight, bias, stride: step.stride(), padding: step.padding(), residual, out };
        Ok(conv2d(self.queue, &args)?)
    }
}

/// `[height, width, channels]` as `[pixels, channels]`.
pub(crate) fn pixels(image: View<'_>) -> Result<View<'_>> {
    let &[height, width, channels] = image.shape() else { return Ok(image) };
    Ok(image.reshape(&[height * width, channels])?)
}
