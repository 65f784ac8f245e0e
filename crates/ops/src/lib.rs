//! Checked shapes in, launches out; the host reference of every op beside it.
//!
//! # What
//!
//! An op is a function of a [`Queue`] and a struct of [`View`](lighterage_device::View)s. It checks that shapes, element types, strides and overlaps suit its
//! kernel and that all memory belongs to the queue's stream, fills in the kernel's parameters, and launches: nothing is computed, copied or
//! allocated by the call itself (but [`attention`]'s room for partial sums, of a size that sizes alone decide), and it returns before the work is done. What does not suit is refused with an [`Error`] that holds
//! the numbers, and then nothing was launched.
//!
//! | op | what | source of the formula |
//! |---|---|---|
//! | [`linear`] | `residual + gate * activation(x w^T + bias)` | |
//! | [`attention`] | softmax attention in tiles, with strides for everything, causal or with T5's bias | Vaswani et al. 2017, Raffel et al. 2020 |
//! | [`wide_attention`] | the same of one head of any width by matrix products, in memory that the caller brings | |
//! | [`softmax`], [`transpose`] | of rows; of a matrix: what that is made of | |
//! | [`conv2d`] | 1x1 and 3x3, channels last, with residual | |
//! | [`norm_mod`] | gated update, `LayerNorm`, modulation, over text and image rows in one launch | Peebles and Xie 2022 |
//! | [`qk_norm_rope`] | RMSNorm of q and k and rotary positions, in place | Zhang and Sennrich 2019, Su et al. 2021 |
//! | [`layer_norm`], [`rms_norm`], [`group_norm`] | norms with weights; the last with `SiLU` | Ba et al. 2016, Zhang and Sennrich 2019, Wu and He 2018 |
//! | [`activation`], [`geglu`] | GELU in three forms, `SiLU`; the gated pair of T5 | Hendrycks and Gimpel 2016, Shazeer 2020 |
//! | [`add`], [`euler_step`], [`cast`] | elementwise | Lipman et al. 2022 (the step) |
//! | [`embedding`], [`sinusoid`] | rows of a table; timesteps as waves | Vaswani et al. 2017 |
//! | [`patchify`], [`unpatchify`], [`upsample`] | images to tokens and back; twice the size | |
//! | [`mean_abs_diff`] | how far two tensors are apart | Liu et al. 2024 (TeaCache) |
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
pub use norm_mod::{GatedUpdate, Modulation, NormMod, norm_mod};
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
