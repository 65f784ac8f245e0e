use std::borrow::Cow;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lighterage_shape::{DType, RANK_MAX};
use serde_json::{Map, Value, json};

use crate::error::{Error, Fault, Result};
use crate::file::io;
use crate::header::{METADATA_KEY, bytes_of};

/// A tensor to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewTensor<'a> {
    /// Its name; `__metadata__` is taken.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Extents, at most [`RANK_MAX`].
    pub shape: &'a [usize],
    /// Its values in C order, little-endian.
    pub bytes: &'a [u8],
}

/// Writes a safetensors file: beside its place at first, then renamed, so that there never is half a file under that name.
///
/// The order in the file is that of the format's own writer: large elements first, then by name. Equal tensors give equal bytes.
///
/// # Errors
/// [`Error::Write`] for tensors that do not have the bytes of their shape or share a name, [`Error::NotAFile`] if something else than
/// a file has that name, [`Error::Io`] if the system refuses. The file is then what it was before.
pub fn write(path: &Path, tensors: &[NewTensor<'_>]) -> Result<()> {
    let refused = |fault| Error::Write { path: path.to_owned(), fault };
    tensors.iter().try_for_each(check).map_err(refused)?;
    let planned: Vec<_> = tensors
        .iter()
        .map(|tensor| Planned { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape })
        .collect();
    write_streamed(path, &planned, |index| Ok(Cow::Borrowed(tensors[index].bytes)))
}

/// A tensor that is to be written, without its values.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// Its name; `__metadata__` is taken.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Extents, at most [`RANK_MAX`].
    pub shape: &'a [usize],
}

/// As [`write()`], with values that are made when their turn comes: one tensor at a time is in memory. `values` is given the tensor's place in `tensors`.
///
/// # Errors
/// As [`write()`]; [`Error::Io`] also if `values` gives another number of bytes than the shape has, or an error. What was there before is there still then, and nothing beside it.
pub fn write_streamed<'v>(
    path: &Path,
    tensors: &[Planned<'_>],
    mut values: impl FnMut(usize) -> std::io::Result<Cow<'v, [u8]>>,
) -> Result<()> {
    let refused = |fault| Error::Write { path: path.to_owned(), fault };
    let mut ordered: Vec<(usize, &Planned<'_>)> = tensors.iter().enumerate().collect();
    ordered.sort_by(|(_, a), (_, b)| (b.dtype.bytes(), a.name).cmp(&(a.dtype.bytes(), b.name)));
    let sizes = ordered
        .iter()
        .map(|(_, tensor)| planned_bytes(tensor))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    let planned: Vec<_> = ordered.iter().zip(&sizes).map(|((_, tensor), bytes)| (**tensor, *bytes)).collect();
    let header = header(&planned).map_err(refused)?;
    replace(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for ((index, tensor), bytes) in ordered.iter().zip(&sizes) {
            let values = values(*index)?;
            if values.len() != *bytes {
                let (name, got) = (tensor.name, values.len());
                return Err(std::io::Error::other(format!(
                    "tensor {name:?} should have {bytes} bytes, has {got}"
                )));
            }
            file.write_all(&values)?;
        }
        Ok(())
    })
}

/// Writes a file beside its place, as `fill` says, and renames it when that went well.
fn replace(path: &Path, fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>) -> Result<()> {
    if path.metadata().is_ok_and(|status| !status.is_file()) {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::Builder::new()
        .prefix(".lighterage-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(io(path, "write beside it"))?;
    fill(beside.as_file_mut()).map_err(io(path, "write beside it"))?;
    beside.as_file().sync_all().map_err(io(path, "write beside it"))?;
    beside.persist(path).map_err(|error| io(path, "replace it")(error.error))?;
    Ok(())
}

fn check(tensor: &NewTensor<'_>) -> Result<(), Fault> {
    let NewTensor { name, dtype, shape, bytes } = *tensor;
    let (expected, got) = (planned_bytes(&Planned { name, dtype, shape })? as u64, bytes.len() as u64);
    if expected == got {
        return Ok(());
    }
    Err(Fault::Size { tensor: name.to_owned(), dtype, shape: shape.to_vec(), expected, got })
}

/// Bytes of a tensor that can be written.
fn planned_bytes(tensor: &Planned<'_>) -> Result<usize, Fault> {
    let name = || tensor.name.to_owned();
    if tensor.shape.len() > RANK_MAX {
        return Err(Fault::Rank { tensor: name(), rank: tensor.shape.len(), limit: RANK_MAX });
    }
    if tensor.name == METADATA_KEY {
        return Err(Fault::Duplicate { tensor: name() });
    }
    let extents: Vec<u64> = tensor.shape.iter().map(|extent| *extent as u64).collect();
    let bytes = bytes_of(tensor.dtype, &extents).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| Fault::Oversized { tensor: name(), dtype: tensor.dtype, shape: extents })
}

/// The JSON, padded with spaces so that the data is aligned.
fn header(ordered: &[(Planned<'_>, usize)]) -> Result<Vec<u8>, Fault> {
    let mut entries = Map::new();
    let mut begin = 0;
    for (tensor, bytes) in ordered {
        let end = begin + bytes;
        let entry =
            json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end] });
        if entries.insert(tensor.name.to_owned(), entry).is_some() {
            return Err(Fault::Duplicate { tensor: tensor.name.to_owned() });
        }
        begin = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
