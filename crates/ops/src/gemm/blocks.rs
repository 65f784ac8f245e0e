use std::ops::Range;

use lighterage_device::Workers;
use lighterage_shape::Float;

use super::{
    Epilogue, HostElement, Job, LANES, ROW_STRIDE, ROWS, Scratch, Simd, Tile, WORDS, carve, execute,
    prefetch, tiles,
};

/// Rows of a task at most: their share of A (512 x 576 bytes) and of the sums (512 x 1024 bytes) stay in a second-level cache of 1 MiB.
const BLOCK_ROWS: usize = 512;

/// Panels of a task at most: every packed row of A is used by eight.
const BLOCK_PANELS: usize = 8;

/// With fewer tasks than this, tasks are made narrower, down to one panel: with few rows, packing A once more for each costs little beside
/// packing the weights, which so is shared among the threads. A constant, not the number of threads.
const TASKS_WANTED: usize = 8;

/// Rows whose product takes about as long as packing the weights for it.
const PACKING_ROWS: f64 = 32.0;

/// Where the rows of A come from.
pub(crate) trait RowSource<E>: Sync {
    /// Packs elements `start .. start + length` of row `row` and zero-fills the last word.
    ///
    /// # Safety
    /// - The row and the elements exist.
    unsafe fn pack<S: Simd<E>>(&self, row: usize, start: usize, length: usize, packed: &mut [u32])
    where
        E: HostElement;

    /// Where element `start` of row `row` is, to be fetched ahead of time; none where a row is gathered. Never read through.
    fn place(&self, row: usize, start: usize) -> Option<*const E>;
}

/// `out = epilogue(A weight^T)`.
#[derive(Debug)]
pub(crate) struct Product<E, A, O = E> {
    /// `[rows, inner]`.
    pub(crate) a: A,
    /// `[columns, inner]`, rows `weight_stride` apart.
    pub(crate) weight: *const E,
    /// Elements.
    pub(crate) weight_stride: usize,
    /// Rows of A.
    pub(crate) rows: usize,
    /// Rows of the weight.
    pub(crate) columns: usize,
    /// The summed dimension.
    pub(crate) inner: usize,
    /// What happens to the sums.
    pub(crate) epilogue: Epilogue<E, O>,
}

// SAFETY: the weight is only read during the launch, which `Kernel::host`'s caller promises; the rest is `Sync` by itself.
unsafe impl<E: Sync, A: Sync, O: Sync> Sync for Product<E, A, O> {}

/// Multiplies on all workers.
///
/// # Safety
/// - Every address of the product is valid for its sizes, and nothing else touches `out`, or writes what is read, until it returns.
pub(crate) unsafe fn multiply<E: HostElement, A: RowSource<E>, O: Float>(
    workers: &Workers,
    product: &Product<E, A, O>,
) {
    let tasks = product.rows.div_ceil(BLOCK_ROWS)
        * product.columns.div_ceil(block_columns(product.rows, product.columns));
    let flops = 2.0 * (product.rows as f64 + PACKING_ROWS) * product.columns as f64 * product.inner as f64;
    execute(workers, tasks, flops, product);
}

/// A task's part of the output.
#[derive(Clone, Copy, Debug)]
struct Block {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// What is fetched into the second-level cache while a panel is multiplied: packing would otherwise wait for memory, since its
/// rows are too short for the machine to see where they go (a tenth of the time of a large product).
#[derive(Debug)]
struct Ahead<E> {
    /// The next panel's weights.
    weight: *const E,
    /// Rows of them.
    lanes: usize,
    /// Elements of each.
    elements: usize,
    /// Rows of A.
    rows: Range<usize>,
    /// Their first element.
    next: usize,
    /// Their elements.
    next_elements: usize,
}

/// Asks for a row's cache lines.
#[inline(always)]
fn fetch_row<E>(start: *const E, elements: usize) {
    for element in (0..elements).step_by(64 / size_of::<E>()) {
        prefetch(start.wrapping_add(element));
    }
}

impl<E: HostElement, A: RowSource<E>, O: Float> Job<E> for Product<E, A, O> {
    #[inline(always)]
    fn run<S: Simd<E>>(&self, task: usize) {
        let block = self.block(task);
        let stride = block.columns.next_multiple_of(LANES);
        let mut scratch = Scratch::take(block.rows * (stride + ROW_STRIDE) + WORDS * LANES);
        let mut rest = scratch.words();
        let panel = carve(&mut rest, WORDS * LANES);
        let sums = bytemuck::cast_slice_mut(carve(&mut rest, block.rows * stride));
        let packed = carve(&mut rest, block.rows * ROW_STRIDE);
        self.sum::<S>(block, packed, panel, sums);
        self.store(block, sums);
    }
}

/// Columns of a task at most. The sums do not depend on it: each is taken over the whole inner dimension by one task.
fn block_columns(rows: usize, columns: usize) -> usize {
    let across = TASKS_WANTED.div_ceil(rows.div_ceil(BLOCK_ROWS).max(1));
    (columns.div_ceil(LANES) / across).clamp(1, BLOCK_PANELS) * LANES
}

impl<E: HostElement, A: RowSource<E>, O: Float> Product<E, A, O> {
    /// Neighbouring tasks share rows of A.
    fn block(&self, task: usize) -> Block {
        let wide = block_columns(self.rows, self.columns);
        let across = self.columns.div_ceil(wide);
        let (row, column) = (task / across * BLOCK_ROWS, task % across * wide);
        Block { row, rows: BLOCK_ROWS.min(self.rows - row), column, columns: wide.min(self.columns - column) }
    }

    #[inline(always)]
    fn sum<S: Simd<E>>(&self, block: Block, packed: &mut [u32], panel: &mut [u32], sums: &mut [f32]) {
        if self.inner == 0 {
            sums.fill(0.0);
        }
        let step = WORDS * S::PER_WORD;
        for start in (0..self.inner).step_by(step) {
            let length = step.min(self.inner - start);
            for row in 0..block.rows {
                // SAFETY: the row and the elements are inside of A, and `multiply`'s caller promises that they can be read.
                unsafe {
                    self.a.pack::<S>(
                        block.row + row,
                        start,
                        length,
                        &mut packed[row * ROW_STRIDE..][..WORDS],
                    );
                }
            }
            for column in (0..block.columns).step_by(LANES) {
                let lanes = LANES.min(block.columns - column);
                let source = self.source(block.column + column, start);
                // SAFETY: `lanes` rows of the weight from this column on, `length` elements from `start` on: all inside of it.
                unsafe { S::pack_columns(source, self.weight_stride, lanes, length, panel) };
                self.panel::<S>(
                    block,
                    packed,
                    &panel[..length.div_ceil(S::PER_WORD) * LANES],
                    &mut sums[column..],
                    start > 0,
                    &self.ahead(block, column, start, step),
                );
            }
        }
    }

    /// Where a panel's weights start.
    #[inline(always)]
    fn source(&self, column: usize, start: usize) -> *const E {
        self.weight.wrapping_add(column * self.weight_stride + start)
    }

    /// What the next panel needs, and this panel's share of what the next step along the inner dimension needs of A.
    #[inline(always)]
    fn ahead(&self, block: Block, column: usize, start: usize, step: usize) -> Ahead<E> {
        let panels = block.columns.div_ceil(LANES);
        let share = block.rows.div_ceil(panels);
        let next = start + step;
        let first = (column / LANES * share).min(block.rows);
        let rows = if next < self.inner { first..(first + share).min(block.rows) } else { 0..0 };
        let (column, at) = if column + LANES < block.columns { (column + LANES, start) } else { (0, next) };
        Ahead {
            weight: self.source(block.column + column, at),
            lanes: LANES.min(block.columns - column),
            elements: step.min(self.inner.saturating_sub(at)),
            rows: block.row + rows.start..block.row + rows.end,
            next,
            next_elements: step.min(self.inner.saturating_sub(next)),
        }
    }

    /// Asks for tile `index`'s share of all that, so that it arrives while `count` tiles are multiplied.
    #[inline(always)]
    fn fetch(&self, ahead: &Ahead<E>, index: usize, count: usize) {
        for lane in (index..ahead.lanes).step_by(count) {
            fetch_row(ahead.weight.wrapping_add(lane * self.weight_stride), ahead.elements);
        }
        for row in ahead.rows.clone().skip(index).step_by(count) {
            if let Some(place) = self.a.place(row, ahead.next) {
                fetch_row(place, ahead.next_elements);
            }
        }
    }

    /// All rows of the block times one panel.
    #[inline(always)]
    fn panel<S: Simd<E>>(
        &self,
        block: Block,
        packed: &[u32],
        panel: &[u32],
        sums: &mut [f32],
        accumulate: bool,
        ahead: &Ahead<E>,
    ) {
        let c_stride = block.columns.next_multiple_of(LANES);
        let (words, count) = (panel.len() / LANES, block.rows.div_ceil(ROWS));
        for (index, (first, height)) in tiles(block.rows).enumerate() {
            self.fetch(ahead, index, count);
            let tile = Tile {
                a: packed[first * ROW_STRIDE..][..(height - 1) * ROW_STRIDE + words].as_ptr(),
                b: panel.as_ptr(),
                words,
                c: sums[first * c_stride..][..(height - 1) * c_stride + LANES].as_mut_ptr(),
                c_stride,
                accumulate,
            };
            // SAFETY: the slices above hold what the tile reads and writes; the path was entered, so its instructions exist.
            unsafe { S::tile(height, &tile) };
        }
    }

    #[inline(always)]
    fn store(&self, block: Block, sums: &mut [f32]) {
        let stride = block.columns.next_multiple_of(LANES);
        for (row, sums) in sums.chunks_mut(stride).take(block.rows).enumerate() {
            let sums = &mut sums[..block.columns];
            // SAFETY: the block is inside of the output and belongs to this task alone; the rest is `multiply`'s caller's promise.
            unsafe { self.epilogue.store(block.row + row, block.column, sums) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::block_columns;

    fn check(rows: usize, columns: usize, expected: usize) {
        assert_eq!(block_columns(rows, columns), expected, "{rows} x {columns}");
    }

    #[test]
    fn a_product_of_few_rows_has_tasks_for_several_threads() {
        check(48, 192, 32);
        check(48, 576, 64);
        check(48, 768, 96);
        check(16, 31, 32);
    }

    #[test]
    fn a_large_product_has_wide_tasks() {
        check(1024, 3072, 256);
        check(48, 9216, 256);
        check(4096, 64, 64);
        check(4096, 512, 256);
    }

    #[test]
    fn nothing_has_tasks_too() {
        check(0, 0, 32);
        check(0, 500, 64);
    }
}
