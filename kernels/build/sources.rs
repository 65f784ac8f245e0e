//! What is compiled: every `.cu` below `kernels/` but the emulator's own, with all that it includes.

use std::fs;
use std::path::{Path, PathBuf};

use super::Result;
use super::includes::{Files, includes_of};

/// Architectures that images are made for, unless `LIGHTERAGE_CUDA_ARCHS` names others: `launch::Arch::ALL`.
pub(crate) const ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100a", "120a"];

/// A CUDA source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Its name without `.cu`; no two files share one.
    pub(crate) stem: String,
    /// The file and everything that it includes, by path.
    files: Files,
}

impl Source {
    /// A file whose name ends in `_sm90a` uses what only that architecture has.
    pub(crate) fn is_for(&self, arch: &str) -> bool {
        !self.stem.ends_with("_sm90a") || arch == "90a"
    }

    /// All names and contents that the result depends on.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.files.pieces()
    }
}

/// The architectures asked for, in the order of age.
pub(crate) fn architectures(list: Option<&str>) -> Result<Vec<&'static str>> {
    let Some(list) = list else { return Ok(ARCHS.to_vec()) };
    let asked: Vec<&str> = list.split(',').map(str::trim).filter(|arch| !arch.is_empty()).collect();
    if let Some(unknown) = asked.iter().find(|arch| !ARCHS.contains(arch)) {
        return Err(format!("LIGHTERAGE_CUDA_ARCHS: {unknown} is none of {}", ARCHS.join(",")));
    }
    if asked.is_empty() {
        return Err("LIGHTERAGE_CUDA_ARCHS names no architecture".to_owned());
    }
    Ok(ARCHS.into_iter().filter(|arch| asked.contains(arch)).collect())
}

/// All sources below `folder`, by path.
pub(crate) fn all(folder: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    collect(folder, &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    for pair in sources.windows(2) {
        if pair[0].stem == pair[1].stem {
            return Err(format!("{} and {} have one name", pair[0].path.display(), pair[1].path.display()));
        }
    }
    Ok(sources)
}

fn collect(folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let broken = |error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        if path.is_dir() {
            if path != Path::new("kernels/emu") {
                collect(&path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // The emulator's headers are for other compilers.
            let files = includes_of(&path, &|path| !path.starts_with("kernels/emu"))?;
            sources.push(Source { path, stem, files });
        }
    }
    Ok(())
}
