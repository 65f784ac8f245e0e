use std::cell::Cell;

use bytemuck::{Pod, Zeroable};

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's scratch memory, at least `words` words, on a cache line; contents undefined.
///
/// It grows to the largest request and stays, so that a launch allocates nothing. What the jobs ask for is bounded by their
/// block sizes, well below 1 MiB but for attention with heads wider than 512.
#[inline(always)]
pub(crate) fn with_scratch<R>(words: usize, use_it: impl FnOnce(&mut [u32]) -> R) -> R {
    let mut lines = LINES.take();
    if lines.len() < words.div_ceil(16) {
        lines.resize(words.div_ceil(16), Line::zeroed());
    }
    let result = use_it(bytemuck::cast_slice_mut(&mut lines));
    LINES.set(lines);
    result
}

/// Cuts the first `words` words, rounded up to whole lines, off the front of `rest`.
#[inline(always)]
pub(crate) fn carve<'a>(rest: &mut &'a mut [u32], words: usize) -> &'a mut [u32] {
    let (front, back) = std::mem::take(rest).split_at_mut(words.next_multiple_of(16));
    *rest = back;
    front
}
