use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::UpsampleParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{image, launch};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
use crate::{Queue, Result};

/// Nearest neighbour, twice the size.
#[derive(Clone, Copy, Debug)]
pub struct Upsample<'a> {
    /// `[height, width, channels]`, contiguous.
    pub x: View<'a>,
    /// `[2 height, 2 width, channels]`, contiguous.
    pub out: View<'a>,
}

/// `out[y, x, c] = in[y / 2, x / 2, c]`.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn upsample<B: Backend>(queue: &Queue<B>, args: &Upsample<'_>) -> Result<()> {
    let check = Check::new("upsample", queue);
    let x = check.tensor("x", args.x)?.contiguous()?;
    let [height, width, channels] = x.extents()?;
    let dtype = x.float()?;
    let out = check.tensor("out", args.out)?.is(dtype, &[2 * height, 2 * width, channels])?.contiguous()?;
    x.apart(out)?;
    check.count("pixels", 4 * height * width)?;
    let params = UpsampleParams {
        x: x.address(),
        out: out.address(),
        height: check.count("height", height)?,
        width: check.count("width", width)?,
        channels: check.count("channels", channels)?,
        padding: 0,
    };
    let grid = Grid::elements((4 * height * width * channels) as u64);
    // SAFETY: the views have the extents that `params` names (checked), on this stream, and share no element.
    unsafe { launch::<B, UpsampleKernel<f32>, UpsampleKernel<bf16>>(queue, dtype, grid, &params) }
}

struct UpsampleKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for UpsampleKernel<E> {
    type Params = UpsampleParams;

    const NAME: &'static str = image(E::DTYPE, "upsample_f32", "upsample_bf16");

    unsafe fn host(p: &UpsampleParams, workers: &Workers) {
        let (pixels, channels) = (p.height * p.width, u64::from(p.channels));
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, pixels, p.channels, channels) };
        // SAFETY: the caller's promise; each task writes its own pixels.
        let out = unsafe { RowsMut::<E>::new(p.out, 4 * pixels, p.channels, channels) };
        let width = p.width as usize;
        for_rows(workers, 4 * pixels as usize, p.channels as usize, |range| {
            for pixel in range {
                let (row, column) = (pixel / (2 * width), pixel % (2 * width));
                out.copy_row(pixel, &x, row / 2 * width + column / 2);
            }
        });
    }

    fn cost(p: &UpsampleParams) -> Cost {
        let elements = f64::from(p.height) * f64::from(p.width) * f64::from(p.channels);
        Cost { flops: 0.0, bytes: 5.0 * elements * size_of::<E>() as f64 }
    }
}
