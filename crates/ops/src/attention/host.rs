#![expect(
    clippy::cast_possible_truncation,
    reason = "strides are 64 bits in the parameters, as addresses are"
)]

use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Cost, Kernel, Launches, Target, Workers};
use lighterage_kernels::attention;
use lighterage_kernels::params::AttentionParams;

use super::buckets::bucket;
use crate::gemm::{
    HostElement, Job, LANES, ROW_STRIDE, ROWS, Scratch, Simd, Tile, WORDS, carve, execute, exp, pack_row,
    store_rounded, tiles,
};

/// `kernels/attention/attention.h` for one element type.
#[derive(Debug)]
pub(super) struct AttentionKernel<E>(PhantomData<E>);

impl Kernel for AttentionKernel<f32> {
    type Params = AttentionParams;

    const NAME: &'static str = "attention_f32";

    unsafe fn host(params: &AttentionParams, workers: &Workers) {
        run::<f32>(params, workers);
    }

    fn cost(params: &AttentionParams) -> Cost {
        cost(params, size_of::<f32>())
    }
}

impl Kernel for AttentionKernel<bf16> {
    type Params = AttentionParams;

    const NAME: &'static str = "attention_bf16";

    unsafe fn host(params: &AttentionParams, workers: &Workers) {
        run::<bf16>(params, workers);
    }

    fn cost(params: &AttentionParams) -> Cost {
        cost(params, size_of::<bf16>())
    }

    fn launches(params: &AttentionParams, target: Target) -> Launches {
        attention::launches(params, target)
    }
}

/// Queries of a task at most: packing a block of keys and values is spread over so many rows.
const BLOCK_QUERIES: usize = 512;

/// Queries of a task where heads are few, so that one long head still occupies every thread.
const BLOCK_QUERIES_FEW: usize = 96;

/// With fewer tasks than this, tasks are made smaller. A constant, not the number of threads.
const TASKS_WANTED: usize = 16;

/// How much longer a FLOP of a short attention takes than one of a large product: packing and exponentials are not counted.
const SLOWNESS: f64 = 3.0;

fn run<E: HostElement>(params: &AttentionParams, workers: &Workers) {
    let (heads, queries) = (params.heads as usize, params.queries as usize);
    let job = Flash { params: *params, block_queries: block_queries(heads, queries) };
    execute::<E>(workers, heads * queries.div_ceil(job.block_queries), SLOWNESS * flops(params), &job);
}

/// Queries of a task, of nearly equal size.
fn block_queries(heads: usize, queries: usize) -> usize {
    let blocks = queries.div_ceil(BLOCK_QUERIES).max(1);
    if heads * blocks < TASKS_WANTED {
        return BLOCK_QUERIES_FEW;
    }
    queries.div_ceil(blocks).next_multiple_of(ROWS)
}

/// Attention in blocks: a task owns some queries of one head, and takes the keys block after block.
///
/// For every tile of up to 12 queries: scores against the block's keys, their maximum, exponentials and sums, and the
/// probabilities times the block's values added to the output so far, which is scaled down where the maximum has grown.
#[derive(Debug)]
struct Flash {
    params: AttentionParams,
    block_queries: usize,
}

/// A task's part.
#[derive(Clone, Copy, Debug)]
struct Block {
    head: usize,
    query: usize,
    queries: usize,
}

/// A thread's memory for one task.
#[derive(Debug)]
struct Buffers<'a> {
    /// `[chunks][queries][ROW_STRIDE]`.
    q: &'a mut [u32],
    /// `[key panels][chunks][WORDS][LANES]`.
    k: &'a mut [u32],
    /// `[value panels][WORDS][LANES]`.
    v: &'a mut [u32],
    /// `[ROWS][keys of a block]`.
    scores: &'a mut [f32],
    /// `[ROWS][ROW_STRIDE]`.
    probabilities: &'a mut [u32],
    /// `[queries][value panels * LANES]`, not yet divided by `sum`.
    out: &'a mut [f32],
    /// `[queries]`: largest score so far.
    max: &'a mut [f32],
    /// `[queries]`: sum of the exponentials so far.
    sum: &'a mut [f32],
    /// Bias by distance, from `-reach` to `reach`; empty where there is none.
    bias: &'a mut [f32],
}

/// Keys `start .. start + count` of a block.
#[derive(Clone, Copy, Debug)]
struct Keys {
    start: usize,
    count: usize,
}

impl<E: HostElement> Job<E> for Flash {
    #[inline(always)]
    fn run<S: Simd<E>>(&self, task: usize) {
        let block = self.block(task);
        let sizes = Sizes::of::<E, S>(self, block);
        let mut scratch = Scratch::take(sizes.words());
        let mut buffers = sizes.carve(scratch.words());
        self.pack_queries::<E, S>(block, buffers.q);
        self.fill_bias::<E>(block.head, buffers.bias);
        buffers.max.fill(f32::NEG_INFINITY);
        buffers.sum.fill(0.0);
        for start in (0..self.keys_seen(block)).step_by(sizes.block_keys) {
            let keys = Keys { start, count: sizes.block_keys.min(self.params.keys as usize - start) };
            self.pack_keys::<E, S>(block.head, keys, buffers.k);
            self.pack_values::<E, S>(block.head, keys, buffers.v);
            for (first, height) in tiles(block.queries) {
                self.score::<E, S>(block, keys, first, height, &mut buffers);
                self.soften::<E, S>(block, keys, first, height, &mut buffers);
                self.weigh::<E, S>(keys, first, height, &mut buffers);
            }
        }
        self.store::<E>(block, &buffers);
    }
}

/// How much scratch a task needs.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    queries: usize,
    chunks: usize,
    block_keys: usize,
    value_panels: usize,
    bias: usize,
}

impl Sizes {
    #[inline(always)]
    fn of<E: HostElement, S: Simd<E>>(flash: &Flash, block: Block) -> Self {
        let head_dim = flash.params.head_dim as usize;
        Self {
            queries: block.queries,
            chunks: head_dim.div_ceil(WORDS * S::PER_WORD),
            block_keys: WORDS * S::PER_WORD,
            value_panels: head_dim.div_ceil(LANES),
            bias: if flash.params.bias_table == 0 { 0 } else { 2 * flash.reach() + 1 },
        }
    }

    const fn lengths(&self) -> [usize; 9] {
        [
            self.chunks * self.queries * ROW_STRIDE,
            self.block_keys / LANES * self.chunks * WORDS * LANES,
            self.value_panels * WORDS * LANES,
            ROWS * self.block_keys,
            ROWS * ROW_STRIDE,
            self.queries * self.value_panels * LANES,
            self.queries,
            self.queries,
            self.bias,
        ]
    }

    fn words(&self) -> usize {
        self.lengths().iter().map(|words| words.next_multiple_of(16)).sum()
    }

    fn carve<'a>(&self, mut rest: &'a mut [u32]) -> Buffers<'a> {
        let [q, k, v, scores, probabilities, out, max, sum, bias] =
            self.lengths().map(|words| &mut carve(&mut rest, words)[..words]);
        Buffers {
            q,
            k,
            v,
            scores: bytemuck::cast_slice_mut(scores),
            probabilities,
            out: bytemuck::cast_slice_mut(out),
            max: bytemuck::cast_slice_mut(max),
            sum: bytemuck::cast_slice_mut(sum),
            bias: bytemuck::cast_slice_mut(bias),
        }
    }
}

impl Flash {
    /// Neighbouring tasks share a head.
    fn block(&self, task: usize) -> Block {
        let queries = self.params.queries as usize;
        let blocks = queries.div_ceil(self.block_queries);
        let query = task % blocks * self.block_queries;
        Block { head: task / blocks, query, queries: self.block_queries.min(queries - query) }
    }

    /// Keys that any query of the block sees.
    fn keys_seen(&self, block: Block) -> usize {
        if self.params.causal == 1 { block.query + block.queries } else { self.params.keys as usize }
    }

    /// Distances from here on have one bias: they lie beyond the last bucket's edge, or do not occur.
    fn reach(&self) -> usize {
        self.params.max_distance.min(self.params.queries.max(self.params.keys)) as usize
    }

    #[inline(always)]
    fn pack_queries<E: HostElement, S: Simd<E>>(&self, block: Block, packed: &mut [u32]) {
        let head_dim = self.params.head_dim as usize;
        let base = self.params.q as *const E;
        for (chunk, packed) in packed.chunks_mut(block.queries * ROW_STRIDE).enumerate() {
            let start = chunk * WORDS * S::PER_WORD;
            let length = (head_dim - start).min(WORDS * S::PER_WORD);
            for (row, packed) in packed.chunks_mut(ROW_STRIDE).enumerate() {
                let offset = (block.query + row) * self.params.q_row_stride as usize
                    + block.head * self.params.q_head_stride as usize
                    + start;
                // SAFETY: a row of q inside of the block, from `start` on: `Kernel::host`'s caller promises that it can be read.
                let source = unsafe { std::slice::from_raw_parts(base.wrapping_add(offset), length) };
                pack_row::<E, S>(source, &mut packed[..WORDS]);
            }
        }
    }

    #[inline(always)]
    fn fill_bias<E: HostElement>(&self, head: usize, bias: &mut [f32]) {
        let table = self.params.bias_table as *const E;
        let reach = self.reach() as i64;
        for (distance, bias) in (-reach..=reach).zip(bias) {
            let bucket = bucket(distance, self.params.buckets, self.params.max_distance) as usize;
            // SAFETY: the bucket and the head are inside of the table: `Kernel::host`'s caller promises that it can be read.
            *bias = unsafe { *table.wrapping_add(bucket * self.params.heads as usize + head) }.to_f32();
        }
    }

    #[inline(always)]
    fn pack_keys<E: HostElement, S: Simd<E>>(&self, head: usize, keys: Keys, packed: &mut [u32]) {
        let (head_dim, stride) = (self.params.head_dim as usize, self.params.k_row_stride as usize);
        let base = (self.params.k as *const E).wrapping_add(head * self.params.k_head_stride as usize);
        let step = WORDS * S::PER_WORD;
        let mut panels = packed.chunks_mut(WORDS * LANES);
        for first in (0..keys.count).step_by(LANES) {
            for start in (0..head_dim).step_by(step) {
                let Some(panel) = panels.next() else { return };
                let source = base.wrapping_add((keys.start + first) * stride + start);
                let lanes = LANES.min(keys.count - first);
                // SAFETY: keys of this block, elements from `start` on: `Kernel::host`'s caller promises that they can be read.
                unsafe { S::pack_columns(source, stride, lanes, step.min(head_dim - start), panel) };
            }
        }
    }

    #[inline(always)]
    fn pack_values<E: HostElement, S: Simd<E>>(&self, head: usize, keys: Keys, packed: &mut [u32]) {
        let (head_dim, stride) = (self.params.head_dim as usize, self.params.v_row_stride as usize);
        let base = (self.params.v as *const E).wrapping_add(head * self.params.v_head_stride as usize);
        for (panel, packed) in packed.chunks_mut(WORDS * LANES).enumerate() {
            let lanes = LANES.min(head_dim - panel * LANES);
            let source = base.wrapping_add(keys.start * stride + panel * LANES);
            // SAFETY: values of this block, `lanes` of their elements: `Kernel::host`'s caller promises that they can be read.
            unsafe { S::pack_rows(source, stride, lanes, keys.count, packed) };
        }
    }

    /// `scores = q k^T` for one tile.
    #[inline(always)]
    fn score<E: HostElement, S: Simd<E>>(
        &self,
        block: Block,
        keys: Keys,
        first: usize,
        height: usize,
        buffers: &mut Buffers<'_>,
    ) {
        let (head_dim, step) = (self.params.head_dim as usize, WORDS * S::PER_WORD);
        let chunks = head_dim.div_ceil(step);
        for panel in 0..keys.count.div_ceil(LANES) {
            for chunk in 0..chunks {
                let words = (head_dim - chunk * step).min(step).div_ceil(S::PER_WORD);
                let q = &buffers.q[(chunk * block.queries + first) * ROW_STRIDE..][..height * ROW_STRIDE];
                let k = &buffers.k[(panel * chunks + chunk) * WORDS * LANES..][..words * LANES];
                let scores = &mut buffers.scores[panel * LANES..][..(height - 1) * step + LANES];
                let tile = Tile {
                    a: q.as_ptr(),
                    b: k.as_ptr(),
                    words,
                    c: scores.as_mut_ptr(),
                    c_stride: step,
                    accumulate: chunk > 0,
                };
                // SAFETY: the slices above hold what the tile reads and writes; the path was entered, so its instructions exist.
                unsafe { S::tile(height, &tile) };
            }
        }
    }

    /// Scores to probabilities, up to the division by their sum.
    #[inline(always)]
    fn soften<E: HostElement, S: Simd<E>>(
        &self,
        block: Block,
        keys: Keys,
        first: usize,
        height: usize,
        buffers: &mut Buffers<'_>,
    ) {
        let out_stride = (self.params.head_dim as usize).next_multiple_of(LANES);
        let padded = keys.count.next_multiple_of(LANES);
        for row in 0..height {
            let query = block.query + first + row;
            let scores = &mut buffers.scores[row * WORDS * S::PER_WORD..][..padded];
            self.mask::<E, S>(query, keys, buffers.bias, scores);
            let max = maximum(buffers.max[first + row], scores);
            let shrink = if S::FMA {
                exp::<true>(buffers.max[first + row] - max)
            } else {
                exp::<false>(buffers.max[first + row] - max)
            };
            let packed = &mut buffers.probabilities[row * ROW_STRIDE..][..padded / S::PER_WORD];
            let sum = exponentials::<E, S>(max, scores, packed);
            buffers.max[first + row] = max;
            buffers.sum[first + row] = buffers.sum[first + row] * shrink + sum;
            if keys.start > 0 && shrink < 1.0 {
                let out = &mut buffers.out[(first + row) * out_stride..][..out_stride];
                for out in out {
                    *out *= shrink;
                }
            }
        }
    }

    /// Scales, adds the bias, and leaves out what the query does not see and what is no key at all.
    #[inline(always)]
    fn mask<E: HostElement, S: Simd<E>>(&self, query: usize, keys: Keys, bias: &[f32], scores: &mut [f32]) {
        let scale = self.params.scale;
        for score in &mut *scores {
            *score *= scale;
        }
        if !bias.is_empty() {
            let reach = self.reach();
            for (index, score) in scores[..keys.count].iter_mut().enumerate() {
                // The distance, `key - query`, from `-reach` on.
                let place = (keys.start + index + reach).saturating_sub(query).min(2 * reach);
                *score += bias[place];
            }
        }
        let seen = if self.params.causal == 1 {
            keys.count.min((query + 1).saturating_sub(keys.start))
        } else {
            keys.count
        };
        scores[seen..].fill(f32::NEG_INFINITY);
    }

    /// `out += probabilities v` for one tile.
    #[inline(always)]
    fn weigh<E: HostElement, S: Simd<E>>(
        &self,
        keys: Keys,
        first: usize,
        height: usize,
        buffers: &mut Buffers<'_>,
    ) {
        let out_stride = (self.params.head_dim as usize).next_multiple_of(LANES);
        let words = keys.count.div_ceil(S::PER_WORD);
        for panel in 0..out_stride / LANES {
            let out =
                &mut buffers.out[first * out_stride + panel * LANES..][..(height - 1) * out_stride + LANES];
            let tile = Tile {
                a: buffers.probabilities.as_ptr(),
                b: buffers.v[panel * WORDS * LANES..][..words * LANES].as_ptr(),
                words,
                c: out.as_mut_ptr(),
                c_stride: out_stride,
                accumulate: keys.start > 0,
            };
            // SAFETY: `probabilities` has `ROWS` rows of `ROW_STRIDE`; the other slices hold what the tile reads and writes;
            // the path was entered, so its instructions exist.
            unsafe { S::tile(height, &tile) };
        }
    }

    #[inline(always)]
    fn store<E: HostElement>(&self, block: Block, buffers: &Buffers<'_>) {
        let head_dim = self.params.head_dim as usize;
        let base = self.params.out as *mut E;
        for (row, values) in buffers.out.chunks(head_dim.next_multiple_of(LANES)).enumerate() {
            let offset = (block.query + row) * self.params.out_row_stride as usize
                + block.head * self.params.out_head_stride as usize;
            // SAFETY: a row of the output that this task alone writes: `Kernel::host`'s caller promises that it is valid.
            let out = unsafe { std::slice::from_raw_parts_mut(base.wrapping_add(offset), head_dim) };
            divide(&values[..head_dim], buffers.sum[row], out);
        }
    }
}

#[inline(always)]
fn divide<E: HostElement>(values: &[f32], sum: f32, out: &mut [E]) {
    let mut quotients = [0.0; LANES];
    for (values, out) in values.chunks(LANES).zip(out.chunks_mut(LANES)) {
        for (quotient, value) in quotients.iter_mut().zip(values) {
            *quotient = value / sum;
        }
        store_rounded(&quotients[..values.len()], out);
    }
}

#[inline(always)]
const fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The larger of `start` and all values, whose number is a multiple of [`LANES`]; NaN is passed over.
#[inline(always)]
fn maximum(start: f32, values: &[f32]) -> f32 {
    let mut lanes = [start; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = larger(*lane, *value);
        }
    }
    let mut max = start;
    for lane in lanes {
        max = larger(max, lane);
    }
    max
}

/// Packs `e^(score - max)` and returns the sum of the exponentials, taken in [`LANES`] partial sums.
#[inline(always)]
fn exponentials<E: HostElement, S: Simd<E>>(max: f32, scores: &[f32], packed: &mut [u32]) -> f32 {
    let packed: &mut [S::Packed] = bytemuck::cast_slice_mut(packed);
    let mut sums = [0.0_f32; LANES];
    for (scores, packed) in scores.as_chunks::<LANES>().0.iter().zip(packed.chunks_exact_mut(LANES)) {
        for lane in 0..LANES {
            let power =
                if S::FMA { exp::<true>(scores[lane] - max) } else { exp::<false>(scores[lane] - max) };
            sums[lane] += power;
            packed[lane] = S::pack_f32(power);
        }
    }
    let mut sum = 0.0;
    for lane in sums {
        sum += lane;
    }
    sum
}

/// `2 x 2 queries keys heads head_dim`, half of it under a causal mask; exponentials are not counted.
fn flops(params: &AttentionParams) -> f64 {
    let pairs = f64::from(params.queries) * f64::from(params.keys);
    let seen = if params.causal == 1 { (pairs + f64::from(params.queries)) / 2.0 } else { pairs };
    4.0 * seen * f64::from(params.heads) * f64::from(params.head_dim)
}

/// Every tensor is read or written once.
fn cost(params: &AttentionParams, element_bytes: usize) -> Cost {
    let rows = 2.0 * f64::from(params.queries) + 2.0 * f64::from(params.keys);
    let table =
        if params.bias_table == 0 { 0.0 } else { f64::from(params.buckets) * f64::from(params.heads) };
    let elements = rows * f64::from(params.heads) * f64::from(params.head_dim) + table;
    Cost { flops: flops(params), bytes: elements * element_bytes as f64 }
}
