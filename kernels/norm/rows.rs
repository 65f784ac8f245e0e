//! Which kernel does a row, and by how many threads: the Rust side of `row.cuh`.

/// An image for rows of exactly that many columns, all addresses multiples of 16, and the threads of its blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact {
    pub(super) columns: u32,
    pub(super) threads: u32,
    pub(super) image: &'static str,
}

/// Threads of a block for rows that no image is made for.
const THREADS: u32 = 128;

/// The image for such rows, and the threads of its blocks: one of `exact` if the row's width is one of theirs and every address and distance
/// (in bytes) is a multiple of 16, else `any` with as many threads, so that it adds in the same order.
pub(super) fn image(
    exact: &[Exact],
    any: &'static str,
    columns: u32,
    addresses: &[u64],
) -> (&'static str, u32) {
    match exact.iter().find(|exact| exact.columns == columns) {
        Some(exact) if addresses.iter().all(|address| address.is_multiple_of(16)) => {
            (exact.image, exact.threads)
        }
        Some(exact) => (any, exact.threads),
        None => (any, THREADS),
    }
}
