//! What a tensor looks like, never where it lives: element type, shape, strides.
//!
//! Every crate above talks about tensors in these words, so they are small `Copy` values without an allocation:
//! a [`Layout`] is an element type, up to [`RANK_MAX`] extents and as many strides. There is no data, no address and no
//! device in this crate, and nothing here can touch memory; a tensor's place is `device::View`'s business.
//!
//! Strides are counted in elements, never in bytes, and are non-negative: nothing in this project walks backwards.
//! A layout whose strides are those of C order is *contiguous*; the kernels mostly ask for less, namely that the last
//! dimension is dense ([`Layout::is_dense_last`]), since that is what a 16-byte load needs.
//!
//! ```
//! use lighterage_shape::{DType, Layout};
//! let qkv = Layout::contiguous(DType::Bf16, &[512, 9216]);
//! let q = qkv.narrow(1, 0, 3072).unwrap().split(1, 24).unwrap();      // [512, 24, 128], no copy
//! assert_eq!(q.shape(), &[512, 24, 128]);
//! assert_eq!(q.strides(), &[9216, 128, 1]);
//! ```
#![forbid(unsafe_code)]

mod dtype;
mod layout;

pub use dtype::{DType, Element, Float};
pub use layout::{Layout, RANK_MAX, ShapeError};
