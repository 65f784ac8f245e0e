use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::CastParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::rows::{PIECE, Rows, RowsMut};
use crate::tasks::for_pieces;
use crate::{Queue, Result};

/// f32 to bf16 (to nearest even) or back.
#[derive(Clone, Copy, Debug)]
pub struct Cast<'a> {
    /// Contiguous.
    pub x: View<'a>,
    /// Contiguous, as many elements.
    pub out: View<'a>,
}

/// `out = x` in out's element type; between equal types it is a copy.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn cast<B: Backend>(queue: &Queue<B>, args: &Cast<'_>) -> Result<()> {
    let check = Check::new("cast", queue);
    let (x, out) = (check.tensor("x", args.x)?.contiguous()?, check.tensor("out", args.out)?.contiguous()?);
    let (from, to) = (x.float()?, out.float()?);
    out.shape(args.x.shape())?;
    x.apart(out)?;
    let count = args.x.layout().elements();
    let params = CastParams {
        x: x.address(),
        out: out.address(),
        count: check.count("elements", count)?,
        from_bits: bits(from),
        to_bits: bits(to),
        padding: 0,
    };
    let (stream, grid) = (queue.stream(), Grid::elements(count as u64));
    match (from, to) {
        // SAFETY: both views hold `count` elements (checked), on this stream, and share none. So in the other arms.
        (DType::F32, DType::F32) => unsafe { stream.launch::<CastKernel<f32, f32>>(grid, &params) },
        // SAFETY: as above.
        (DType::F32, _) => unsafe { stream.launch::<CastKernel<f32, bf16>>(grid, &params) },
        // SAFETY: as above.
        (_, DType::F32) => unsafe { stream.launch::<CastKernel<bf16, f32>>(grid, &params) },
        // SAFETY: as above.
        _ => unsafe { stream.launch::<CastKernel<bf16, bf16>>(grid, &params) },
    }?;
    Ok(())
}

const fn bits(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 32,
        _ => 16,
    }
}

struct CastKernel<From, To>(PhantomData<(From, To)>);

impl<From: Float, To: Float> Kernel for CastKernel<From, To> {
    type Params = CastParams;

    const NAME: &'static str = match (From::DTYPE, To::DTYPE) {
        (DType::F32, DType::F32) => "cast_f32_f32",
        (DType::F32, _) => "cast_f32_bf16",
        (_, DType::F32) => "cast_bf16_f32",
        _ => "cast_bf16_bf16",
    };

    unsafe fn host(p: &CastParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<From>::vector(p.x, p.count) };
        // SAFETY: the caller's promise; each task stores its own piece.
        let out = unsafe { RowsMut::<To>::new(p.out, 1, p.count, u64::from(p.count)) };
        for_pieces(
            workers,
            1,
            p.count as usize,
            #[inline(always)]
            |row, start, length| {
                let mut buffer = [0.0; PIECE];
                let values = &mut buffer[..length];
                x.load(row, start, values);
                out.store(row, start, values);
            },
        );
    }

    fn cost(p: &CastParams) -> Cost {
        Cost { flops: 0.0, bytes: f64::from(p.count) * (size_of::<From>() + size_of::<To>()) as f64 }
    }
}
