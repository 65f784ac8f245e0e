use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::EmbeddingParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::launch::{image, launch};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
use crate::{Queue, Result};

/// Rows of a table. The ids are on the device; whoever uploads them has checked that they lie in the table.
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'a> {
    /// i32 `[rows]`.
    pub ids: View<'a>,
    /// `[vocabulary, columns]`, contiguous.
    pub table: View<'a>,
    /// `[rows, columns]`, contiguous.
    pub out: View<'a>,
}

/// `out[r, :] = table[ids[r], :]`. A row whose id lies outside of the table becomes NaN: it reads no memory and cannot be overlooked.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn embedding<B: Backend>(queue: &Queue<B>, args: &Embedding<'_>) -> Result<()> {
    let check = Check::new("embedding", queue);
    let table = check.tensor("table", args.table)?.contiguous()?;
    let [vocabulary, columns] = table.extents()?;
    let ids = check.tensor("ids", args.ids)?.dtype(DType::I32)?.contiguous()?;
    let [rows] = ids.extents()?;
    let dtype = table.float()?;
    let out = check.tensor("out", args.out)?.is(dtype, &[rows, columns])?.contiguous()?;
    ids.apart(out)?;
    table.apart(out)?;
    let params = EmbeddingParams {
        ids: ids.address(),
        table: table.address(),
        out: out.address(),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
        vocabulary: check.count("vocabulary", vocabulary)?,
        padding: 0,
    };
    let grid = Grid::warps(params.rows);
    // SAFETY: the views have the extents that `params` names (checked), on this stream; out is apart from both inputs.
    unsafe { launch::<B, EmbeddingKernel<f32>, EmbeddingKernel<bf16>>(queue, dtype, grid, &params) }
}

struct EmbeddingKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for EmbeddingKernel<E> {
    type Params = EmbeddingParams;

    const NAME: &'static str = image(E::DTYPE, "embedding_f32", "embedding_bf16");

    unsafe fn host(p: &EmbeddingParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let ids = unsafe { Rows::<i32>::vector(p.ids, p.rows) };
        // SAFETY: the caller's promise.
        let table = unsafe { Rows::<E>::new(p.table, p.vocabulary, p.columns, u64::from(p.columns)) };
        // SAFETY: the caller's promise; each task writes its own rows.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, u64::from(p.columns)) };
        for_rows(workers, p.rows as usize, p.columns as usize, |range| {
            for row in range {
                match u32::try_from(ids.get(0, row)).ok().filter(|id| *id < p.vocabulary) {
                    Some(id) => out.copy_row(row, &table, id as usize),
                    None => out.fill_row(row, f32::NAN),
                }
            }
        });
    }

    fn cost(p: &EmbeddingParams) -> Cost {
        let rows = f64::from(p.rows);
        Cost { flops: 0.0, bytes: 2.0 * rows * f64::from(p.columns) * size_of::<E>() as f64 + 4.0 * rows }
    }
}
