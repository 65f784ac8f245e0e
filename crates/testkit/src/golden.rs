use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The folder of the golden cases, `tests/golden` of the workspace.
#[must_use]
pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case)
}

/// All tensors of a small safetensors file, as `f32` (integers too).
#[derive(Clone, Debug)]
pub struct Golden(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Golden {
    /// Reads a file.
    ///
    /// # Panics
    /// If it is not there, not safetensors, or has an element type other than f32, bf16, i64.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the integers of golden files are token ids")]
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file =
            SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let values = |dtype, data: &[u8]| -> Vec<f32> {
            match dtype {
                Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::BF16 => {
                    data.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
                }
                Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
                other => panic!("{}: element type {other:?} in a golden file", path.display()),
            }
        };
        Self(
            file.iter()
                .map(|(name, view)| {
                    (name.to_owned(), (view.shape().to_vec(), values(view.dtype(), view.data())))
                })
                .collect(),
        )
    }

    /// The values of one tensor.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn values(&self, name: &str) -> &[f32] {
        &self.entry(name).1
    }

    /// The shape of one tensor.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.entry(name).0
    }

    /// Whether there is a tensor of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn entry(&self, name: &str) -> &(Vec<usize>, Vec<f32>) {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name:?}; there are {:?}", self.0.keys()))
    }
}
