//! T5 and CLIP encoders with their tokenizers: a prompt becomes the sequence and the vector that a FLUX transformer reads.
//!
//! **What.** [`ClipTokenizer`] and [`T5Tokenizer`] turn text into ids of a fixed length; [`clip::Clip`] and [`t5::T5`] turn ids
//! into hidden states. A model registers its weights as units of a pager when it is made and leases them, one at a time, when it
//! runs; so a T5 of 9.5 GB runs in whatever is left for weights.
//!
//! **Why the ids come first.** A model is made *for* its ids. Of an embedding table only the rows of the prompt are ever copied
//! ([`TensorSpec::gathered`](lighterage_pager::TensorSpec::gathered)): 512 rows of T5's 32128, 77 of CLIP's 49408. An id that is
//! not in the table is refused there, before anything runs.
//!
//! **What follows the reference to the letter**, since pictures depend on it: padding takes part in T5 (no mask), T5's scores are
//! not divided by the root of the head's width, its position bias lives in block 0 and serves all blocks; CLIP's pooled vector is
//! the state after the final norm at the end token, found by transformers' rule ([`clip::Config::end_position`]), and goes
//! through no projection.
//!
//! **What not.** No training, no batches (one prompt, one sequence), no decoder half of T5, no attention mask. The sizes come from
//! `config.json`; nothing of the big models is assumed.
//!
//! Formulas: Radford et al. 2021 (CLIP), Raffel et al. 2020 (T5), Shazeer 2020 (gated GELU), as `transformers` 5 computes them.
#![forbid(unsafe_code)]

mod error;
mod registry;

pub mod clip;
pub mod t5;
mod tokenizer;

pub use error::{Error, Result};
pub use tokenizer::{ClipTokenizer, T5Tokenizer, Tokens};
