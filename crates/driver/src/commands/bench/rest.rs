//! The kernels beside the products, attention and the norms of the blocks: each at the largest shape that FLUX.1-dev, its encoders or its
//! decoder give it at 1024 x 1024.

use lighterage_device::Backend;
use lighterage_ops::{
    Activation, ActivationKind, Add, Cast, Conv2d, Embedding, EulerStep, Geglu, GroupNorm, LayerNorm,
    MeanAbsDiff, Padding, Patchify, RmsNorm, Sinusoid, Softmax, Tensor, Transpose, Unpatchify, Upsample,
    activation, add, cast, conv2d, embedding, euler_step, geglu, group_norm, group_norm_workspace,
    layer_norm, mean_abs_diff, mean_abs_diff_workspace, patchify, rms_norm, sinusoid, softmax, transpose,
    unpatchify, upsample,
};
use lighterage_shape::DType;

use super::kernels::{Bench, WIDTH};
use crate::failure::Result;

/// How large the shapes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Rows of a token each, text and picture.
    pub(super) tokens: usize,
    /// Rows of the text alone.
    pub(super) text: usize,
    /// Pixels on a side of the decoder's second largest level, even.
    pub(super) side: usize,
}

/// What one call computes and moves, counted from its shapes, and how long it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) flops: f64,
    pub(super) bytes: f64,
    pub(super) seconds: f64,
}

/// A kernel's name, as its files have it, and its bench.
pub(super) type Entry<B> = (&'static str, fn(&Bench<B>, Sizes) -> Result<Measured>);

/// Channels of the decoder at that level.
const CHANNELS: usize = 256;
/// Width of T5, and of its MLP.
const T5: (usize, usize) = (4096, 10_240);
/// Width of CLIP.
const CLIP: usize = 768;

pub(super) fn entries<B: Backend>() -> Vec<Entry<B>> {
    vec![
        ("rms_norm", |bench, sizes| {
            let weight = bench.tensor(&[T5.0])?;
            bench.unary(&[sizes.text, T5.0], &[sizes.text, T5.0], |x, out| {
                let args = RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, out: out.view() };
                Ok(rms_norm(&bench.queue, &args)?)
            })
        }),
        ("layer_norm", |bench, sizes| {
            let (weight, bias) = (bench.tensor(&[CLIP])?, bench.tensor(&[CLIP])?);
            bench.unary(&[sizes.text, CLIP], &[sizes.text, CLIP], |x, out| {
                let (weight, bias) = (weight.view(), bias.view());
                let args = LayerNorm { x: x.view(), weight, bias, eps: 1e-5, out: out.view() };
                Ok(layer_norm(&bench.queue, &args)?)
            })
        }),
        ("group_norm", group_norm_of),
        ("softmax", |bench, sizes| {
            let columns = sizes.side * sizes.side / 16;
            bench.unary(&[sizes.text, columns], &[sizes.text, columns], |x, out| {
                Ok(softmax(&bench.queue, &Softmax { x: x.view(), scale: 0.044, out: out.view() })?)
            })
        }),
        ("conv2d", conv2d_of),
        ("upsample", |bench, Sizes { side, .. }| {
            bench.unary(&[side / 2, side / 2, CHANNELS], &[side, side, CHANNELS], |x, out| {
                Ok(upsample(&bench.queue, &Upsample { x: x.view(), out: out.view() })?)
            })
        }),
        ("transpose", |bench, Sizes { tokens, .. }| {
            bench.unary(&[tokens, 512], &[512, tokens], |x, out| {
                Ok(transpose(&bench.queue, &Transpose { x: x.view(), out: out.view() })?)
            })
        }),
        ("geglu", |bench, Sizes { text, .. }| {
            bench.unary(&[text, 2 * T5.1], &[text, T5.1], |x, out| {
                Ok(geglu(&bench.queue, &Geglu { x: x.view(), out: out.view() })?)
            })
        }),
        ("activation", |bench, Sizes { tokens, .. }| {
            bench.unary(&[tokens, 4 * WIDTH], &[tokens, 4 * WIDTH], |x, out| {
                let kind = ActivationKind::GeluTanh;
                Ok(activation(&bench.queue, &Activation { x: x.view(), kind, out: out.view() })?)
            })
        }),
        ("add", |bench, Sizes { tokens, .. }| {
            let b = bench.sets(&[tokens, WIDTH])?;
            let mut measured = bench.unary(&[tokens, WIDTH], &[tokens, WIDTH], |x, out| {
                let args = Add { a: x.view(), b: b[0].view(), scale: 0.5, out: out.view() };
                Ok(add(&bench.queue, &args)?)
            })?;
            measured.bytes *= 1.5;
            Ok(measured)
        }),
        ("cast", |bench, Sizes { tokens, .. }| {
            let x = bench.queue.zeros(DType::F32, &[tokens, WIDTH], "bench")?;
            let out = bench.sets(&[tokens, WIDTH])?;
            let seconds = bench
                .timed(&out[0], |set| Ok(cast(&bench.queue, &Cast { x: x.view(), out: out[set].view() })?))?;
            Ok(Measured { flops: 0.0, bytes: 6.0 * (tokens * WIDTH) as f64, seconds })
        }),
        ("embedding", embedding_of),
        ("sinusoid", |bench, Sizes { text, .. }| {
            let values: Vec<f32> = (0..text).map(|step| 1000.0 / (1.0 + step as f32)).collect();
            let values = bench.queue.upload(&values, &[text], "bench")?;
            let out = bench.sets(&[text, 256])?;
            let seconds = bench.timed(&out[0], |set| {
                let args = Sinusoid { values: values.view(), out: out[set].view() };
                Ok(sinusoid(&bench.queue, &args)?)
            })?;
            Ok(Measured { flops: 0.0, bytes: (text * (4 + 2 * 256)) as f64, seconds })
        }),
        ("patchify", |bench, Sizes { side, .. }| {
            bench.unary(&[16, side / 4, side / 4], &[side * side / 64, 64], |image, tokens| {
                let (image, tokens) = (image.view(), tokens.view());
                Ok(patchify(&bench.queue, &Patchify { image, multiply: 0.5, add: 0.1, tokens })?)
            })
        }),
        ("unpatchify", |bench, Sizes { side, .. }| {
            bench.unary(&[side * side / 64, 64], &[16, side / 4, side / 4], |tokens, image| {
                let (tokens, image) = (tokens.view(), image.view());
                Ok(unpatchify(&bench.queue, &Unpatchify { tokens, multiply: 0.5, add: 0.1, image })?)
            })
        }),
        ("euler_step", |bench, Sizes { side, .. }| {
            let shape = [side * side / 64, 64];
            // In place: what is written is read too.
            let mut measured = bench.unary(&shape, &shape, |velocity, x| {
                let args = EulerStep { x: x.view(), velocity: velocity.view(), delta: -0.02 };
                Ok(euler_step(&bench.queue, &args)?)
            })?;
            measured.bytes *= 1.5;
            Ok(measured)
        }),
        ("mean_abs_diff", mean_abs_diff_of),
    ]
}

fn group_norm_of<B: Backend>(bench: &Bench<B>, Sizes { side, .. }: Sizes) -> Result<Measured> {
    let (weight, bias) = (bench.tensor(&[CHANNELS])?, bench.tensor(&[CHANNELS])?);
    let numbers = group_norm_workspace(side * side, CHANNELS, 32);
    let workspace = bench.queue.tensor(DType::F32, &[numbers], "bench")?;
    let shape = [side * side, CHANNELS];
    let mut measured = bench.unary(&shape, &shape, |x, out| {
        let args = GroupNorm {
            x: x.view(),
            weight: weight.view(),
            bias: bias.view(),
            groups: 32,
            eps: 1e-6,
            activation: Some(ActivationKind::Silu),
            out: out.view(),
            workspace: workspace.view(),
        };
        Ok(group_norm(&bench.queue, &args)?)
    })?;
    // Read for the statistics, read again to apply them, written once.
    measured.bytes *= 1.5;
    Ok(measured)
}

fn conv2d_of<B: Backend>(bench: &Bench<B>, Sizes { side, .. }: Sizes) -> Result<Measured> {
    let (weight, bias) = (bench.tensor(&[CHANNELS, 3, 3, CHANNELS])?, bench.tensor(&[CHANNELS])?);
    let shape = [side, side, CHANNELS];
    let mut measured = bench.unary(&shape, &shape, |x, out| {
        let args = Conv2d {
            x: x.view(),
            weight: weight.view(),
            bias: Some(bias.view()),
            stride: 1,
            padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
            residual: None,
            out: out.view(),
        };
        Ok(conv2d(&bench.queue, &args)?)
    })?;
    measured.flops = 2.0 * (side * side * 9 * CHANNELS * CHANNELS) as f64;
    measured.bytes += (2 * 9 * CHANNELS * CHANNELS) as f64;
    Ok(measured)
}

fn embedding_of<B: Backend>(bench: &Bench<B>, Sizes { text, .. }: Sizes) -> Result<Measured> {
    const VOCABULARY: usize = 32_128;
    let table = bench.queue.zeros(DType::Bf16, &[VOCABULARY, T5.0], "bench")?;
    let ids = (0..text).map(|row| i32::try_from(row * 7919 % VOCABULARY));
    let ids = ids.collect::<std::result::Result<Vec<i32>, _>>()?;
    let ids = bench.queue.upload(&ids, &[text], "bench")?;
    let out = bench.sets(&[text, T5.0])?;
    let seconds = bench.timed(&out[0], |set| {
        let args = Embedding { ids: ids.view(), table: table.view(), out: out[set].view() };
        Ok(embedding(&bench.queue, &args)?)
    })?;
    Ok(Measured { flops: 0.0, bytes: (text * (4 + 4 * T5.0)) as f64, seconds })
}

fn mean_abs_diff_of<B: Backend>(bench: &Bench<B>, Sizes { tokens, .. }: Sizes) -> Result<Measured> {
    let (a, b) = (bench.sets(&[tokens, WIDTH])?, bench.sets(&[tokens, WIDTH])?);
    let workspace = mean_abs_diff_workspace(tokens * WIDTH);
    let workspace = bench.queue.tensor(DType::F32, &[workspace], "bench")?;
    let out = bench.queue.zeros(DType::F32, &[1], "bench")?;
    let seconds = bench.timed(&out, |set| {
        let (a, b) = (a[set].view(), b[set].view());
        let args = MeanAbsDiff { a, b, out: out.view(), workspace: workspace.view() };
        Ok(mean_abs_diff(&bench.queue, &args)?)
    })?;
    Ok(Measured { flops: 0.0, bytes: (4 * tokens * WIDTH) as f64, seconds })
}

impl<B: Backend> Bench<B> {
    /// One tensor in, one out, both bf16.
    fn unary(
        &self,
        x: &[usize],
        out: &[usize],
        work: impl Fn(&Tensor<B>, &Tensor<B>) -> Result<()>,
    ) -> Result<Measured> {
        let elements = x.iter().product::<usize>() + out.iter().product::<usize>();
        let (x, out) = (self.sets(x)?, self.sets(out)?);
        let seconds = self.timed(&out[0], |set| work(&x[set], &out[set]))?;
        Ok(Measured { flops: 0.0, bytes: (2 * elements) as f64, seconds })
    }
}
