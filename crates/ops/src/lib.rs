//! Checked shapes in, launches out; the host reference of every op beside it.
//!
//! # What
//!
//! An op is a function of a [`Queue`] and a struct of [`View`](lighterage_device::View)s. It checks that shapes, element types, strides and overlaps suit its
//! kernel and that all memory belongs to the queue's stream, fills in the kernel's parameters, and launches: nothing is computed, copied or
//! allocated by the call itself (but [`attention`]'s room for partial sums, of a size that sizes alone decide), and it returns before the work is done. What does not suit is refused with an [`Error`] that holds
//! the numbers, and then nothing was launched.
//!
//! | op | formula | source |
//! |---|---|---|
//! | [`linear`] | `residual + gate * activation(x w^T + bias)` | `torch.nn.Linear`; Peebles and Xie 2022 (gate) |
//! | [`attention`] | `softmax(scale q k^T + bias) v`, in tiles, with strides for everything, causal or with T5's bias | Vaswani et al. 2017, Raffel et al. 2020 |
//! | [`wide_attention`] | the same of one head of any width by matrix products, in memory that the caller brings | Vaswani et al. 2017 |
//! | [`softmax`] | `exp(s x - m) / sum exp(s x - m)` of each row, `m` its largest `s x` | Bridle 1990 |
//! | [`transpose`] | `out[c, r] = x[r, c]` | definition |
//! | [`conv2d`] | `residual + bias + sum in[y s + ky - t, x s + kx - l, ci] w[co, ky, kx, ci]`, 1x1 and 3x3, channels last | `LeCun` et al. 1989, `torch.nn.Conv2d` |
//! | [`norm_mod`] | `x += gate * y`, then `(1 + scale) (x - mean) / sqrt(var + eps) + shift`, over text and image rows in one launch | Peebles and Xie 2022 |
//! | [`qk_norm_rope`] | `x / sqrt(mean x^2 + eps) * weight`, then neighbours `(a, b)` to `(a cos - b sin, a sin + b cos)`, in place | Zhang and Sennrich 2019, Su et al. 2021 |
//! | [`layer_norm`] | `(x - mean) / sqrt(var + eps) * weight + bias` of each row | Ba et al. 2016 |
//! | [`rms_norm`] | `x / sqrt(mean x^2 + eps) * weight` of each row | Zhang and Sennrich 2019 |
//! | [`group_norm`] | as `layer_norm` of each group of channels, then perhaps `SiLU` | Wu and He 2018 |
//! | [`activation`] | GELU `x P(x)` in three forms, `SiLU` `x / (1 + exp(-x))` | Hendrycks and Gimpel 2016 |
//! | [`geglu`] | `gelu(a) * b` of the two halves of a row | Shazeer 2020 |
//! | [`add`], [`cast`] | `a + scale * b`; rounding to the nearest, ties to even | arithmetic; IEEE 754 |
//! | [`euler_step`] | `x + delta * velocity` | Lipman et al. 2022 |
//! | [`embedding`] | `out[r] = table[ids[r]]` | a gather |
//! | [`sinusoid`] | `cos(t w_i)`, then `sin(t w_i)`, `w_i = 10000^(-i / half)` | Vaswani et al. 2017 |
//! | [`patchify`], [`unpatchify`] | 2 x 2 pixels of a latent to one token, and back | FLUX.1 (`_pack_latents` of diffusers) |
//! | [`upsample`] | `out[y, x] = in[y / 2, x / 2]` | nearest neighbours, diffusers' `Upsample2D` |
//! | [`mean_abs_diff`] | `mean abs(a - b) / mean abs(b)` | Liu et al. 2024 (TeaCache) |
//!
//! Each has a page in `docs/kernels/` with its formula, its parameters, how the work is divided and how many bytes it moves.
//!
//! ```
//! use lighterage_allocator::{Config, Pool};
//! use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
//! use lighterage_ops::{Queue, RmsNorm, rms_norm};
//! use lighterage_shape::DType;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
//! let stream = device.stream(StreamKind::Compute)?;
//! let queue = Queue::new(Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 })?);
//!
//! let x = queue.upload(&[3.0_f32, 4.0, 0.0, 0.0], &[1, 4], "x")?;
//! let weight = queue.upload(&[1.0_f32, 1.0, 1.0, 1.0], &[4], "weight")?;
//! let out = queue.tensor(DType::F32, &[1, 4], "out")?;
//! rms_norm(&queue, &RmsNorm { x: x.view(), weight: weight.view(), eps: 0.0, out: out.view() })?;
//! assert_eq!(queue.read_f32(out.view())?.unwrap(), [1.2, 1.6, 0.0, 0.0]);
//!
//! let refused = rms_norm(&queue, &RmsNorm { x: x.view(), weight: x.view(), eps: 0.0, out: out.view() });
//! assert_eq!(refused.unwrap_err().to_string(), "rms_norm: weight should be [4], is F32[1, 4]");
//! # Ok(())
//! # }
//! ```
//!
//! # Why so
//!
//! * *The check is the safety.* A launch is unsafe because addresses and counts are believed. Each op believes only what it has checked, in one
//!   expression that also makes the message, so there is one unsafe call in an op and it says what was checked.
//! * *Views, not copies.* q, k, v and the MLP's part are columns of one projection, text and image are rows of one tensor. Kernels take strides, and the
//!   overlap check knows that columns of one matrix do not meet.
//! * *Two row ranges in one launch.* Text is 512 rows of 4112: a launch of its own would cost more than its work.
//! * *The host function is the reference.* It lies beside the launch, works on the same parameters, and is what a GPU kernel will be held against. It is also what
//!   runs on `Host`, so it is written for speed as far as that leaves it plain.
//! * *f32 inside, one rounding at the end*, but where the models' own code rounds in between (the norms with weights do).
//! * *The same bits for any number of threads.* Work is divided by sizes alone, sums have one order, no sum is split by threads. The elementwise ops and norms
//!   also give the same bits on every instruction set; the products ([`linear`], [`attention`], [`conv2d`]) do not, since fused
//!   multiply-adds round less.
//!
//! # What not
//!
//! There is no graph, no autograd, no broadcasting beyond what is named, no promotion of element types, and no op that allocates its result: the caller brings `out`, so
//! that a plan knows every byte. Element types are f32 and bf16 (ids are i32), chosen at run time by the views.
//!
//! # Inside
//!
//! An op's file reads: arguments, checks and parameters, the kernel's marker type, its host function, its cost, its tests. `check` has the checks, `launch` chooses the kernel of the
//! element type, `rows` turns addresses into accessors, `tasks` divides the work, `isa` compiles it for the instructions at hand, `math` has the functions of the
//! activations; `gemm` is the engine of the three products.

mod error;
mod queue;

mod check;
mod launch;
mod rows;
mod tasks;

mod isa;
mod math;

mod gemm;

mod activation;
mod add;
mod attention;
mod cast;
mod conv2d;
mod embedding;
mod euler_step;
mod geglu;
mod group_norm;
mod layer_norm;
mod linear;
mod mean_abs_diff;
mod norm_mod;
mod patchify;
mod qk_norm_rope;
mod rms_norm;
mod sinusoid;
mod softmax;
mod transpose;
mod unpatchify;
mod upsample;
mod wide_attention;

#[cfg(test)]
mod testing;

pub use activation::{Activation, ActivationKind, activation};
pub use add::{Add, add};
pub use attention::{Attention, Mask, attention};
pub use cast::{Cast, cast};
pub use conv2d::{Conv2d, Padding, conv2d};
pub use embedding::{Embedding, embedding};
pub use error::{Error, Result};
pub use euler_step::{EulerStep, euler_step};
pub use geglu::{Geglu, geglu};
pub use group_norm::{GroupNorm, group_norm, group_norm_workspace};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, Residual, linear, linear_by, linear_plans};
pub use mean_abs_diff::{MeanAbsDiff, mean_abs_diff, mean_abs_diff_workspace};
pub use norm_mod::{GatedUpdate, Modulation, NormMod, norm_mod, norm_mod_by_warps};
pub use patchify::{Patchify, patchify};
pub use qk_norm_rope::{QkNormRope, QkWeights, qk_norm_rope};
pub use queue::{Queue, Tensor};
pub use rms_norm::{RmsNorm, rms_norm};
pub use sinusoid::{Sinusoid, sinusoid};
pub use softmax::{Softmax, softmax};
pub use transpose::{Transpose, transpose};
pub use unpatchify::{Unpatchify, unpatchify};
pub use upsample::{Upsample, upsample};
pub use wide_attention::{WideAttention, WideWorkspace, wide_attention, wide_attention_queries};
