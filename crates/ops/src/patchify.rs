use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::PatchifyParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::rows::{RowsMut, Volume};
use crate::tasks::for_rows;
use crate::{Queue, Result};

/// FLUX's packing of 2x2 patches into tokens, with `multiply` and `add` applied to every value.
#[derive(Clone, Copy, Debug)]
pub struct Patchify<'a> {
    /// `[channels, height, width]`, any strides (transpose a channels-last view).
    pub image: View<'a>,
    /// Factor.
    pub multiply: f32,
    /// Added after it.
    pub add: f32,
    /// `[height / 2 * width / 2, 4 channels]`, contiguous.
    pub tokens: View<'a>,
}

/// `tokens = image * multiply + add`, gathered by patches of 2x2 pixels.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn patchify<B: Backend>(queue: &Queue<B>, args: &Patchify<'_>) -> Result<()> {
    let check = Check::new("patchify", queue);
    let (image, tokens) =
        (check.tensor("image", args.image)?, check.tensor("tokens", args.tokens)?.contiguous()?);
    let [channels, height, width] = image.extents()?;
    let dtype = image.float()?;
    check.value("height", height as f64, "even", height.is_multiple_of(2))?;
    check.value("width", width as f64, "even", width.is_multiple_of(2))?;
    tokens.is(dtype, &[height / 2 * (width / 2), 4 * channels])?;
    image.apart(tokens)?;
    check.count("tokens", height / 2 * (width / 2))?;
    check.count("columns", 4 * channels)?;
    let params = PatchifyParams {
        image: image.address(),
        tokens: tokens.address(),
        channel_stride: image.stride(0),
        row_stride: image.stride(1),
        column_stride: image.stride(2),
        channels: check.count("channels", channels)?,
        height: check.count("height", height)?,
        width: check.count("width", width)?,
        multiply: args.multiply,
        add: args.add,
        padding: 0,
    };
    // SAFETY: both views have the extents that `params` names (checked), on this stream, and share no element.
    unsafe { launch::<B, PatchifyKernel<f32>, PatchifyKernel<bf16>>(queue, dtype, &params) }
}

struct PatchifyKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for PatchifyKernel<E> {
    type Params = PatchifyParams;

    const NAME: &'static str = image(E::DTYPE, "patchify_f32", "patchify_bf16");

    unsafe fn host(p: &PatchifyParams, workers: &Workers) {
        let (extents, strides) =
            ([p.channels, p.height, p.width], [p.channel_stride, p.row_stride, p.column_stride]);
        let (rows, columns) = (p.height / 2 * (p.width / 2), 4 * p.channels);
        // SAFETY: the caller's promise; it is only read.
        let image = unsafe { Volume::<E>::new(p.image, extents, strides) };
        // SAFETY: the caller's promise; each task writes its own tokens.
        let tokens = unsafe { RowsMut::<E>::new(p.tokens, rows, columns, u64::from(columns)) };
        for_rows(workers, rows as usize, columns as usize, |range| {
            for token in range {
                let corner = corner(token, p.width as usize);
                for column in 0..columns as usize {
                    let value = image.get(pixel(corner, column));
                    tokens.set(token, column, E::from_f32(value * p.multiply + p.add));
                }
            }
        });
    }

    fn cost(p: &PatchifyParams) -> Cost {
        let elements = f64::from(p.channels) * f64::from(p.height) * f64::from(p.width);
        Cost { flops: 2.0 * elements, bytes: 2.0 * elements * size_of::<E>() as f64 }
    }

    fn launches(p: &PatchifyParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::patchify::launches(p, target))
    }
}

/// The pixel `[y, x]` at the upper left of a token: tokens are row-major patches.
pub(crate) const fn corner(token: usize, width: usize) -> [usize; 2] {
    let patches = width / 2;
    [2 * (token / patches), 2 * (token % patches)]
}

/// `[channel, y, x]` of a column of the token at `corner`: columns are `channel * 4 + (y % 2) * 2 + x % 2`.
pub(crate) const fn pixel(corner: [usize; 2], column: usize) -> [usize; 3] {
    [column / 4, corner[0] + column / 2 % 2, corner[1] + column % 2]
}

#[cfg(test)]
mod tests {
    use lighterage_shape::DType;
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_near, assert_refused, dry, normals, on_hosts, rounding};

    /// The formula, word for word: `tokens[(y / 2) * (width / 2) + x / 2, c * 4 + (y % 2) * 2 + x % 2]` is the pixel `[c, y, x]`.
    fn place([channels, _, width]: [usize; 3], [c, y, x]: [usize; 3]) -> usize {
        ((y / 2) * (width / 2) + x / 2) * 4 * channels + c * 4 + (y % 2) * 2 + x % 2
    }

    fn check(shape: [usize; 3], channels_last: bool) {
        let ([channels, height, width], mut rng) = (shape, Rng::from_env(14));
        for dtype in DTYPES {
            let image = normals(&mut rng, dtype, channels * height * width, 0.0);
            let (multiply, add) = (0.3611_f32, -0.1159_f32);
            let got = on_hosts(|queue| {
                let image = Board::new(queue, dtype, [1, image.len()], &image, false)?;
                let tokens = Board::poisoned(queue, dtype, [height / 2 * (width / 2), 4 * channels], false)?;
                let image = if channels_last {
                    image.shaped(&[height, width, channels]).transpose(0, 2)?.transpose(1, 2)?
                } else {
                    image.shaped(&shape)
                };
                patchify(queue, &Patchify { image, multiply, add, tokens: tokens.view() })?;
                tokens.read(queue)
            });
            let mut exact = vec![f64::NAN; image.len()];
            for (index, value) in image.iter().enumerate() {
                let [c, y, x] = if channels_last {
                    [index % channels, index / channels / width, index / channels % width]
                } else {
                    [index / width / height, index / width % height, index % width]
                };
                exact[place(shape, [c, y, x])] = f64::from(*value) * f64::from(multiply) + f64::from(add);
            }
            // One product and one sum of numbers below 4 * 0.4 and 0.12.
            assert_near("patchify", dtype, &got, &exact, |_| 2.0 * rounding(DType::F32) * 2.2);
        }
    }

    #[test]
    fn any_shape_in_either_order() {
        for shape in [[1, 2, 2], [16, 8, 12], [3, 2, 6], [16, 64, 66], [4, 0, 2]] {
            check(shape, false);
            check(shape, true);
        }
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::F32, shape, "x").unwrap();
        let (image, tokens, odd, flat) =
            (tensor(&[3, 4, 6]), tensor(&[6, 12]), tensor(&[3, 5, 6]), tensor(&[12, 6]));
        let good = Patchify { image: image.view(), multiply: 1.0, add: 0.0, tokens: tokens.view() };
        patchify(&queue, &good).unwrap();
        let cases = [
            (Patchify { image: odd.view(), ..good }, "patchify: height is 5, should be even"),
            (
                Patchify { image: odd.view().transpose(1, 2).unwrap(), ..good },
                "patchify: width is 5, should be even",
            ),
            (Patchify { tokens: flat.view(), ..good }, "patchify: tokens should be [6, 12], is F32[12, 6]"),
            (
                Patchify { image: flat.view(), ..good },
                "patchify: image should have 3 dimensions, is F32[12, 6]",
            ),
            (
                Patchify { tokens: image.view().reshape(&[6, 12]).unwrap(), ..good },
                "patchify: image overlaps tokens, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(patchify(&queue, &args), message);
        }
    }
}
