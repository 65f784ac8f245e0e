use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::UnpatchifyParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::patchify::{corner, pixel};
use crate::rows::{Rows, Volume};
use crate::tasks::for_rows;
use crate::{Queue, Result};

/// The inverse of patchify, with `multiply` and `add` applied to every value.
#[derive(Clone, Copy, Debug)]
pub struct Unpatchify<'a> {
    /// `[height / 2 * width / 2, 4 channels]`, contiguous.
    pub tokens: View<'a>,
    /// Factor.
    pub multiply: f32,
    /// Added after it.
    pub add: f32,
    /// `[channels, height, width]`, any strides (transpose a channels-last view).
    pub image: View<'a>,
}

/// `image = tokens * multiply + add`, scattered by patches of 2x2 pixels.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn unpatchify<B: Backend>(queue: &Queue<B>, args: &Unpatchify<'_>) -> Result<()> {
    let check = Check::new("unpatchify", queue);
    let (image, tokens) =
        (check.tensor("image", args.image)?, check.tensor("tokens", args.tokens)?.contiguous()?);
    let [channels, height, width] = image.extents()?;
    let dtype = image.float()?;
    check.value("height", height as f64, "even", height.is_multiple_of(2))?;
    check.value("width", width as f64, "even", width.is_multiple_of(2))?;
    tokens.is(dtype, &[height / 2 * (width / 2), 4 * channels])?;
    tokens.apart(image)?;
    check.count("tokens", height / 2 * (width / 2))?;
    check.count("columns", 4 * channels)?;
    let params = UnpatchifyParams {
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
    unsafe { launch::<B, UnpatchifyKernel<f32>, UnpatchifyKernel<bf16>>(queue, dtype, &params) }
}

struct UnpatchifyKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for UnpatchifyKernel<E> {
    type Params = UnpatchifyParams;

    const NAME: &'static str = image(E::DTYPE, "unpatchify_f32", "unpatchify_bf16");

    unsafe fn host(p: &UnpatchifyParams, workers: &Workers) {
        let (extents, strides) =
            ([p.channels, p.height, p.width], [p.channel_stride, p.row_stride, p.column_stride]);
        let (rows, columns) = (p.height / 2 * (p.width / 2), 4 * p.channels);
        // SAFETY: the caller's promise; each task writes the pixels of its own tokens.
        let image = unsafe { Volume::<E>::new(p.image, extents, strides) };
        // SAFETY: the caller's promise.
        let tokens = unsafe { Rows::<E>::new(p.tokens, rows, columns, u64::from(columns)) };
        for_rows(workers, rows as usize, columns as usize, |range| {
            for token in range {
                let corner = corner(token, p.width as usize);
                for column in 0..columns as usize {
                    let value = tokens.get(token, column).to_f32();
                    image.set(pixel(corner, column), value * p.multiply + p.add);
                }
            }
        });
    }

    fn cost(p: &UnpatchifyParams) -> Cost {
        let elements = f64::from(p.channels) * f64::from(p.height) * f64::from(p.width);
        Cost { flops: 2.0 * elements, bytes: 2.0 * elements * size_of::<E>() as f64 }
    }

    fn launches(p: &UnpatchifyParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::unpatchify::launches(p, target))
    }
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
        let ([channels, height, width], mut rng) = (shape, Rng::from_env(15));
        for dtype in DTYPES {
            let tokens = normals(&mut rng, dtype, channels * height * width, 0.0);
            let (multiply, add) = (2.7693_f32, 0.1159_f32);
            let got = on_hosts(|queue| {
                let tokens =
                    Board::new(queue, dtype, [height / 2 * (width / 2), 4 * channels], &tokens, false)?;
                let out = Board::poisoned(queue, dtype, [1, channels * height * width], false)?;
                let image = if channels_last {
                    out.shaped(&[height, width, channels]).transpose(0, 2)?.transpose(1, 2)?
                } else {
                    out.shaped(&shape)
                };
                unpatchify(queue, &Unpatchify { tokens: tokens.view(), multiply, add, image })?;
                out.read(queue)
            });
            let pixel = |index: usize| {
                let [c, y, x] = if channels_last {
                    [index % channels, index / channels / width, index / channels % width]
                } else {
                    [index / width / height, index / width % height, index % width]
                };
                f64::from(tokens[place(shape, [c, y, x])])
            };
            let exact: Vec<f64> =
                (0..tokens.len()).map(|index| pixel(index) * f64::from(multiply) + f64::from(add)).collect();
            // One product and one sum of numbers below 5 * 2.8 and 0.12.
            assert_near("unpatchify", dtype, &got, &exact, |_| 2.0 * rounding(DType::F32) * 14.2);
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
        let good = Unpatchify { image: image.view(), multiply: 1.0, add: 0.0, tokens: tokens.view() };
        unpatchify(&queue, &good).unwrap();
        let cases = [
            (Unpatchify { image: odd.view(), ..good }, "unpatchify: height is 5, should be even"),
            (
                Unpatchify { tokens: flat.view(), ..good },
                "unpatchify: tokens should be [6, 12], is F32[12, 6]",
            ),
            (
                Unpatchify { tokens: image.view().reshape(&[6, 12]).unwrap(), ..good },
                "unpatchify: tokens overlaps image, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(unpatchify(&queue, &args), message);
        }
    }
}
