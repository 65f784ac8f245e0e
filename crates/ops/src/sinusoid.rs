use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::SinusoidParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::launch::{image, launch};
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
    let grid = Grid::elements((rows * columns) as u64);
    // SAFETY: the views have the extents that `params` names (checked), on this stream, and share no element.
    unsafe { launch::<B, SinusoidKernel<f32>, SinusoidKernel<bf16>>(queue, dtype, grid, &params) }
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
}

/// `exp((-ln(10000) * i) / half)` for `i` below `half`, each operation rounded to f32.
fn frequencies(half: u32) -> Vec<f32> {
    /// `-ln(10000)`.
    const EXPONENT: f32 = -9.210_340_5;
    (0..half).map(|index| ((EXPONENT * index as f32) / half as f32).exp()).collect()
}
