//! Image to latent and back, tiled where needed: the two halves of `AutoencoderKL`.
//!
//! **What.** [`Decoder`] turns a latent into a picture, [`Encoder`] a picture into the mean and log-variance of its latent. Each
//! registers only its own half of the weights. Both checkpoint layouts are read: diffusers' names and those of BFL's
//! `ae.safetensors`, with the middle attention as linears or as 1x1 convolutions.
//!
//! **Layout.** Images are channels-last, `[height, width, channels]`, contiguous: a 3x3 convolution then reads runs of channels, a
//! 1x1 convolution *is* a linear over pixels, and attention needs no transposed copy. [`channels_first`] and [`channels_last`]
//! convert on the host where a file wants the other order; on the device, transpose a view.
//!
//! **Numbers that are not here.** A decoder takes the latent that the network was trained on: `latent / scaling_factor +
//! shift_factor` is the caller's, who folds it into unpacking (`ops::unpatchify` multiplies and adds).
//!
//! **Memory.** The activations of the last level decide: at 1024x1024 one bf16 tensor of 256 channels takes 512 MiB. So every
//! block works in place where the ops allow (norm into its input where the skip path no longer needs it, the last convolution
//! onto the skip path), tensors are dropped at their last use, and attention makes no pixels x pixels matrix. What still is too
//! big is cut into tiles.
//!
//! **Tiles.** Above [`WHOLE_PIXELS_MAX`] pixels, or where the caller says so, the picture is computed in overlapping tiles
//! ([`Tiling`]): starts are multiples of the stride, the last one is clamped to the border, and overlaps are blended linearly with
//! weights that sum to 1 at every pixel. A size that one tile covers takes the very path of the whole picture: the same bits.
//! A tiled picture is *not* the whole one: group norms and the middle attention see a tile in place of the picture. How far the two are apart
//! depends on the weights and the picture; `tests/all/tiled.rs` states and holds bounds for the bundled demo model and for random
//! weights.
//!
//! **What not.** No batches, no sampling of the latent (mean and log-variance are given; noise is the pipeline's), no attention
//! in the down and up blocks, no activation but `SiLU`: a configuration that asks for them is refused by name.
//!
//! Formulas: Rombach et al. 2022 as diffusers 0.42 computes them; tiles after its cross-fade, with clamped starts.
#![forbid(unsafe_code)]

mod attention;
mod config;
mod decoder;
mod encoder;
mod error;
mod layout;
mod level;
mod names;
mod order;
mod registry;
mod resnet;
mod run;
mod tiled;
mod tiling;

pub use config::Config;
pub use decoder::Decoder;
pub use encoder::{Encoder, Moments, Values};
pub use error::{Error, Result};
pub use layout::diffusers_layout;
pub use order::{channels_first, channels_last};
pub use tiling::{Axis, Tiling, WHOLE_PIXELS_MAX};
