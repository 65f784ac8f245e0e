use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::SinusoidParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
use crate::{Queue, Result};

/// `[cos(v w_i), sin(v w_i)]`, `w_i = 10000^(-i / half)`, all in f32 and in the reference's order.
#[derive(Clone, Copy, Debug)]
pub struct Sinusoid<'a> {
    /// f32 `[rows]`.
    pub values: View<'a>,
    /// `[rows, columns]`, contiguous, columns even.
    pub out: View<'a>,
}

/// `out[r, :] = [cos(values[r] w), sin(values[r] w)]`, `w_i = exp(-ln(10000) i / half)`, every operation in f32 and in this order.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn sinusoid<B: Backend>(queue: &Queue<B>, args: &Sinusoid<'_>) -> Result<()> {
    let check = Check::new("sinusoid", queue);
    let out = check.tensor("out", args.out)?.contiguous()?;
    let [rows, columns] = out.extents()?;
    let dtype = out.float()?;
    check.value("columns", columns as f64, "even", columns.is_multiple_of(2))?;
    let values = check.tensor("values", args.values)?.is(DType::F32, &[rows])?.contiguous()?.apart(out)?;
    let params = SinusoidParams {
        values: values.address(),
        out: out.address(),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
    };
    // SAFETY: the views have the extents that `params` names (checked), on this stream, and share no element.
    unsafe { launch::<B, SinusoidKernel<f32>, SinusoidKernel<bf16>>(queue, dtype, &params) }
}

struct SinusoidKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for SinusoidKernel<E> {
    type Params = SinusoidParams;

    const NAME: &'static str = image(E::DTYPE, "sinusoid_f32", "sinusoid_bf16");

    unsafe fn host(p: &SinusoidParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let values = unsafe { Rows::<f32>::vector(p.values, p.rows) };
        // SAFETY: the caller's promise; each task writes its own rows.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, u64::from(p.columns)) };
        let frequencies = frequencies(p.columns / 2);
        for_rows(workers, p.rows as usize, p.columns as usize, |range| {
            for row in range {
                let value = values.get(0, row);
                let half = frequencies.len();
                for (index, frequency) in frequencies.iter().enumerate() {
                    let angle = value * frequency;
                    out.set(row, index, E::from_f32(angle.cos()));
                    out.set(row, half + index, E::from_f32(angle.sin()));
                }
            }
        });
    }

    fn cost(p: &SinusoidParams) -> Cost {
        let (rows, elements) = (f64::from(p.rows), f64::from(p.rows) * f64::from(p.columns));
        Cost { flops: 20.0 * elements, bytes: 4.0 * rows + elements * size_of::<E>() as f64 }
    }

    fn launches(p: &SinusoidParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::sinusoid::launches(p, target))
    }
}

/// `exp((-ln(10000) * i) / half)` for `i` below `half`, each operation rounded to f32, as torch has them.
fn frequencies(half: u32) -> Vec<f32> {
    /// `-ln(10000)`.
    const EXPONENT: f32 = -9.210_340_5;
    let exact = |index| ((EXPONENT * index as f32) / half as f32).exp();
    (0..half)
        .map(|index| if is_rounded_up(index, half) { exact(index).next_up() } else { exact(index) })
        .collect()
}

/// Where torch's exponential, MKL's, errs by 0.52 units in the last place and so rounds to the upper neighbour (torch 2.15, the same with
/// AVX2 and AVX-512). One unit of `w_12` turns the angle of guidance 30 by 0.001: without this, f32 is off by 5e-5 in the model's output.
const fn is_rounded_up(index: u32, half: u32) -> bool {
    half == 128 && matches!(index, 12 | 106)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Board, DTYPES, assert_refused, dry, held, on_hosts};

    /// The formula in f32, one operation after the other.
    fn expected(value: f32, index: usize, half: usize) -> f32 {
        // torch rounds the factor, a number of Python, to f32.
        #[expect(clippy::cast_possible_truncation, reason = "as torch does")]
        let exponent = -(10_000.0_f64.ln() as f32) * (index % half) as f32;
        let exact = (exponent / half as f32).exp();
        let rounded_up = half == 128 && [12, 106].contains(&(index % half));
        let angle = value * if rounded_up { exact.next_up() } else { exact };
        if index < half { angle.cos() } else { angle.sin() }
    }

    fn check(values: &[f32], columns: usize) {
        for dtype in DTYPES {
            let shape = [values.len(), columns];
            let got = on_hosts(|queue| {
                let input = queue.upload(values, &[values.len()], "values")?;
                let out = Board::poisoned(queue, dtype, shape, false)?;
                sinusoid(queue, &Sinusoid { values: input.view(), out: out.view() })?;
                out.read(queue)
            });
            let of = |value: &f32| {
                (0..columns).map(|i| held(dtype, expected(*value, i, columns / 2))).collect::<Vec<_>>()
            };
            assert_eq!(got, values.iter().flat_map(of).collect::<Vec<_>>(), "{dtype}");
        }
    }

    #[test]
    fn operations_in_the_order_of_the_reference() {
        check(&[1000.0, 3500.0, 0.0, 12.5], 256);
        check(&[988.27], 2);
        check(&[988.27], 34);
        check(&[], 16);
    }

    /// `torch.exp(-math.log(10000) * torch.arange(128) / 128)`, bits of torch 2.15, around the two that are not rounded to nearest.
    #[test]
    fn frequencies_of_flux_are_torch_s_to_the_last_bit() {
        let got = frequencies(128);
        let bits = |index: usize| got[index].to_bits();
        assert_eq!([11, 12, 13].map(bits), [0x3ee8_0460, 0x3ed7_e89b, 0x3ec8_eb23]);
        assert_eq!([105, 106, 107].map(bits), [0x3a09_2e01, 0x39ff_4fad, 0x39ed_95e4]);
        assert_eq!((got[0], bits(127)), (1.0, 0x38e1_5c8e));
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (values, out) = (tensor(DType::F32, &[3]), tensor(DType::Bf16, &[3, 8]));
        let (half, odd) = (tensor(DType::Bf16, &[3]), tensor(DType::Bf16, &[3, 7]));
        let good = Sinusoid { values: values.view(), out: out.view() };
        sinusoid(&queue, &good).unwrap();
        let cases = [
            (Sinusoid { out: odd.view(), ..good }, "sinusoid: columns is 7, should be even"),
            (Sinusoid { values: half.view(), ..good }, "sinusoid: values should be F32, is BF16"),
            (
                Sinusoid { out: out.view().rows(0, 2).unwrap(), ..good },
                "sinusoid: values should be [2], is F32[3]",
            ),
        ];
        for (args, message) in cases {
            assert_refused(sinusoid(&queue, &args), message);
        }
    }
}
