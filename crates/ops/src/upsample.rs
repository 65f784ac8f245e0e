use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::conv;
use lighterage_kernels::params::UpsampleParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
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
    // SAFETY: the views have the extents that `params` names (checked), on this stream, and share no element.
    unsafe { launch::<B, UpsampleKernel<f32>, UpsampleKernel<bf16>>(queue, dtype, &params) }
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

    fn launches(p: &UpsampleParams, target: Target) -> Launches {
        for_bf16::<E>(|| conv::upsample::launches(p, target))
    }
}

#[cfg(test)]
mod tests {
    use lighterage_shape::DType;
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_refused, dry, normals, on_hosts};

    fn check([height, width, channels]: [usize; 3]) {
        let mut rng = Rng::from_env(16);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, height * width * channels, 0.0);
            let got = on_hosts(|queue| {
                let x = Board::new(queue, dtype, [height * width, channels], &x, false)?;
                let out = Board::poisoned(queue, dtype, [4 * height * width, channels], false)?;
                let (x, image) = (x.shaped(&[height, width, channels]), [2 * height, 2 * width, channels]);
                upsample(queue, &Upsample { x, out: out.shaped(&image) })?;
                out.read(queue)
            });
            let source = |index: usize| {
                let (y, x) = (index / channels / (2 * width), index / channels % (2 * width));
                ((y / 2) * width + x / 2) * channels + index % channels
            };
            let expected: Vec<f32> = (0..got.len()).map(|index| x[source(index)]).collect();
            assert_eq!(got, expected, "{dtype}");
        }
    }

    #[test]
    fn any_shape() {
        for shape in [[1, 1, 1], [3, 5, 17], [33, 40, 32], [0, 4, 8]] {
            check(shape);
        }
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::F32, shape, "x").unwrap();
        let (x, out) = (tensor(&[2, 3, 4]), tensor(&[4, 6, 4]));
        let good = Upsample { x: x.view(), out: out.view() };
        upsample(&queue, &good).unwrap();
        let cases = [
            (Upsample { out: x.view(), ..good }, "upsample: out should be [4, 6, 4], is F32[2, 3, 4]"),
            (
                Upsample { x: out.view().reshape(&[24, 4]).unwrap(), ..good },
                "upsample: x should have 3 dimensions, is F32[24, 4]",
            ),
            (
                Upsample {
                    x: out
                        .view()
                        .reshape(&[96])
                        .unwrap()
                        .narrow(0, 0, 24)
                        .unwrap()
                        .reshape(&[2, 3, 4])
                        .unwrap(),
                    ..good
                },
                "upsample: x overlaps out, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(upsample(&queue, &args), message);
        }
    }
}
