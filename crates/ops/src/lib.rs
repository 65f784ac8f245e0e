//! Checked shapes in, launches out; the host reference of every op beside it (skeleton).
#![allow(missing_docs, clippy::todo, clippy::missing_errors_doc, reason = "skeleton")]

mod error;
mod gemm;
mod queue;

mod check;
mod isa;
mod launch;
mod math;
mod rows;
mod tasks;

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
mod unpatchify;
mod upsample;

pub use activation::{Activation, ActivationKind, activation};
pub use add::{Add, add};
pub use attention::{Attention, Mask, attention};
pub use cast::{Cast, cast};
pub use conv2d::{Conv2d, Padding, conv2d};
pub use embedding::{Embedding, embedding};
pub use error::{Error, Result};
pub use euler_step::{EulerStep, euler_step};
pub use geglu::{Geglu, geglu};
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, Residual, linear};
pub use mean_abs_diff::{MeanAbsDiff, mean_abs_diff};
pub use norm_mod::{GatedUpdate, Modulation, NormMod, norm_mod};
pub use patchify::{Patchify, patchify};
pub use qk_norm_rope::{QkNormRope, QkWeights, qk_norm_rope};
pub use queue::{Queue, Tensor};
pub use rms_norm::{RmsNorm, rms_norm};
pub use sinusoid::{Sinusoid, sinusoid};
pub use unpatchify::{Unpatchify, unpatchify};
pub use upsample::{Upsample, upsample};
