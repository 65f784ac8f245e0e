use std::path::Path;
use std::sync::Arc;

use lighterage_shape::{DType, Layout, RANK_MAX};
use memmap2::{Mmap, MmapOptions};
use sha2::{Digest, Sha256};

use crate::error::{Error, Fault, Result};
use crate::file::{MappedFile, io};
use crate::header::{Entry, bytes_of};
use crate::identity::FileIdentity;

/// A tensor that is only a name and a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub extents: Vec<usize>,
}

/// A file that holds these tensors one behind the other, and is not there.
pub(crate) fn imagine(path: &Path, dtype: DType, shapes: &[Shape]) -> Result<(Arc<MappedFile>, Vec<Entry>)> {
    let bad = |fault| Error::Bad { path: path.to_owned(), fault };
    let mut sorted: Vec<&Shape> = shapes.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(bad(Fault::Duplicate { tensor: pair[0].name.clone() }));
    }
    let (mut entries, mut end) = (Vec::with_capacity(shapes.len()), 0_usize);
    let mut digest = Sha256::new();
    for shape in sorted {
        let bytes = checked_bytes(dtype, shape).map_err(bad)?;
        let layout = Layout::contiguous(dtype, &shape.extents);
        entries.push(Entry { name: shape.name.clone(), layout, range: end..end.saturating_add(bytes) });
        end = end.saturating_add(bytes);
        digest.update(format!("{}:{dtype}:{:?};", shape.name, shape.extents));
    }
    let longest = entries.iter().map(|entry| entry.range.len()).max().unwrap_or(0);
    let identity = FileIdentity {
        path: path.to_owned(),
        bytes: end as u64,
        modified_ns: 0,
        header_sha256: digest.finalize().into(),
    };
    let zeros = zeros(longest).map_err(io(path, "imagine it"))?;
    Ok((MappedFile::imagined(identity, zeros), entries))
}

fn checked_bytes(dtype: DType, shape: &Shape) -> Result<usize, Fault> {
    let rank = shape.extents.len();
    if rank > RANK_MAX {
        return Err(Fault::Rank { tensor: shape.name.clone(), rank, limit: RANK_MAX });
    }
    let extents: Vec<u64> = shape.extents.iter().map(|extent| *extent as u64).collect();
    let bytes = bytes_of(dtype, &extents).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| Fault::Oversized { tensor: shape.name.clone(), dtype, shape: extents })
}

/// So many zeros that nobody can write; memory that is never touched is none.
fn zeros(bytes: usize) -> std::io::Result<Mmap> {
    MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon()?.make_read_only()
}
