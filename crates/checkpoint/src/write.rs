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
    let mut ordered: Vec<&NewTensor<'_>> = tensors.iter().collect();
    ordered.sort_by(|a, b| (b.dtype.bytes(), a.name).cmp(&(a.dtype.bytes(), b.name)));
    ordered.iter().try_for_each(|tensor| check(tensor)).map_err(refused)?;
    let header = header(&ordered).map_err(refused)?;
    replace(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        ordered.iter().try_for_each(|tensor| file.write_all(tensor.bytes))
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
    let name = || tensor.name.to_owned();
    if tensor.shape.len() > RANK_MAX {
        return Err(Fault::Rank { tensor: name(), rank: tensor.shape.len(), limit: RANK_MAX });
    }
    let extents: Vec<u64> = tensor.shape.iter().map(|extent| *extent as u64).collect();
    let Some(expected) = bytes_of(tensor.dtype, &extents) else {
        return Err(Fault::Oversized { tensor: name(), dtype: tensor.dtype, shape: extents });
    };
    let got = tensor.bytes.len() as u64;
    if expected != got {
        let shape = tensor.shape.to_vec();
        return Err(Fault::Size { tensor: name(), dtype: tensor.dtype, shape, expected, got });
    }
    if tensor.name == METADATA_KEY { Err(Fault::Duplicate { tensor: name() }) } else { Ok(()) }
}

/// The JSON, padded with spaces so that the data is aligned.
fn header(ordered: &[&NewTensor<'_>]) -> Result<Vec<u8>, Fault> {
    let mut entries = Map::new();
    let mut begin = 0;
    for tensor in ordered {
        let end = begin + tensor.bytes.len();
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
