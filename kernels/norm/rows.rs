//! Which kernel does a row, and by how many threads: the Rust side of `row.cuh`.

/// An image for rows of exactly that many columns, all addresses multiples of 16, and the threads of its blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact {
    pub(super) columns: u32,
    pub(super) threads: u32,
    pub(super) image: &'static str,
}

impl Exact {
    /// Whether it does rows of that width at those addresses and distances (in bytes).
    pub(super) fn does(&self, columns: u32, addresses: &[u64]) -> bool {
        self.columns == columns && addresses.iter().all(|address| address.is_multiple_of(16))
    }
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
        Some(exact) if exact.does(columns, addresses) => (exact.image, exact.threads),
        Some(exact) => (any, exact.threads),
        None => (any, THREADS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: [Exact; 1] = [Exact { columns: 3072, threads: 96, image: "exact" }];

    #[test]
    fn any_address_off_16_bytes_takes_the_other_image() {
        let chosen = |columns, addresses: &[u64]| image(&EXACT, "any", columns, addresses);
        let aligned = [1 << 40, 0, 6144, 16];
        assert_eq!(chosen(3072, &aligned), ("exact", 96));
        assert_eq!(chosen(3073, &aligned), ("any", 128));
        for index in 0..aligned.len() {
            let mut off = aligned;
            off[index] += 8;
            assert_eq!(chosen(3072, &off), ("any", 96), "address {index}");
        }
    }
}
