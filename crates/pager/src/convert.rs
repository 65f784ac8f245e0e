//! From a file's elements to the device's, in parallel; every element is converted alone, so no result depends on the threads.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use lighterage_shape::{DType, Float};
use rayon::prelude::*;

use crate::Result;
use crate::plan::Tape;
use crate::units::{Piece, TensorSpec, Transform, Units};

/// Elements that one task converts.
const TASK_ELEMENTS: usize = 1 << 15;

/// A tensor with more pieces than this is gathered on the host: one long copy is cheaper than many short ones.
const DIRECT_PIECES_MAX: usize = 8;

/// Whether the tensor's bytes in the file are not those that the device needs.
pub(crate) fn is_needed(spec: &TensorSpec) -> bool {
    let differs = |piece: &Piece| piece.tensor.dtype() != spec.dtype() || piece.transform != Transform::None;
    spec.pieces().len() > DIRECT_PIECES_MAX || spec.pieces().iter().any(differs)
}

/// A stretch of the tape within one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    spec: &'a TensorSpec,
    /// Which of the tensor's bytes on the device.
    bytes: Range<u64>,
    /// Where they begin on the tape.
    pub(crate) at: u64,
}

/// The stretches of tensors in a range of the tape; what lies between them is alignment.
pub(crate) fn parts<'a>(
    tape: &'a Tape,
    units: &'a Units,
    range: &Range<u64>,
) -> impl Iterator<Item = Part<'a>> + use<'a> {
    let (start, end) = (range.start, range.end);
    let first = tape.spans.partition_point(|span| span.offset + span.bytes <= start);
    let spans = tape.spans[first..].iter().take_while(move |span| span.offset < end);
    spans.flat_map(move |span| {
        let unit = units.get(span.unit);
        unit.tensors.iter().zip(unit.offsets()).filter_map(move |(spec, offset)| {
            let tensor = span.offset + offset..span.offset + offset + spec.bytes();
            let (from, to) = (tensor.start.max(start), tensor.end.min(end));
            (from < to).then(|| Part { spec, bytes: from - tensor.start..to - tensor.start, at: from })
        })
    })
}

/// How the bytes of files are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// From the map: what is read once, or may stay in the page cache.
    Mapped,
    /// Read past the map, so that what is read in every turn takes no pages of the process.
    Read,
}

/// Writes a range of the tape as the device needs it; `target` has exactly its bytes.
///
/// # Errors
/// A file that cannot be read; never with [`Access::Mapped`].
pub(crate) fn write(
    tape: &Tape,
    units: &Units,
    range: &Range<u64>,
    target: &mut [u8],
    access: Access,
) -> Result<()> {
    let mut jobs = Vec::new();
    let (mut rest, mut at) = (target, range.start);
    for part in parts(tape, units, range) {
        let (_, later) = rest.split_at_mut(index(part.at - at));
        let (now, later) = later.split_at_mut(index(part.bytes.end - part.bytes.start));
        at = part.at + now.len() as u64;
        rest = later;
        part.cut(now, &mut jobs);
    }
    jobs.into_par_iter().try_for_each(|job| job.run(access))
}

/// Has the files' bytes of a range of the tape on their way from the disk.
pub(crate) fn will_need(tape: &Tape, units: &Units, range: &Range<u64>) {
    // What is gathered from many places is little in each of them.
    for part in parts(tape, units, range).filter(|part| part.spec.pieces().len() <= DIRECT_PIECES_MAX) {
        for (piece, bytes) in part.pieces() {
            let (from, to) = (bytes.start.max(part.bytes.start), bytes.end.min(part.bytes.end));
            if from < to {
                let wanted = part.spec.dtype().bytes();
                let row_bytes = piece.row_elements() * piece.tensor.dtype().bytes();
                let filed = |at: u64| index(at - bytes.start) / wanted * piece.tensor.dtype().bytes();
                let first = piece.rows.start * row_bytes;
                piece.tensor.will_need(first + filed(from)..first + filed(to));
            }
        }
    }
}

impl<'a> Part<'a> {
    /// The bytes in the files, and where they go, from the part's beginning. Only of tensors that need no conversion.
    pub(crate) fn raw(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.sources().scan(0, |next, (_, source)| {
            let at = *next;
            *next += source.len() as u64;
            Some((at, source))
        })
    }

    /// The same with the pieces that they are of.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&'a Piece, &'a [u8])> + use<'a> {
        let wanted = self.bytes.clone();
        self.pieces().filter_map(move |(piece, bytes)| {
            let (from, to) = (bytes.start.max(wanted.start), bytes.end.min(wanted.end));
            let source = || &piece.bytes()[index(from - bytes.start)..index(to - bytes.start)];
            (from < to).then(|| (piece, source()))
        })
    }

    /// The tensor's pieces with their places in it, in bytes on the device.
    fn pieces(&self) -> impl Iterator<Item = (&'a Piece, Range<u64>)> + use<'a> {
        let element = self.spec.dtype().bytes();
        self.spec.pieces().iter().scan(0, move |next, piece| {
            let start = *next;
            *next += (piece.rows.len() * piece.row_elements() * element) as u64;
            Some((piece, start..*next))
        })
    }

    /// Adds the jobs that fill `target` with the part.
    fn cut<'t>(&self, target: &'t mut [u8], jobs: &mut Vec<Job<'a, 't>>) {
        let mut rest = target;
        for (piece, bytes) in self.pieces() {
            let (from, to) = (bytes.start.max(self.bytes.start), bytes.end.min(self.bytes.end));
            if from < to {
                let (now, later) = rest.split_at_mut(index(to - from));
                rest = later;
                let place = index(from - bytes.start)..index(to - bytes.start);
                Job { piece, wanted: self.spec.dtype(), place, target: now }.split(jobs);
            }
        }
    }
}

/// Some bytes of a piece, to be written.
struct Job<'a, 't> {
    piece: &'a Piece,
    wanted: DType,
    /// Which of the piece's bytes on the device.
    place: Range<usize>,
    target: &'t mut [u8],
}

impl<'a, 't> Job<'a, 't> {
    /// Cuts it into tasks of whole elements.
    fn split(self, jobs: &mut Vec<Job<'a, 't>>) {
        let step = TASK_ELEMENTS * self.wanted.bytes();
        let (mut start, mut rest) = (self.place.start, self.target);
        while start < self.place.end {
            let end = self.place.end.min(start + step);
            let (target, later) = rest.split_at_mut(end - start);
            rest = later;
            jobs.push(Job { piece: self.piece, wanted: self.wanted, place: start..end, target });
            start = end;
        }
    }

    fn run(self, access: Access) -> Result<()> {
        let size = self.wanted.bytes();
        // Pages and tasks begin at multiples of every element's size.
        let elements = self.place.start / size..self.place.end / size;
        let filed = self.piece.tensor.dtype();
        match self.piece.transform {
            Transform::None if filed == self.wanted && access == Access::Read => {
                self.piece.read_into(elements.start, self.target)?;
            }
            Transform::None => {
                convert_run(filed, &self.piece.elements(&elements, access)?, self.wanted, self.target);
            }
            Transform::ChannelsLast => self.channels_last(&elements, access)?,
        }
        Ok(())
    }

    /// One row is one output channel: `[in, kernel * kernel]` becomes `[kernel * kernel, in]`.
    fn channels_last(self, elements: &Range<usize>, access: Access) -> Result<()> {
        let (row, channels) = (self.piece.row_elements(), self.piece.tensor.shape()[1]);
        let (taps, size) = (row / channels, self.piece.tensor.dtype().bytes());
        let rows = elements.start / row * row..elements.end.next_multiple_of(row);
        let source = self.piece.elements(&rows, access)?;
        let mut turned = Vec::with_capacity(elements.len() * size);
        for element in elements.clone() {
            let (first, within) = (element / row * row - rows.start, element % row);
            let (tap, channel) = (within / channels, within % channels);
            turned.extend_from_slice(&source[(first + channel * taps + tap) * size..][..size]);
        }
        convert_run(self.piece.tensor.dtype(), &turned, self.wanted, self.target);
        Ok(())
    }
}

impl Piece {
    /// The bytes in the file of some of its elements.
    fn elements(&self, elements: &Range<usize>, access: Access) -> Result<Cow<'_, [u8]>> {
        let size = self.tensor.dtype().bytes();
        if access == Access::Mapped {
            return Ok(Cow::Borrowed(&self.bytes()[elements.start * size..elements.end * size]));
        }
        let mut read = vec![0; elements.len() * size];
        self.read_into(elements.start, &mut read)?;
        Ok(Cow::Owned(read))
    }

    /// Reads its elements from this one on.
    fn read_into(&self, element: usize, target: &mut [u8]) -> Result<()> {
        let first = self.rows.start * self.row_elements() + element;
        Ok(self.tensor.read_into(first * self.tensor.dtype().bytes(), target)?)
    }
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

/// A number of bytes of something that is mapped.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
