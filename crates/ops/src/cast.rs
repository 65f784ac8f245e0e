use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
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
    let stream = queue.stream();
    match (from, to) {
        // SAFETY: both views hold `count` elements (checked), on this stream, and share none. So in the other arms.
        (DType::F32, DType::F32) => unsafe { stream.launch::<CastKernel<f32, f32>>(&params) },
        // SAFETY: as above.
        (DType::F32, _) => unsafe { stream.launch::<CastKernel<f32, bf16>>(&params) },
        // SAFETY: as above.
        (_, DType::F32) => unsafe { stream.launch::<CastKernel<bf16, f32>>(&params) },
        // SAFETY: as above.
        _ => unsafe { stream.launch::<CastKernel<bf16, bf16>>(&params) },
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

    fn launches(p: &CastParams, target: Target) -> Launches {
        elementwise::cast::launches(p, target)
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_refused, dry, held, on_hosts};

    fn check(count: usize) {
        let mut rng = Rng::from_env(8);
        for (from, to) in DTYPES.into_iter().flat_map(|from| DTYPES.map(|to| (from, to))) {
            let mut values = rng.normals(count, 1e3);
            // A tie to even, the largest bf16, what rounds to infinity, a subnormal, and both zeros.
            let ends = [
                1.0 + 1.0 / 256.0,
                f32::from_bits(0x7f7f_0000),
                f32::MAX,
                1e-40,
                0.0,
                -0.0,
                f32::NEG_INFINITY,
            ];
            values.iter_mut().zip(ends).for_each(|(value, end)| *value = end);
            let got = on_hosts(|queue| {
                let x = Board::new(queue, from, [1, count], &values, false)?;
                let out = Board::poisoned(queue, to, [1, count], false)?;
                cast(queue, &Cast { x: x.shaped(&[count]), out: out.shaped(&[count]) })?;
                out.read(queue)
            });
            let expected: Vec<f32> = values.iter().map(|value| held(to, held(from, *value))).collect();
            assert_eq!(got, expected, "{from} to {to}");
        }
    }

    #[test]
    fn any_count() {
        for count in [1, 15, 16, 17, 1023, 1024, 1025, 40_000] {
            check(count);
        }
    }

    #[test]
    fn nan_stays_nan() {
        let got = on_hosts(|queue| {
            let x = queue.upload(&[f32::from_bits(0x7f80_0001), f32::NAN], &[2], "x")?;
            let out = queue.tensor(DType::Bf16, &[2], "out")?;
            cast(queue, &Cast { x: x.view(), out: out.view() })?;
            Ok(queue
                .read_f32(out.view())?
                .unwrap()
                .iter()
                .map(|value| f32::from(u8::from(value.is_nan())))
                .collect())
        });
        assert_eq!(got, [1.0, 1.0]);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (x, out) = (tensor(DType::F32, &[4, 6]), tensor(DType::Bf16, &[4, 6]));
        let (ids, long) = (tensor(DType::I64, &[4, 6]), tensor(DType::Bf16, &[24]));
        let good = Cast { x: x.view(), out: out.view() };
        cast(&queue, &good).unwrap();
        let gaps = x.view().narrow(1, 0, 5).unwrap();
        let cases = [
            (Cast { x: ids.view(), ..good }, "cast: x should be BF16, is I64"),
            (Cast { out: long.view(), ..good }, "cast: out should be [4, 6], is BF16[24]"),
            (Cast { x: gaps, ..good }, "cast: x should be contiguous, is F32[4, 5]/[6, 1]"),
            (Cast { out: x.view(), ..good }, "cast: x overlaps out, which is written"),
        ];
        for (args, message) in cases {
            assert_refused(cast(&queue, &args), message);
        }
    }
}
