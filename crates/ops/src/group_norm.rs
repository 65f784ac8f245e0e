use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::GroupNormParams;
use lighterage_shape::Float;

use crate::activation::apply;
use crate::check::{Check, Operand};
use crate::launch::{image, launch};
use crate::math::pairwise;
use crate::rows::{Rows, RowsMut};
use crate::tasks::{for_rows, map};
use crate::{ActivationKind, Queue, Result};

/// Group normalisation of one channels-last image, with SiLU after it if asked.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// `[pixels, channels]` or `[height, width, channels]`, contiguous.
    pub x: View<'a>,
    /// `[channels]`.
    pub weight: View<'a>,
    /// `[channels]`.
    pub bias: View<'a>,
    /// Divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// None or SiLU.
    pub activation: Option<ActivationKind>,
    /// As `x`; may be `x`.
    pub out: View<'a>,
}

/// `out = act((x - mean_g) * rsqrt(var_g + eps) * weight + bias)`, statistics of each group of channels over all pixels, in f32.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn group_norm<B: Backend>(queue: &Queue<B>, args: &GroupNorm<'_>) -> Result<()> {
    let check = Check::new("group_norm", queue);
    let (x, out) = (check.tensor("x", args.x)?.contiguous()?, check.tensor("out", args.out)?.contiguous()?);
    let dtype = x.float()?;
    let image = x.matrix()?;
    let channels = image.columns;
    out.is(dtype, args.x.shape())?;
    x.same_or_apart(out)?;
    let vector = |name, view| -> Result<Operand<'_>> {
        check.tensor(name, view)?.is(dtype, &[channels])?.contiguous()?.apart(out)
    };
    let (weight, bias) = (vector("weight", args.weight)?, vector("bias", args.bias)?);
    let divides = args.groups > 0 && channels.is_multiple_of(args.groups);
    check.value("groups", args.groups as f64, "a divisor of the channels", divides)?;
    let silu = match args.activation {
        None => 0,
        Some(ActivationKind::Silu) => 1,
        Some(other) => return Err(check.refused("activation", f64::from(other.code()), "none or 4, SiLU")),
    };
    let params = GroupNormParams {
        x: x.address(),
        weight: weight.address(),
        bias: bias.address(),
        out: out.address(),
        pixels: check.count("pixels", image.rows)?,
        channels: check.count("channels", channels)?,
        groups: check.count("groups", args.groups)?,
        silu,
        eps: args.eps,
        padding: 0,
    };
    let grid = Grid::warps(params.pixels);
    // SAFETY: the views have the extents that `params` names (checked), on this stream; x is out or apart from it, the vectors are apart.
    unsafe { launch::<B, GroupNormKernel<f32>, GroupNormKernel<bf16>>(queue, dtype, grid, &params) }
}

/// Pixels whose sums make one partial sum.
const BLOCK_PIXELS: usize = 64;

pub(crate) struct GroupNormKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for GroupNormKernel<E> {
    type Params = GroupNormParams;

    const NAME: &'static str = image(E::DTYPE, "group_norm_f32", "group_norm_bf16");

    unsafe fn host(p: &GroupNormParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, p.pixels, p.channels, u64::from(p.channels)) };
        // SAFETY: the caller's promise.
        let weight = unsafe { Rows::<E>::vector(p.weight, p.channels) }.to_vec(0);
        // SAFETY: the caller's promise.
        let bias = unsafe { Rows::<E>::vector(p.bias, p.channels) }.to_vec(0);
        // SAFETY: the caller's promise; a task stores the pixels that it has loaded, and statistics are done before.
        let out = unsafe { RowsMut::<E>::new(p.out, p.pixels, p.channels, u64::from(p.channels)) };
        let channels = p.channels as usize;
        let means = group_means(
            p,
            &x,
            workers,
            &vec![0.0; channels],
            #[inline(always)]
            |value| value,
        );
        let variances = group_means(
            p,
            &x,
            workers,
            &means,
            #[inline(always)]
            |value| value * value,
        );
        let factors: Vec<f32> = variances
            .iter()
            .zip(&weight)
            .map(|(variance, weight)| weight / (variance + p.eps).sqrt())
            .collect();
        for_rows(
            workers,
            p.pixels as usize,
            channels,
            #[inline(always)]
            |range| {
                let mut values = vec![0.0; channels];
                for pixel in range {
                    x.load(pixel, 0, &mut values);
                    for (((value, mean), factor), bias) in
                        values.iter_mut().zip(&means).zip(&factors).zip(&bias)
                    {
                        *value = (*value - mean) * factor + bias;
                    }
                    apply(4 * p.silu, &mut values);
                    out.store(pixel, 0, &values);
                }
            },
        );
    }

    fn cost(p: &GroupNormParams) -> Cost {
        let (elements, bytes) = (f64::from(p.pixels) * f64::from(p.channels), size_of::<E>() as f64);
        let flops = elements * (8.0 + 16.0 * f64::from(p.silu));
        Cost { flops, bytes: (2.0 * elements + 2.0 * f64::from(p.channels)) * bytes }
    }
}

/// For each channel the mean of `term(x - center)` over its group: partial sums of fixed blocks of pixels, added by halves.
fn group_means<E: Float>(
    p: &GroupNormParams,
    x: &Rows<'_, E>,
    workers: &Workers,
    center: &[f32],
    term: impl Fn(f32) -> f32 + Send + Sync,
) -> Vec<f32> {
    let (pixels, channels, groups) = (p.pixels as usize, p.channels as usize, p.groups as usize);
    let partials = map(
        workers,
        pixels.div_ceil(BLOCK_PIXELS),
        #[inline(always)]
        |block| {
            let (mut sums, mut values) = (vec![0.0_f32; channels], vec![0.0; channels]);
            for pixel in block * BLOCK_PIXELS..((block + 1) * BLOCK_PIXELS).min(pixels) {
                x.load(pixel, 0, &mut values);
                for ((sum, value), center) in sums.iter_mut().zip(&values).zip(center) {
                    *sum += term(value - center);
                }
            }
            sums
        },
    );
    let width = channels / groups;
    let count = (pixels * width) as f32;
    let mean = |group: usize| {
        let sums: Vec<f32> =
            partials.iter().map(|sums| pairwise(&sums[group * width..(group + 1) * width])).collect();
        pairwise(&sums) / count
    };
    (0..groups).flat_map(|group| std::iter::repeat_n(mean(group), width)).collect()
}
