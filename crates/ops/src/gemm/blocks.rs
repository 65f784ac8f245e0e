use lighterage_device::Workers;

use super::{
    Epilogue, HostElement, Job, LANES, ROW_STRIDE, Scratch, Simd, Tile, WORDS, carve, execute, tiles,
};

/// Rows of a task at most: their share of A (512 x 576 bytes) and of the sums (512 x 1024 bytes) stay in a second-level cache of 1 MiB.
const BLOCK_ROWS: usize = 512;

/// Columns of a task at most: every packed row of A is used by eight panels.
const BLOCK_COLUMNS: usize = 256;

/// Where the rows of A come from.
pub(crate) trait RowSource<E>: Sync {
    /// Packs elements `start .. start + length` of row `row` and zero-fills the last word.
    ///
    /// # Safety
    /// - The row and the elements exist.
    unsafe fn pack<S: Simd<E>>(&self, row: usize, start: usize, length: usize, packed: &mut [u32])
    where
        E: HostElement;
}

/// `out = epilogue(A weight^T)`.
#[derive(Debug)]
pub(crate) struct Product<E, A> {
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
    pub(crate) epilogue: Epilogue<E>,
}

// SAFETY: the weight is only read during the launch, which `Kernel::host`'s caller promises; the rest is `Sync` by itself.
unsafe impl<E: Sync, A: Sync> Sync for Product<E, A> {}

/// Multiplies on all workers.
///
/// # Safety
/// - Every address of the product is valid for its sizes, and nothing else touches `out`, or writes what is read, until it returns.
pub(crate) unsafe fn multiply<E: HostElement, A: RowSource<E>>(workers: &Workers, product: &Product<E, A>) {
    let tasks = product.rows.div_ceil(BLOCK_ROWS) * product.columns.div_ceil(BLOCK_COLUMNS);
    let flops = 2.0 * product.rows as f64 * product.columns as f64 * product.inner as f64;
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

impl<E: HostElement, A: RowSource<E>> Job<E> for Product<E, A> {
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

impl<E: HostElement, A: RowSource<E>> Product<E, A> {
    /// Neighbouring tasks share rows of A.
    fn block(&self, task: usize) -> Block {
        let across = self.columns.div_ceil(BLOCK_COLUMNS);
        let (row, column) = (task / across * BLOCK_ROWS, task % across * BLOCK_COLUMNS);
        Block {
            row,
            rows: BLOCK_ROWS.min(self.rows - row),
            column,
            columns: BLOCK_COLUMNS.min(self.columns - column),
        }
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
                let source = self.weight.wrapping_add((block.column + column) * self.weight_stride + start);
                // SAFETY: `lanes` rows of the weight from this column on, `length` elements from `start` on: all inside of it.
                unsafe { S::pack_columns(source, self.weight_stride, lanes, length, panel) };
                self.panel::<S>(
                    block,
                    packed,
                    panel,
                    &mut sums[column..],
                    length.div_ceil(S::PER_WORD),
                    start > 0,
                );
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
        words: usize,
        accumulate: bool,
    ) {
        let c_stride = block.columns.next_multiple_of(LANES);
        for (first, height) in tiles(block.rows) {
            let tile = Tile {
                a: packed[first * ROW_STRIDE..][..(height - 1) * ROW_STRIDE + words].as_ptr(),
                b: panel[..words * LANES].as_ptr(),
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
