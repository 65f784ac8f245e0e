use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use crate::error::{Error, Result};
use crate::file::io;
use crate::header::{HEADER_BYTES_MAX, Texts};

/// How the name of an index ends.
pub(crate) const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The `weight_map` of a sharded checkpoint: which tensors are in which file.
#[derive(Debug)]
pub(crate) struct Index {
    /// Names of the tensors, sorted, by shard.
    pub(crate) shards: BTreeMap<String, Vec<String>>,
}

#[derive(serde::Deserialize)]
struct RawIndex {
    weight_map: Texts,
}

impl Index {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let json = read_bounded(path)?;
        let raw: RawIndex = serde_json::from_slice(&json).map_err(|error| Error::Index {
            path: path.to_owned(),
            message: format!("not an index: {error}"),
        })?;
        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, shard) in raw.weight_map.0 {
            if !is_inside(&shard) {
                return Err(Error::ShardOutside { path: path.to_owned(), tensor, shard });
            }
            shards.entry(shard).or_default().push(tensor);
        }
        Ok(Self { shards })
    }
}

/// Whether a shard's name, joined to a folder, stays in it: plain components only. What is a symbolic link there stays one, since the
/// caches of the ecosystem consist of links.
fn is_inside(shard: &str) -> bool {
    let mut components = Path::new(shard).components().peekable();
    components.peek().is_some() && components.all(|component| matches!(component, Component::Normal(_)))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let status = std::fs::metadata(path).map_err(io(path, "open it"))?;
    if !status.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let file = std::fs::File::open(path).map_err(io(path, "open it"))?;
    let mut json = Vec::new();
    file.take(HEADER_BYTES_MAX + 1).read_to_end(&mut json).map_err(io(path, "read it"))?;
    if json.len() as u64 > HEADER_BYTES_MAX {
        let message = format!("the index has {} bytes, at most {HEADER_BYTES_MAX} are read", status.len());
        return Err(Error::Index { path: path.to_owned(), message });
    }
    Ok(json)
}
