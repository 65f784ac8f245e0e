//! Compiled cubins by the hash of what they were compiled from; they survive as long as the folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::Result;

/// A folder of cubins, and of what the compiler said about each.
#[derive(Debug)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    pub(crate) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self(folder))
    }

    /// The cubin and the compiler's words.
    pub(crate) fn get(&self, key: &str) -> Option<(Vec<u8>, String)> {
        // The log is written last, so what it belongs to is whole.
        let log = fs::read_to_string(self.0.join(format!("{key}.log"))).ok()?;
        Some((fs::read(self.0.join(format!("{key}.cubin"))).ok()?, log))
    }

    /// Makes what is missing. Two builds may do so at a time: each file appears whole, and both are alike.
    pub(crate) fn put(
        &self,
        key: &str,
        make: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<(Vec<u8>, String)> {
        let part = |kind: &str| self.0.join(format!("{key}.{}.{kind}.part", std::process::id()));
        let (cubin, log) = (part("cubin"), part("log"));
        let text = make(&cubin)?;
        let store = || {
            let bytes = fs::read(&cubin)?;
            fs::write(&log, &text)?;
            fs::rename(&cubin, self.0.join(format!("{key}.cubin")))?;
            fs::rename(&log, self.0.join(format!("{key}.log")))?;
            std::io::Result::Ok(bytes)
        };
        let bytes = store().map_err(|error| format!("{}: {error}", self.0.display()))?;
        Ok((bytes, text))
    }
}

/// 128 bits of FNV-1a over the pieces and their lengths: nobody forges kernels here, and it needs no dependency.
pub(crate) fn key<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    };
    for piece in pieces {
        add(&(piece.len() as u64).to_le_bytes());
        add(piece);
    }
    format!("{hash:032x}")
}
