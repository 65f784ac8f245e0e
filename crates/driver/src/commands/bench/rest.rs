//! The kernels beside the products, attention and the norms of the blocks: each at the largest shape that FLUX.1-dev, its encoders or its
//! decoder give it.

use lighterage_device::Backend;
use lighterage_ops::{
    Activation, ActivationKind, Add, Cast, Conv2d, Embedding, EulerStep, Geglu, GroupNorm, LayerNorm,
    MeanAbsDiff, Padding, Patchify, RmsNorm, Sinusoid, Softmax, Tensor, Transpose, Unpatchify, Upsample,
    activation, add, cast, conv2d, embedding, euler_step, geglu, group_norm, group_norm_workspace,
    layer_norm, mean_abs_diff, mean_abs_diff_workspace, patchify, rms_norm, sinusoid, softmax, transpose,
    unpatchify, upsample,
};
use lighterage_shape::DType;

use super::kernels::{Bench, Entry, Measured, Of, Sizes};
use crate::failure::Result;

/// Channels of the decoder at that level.
const CHANNELS: usize = 256;
/// Width of T5, and of its MLP.
const T5: (usize, usize) = (4096, 10_240);
/// Width of CLIP.
const CLIP: usize = 768;

pub(super) fn entries<B: Backend>() -> Vec<Entry<B>> {
    vec![
        ("rms_norm", Of::Text, |bench, sizes| {
            let weight = bench.tensor(&[T5.0])?;
            bench.unary(&[sizes.text, T5.0], &[sizes.text, T5.0], |x, out| {
                let args = RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, out: out.view() };
                Ok(rms_norm(&bench.queue, &args)?)
            })
        }),
        ("layer_norm", Of::Text, |bench, sizes| {
            let (weight, bias) = (bench.tensor(&[CLIP])?, bench.tensor(&[CLIP])?);
            bench.unary(&[sizes.text, CLIP], &[sizes.text, CLIP], |x, out| {
                let (weight, bias) = (weight.view(), bias.view());
                let args = LayerNorm { x: x.view(), weight, bias, eps: 1e-5, out: out.view() };
                Ok(layer_norm(&bench.queue, &args)?)
            })
        }),
        ("group_norm", Of::Picture, group_norm_of),
        ("softmax", Of::Picture, |bench, sizes| {
            let columns = sizes.pixels() / 16;
            bench.unary(&[sizes.text, columns], &[sizes.text, columns], |x, out| {
                Ok(softmax(&bench.queue, &Softmax { x: x.view(), scale: 0.044, out: out.view() })?)
            })
        }),
        ("conv2d", Of::Picture, conv2d_of),
        ("upsample", Of::Picture, |bench, Sizes { height, width, .. }| {
            bench.unary(&[height / 2, width / 2, CHANNELS], &[height, width, CHANNELS], |x, out| {
                Ok(upsample(&bench.queue, &Upsample { x: x.view(), out: out.view() })?)
            })
        }),
        ("transpose", Of::Picture, |bench, Sizes { tokens, .. }| {
            bench.unary(&[tokens, 512], &[512, tokens], |x, out| {
                Ok(transpose(&bench.queue, &Transpose { x: x.view(), out: out.view() })?)
            })
        }),
        ("geglu", Of::Text, |bench, Sizes { text, .. }| {
            bench.unary(&[text, 2 * T5.1], &[text, T5.1], |x, out| {
                Ok(geglu(&bench.queue, &Geglu { x: x.view(), out: out.view() })?)
            })
        }),
        ("activation", Of::Picture, |bench, Sizes { tokens, model, .. }| {
            bench.unary(&[tokens, 4 * model], &[tokens, 4 * model], |x, out| {
                let kind = ActivationKind::GeluTanh;
                Ok(activation(&bench.queue, &Activation { x: x.view(), kind, out: out.view() })?)
            })
        }),
        ("add", Of::Picture, |bench, Sizes { tokens, model, .. }| {
            let b = bench.sets(&[tokens, model])?;
            bench.unary(&[tokens, model], &[tokens, model], |x, out| {
                let args = Add { a: x.view(), b: b[0].view(), scale: 0.5, out: out.view() };
                Ok(add(&bench.queue, &args)?)
            })
        }),
        ("cast", Of::Picture, |bench, Sizes { tokens, model, .. }| {
            let x = bench.queue.zeros(DType::F32, &[tokens, model], "bench")?;
            let out = bench.sets(&[tokens, model])?;
            bench.timed(&out[0], |set| Ok(cast(&bench.queue, &Cast { x: x.view(), out: out[set].view() })?))
        }),
        ("embedding", Of::Text, embedding_of),
        ("sinusoid", Of::Text, |bench, Sizes { text, .. }| {
            let values: Vec<f32> = (0..text).map(|step| 1000.0 / (1.0 + step as f32)).collect();
            let values = bench.queue.upload(&values, &[text], "bench")?;
            let out = bench.sets(&[text, 256])?;
            bench.timed(&out[0], |set| {
                let args = Sinusoid { values: values.view(), out: out[set].view() };
                Ok(sinusoid(&bench.queue, &args)?)
            })
        }),
        ("patchify", Of::Picture, |bench, sizes| {
            bench.unary(&sizes.latents(), &sizes.packed(), |image, tokens| {
                let (image, tokens) = (image.view(), tokens.view());
                Ok(patchify(&bench.queue, &Patchify { image, multiply: 0.5, add: 0.1, tokens })?)
            })
        }),
        ("unpatchify", Of::Picture, |bench, sizes| {
            bench.unary(&sizes.packed(), &sizes.latents(), |tokens, image| {
                let (tokens, image) = (tokens.view(), image.view());
                Ok(unpatchify(&bench.queue, &Unpatchify { tokens, multiply: 0.5, add: 0.1, image })?)
            })
        }),
        ("euler_step", Of::Picture, |bench, sizes| {
            bench.unary(&sizes.packed(), &sizes.packed(), |velocity, x| {
                let args = EulerStep { x: x.view(), velocity: velocity.view(), delta: -0.02 };
                Ok(euler_step(&bench.queue, &args)?)
            })
        }),
        ("mean_abs_diff", Of::Picture, mean_abs_diff_of),
    ]
}

fn group_norm_of<B: Backend>(bench: &Bench<B>, sizes: Sizes) -> Result<Measured> {
    let (weight, bias) = (bench.tensor(&[CHANNELS])?, bench.tensor(&[CHANNELS])?);
    let numbers = group_norm_workspace(sizes.pixels(), CHANNELS, 32);
    let workspace = bench.queue.tensor(DType::F32, &[numbers], "bench")?;
    let shape = [sizes.pixels(), CHANNELS];
    bench.unary(&shape, &shape, |x, out| {
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
    })
}

fn conv2d_of<B: Backend>(bench: &Bench<B>, Sizes { height, width, .. }: Sizes) -> Result<Measured> {
    let (weight, bias) = (bench.tensor(&[CHANNELS, 3, 3, CHANNELS])?, bench.tensor(&[CHANNELS])?);
    let shape = [height, width, CHANNELS];
    bench.unary(&shape, &shape, |x, out| {
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
    })
}

fn embedding_of<B: Backend>(bench: &Bench<B>, Sizes { text, .. }: Sizes) -> Result<Measured> {
    const VOCABULARY: usize = 32_128;
    let table = bench.queue.zeros(DType::Bf16, &[VOCABULARY, T5.0], "bench")?;
    let ids = (0..text).map(|row| i32::try_from(row * 7919 % VOCABULARY));
    let ids = ids.collect::<std::result::Result<Vec<i32>, _>>()?;
    let ids = bench.queue.upload(&ids, &[text], "bench")?;
    let out = bench.sets(&[text, T5.0])?;
    bench.timed(&out[0], |set| {
        let args = Embedding { ids: ids.view(), table: table.view(), out: out[set].view() };
        Ok(embedding(&bench.queue, &args)?)
    })
}

fn mean_abs_diff_of<B: Backend>(bench: &Bench<B>, Sizes { tokens, model, .. }: Sizes) -> Result<Measured> {
    let (a, b) = (bench.sets(&[tokens, model])?, bench.sets(&[tokens, model])?);
    let workspace = mean_abs_diff_workspace(tokens * model);
    let workspace = bench.queue.tensor(DType::F32, &[workspace], "bench")?;
    let out = bench.queue.zeros(DType::F32, &[1], "bench")?;
    bench.timed(&out, |set| {
        let (a, b) = (a[set].view(), b[set].view());
        let args = MeanAbsDiff { a, b, out: out.view(), workspace: workspace.view() };
        Ok(mean_abs_diff(&bench.queue, &args)?)
    })
}

impl<B: Backend> Bench<B> {
    /// One tensor in, one out, both bf16.
    fn unary(
        &self,
        x: &[usize],
        out: &[usize],
        work: impl Fn(&Tensor<B>, &Tensor<B>) -> Result<()>,
    ) -> Result<Measured> {
        let (x, out) = (self.sets(x)?, self.sets(out)?);
        self.timed(&out[0], |set| work(&x[set], &out[set]))
    }
}
