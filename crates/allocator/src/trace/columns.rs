//! The format of `benches/traces` before zstd: the same facts as in records ([`Trace::to_binary`]), column by column and byte by byte, ids as differences, so that what repeats stands together.
//!
//! Nine traces of 21 MB in records take 157 kB so, and 2.0 MB as compressed records.

use super::binary::{bad, op, whole};
use super::{Op, Trace};
use crate::Result;

/// Two numbers: of ops, and of the allocations among them.
const HEADER: usize = 8;

impl Trace {
    /// Reads columns, little-endian: `u32 ops, u32 allocations`; a byte `0 alloc, 1 free` of each op; a byte `stream` of each allocation; four columns, lowest byte first, of a `u32` of each op:
    /// an allocation's id less the one that would follow the allocation before it, or a free's id, counted back from there; eight columns of each allocation's `u64 bytes`.
    ///
    /// # Errors
    /// [`Error::Trace`](crate::Error::Trace) with the op that cannot be meant, or the bytes that are missing or too many.
    ///
    /// # Examples
    /// ```
    /// use lighterage_allocator::{Op, Trace};
    ///
    /// let trace = Trace::new([Op::Alloc { id: 0, stream: 0, bytes: 512 }, Op::Free { id: 0 }]);
    /// assert_eq!(Trace::from_columns(&trace.to_columns()), Ok(trace));
    /// ```
    pub fn from_columns(bytes: &[u8]) -> Result<Self> {
        let columns = Columns::of(bytes)?;
        let (mut ops, mut follows) = (Vec::with_capacity(columns.kinds.len()), 0_u32);
        let mut allocations = 0;
        for (at, &kind) in columns.kinds.iter().enumerate() {
            let difference = u32::from_le_bytes(row(columns.ids, at));
            let read = match kind {
                0 => {
                    let id = follows.wrapping_add(difference);
                    follows = id.wrapping_add(1);
                    let size = u64::from_le_bytes(row(columns.sizes, allocations));
                    let stream = columns.streams[allocations];
                    allocations += 1;
                    op(at, kind, stream, id, size)
                }
                _ => op(at, kind, 0, follows.wrapping_sub(difference), 0),
            };
            ops.push(read?);
        }
        whole(ops)
    }

    /// The same as columns.
    ///
    /// # Panics
    /// If there are 2^32 ops.
    #[must_use]
    pub fn to_columns(&self) -> Vec<u8> {
        let (mut kinds, mut streams, mut ids, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut follows = 0_u32;
        for op in &self.ops {
            match *op {
                Op::Alloc { id, stream, bytes } => {
                    kinds.push(0);
                    streams.push(stream);
                    ids.push(id.wrapping_sub(follows));
                    sizes.push(bytes);
                    follows = id.wrapping_add(1);
                }
                Op::Free { id } => {
                    kinds.push(1);
                    ids.push(follows.wrapping_sub(id));
                }
            }
        }
        let count = |of: usize| u32::try_from(of).expect("fewer than 2^32").to_le_bytes();
        let ids: Vec<[u8; 4]> = ids.into_iter().map(u32::to_le_bytes).collect();
        let sizes: Vec<[u8; 8]> = sizes.into_iter().map(u64::to_le_bytes).collect();
        [&count(kinds.len())[..], &count(streams.len()), &kinds, &streams, &turned(&ids), &turned(&sizes)]
            .concat()
    }
}

/// The parts of a file.
struct Columns<'a> {
    kinds: &'a [u8],
    streams: &'a [u8],
    ids: &'a [u8],
    sizes: &'a [u8],
}

impl<'a> Columns<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self> {
        let (header, columns) =
            bytes.split_at_checked(HEADER).ok_or_else(|| bad(0, "no header".to_owned()))?;
        let number = |at| u32::from_le_bytes(row_of(header, at)) as usize;
        let (ops, allocations) = (number(0), number(4));
        // Both are below 2^32, and an op takes at most 14 bytes.
        let needed = 5 * ops as u64 + 9 * allocations as u64;
        if columns.len() as u64 != needed {
            let reason = format!(
                "{ops} ops, {allocations} of them allocations, take {needed} bytes, not {}",
                columns.len()
            );
            return Err(bad(0, reason));
        }
        let (kinds, columns) = columns.split_at(ops);
        let counted = kinds.iter().filter(|kind| **kind == 0).count();
        if counted != allocations {
            return Err(bad(0, format!("{counted} allocations where the header has {allocations}")));
        }
        let (streams, columns) = columns.split_at(allocations);
        let (ids, sizes) = columns.split_at(4 * ops);
        Ok(Self { kinds, streams, ids, sizes })
    }
}

/// `N` bytes that follow one another.
fn row_of<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| bytes[at + byte])
}

/// Row `at` of `N` columns.
fn row<const N: usize>(columns: &[u8], at: usize) -> [u8; N] {
    let rows = columns.len() / N;
    std::array::from_fn(|byte| columns[byte * rows + at])
}

/// Rows as columns.
fn turned<const N: usize>(rows: &[[u8; N]]) -> Vec<u8> {
    (0..N).flat_map(|byte| rows.iter().map(move |row| row[byte])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_round() {
        let trace = Trace::new([
            Op::Alloc { id: 3, stream: 200, bytes: 1 << 40 },
            Op::Alloc { id: 0, stream: 0, bytes: 7 },
            Op::Free { id: 3 },
            Op::Alloc { id: 1 << 28, stream: 1, bytes: 0 },
            Op::Alloc { id: 3, stream: 0, bytes: 9 },
            Op::Free { id: 0 },
        ]);
        assert_eq!(trace.ops().len(), 6);
        assert_eq!(Trace::from_columns(&trace.to_columns()), Ok(trace));
        assert_eq!(Trace::from_columns(&Trace::default().to_columns()), Ok(Trace::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        let one = Trace::new([Op::Alloc { id: 0, stream: 0, bytes: 7 }]).to_columns();
        let changed = |at: usize, to: u8| {
            let mut bytes = one.clone();
            bytes[at] = to;
            bytes
        };
        for (bytes, reason) in [
            (vec![0; 7], "no header"),
            (one[..one.len() - 1].to_vec(), "take 14 bytes, not 13"),
            ([&one[..], &[0]].concat(), "take 14 bytes, not 15"),
            (vec![255; 64], "4294967295 ops"),
            (changed(8, 1), "0 allocations where the header has 1"),
            (changed(13, 0x20), "too high"),
            (vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0], "no op 2"),
            (vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "alive twice"),
        ] {
            let error = Trace::from_columns(&bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
