use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lighterage_shape::DType;

use crate::error::{Error, Result};
use crate::file::{MappedFile, Unmodified, io};
use crate::fingerprint::grouped_fingerprint;
use crate::identity::FileIdentity;
use crate::index::{INDEX_SUFFIX, Index};
use crate::shapes::{self, Shape};
use crate::tensor::Tensor;

/// A set of named tensors, in one file, several shards, or a folder of a diffusers pipeline.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<Arc<str>, Tensor>,
}

impl Checkpoint {
    /// Opens a safetensors file, an index (`*.safetensors.index.json`), or a folder that holds one of the two; or a file of torch (`.bin`, `.pth`, `.pt`).
    /// A file is known by its first bytes, not by its name.
    ///
    /// # Errors
    /// With file, tensor and numbers: a file that cannot be read or breaks the format ([`Error::Bad`]), an index whose shards are
    /// missing, outside of its folder, lack a tensor or share one, a folder with no checkpoint or several in it.
    pub fn open(path: &Path, promise: Unmodified) -> Result<Self> {
        let mut checkpoint = Self { path: path.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        let status = std::fs::metadata(path).map_err(io(path, "open it"))?;
        let found = if status.is_dir() { candidate(path)? } else { path.to_owned() };
        if is_index(&found) {
            checkpoint.add_shards(&found, promise)?;
        } else {
            checkpoint.add_file(&found, promise)?;
        }
        Ok(checkpoint)
    }

    /// Names and shapes without a file: for plans, and for runs whose result is of no interest. Every tensor is zeros, which take no memory until they are
    /// read, and then one page.
    ///
    /// `path` is for messages and names no file.
    ///
    /// # Errors
    /// [`Error::Bad`] if a name is there twice or a shape cannot be, [`Error::Io`] if there are no addresses for the largest tensor.
    ///
    /// ```
    /// use lighterage_checkpoint::{Checkpoint, Shape};
    /// use lighterage_shape::DType;
    /// # fn main() -> lighterage_checkpoint::Result<()> {
    /// let shape = Shape { name: "proj.weight".to_owned(), extents: vec![3072, 64] };
    /// let checkpoint = Checkpoint::of_shapes("built-in", DType::Bf16, &[shape])?;
    /// assert_eq!(checkpoint.tensor("proj.weight")?.bytes().len(), 2 * 3072 * 64);
    /// # Ok(()) }
    /// ```
    pub fn of_shapes(path: impl Into<PathBuf>, dtype: DType, shapes: &[Shape]) -> Result<Self> {
        let path = path.into();
        let (file, entries) = shapes::imagine(&path, dtype, shapes)?;
        let tensors = entries.into_iter().map(|entry| Tensor::new(&file, entry));
        let tensors = tensors.map(|tensor| (tensor.shared_name(), tensor)).collect();
        Ok(Self { path, files: vec![file], tensors })
    }

    /// What was opened, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor of that name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.get(name).ok_or_else(|| Error::Missing { path: self.path.clone(), tensor: name.to_owned() })
    }

    /// Refuses a checkpoint that has a layer of number `layers` too: whoever is said to have so many, from 0 on, would pass over it in silence. `prefix` is what the names of
    /// numbered layers begin with, the point before the number included.
    ///
    /// ```
    /// # use lighterage_checkpoint::{Checkpoint, Shape};
    /// # use lighterage_shape::DType;
    /// # let shapes = ["block.0.weight", "block.1.weight"].map(|name| Shape { name: name.to_owned(), extents: vec![4] });
    /// # let checkpoint = Checkpoint::of_shapes("model", DType::F32, &shapes).unwrap();
    /// assert!(checkpoint.check_layers("num_layers", 2, "block.").is_ok());
    /// let error = checkpoint.check_layers("num_layers", 1, "block.").unwrap_err();
    /// assert_eq!(error.to_string(), "model: num_layers is 1, and tensor \"block.1.weight\" belongs to one more");
    /// ```
    ///
    /// # Errors
    /// [`Error::MoreLayers`] then.
    pub fn check_layers(&self, field: &'static str, layers: usize, prefix: &str) -> Result<()> {
        let prefix = format!("{prefix}{layers}.");
        match self.tensors.keys().find(|name| name.starts_with(&prefix)) {
            None => Ok(()),
            Some(tensor) => {
                Err(Error::MoreLayers { path: self.path.clone(), field, layers, tensor: tensor.to_string() })
            }
        }
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &FileIdentity> {
        self.files.iter().map(|file| &*file.identity)
    }

    /// The free-form texts of the files; where two files have the same key, the first file's.
    #[must_use]
    pub fn metadata(&self) -> BTreeMap<&str, &str> {
        let texts = self.files.iter().rev().flat_map(|file| &file.metadata);
        texts.map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// What the ecosystem knows the checkpoint's architecture by: see [`fingerprint()`](crate::fingerprint()). Dictionaries inside
    /// of a pickle count as DiffSynth-Studio counts them.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let groups: Vec<&str> =
            self.files.iter().flat_map(|file| file.groups.iter().map(String::as_str)).collect();
        grouped_fingerprint(self.tensors().map(|tensor| (tensor.name(), tensor.shape())), &groups)
    }

    fn add_shards(&mut self, index_path: &Path, promise: Unmodified) -> Result<()> {
        let folder = index_path.parent().unwrap_or(Path::new("."));
        for (shard, tensors) in Index::read(index_path)?.shards {
            let path = folder.join(&shard);
            if !path.exists() {
                let (tensor, tensors) = (tensors[0].clone(), tensors.len());
                return Err(Error::ShardMissing { path: index_path.to_owned(), shard, tensor, tensors });
            }
            let names = self.add_file(&path, promise)?;
            if let Some(tensor) = tensors.into_iter().find(|tensor| !names.contains(tensor.as_str())) {
                return Err(Error::NotInShard { path: index_path.to_owned(), tensor, shard });
            }
        }
        Ok(())
    }

    /// The names that the file has.
    fn add_file(&mut self, path: &Path, promise: Unmodified) -> Result<BTreeSet<Arc<str>>> {
        let (file, entries) = MappedFile::open(path, promise)?;
        let mut names = BTreeSet::new();
        for entry in entries {
            let tensor = Tensor::new(&file, entry);
            if let Some(first) = self.tensors.get(tensor.name()) {
                let (tensor, other) = (tensor.name().to_owned(), first.path().to_owned());
                return Err(Error::InTwoShards { path: path.to_owned(), tensor, other });
            }
            names.insert(tensor.shared_name());
            self.tensors.insert(tensor.shared_name(), tensor);
        }
        self.files.push(file);
        Ok(names)
    }
}

fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(INDEX_SUFFIX)
}

/// The one checkpoint of a folder: an index, or a file that is no index's shard.
fn candidate(folder: &Path) -> Result<PathBuf> {
    let files = safetensors_in(folder)?;
    let mut shards = BTreeSet::new();
    for index in files.iter().filter(|name| is_index(Path::new(name))) {
        shards.extend(Index::read(&folder.join(index))?.shards.into_keys());
    }
    let found: Vec<&OsString> =
        files.iter().filter(|name| !name.to_str().is_some_and(|n| shards.contains(n))).collect();
    match found[..] {
        [] => Err(Error::NoCandidate { path: folder.to_owned() }),
        [one] => Ok(folder.join(one)),
        _ => {
            let found = found.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            Err(Error::Candidates { path: folder.to_owned(), found })
        }
    }
}

/// Names of the safetensors files and indices of a folder, sorted.
fn safetensors_in(folder: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder, "list it"))? {
        let name = entry.map_err(io(folder, "list it"))?.file_name();
        if name.to_string_lossy().ends_with(".safetensors") || is_index(Path::new(&name)) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
