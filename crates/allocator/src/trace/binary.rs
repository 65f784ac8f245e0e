//! Traces as records of 16 bytes, little-endian: `u8 op (0 alloc, 1 free), u8 stream, u16 0, u32 id, u64 bytes`.

use super::{Op, Trace};
use crate::{Error, Result};

const RECORD: usize = 16;

impl Trace {
    /// Reads records of 16 bytes: `u8 op (0 alloc, 1 free), u8 stream, u16 0, u32 id, u64 bytes`, little-endian.
    ///
    /// # Errors
    /// [`Error::Trace`] with the record that cannot be meant.
    pub fn from_binary(bytes: &[u8]) -> Result<Self> {
        let (records, rest) = bytes.as_chunks::<RECORD>();
        if !rest.is_empty() {
            return Err(bad(records.len(), format!("{} bytes too many", rest.len())));
        }
        whole(records.iter().enumerate().map(|(at, record)| read(at, record)).collect::<Result<_>>()?)
    }

    /// The same as records.
    #[must_use]
    pub fn to_binary(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.ops.len() * RECORD);
        for op in &self.ops {
            let (kind, stream, id, size) = match *op {
                Op::Alloc { id, stream, bytes } => (0, stream, id, bytes),
                Op::Free { id } => (1, 0, id, 0),
            };
            bytes.extend([kind, stream, 0, 0]);
            bytes.extend(id.to_le_bytes());
            bytes.extend(size.to_le_bytes());
        }
        bytes
    }
}

fn read(at: usize, record: &[u8; RECORD]) -> Result<Op> {
    let [kind, stream, _, _, a, b, c, d, size @ ..] = *record;
    op(at, kind, stream, u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(size))
}

/// What a file says of its op number `at`.
pub(super) fn op(at: usize, kind: u8, stream: u8, id: u32, bytes: u64) -> Result<Op> {
    match kind {
        // Ids number tables, so a file cannot ask for billions.
        _ if id > 1 << 28 => Err(bad(at, format!("id {id} is too high"))),
        0 => Ok(Op::Alloc { id, stream, bytes: bytes.min(1 << 50) }),
        1 => Ok(Op::Free { id }),
        kind => Err(bad(at, format!("there is no op {kind}"))),
    }
}

/// The trace of a file's ops, all of which have to make sense.
pub(super) fn whole(ops: Vec<Op>) -> Result<Trace> {
    let count = ops.len();
    let trace = Trace::new(ops);
    if trace.ops.len() == count { Ok(trace) } else { Err(bad(count, "an id is alive twice".to_owned())) }
}

pub(super) fn bad(position: usize, reason: String) -> Error {
    Error::Trace { format: "binary trace", position, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_goes_round() {
        let trace = Trace::new([
            Op::Alloc { id: 3, stream: 1, bytes: 1 << 40 },
            Op::Alloc { id: 0, stream: 0, bytes: 7 },
            Op::Free { id: 3 },
            Op::Free { id: 9 },
        ]);
        assert_eq!((trace.ops().len(), trace.streams(), trace.ids()), (3, 2, 4));
        assert_eq!(trace.peak_bytes(), (1 << 40) + 7);
        assert_eq!(Trace::from_binary(&trace.to_binary()), Ok(trace));
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, reason) in [
            (vec![0; 17], "1 bytes too many"),
            ([vec![2], vec![0; 15]].concat(), "no op 2"),
            ([vec![1], vec![0; 15]].concat(), "alive twice"),
            ([vec![0; 7], vec![0x20], vec![0; 8]].concat(), "too high"),
        ] {
            let error = Trace::from_binary(&bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
