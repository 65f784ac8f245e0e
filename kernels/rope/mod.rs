//! Launches of rotary positions.

pub mod qk_norm_rope;
