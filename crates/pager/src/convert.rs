//! From a file's elements to the device's, in parallel; every element is converted alone, so no result depends on the threads.

use half::{bf16, f16};
use lighterage_shape::{DType, Float};
use rayon::prelude::*;

use crate::units::{Piece, TensorSpec, Transform};

/// Elements that one task converts.
const TASK_ELEMENTS: usize = 1 << 15;

/// A tensor with more pieces than this is gathered on the host: one long copy is cheaper than many short ones.
const DIRECT_PIECES_MAX: usize = 8;

/// Whether the tensor's bytes in the file are not those that the device needs.
pub(crate) fn is_needed(spec: &TensorSpec) -> bool {
    let differs = |piece: &Piece| piece.tensor.dtype() != spec.dtype() || piece.transform != Transform::None;
    spec.pieces().len() > DIRECT_PIECES_MAX || spec.pieces().iter().any(differs)
}

/// Writes the tensor as the device needs it. `target` has exactly its bytes.
pub(crate) fn tensor(spec: &TensorSpec, target: &mut [u8]) {
    let mut rest = target;
    let mut jobs = Vec::new();
    for piece in spec.pieces() {
        let bytes = piece.rows.len() * piece.row_elements() * spec.dtype().bytes();
        let (now, later) = rest.split_at_mut(bytes);
        rest = later;
        jobs.push((piece, now));
    }
    jobs.into_par_iter().for_each(|(piece, target)| convert_piece(piece, spec.dtype(), target));
}

fn convert_piece(piece: &Piece, wanted: DType, target: &mut [u8]) {
    match piece.transform {
        Transform::None => plain(piece, wanted, target),
        Transform::ChannelsLast => channels_last(piece, wanted, target),
    }
}

fn plain(piece: &Piece, wanted: DType, target: &mut [u8]) {
    let (from, to) = (piece.tensor.dtype().bytes(), wanted.bytes());
    target
        .par_chunks_mut(TASK_ELEMENTS * to)
        .zip(piece.bytes().par_chunks(TASK_ELEMENTS * from))
        .for_each(|(target, source)| convert_run(piece.tensor.dtype(), source, wanted, target));
}

/// One row is one output channel: `[in, kernel * kernel]` becomes `[kernel * kernel, in]`.
fn channels_last(piece: &Piece, wanted: DType, target: &mut [u8]) {
    let row = piece.row_elements();
    let channels = piece.tensor.shape()[1];
    if row == 0 {
        return;
    }
    let taps = row / channels;
    let (from, to) = (piece.tensor.dtype().bytes(), wanted.bytes());
    target.par_chunks_mut(row * to).zip(piece.bytes().par_chunks(row * from)).for_each(|(target, source)| {
        let mut turned = Vec::with_capacity(source.len());
        for index in 0..row {
            let (tap, channel) = (index / channels, index % channels);
            turned.extend_from_slice(&source[(channel * taps + tap) * from..][..from]);
        }
        convert_run(piece.tensor.dtype(), &turned, wanted, target);
    });
}

/// Converts neighbouring elements; equal types are copied bit by bit, every other way goes through `f32` and rounds once.
fn convert_run(from: DType, source: &[u8], wanted: DType, target: &mut [u8]) {
    match (from, wanted) {
        _ if from == wanted => target.copy_from_slice(source),
        (DType::F32, _) => narrow::<4>(source, target, |bytes| Float::from_f32(f32::from_le_bytes(bytes))),
        (DType::F16, DType::Bf16) => {
            narrow::<2>(source, target, |bytes| Float::from_f32(f16::from_le_bytes(bytes).to_f32()));
        }
        (DType::F16, _) => widen(source, target, |bytes| f16::from_le_bytes(bytes).to_f32()),
        _ => widen(source, target, |bytes| Float::to_f32(bf16::from_le_bytes(bytes))),
    }
}

fn narrow<const FROM: usize>(source: &[u8], target: &mut [u8], convert: impl Fn([u8; FROM]) -> bf16) {
    for (source, target) in source.as_chunks::<FROM>().0.iter().zip(target.as_chunks_mut::<2>().0) {
        *target = convert(*source).to_le_bytes();
    }
}

fn widen(source: &[u8], target: &mut [u8], convert: impl Fn([u8; 2]) -> f32) {
    for (source, target) in source.as_chunks::<2>().0.iter().zip(target.as_chunks_mut::<4>().0) {
        *target = convert(*source).to_le_bytes();
    }
}
