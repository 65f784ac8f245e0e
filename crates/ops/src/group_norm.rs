use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::norm;
use lighterage_kernels::params::GroupNormParams;
use lighterage_shape::{DType, Float};

use crate::activation::apply;
use crate::check::{Check, Operand};
use crate::launch::{for_bf16, image, launch};
use crate::math::pairwise;
use crate::rows::{Rows, RowsMut};
use crate::tasks::{for_rows, map};
use crate::{ActivationKind, Queue, Result};

/// Group normalisation of one channels-last image, with `SiLU` after it if asked.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// `[pixels, channels]` or `[height, width, channels]`, contiguous.
    pub x: View<'a>,
    /// `[channels]`.
    pub weight: View<'a>,
    /// `[channels]`.
    pub bias: View<'a>,
    /// Divides the channels, into groups of 2048 at most.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// None or `SiLU`.
    pub activation: Option<ActivationKind>,
    /// As `x`; may be `x`.
    pub out: View<'a>,
    /// f32 `[group_norm_workspace(pixels, channels, groups)]` for statistics; overlaps nothing, undefined afterwards.
    pub workspace: View<'a>,
}

/// Numbers that [`GroupNorm::workspace`] holds for such an image: by its sizes alone.
///
/// # Panics
/// With more than 2^32 pixels or channels, which the op refuses.
#[must_use]
pub fn group_norm_workspace(pixels: usize, channels: usize, groups: usize) -> usize {
    let [pixels, channels, groups] =
        [pixels, channels, groups].map(|count| u32::try_from(count).expect("a count that fits into 32 bits"));
    norm::group_norm::workspace(pixels, channels, groups)
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
    let width = channels / args.groups;
    let most = norm::group_norm::CHANNELS_MAX as usize;
    check.value("channels of a group", width as f64, "at most 2048", width <= most)?;
    let pixels = check.count("pixels", image.rows)?;
    let (channels, groups) = (check.count("channels", channels)?, check.count("groups", args.groups)?);
    let numbers = norm::group_norm::workspace(pixels, channels, groups);
    let workspace = check.tensor("workspace", args.workspace)?.is(DType::F32, &[numbers])?.contiguous()?;
    for other in [x, out, weight, bias] {
        other.apart(workspace)?;
    }
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
        workspace: workspace.address(),
        pixels,
        channels,
        groups,
        silu,
        eps: args.eps,
        padding: 0,
    };
    if pixels == 0 || channels == 0 {
        return Ok(());
    }
    // SAFETY: the views have the extents that `params` names (checked), on this stream; x is out or apart from it, the vectors are apart, and the
    // workspace is apart from all.
    unsafe { launch::<B, GroupNormKernel<f32>, GroupNormKernel<bf16>>(queue, dtype, &params) }
}

/// Pixels whose sums make one partial sum.
const BLOCK_PIXELS: usize = 64;

struct GroupNormKernel<E>(PhantomData<E>);

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

    fn launches(p: &GroupNormParams, target: Target) -> Launches {
        for_bf16::<E>(|| norm::group_norm::launches(p, target))
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

#[cfg(test)]
mod tests {
    use lighterage_shape::DType;
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_near, assert_refused, dry, normals, on_hosts, rounding};

    /// So large that it matters beside a variance of 1.
    const EPS: f32 = 0.25;

    #[derive(Clone, Copy, Debug)]
    struct Case {
        pixels: usize,
        channels: usize,
        groups: usize,
        mean: f32,
        silu: bool,
    }

    fn check(case: Case) {
        let Case { pixels, channels, groups, mean, silu } = case;
        let (mut rng, width) = (Rng::from_env(11), channels / groups);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, pixels * channels, mean);
            let (weight, bias) =
                (normals(&mut rng, dtype, channels, 1.0), normals(&mut rng, dtype, channels, 0.0));
            let run = |in_place: bool| {
                on_hosts(|queue| {
                    let x = Board::new(queue, dtype, [pixels, channels], &x, false)?;
                    let weight = queue.upload_as(dtype, &weight, &[channels], "weight")?;
                    let bias = queue.upload_as(dtype, &bias, &[channels], "bias")?;
                    let fresh = Board::poisoned(queue, dtype, [pixels, channels], false)?;
                    let out = if in_place { &x } else { &fresh };
                    let numbers = group_norm_workspace(pixels, channels, groups);
                    let workspace = queue.tensor(DType::F32, &[numbers], "workspace")?;
                    let activation = silu.then_some(ActivationKind::Silu);
                    let (x, out_view, workspace) = (x.view(), out.view(), workspace.view());
                    let (weight, bias) = (weight.view(), bias.view());
                    let args =
                        GroupNorm { x, weight, bias, groups, eps: EPS, activation, out: out_view, workspace };
                    group_norm(queue, &args)?;
                    out.read(queue)
                })
            };
            let got = run(false);
            let (mut exact, mut bounds) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            for group in 0..groups {
                let of_group = |index: &usize| index % channels / width == group;
                let members: Vec<usize> = (0..x.len()).filter(of_group).collect();
                let count = members.len() as f64;
                let mean = members.iter().map(|i| f64::from(x[*i])).sum::<f64>() / count;
                let variance = members.iter().map(|i| (f64::from(x[*i]) - mean).powi(2)).sum::<f64>() / count;
                let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
                // A block's sum of 64 values a channel, then halvings over channels and blocks; the rest is as in layer_norm's test.
                let sum = (BLOCK_PIXELS as f64 + 30.0) * rounding(DType::F32);
                let moved =
                    sum * members.iter().map(|i| f64::from(x[*i].abs())).sum::<f64>() / count * factor;
                for i in members {
                    let (normal, weight) =
                        ((f64::from(x[i]) - mean) * factor, f64::from(weight[i % channels]));
                    let bias = f64::from(bias[i % channels]);
                    let value = normal * weight + bias;
                    let scale = (normal * weight).abs();
                    let error = moved * weight.abs()
                        + scale * (sum + moved * moved)
                        + 6.0 * rounding(DType::F32) * (scale + bias.abs());
                    // SiLU's slope is below 1.1, and it is exact to 8 units.
                    exact[i] = if silu { value / (1.0 + (-value).exp()) } else { value };
                    bounds[i] = 1.1 * error + 16.0 * rounding(DType::F32) * exact[i].abs();
                }
            }
            assert_near(&format!("{case:?}"), dtype, &got, &exact, |i| bounds[i]);
            assert_eq!(run(true), got, "in place");
        }
    }

    const PLAIN: Case = Case { pixels: 130, channels: 64, groups: 32, mean: 0.0, silu: true };

    #[test]
    fn ragged_pixels_and_groups() {
        for pixels in [1, 15, 63, 64, 65, 129] {
            check(Case { pixels, ..PLAIN });
        }
        for (channels, groups) in [(1, 1), (6, 3), (17, 17), (96, 32), (512, 32)] {
            check(Case { channels, groups, ..PLAIN });
        }
    }

    #[test]
    fn without_silu() {
        check(Case { silu: false, ..PLAIN });
    }

    #[test]
    fn large_means() {
        check(Case { mean: 40.0, pixels: 1000, ..PLAIN });
        check(Case { mean: 400.0, pixels: 1000, ..PLAIN });
    }

    #[test]
    fn an_image_is_its_pixels() {
        let x: Vec<f32> = Rng::new(12).normals(4 * 5 * 8, 1.0);
        let of = |shape: &[usize]| {
            on_hosts(|queue| {
                let (x, one) = (queue.upload(&x, shape, "x")?, queue.upload(&[1.0_f32; 8], &[8], "one")?);
                let (weight, bias) = (one.view(), one.view());
                let workspace = queue.tensor(DType::F32, &[group_norm_workspace(20, 8, 2)], "workspace")?;
                let args = GroupNorm {
                    x: x.view(),
                    weight,
                    bias,
                    groups: 2,
                    eps: EPS,
                    activation: None,
                    out: x.view(),
                    workspace: workspace.view(),
                };
                group_norm(queue, &args)?;
                Ok(queue.read_f32(x.view())?.unwrap())
            })
        };
        assert_eq!(of(&[4, 5, 8]), of(&[20, 8]));
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::F32, shape, "x").unwrap();
        let (x, weight, bias, short) = (tensor(&[4, 6]), tensor(&[6]), tensor(&[6]), tensor(&[5]));
        let (weight, bias, x) = (weight.view(), bias.view(), x.view());
        let (space, none) = (tensor(&[group_norm_workspace(4, 6, 3)]), tensor(&[0]));
        let (wide, long) = (tensor(&[1, 2049]), tensor(&[2049]));
        let (workspace, long) = (space.view(), long.view());
        let good = GroupNorm { x, weight, bias, groups: 3, eps: EPS, activation: None, out: x, workspace };
        group_norm(&queue, &good).unwrap();
        let cases = [
            (GroupNorm { groups: 4, ..good }, "group_norm: groups is 4, should be a divisor of the channels"),
            (GroupNorm { groups: 0, ..good }, "group_norm: groups is 0, should be a divisor of the channels"),
            (
                GroupNorm { x: wide.view(), weight: long, bias: long, out: wide.view(), groups: 1, ..good },
                "group_norm: channels of a group is 2049, should be at most 2048",
            ),
            (
                GroupNorm { activation: Some(ActivationKind::Gelu), ..good },
                "group_norm: activation is 2, should be none or 4, SiLU",
            ),
            (GroupNorm { workspace: none.view(), ..good }, "group_norm: workspace should be [18], is F32[0]"),
            (GroupNorm { weight: short.view(), ..good }, "group_norm: weight should be [6], is F32[5]"),
            (GroupNorm { bias: short.view(), ..good }, "group_norm: bias should be [6], is F32[5]"),
            (
                GroupNorm { x: x.narrow(1, 0, 5).unwrap(), ..good },
                "group_norm: x should be contiguous, is F32[4, 5]/[6, 1]",
            ),
            (
                GroupNorm { weight: x.rows(0, 1).unwrap().reshape(&[6]).unwrap(), ..good },
                "group_norm: weight overlaps out, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(group_norm(&queue, &args), message);
        }
    }
}
