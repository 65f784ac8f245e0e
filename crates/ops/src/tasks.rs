//! How a host function divides its work: by sizes alone, so that the number of threads changes who computes a value, never the value.
use std::ops::Range;
use std::sync::OnceLock;

use lighterage_device::Workers;
use lighterage_shape::Float;

use crate::isa::compiled_for;
use crate::rows::{PIECE, Rows, RowsMut};

/// Elements of a task: some ten microseconds of work, a hundred times what it costs to hand a task to a thread.
const TASK_ELEMENTS: usize = 1 << 14;

/// Runs `body` on ranges that together are all of `rows` rows of `columns` elements; small work runs on the calling thread.
pub(crate) fn for_rows(
    workers: &Workers,
    rows: usize,
    columns: usize,
    body: impl Fn(Range<usize>) + Send + Sync,
) {
    let grain = (TASK_ELEMENTS / columns.max(1)).max(1);
    workers.for_each(rows.div_ceil(grain), |task| {
        let range = task * grain..((task + 1) * grain).min(rows);
        compiled_for(
            workers.isa(),
            #[inline(always)]
            || body(range),
        );
    });
}

/// Runs `body(row, start, length)` on pieces of at most [`PIECE`] elements that together are a `rows` x `columns` matrix.
pub(crate) fn for_pieces(
    workers: &Workers,
    rows: usize,
    columns: usize,
    body: impl Fn(usize, usize, usize) + Send + Sync,
) {
    let pieces = columns.div_ceil(PIECE);
    for_rows(
        workers,
        rows * pieces,
        columns.min(PIECE),
        #[inline(always)]
        |range| {
            for index in range {
                let (row, start) = (index / pieces, index % pieces * PIECE);
                body(row, start, PIECE.min(columns - start));
            }
        },
    );
}

/// Loads each of `rows` rows of `columns` elements of `x` into f32, runs `body` on it and rounds it into `out`, which may be `x`.
pub(crate) fn map_rows<I: Float, O: Float>(
    workers: &Workers,
    [rows, columns]: [u32; 2],
    x: &Rows<'_, I>,
    out: &RowsMut<'_, O>,
    body: impl Fn(&mut [f32]) + Send + Sync,
) {
    for_rows(
        workers,
        rows as usize,
        columns as usize,
        #[inline(always)]
        |range| {
            let mut values = vec![0.0; columns as usize];
            for row in range {
                x.load(row, 0, &mut values);
                body(&mut values);
                out.store(row, 0, &values);
            }
        },
    );
}

/// `[of(0), .., of(count - 1)]`, computed in any order.
pub(crate) fn map<T: Send + Sync>(
    workers: &Workers,
    count: usize,
    of: impl Fn(usize) -> T + Send + Sync,
) -> Vec<T> {
    let slots: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    workers.for_each(count, |index| {
        compiled_for(
            workers.isa(),
            #[inline(always)]
            || {
                let value = of(index);
                slots[index].get_or_init(|| value);
            },
        );
    });
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Fails unless the pieces are all of the matrix, each once, and none is longer than a piece.
    fn check(threads: usize, rows: usize, columns: usize) {
        let workers = Workers::new(threads, None).unwrap();
        let seen = Mutex::new(vec![0_u8; rows * columns]);
        for_pieces(&workers, rows, columns, |row, start, length| {
            assert!(0 < length && length <= PIECE && start + length <= columns);
            let mut seen = seen.lock().unwrap();
            seen[row * columns + start..][..length].iter_mut().for_each(|count| *count += 1);
        });
        assert!(
            seen.into_inner().unwrap().iter().all(|count| *count == 1),
            "{threads} threads, {rows} x {columns}"
        );
    }

    #[test]
    fn pieces_cover_a_matrix_once() {
        for threads in [1, 2, 3] {
            for (rows, columns) in [(0, 5), (5, 0), (1, 1), (3, 1024), (3, 1025), (200, 500), (1, 100_000)] {
                check(threads, rows, columns);
            }
        }
    }

    #[test]
    fn mapped_values_keep_their_order() {
        for threads in [1, 5] {
            let workers = Workers::new(threads, None).unwrap();
            assert_eq!(
                map(&workers, 100, |index| index * index),
                (0..100).map(|i| i * i).collect::<Vec<_>>()
            );
        }
    }
}
