//! The FLUX transformer and InfuseNet: config, blocks, hoisted modulation.
//!
//! # What
//!
//! [`Transformer`] predicts the velocity of packed latents, for FLUX.1 dev and schnell and any other sizes that a [`Config`] names.
//! [`InfuseNet`] is the same blocks with one linear behind each, whose outputs the transformer takes as [`Residuals`].
//! Both hold no weights, only the numbers of their units in a [`Units`](lighterage_pager::Units); they run on whatever
//! [`Pager`](lighterage_pager::Pager) they are given, in the same order every step, so that it can read ahead.
//!
//! One image is two phases with disjoint units:
//!
//! | phase | calls | units |
//! |---|---|---|
//! | hoisted, once | [`condition`](Transformer::condition), [`embed_text`](Transformer::embed_text), [`embed_control`](InfuseNet::embed_control) | embedders of timestep, guidance, pooled and text; every modulation linear |
//! | denoising, every step | [`step`](Transformer::step), which is [`embed`](Transformer::embed), [`blocks`](Transformer::blocks), [`finish`](Transformer::finish) | image embedder, blocks, output |
//!
//! # Why so
//!
//! *Hoisted modulation.* Shifts, scales and gates depend on timestep, guidance and pooled text alone, all known before the first step, and
//! the linears that make them are 27 % of FLUX.1's weights. So they run once, with the steps as the rows of one product each; a step
//! then reads one row. The number of rows is the number of steps, whatever the budget, and so the bits are the same at every budget.
//!
//! *One stream.* Text rows come first, image rows after them, in one buffer `[text + image, width]` from the first block to the last. The two
//! streams of a double block are row ranges: their linears write into the rows of joint buffers, and norm, rotation and attention are
//! one launch for both. Nothing is concatenated or split. In a single block attention and MLP write the columns of one buffer.
//! A double block is 12 launches, a single block 6; gate and residual are the epilogue of the linear before them.
//!
//! *A unit is what one launch reads*: a linear with its bias, or the norm weights of a block. q, k and v are one stacked unit. The ring of a
//! pager then needs room for two linears, not for two blocks.
//!
//! *Adapters are outputs, not weights.* A low-rank change ([`Adapters`]) is two narrow linears beside the wide one, added before the activation: weights that pass
//! through once a step cannot be changed in place, and those that stay are treated alike, so that the bits do not depend on which is which.
//!
//! *Two layouts, one model.* diffusers' folders and BFL's single files (also prefixed `model.diffusion_model.`) are told apart by the names in them; `names`
//! is the only module that knows both. They differ in what is stacked, and in the halves of the last modulation: diffusers stores scale, shift, BFL
//! shift, scale. Units are stacked from rows, so each becomes the same bytes.
//!
//! # What not
//!
//! No scheduler, no noise, no text encoder (`pipeline`, `text`); no batch: a second image or the second branch of true guidance is a second call.
//! A chunk of steps at a time in the hoisted phase (for budgets that cannot hold all modulation vectors) is not done.
//!
//! # Sources
//!
//! Structure, names and order of operations: diffusers 0.42 (`transformer_flux.py`, `controlnet_flux.py`, `embeddings.py`) and
//! black-forest-labs/flux (`model.py`, `modules/layers.py`, `math.py`). Adaptive norms: Peebles & Xie 2022. Rotary positions: Su et al. 2021. InfuseNet:
//! Jiang et al. 2025 (InfiniteYou).
//!
//! # Example
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use lighterage_allocator::{Config as PoolConfig, Pool};
//! use lighterage_checkpoint::{Checkpoint, Unmodified};
//! use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
//! use lighterage_dit::{Conditioning, Config, Rope, StepInputs, Timesteps, Transformer};
//! use lighterage_ops::Queue;
//! use lighterage_pager::{Pager, Units};
//! use lighterage_shape::DType;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(64 << 20), Ledger::new(64 << 20));
//! let stream = device.stream(StreamKind::Compute)?;
//! let queue = Queue::new(Pool::new(&stream, PoolConfig { purpose: Purpose::Activations, reserve_bytes: 32 << 20 })?);
//!
//! let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base/transformer");
//! // SAFETY: nobody writes to the bundled model.
//! let checkpoint = Checkpoint::open(&folder, unsafe { Unmodified::promise() })?;
//! let mut units = Units::default();
//! let model = Transformer::new(Config::of(&checkpoint)?, &checkpoint, DType::F32, &mut units)?;
//! let pager = Pager::resident(&stream, Arc::new(units))?;
//!
//! // Two text tokens and an image of 2 x 3 tokens, all zero.
//! let pooled = queue.upload(&[0.0_f32; 32], &[32], "pooled")?;
//! let states = queue.upload(&[0.0_f32; 2 * 64], &[2, 64], "states")?;
//! let latents = queue.upload(&[0.0_f32; 6 * 64], &[6, 64], "latents")?;
//! let conditioning = Conditioning { timesteps: Timesteps::Rounded(&[1.0, 0.5]), guidance: Some(3.5), pooled: pooled.view() };
//! let modulations = model.condition(&queue, &pager, &conditioning)?;
//! modulations.select(&queue, 1)?;
//! let velocity = model.step(&queue, &pager, &StepInputs {
//!     latents: latents.view(),
//!     text: model.embed_text(&queue, &pager, states.view())?.view(),
//!     modulations: &modulations,
//!     rope: &Rope::grid(&queue, model.config(), 2, 2, 3)?,
//!     residuals: None,
//! })?;
//! assert_eq!(velocity.shape(), [6, 64]);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod attention;
mod config;
mod derive;
mod double_block;
mod error;
mod infusenet;
mod layout;
mod linear;
mod loader;
mod modulation;
mod names;
mod norm;
mod raw;
mod residuals;
mod rope;
mod single_block;
mod transformer;
mod trunk;
mod views;

pub use adapter::Adapters;
pub use config::Config;
pub use error::{Error, Result};
pub use infusenet::{InfuseInputs, InfuseNet, InfuseOutputs};
pub use layout::diffusers_layout;
pub use modulation::{Conditioning, Modulations, Timesteps};
pub use raw::{forward_infusenet, forward_transformer};
pub use residuals::Residuals;
pub use rope::Rope;
pub use transformer::{StepInputs, Transformer};
