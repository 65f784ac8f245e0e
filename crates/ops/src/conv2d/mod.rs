mod host;
#[cfg(test)]
mod tests;

use half::bf16;
use lighterage_device::{Backend, View};
use lighterage_kernels::params::Conv2dParams;
use lighterage_shape::DType;

use crate::check::Check;
use crate::{Queue, Result};
use host::Conv2dKernel;

/// Rows and columns of zeros around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Above.
    pub top: usize,
    /// Below.
    pub bottom: usize,
    /// At the left.
    pub left: usize,
    /// At the right.
    pub right: usize,
}

impl Padding {
    /// The same on every side.
    #[must_use]
    pub const fn all(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// A 1x1 or 3x3 convolution of one channels-last image.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d<'a> {
    /// `[height, width, in_channels]`, contiguous.
    pub x: View<'a>,
    /// `[out_channels, kernel, kernel, in_channels]`, contiguous.
    pub weight: View<'a>,
    /// `[out_channels]`.
    pub bias: Option<View<'a>>,
    /// 1 or 2.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
    /// As `out`; added.
    pub residual: Option<View<'a>>,
    /// `[out_height, out_width, out_channels]`, contiguous; may be the residual's view, nothing else.
    pub out: View<'a>,
}

const OP: &str = "conv2d";

/// Launches a [`Conv2d`]: `out_height = (height + top + bottom - kernel) / stride + 1`, and so the width.
///
/// All tensors have one element type, `f32` or `bf16`; sums are taken in f32, and rounded before the residual is added and
/// at the end, where the reference's separate ops round.
///
/// # Errors
/// [`Error`](crate::Error) with the numbers if a tensor's shape, element type, strides or place does not suit, if the image has no channels, if the kernel is
/// larger than the padded image or of another size than 1 or 3, if the stride is neither 1 nor 2, if a tensor belongs to another stream, or if the launch fails.
pub fn conv2d<B: Backend>(queue: &Queue<B>, args: &Conv2d<'_>) -> Result<()> {
    let params = args.params(Check::new(OP, queue))?;
    if params.out_height == 0 || params.out_width == 0 || params.out_channels == 0 {
        return Ok(());
    }
    match args.x.dtype() {
        // SAFETY: `params` found every tensor in shape, of this stream, and the output apart from the inputs; a view's memory
        // stays mapped until the work launched on it is done.
        DType::Bf16 => unsafe { queue.stream().launch::<Conv2dKernel<bf16>>(&params)? },
        // SAFETY: as above; `params` allows no third element type.
        _ => unsafe { queue.stream().launch::<Conv2dKernel<f32>>(&params)? },
    }
    Ok(())
}

impl Conv2d<'_> {
    /// Checks everything and fills the kernel's parameters.
    fn params(&self, check: Check) -> Result<Conv2dParams> {
        let out = check.tensor("out", self.out)?.contiguous()?;
        let x = check.tensor("x", self.x)?.contiguous()?.apart(out)?;
        let dtype = x.float()?;
        let [height, width, in_channels] = x.extents()?;
        let weight = check.tensor("weight", self.weight)?.contiguous()?.apart(out)?;
        let [out_channels, kernel, ..] = weight.extents::<4>()?;
        weight.is(dtype, &[out_channels, kernel, kernel, in_channels])?;
        check.value("in_channels", 0.0, "at least 1", in_channels > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "for a message")]
        check.value("kernel", kernel as f64, "1 or 3", matches!(kernel, 1 | 3))?;
        #[expect(clippy::cast_precision_loss, reason = "for a message")]
        check.value("stride", self.stride as f64, "1 or 2", matches!(self.stride, 1 | 2))?;
        let Padding { top, bottom, left, right } = self.padding;
        let out_height =
            self.extent(check, "padded height", height.saturating_add(top).saturating_add(bottom), kernel)?;
        let out_width =
            self.extent(check, "padded width", width.saturating_add(left).saturating_add(right), kernel)?;
        let out_shape = [out_height, out_width, out_channels];
        out.is(dtype, &out_shape)?;
        let bias = match self.bias {
            None => 0,
            Some(bias) => {
                check.tensor("bias", bias)?.is(dtype, &[out_channels])?.contiguous()?.apart(out)?.address()
            }
        };
        let residual = match self.residual {
            None => 0,
            Some(x) => check
                .tensor("residual", x)?
                .is(dtype, &out_shape)?
                .contiguous()?
                .same_or_apart(out)?
                .address(),
        };
        Ok(Conv2dParams {
            x: x.address(),
            weight: weight.address(),
            bias,
            residual,
            out: out.address(),
            height: check.count("height", height)?,
            width: check.count("width", width)?,
            in_channels: check.count("in_channels", in_channels)?,
            out_height: check.count("out_height", out_height)?,
            out_width: check.count("out_width", out_width)?,
            out_channels: check.count("out_channels", out_channels)?,
            kernel: check.count("kernel", kernel)?,
            stride: check.count("stride", self.stride)?,
            pad_top: check.count("padding", top)?,
            pad_left: check.count("padding", left)?,
        })
    }

    /// Outputs along one dimension of `padded` inputs.
    fn extent(&self, check: Check, name: &'static str, padded: usize, kernel: usize) -> Result<usize> {
        #[expect(clippy::cast_precision_loss, reason = "for a message")]
        check.value(name, padded as f64, "at least the kernel", padded >= kernel)?;
        Ok((padded - kernel) / self.stride + 1)
    }
}
