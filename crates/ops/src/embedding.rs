use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::EmbeddingParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
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
    // SAFETY: the views have the extents that `params` names (checked), on this stream; out is apart from both inputs.
    unsafe { launch::<B, EmbeddingKernel<f32>, EmbeddingKernel<bf16>>(queue, dtype, &params) }
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

    fn launches(p: &EmbeddingParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::embedding::launches(p, target))
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_refused, dry, normals, on_hosts};

    fn check(rows: usize, [vocabulary, columns]: [usize; 2]) {
        let mut rng = Rng::from_env(9);
        for dtype in DTYPES {
            let table = normals(&mut rng, dtype, vocabulary * columns, 0.0);
            let places: Vec<usize> = (0..rows).map(|row| row * row * 7 % vocabulary).collect();
            let ids: Vec<i32> = places.iter().map(|place| i32::try_from(*place).unwrap()).collect();
            let got = on_hosts(|queue| {
                let table = Board::new(queue, dtype, [vocabulary, columns], &table, false)?;
                let ids = queue.upload(&ids, &[rows], "ids")?;
                let out = Board::poisoned(queue, dtype, [rows, columns], false)?;
                embedding(queue, &Embedding { ids: ids.view(), table: table.view(), out: out.view() })?;
                out.read(queue)
            });
            let expected: Vec<f32> =
                places.iter().flat_map(|place| table[place * columns..][..columns].to_vec()).collect();
            assert_eq!(got, expected, "{dtype}");
        }
    }

    #[test]
    fn any_shape() {
        check(1, [1, 1]);
        check(77, [50, 17]);
        check(0, [50, 16]);
        check(128, [11, 3072]);
    }

    #[test]
    fn an_id_outside_of_the_table_gives_nan() {
        let got = on_hosts(|queue| {
            let table = queue.upload(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2], "table")?;
            let ids = queue.upload(&[1, 2, -1, i32::MIN], &[4], "ids")?;
            let out = queue.tensor(DType::F32, &[4, 2], "out")?;
            embedding(queue, &Embedding { ids: ids.view(), table: table.view(), out: out.view() })?;
            Ok(queue.read_f32(out.view())?.unwrap())
        });
        assert_eq!(got[..2], [3.0, 4.0]);
        assert!(got[2..].iter().all(|value| value.is_nan()), "{got:?}");
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (ids, table, out) =
            (tensor(DType::I32, &[4]), tensor(DType::F32, &[9, 6]), tensor(DType::F32, &[4, 6]));
        let (long_ids, tall) = (tensor(DType::I64, &[4]), tensor(DType::F32, &[5, 6]));
        let good = Embedding { ids: ids.view(), table: table.view(), out: out.view() };
        embedding(&queue, &good).unwrap();
        let cases = [
            (Embedding { ids: long_ids.view(), ..good }, "embedding: ids should be I32, is I64"),
            (Embedding { out: tall.view(), ..good }, "embedding: out should be [4, 6], is F32[5, 6]"),
            (Embedding { table: ids.view(), ..good }, "embedding: table should have 2 dimensions, is I32[4]"),
            (
                Embedding { out: table.view().rows(2, 4).unwrap(), ..good },
                "embedding: table overlaps out, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(embedding(&queue, &args), message);
        }
    }
}
