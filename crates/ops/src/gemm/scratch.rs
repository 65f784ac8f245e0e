use std::cell::Cell;

use bytemuck::{Pod, Zeroable};

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The thread's scratch memory, lent to one task.
///
/// It grows to the largest request and stays, so that a launch allocates nothing. What the jobs ask for is bounded by their
/// block sizes, well below 1 MiB but for attention with heads wider than 512.
///
/// A guard and not a function that takes a closure: closures are compiled without the instructions of the path around them.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    /// At least `words` words; contents undefined.
    pub(crate) fn take(words: usize) -> Self {
        let mut lines = LINES.take();
        if lines.len() < words.div_ceil(16) {
            lines.resize(words.div_ceil(16), Line::zeroed());
        }
        Self(lines)
    }

    /// The memory, on a cache line.
    pub(crate) fn words(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        LINES.set(std::mem::take(&mut self.0));
    }
}

/// Cuts the first `words` words, rounded up to whole lines, off the front of `rest`.
#[inline(always)]
pub(crate) fn carve<'a>(rest: &mut &'a mut [u32], words: usize) -> &'a mut [u32] {
    let (front, back) = std::mem::take(rest).split_at_mut(words.next_multiple_of(16));
    *rest = back;
    front
}
