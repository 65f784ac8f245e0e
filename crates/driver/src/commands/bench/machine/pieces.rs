//! Whether kernels are slower on memory that is made of small pieces.
#![expect(unsafe_code, reason = "views of memory that no pool hands out")]

use lighterage_device::{Address, Backend, Device, Purpose, Reservation, Stream, View};
use lighterage_ops::{Linear, Queue, linear};
use lighterage_shape::{DType, Layout};
use serde::Serialize;

use super::super::timing::{median, seconds_of};
use super::rates::{flops_per_second, numbers};
use crate::failure::Result;

/// Pages of a piece: 2 and 32 MiB on a GPU. The third kind of memory is one piece.
const PAGES: [u64; 2] = [1, 16];
const ROUNDS: usize = 5;

/// Kernels on memory of pieces of this size, medians.
#[derive(Debug, Serialize)]
pub(super) struct Pieces {
    pub(super) piece_bytes: u64,
    pub(super) pieces: usize,
    pub(super) bytes: u64,
    /// Read and written, half of the memory to the other half.
    pub(super) copy_bytes_per_second: f64,
    /// A square product in bf16; null where its three matrices are larger.
    pub(super) gemm_flops_per_second: Option<f64>,
}

/// Kinds of memory, all there at once, in turns. Smaller than asked for where the device has too little.
pub(super) fn measure<B: Backend>(device: &Device<B>, bytes: u64, size: usize) -> Result<Vec<Pieces>> {
    let queue = super::queue(device)?;
    let unit = device.info().page_bytes * PAGES[PAGES.len() - 1];
    let half = bytes.min(device.ledger().free_bytes() / 8) / unit * unit;
    if half == 0 {
        return Ok(Vec::new());
    }
    let kinds = PAGES.map(|pages| pages * device.info().page_bytes).into_iter().chain([2 * half]);
    let memories = kinds.map(|piece| Memory::new(&queue, piece, half)).collect::<Result<Vec<_>>>()?;
    let fits = 3 * matrix_bytes(size) <= 2 * half;
    if fits {
        fill(&memories, size)?;
    }
    let mut times: Vec<[Vec<f64>; 2]> = memories.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        for (memory, [copies, products]) in memories.iter().zip(&mut times) {
            copies.push(seconds_of(queue.stream(), 1, |_| memory.copy())?);
            if fits {
                products.push(seconds_of(queue.stream(), 1, |_| memory.multiply(&queue, size))?);
            }
        }
    }
    let lines = memories.iter().zip(times).map(|(memory, [copies, products])| Pieces {
        piece_bytes: memory.piece_bytes,
        pieces: memory.pieces,
        bytes: 2 * half,
        copy_bytes_per_second: 2.0 * half as f64 / median(copies).max(1e-9),
        gemm_flops_per_second: fits.then(|| flops_per_second(size, median(products))).flatten(),
    });
    Ok(lines.collect())
}

const fn matrix_bytes(size: usize) -> u64 {
    2 * (size as u64).pow(2)
}

/// The same numbers in both operands of all.
fn fill<B: Backend>(memories: &[Memory<B>], size: usize) -> Result<()> {
    let numbers = numbers(size * size);
    for memory in memories {
        for place in 0..2 {
            memory.stream.upload(memory.matrix(place, size), &numbers)?;
        }
    }
    Ok(())
}

/// Two halves in pieces of equal size.
struct Memory<B: Backend> {
    range: Reservation<B>,
    stream: Stream<B>,
    half: u64,
    piece_bytes: u64,
    pieces: usize,
}

impl<B: Backend> Memory<B> {
    fn new(queue: &Queue<B>, piece_bytes: u64, half: u64) -> Result<Self> {
        let range = queue.device().reserve(2 * half)?;
        let pieces = usize::try_from(2 * half / piece_bytes)?;
        for place in 0..pieces as u64 {
            range.map(place * piece_bytes, &queue.device().create(Purpose::Activations, piece_bytes)?)?;
        }
        range.set_access(0, 2 * half)?;
        Ok(Self { range, stream: queue.stream().clone(), half, piece_bytes, pieces })
    }

    fn view(&self, offset: u64, layout: Layout) -> View<'_> {
        let Address(first) = self.range.address();
        let end = offset + layout.bytes() as u64;
        assert!(end <= 2 * self.half, "{end} of {} bytes", 2 * self.half);
        // SAFETY: the bytes lie in the range (checked), which is mapped as a whole until it is dropped, after a wait for the stream that orders
        // all work on it.
        unsafe { View::new(Address(first + offset), layout, self.stream.id()) }
    }

    /// One matrix behind the other.
    fn matrix(&self, place: u64, size: usize) -> View<'_> {
        self.view(place * matrix_bytes(size), Layout::contiguous(DType::Bf16, &[size, size]))
    }

    fn copy(&self) -> Result<()> {
        let count = usize::try_from(self.half)?;
        let half = |place| self.view(place * self.half, Layout::contiguous(DType::U8, &[count]));
        Ok(self.stream.copy(half(1), half(0))?)
    }

    fn multiply(&self, queue: &Queue<B>, size: usize) -> Result<()> {
        let args = Linear {
            x: self.matrix(0, size),
            weight: self.matrix(1, size),
            bias: None,
            activation: None,
            residual: None,
            out: self.matrix(2, size),
        };
        Ok(linear(queue, &args)?)
    }
}

impl<B: Backend> Drop for Memory<B> {
    fn drop(&mut self) {
        // A failure was reported by the call that it belongs to, or is by the next one.
        let _ = self.stream.synchronize();
    }
}
