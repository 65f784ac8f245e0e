//! What a source file includes of this repository, and a toolkit of its own: all that a compiled file depends on but compiler and arguments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::Result;

/// Files by path, so that their order is the same everywhere.
#[derive(Debug, Default)]
pub(crate) struct Files(BTreeMap<PathBuf, Vec<u8>>);

impl Files {
    /// All names and contents.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(|(path, content)| [path.as_os_str().as_encoded_bytes(), content])
    }
}

/// What is not beside the file that includes it is below this folder, which compilers are told of where there is such a file.
const ELSEWHERE: &str = "kernels";

/// A file and everything that it includes in quotes, as far as `follows` goes along.
pub(crate) fn includes_of(path: &Path, follows: &dyn Fn(&Path) -> bool) -> Result<Files> {
    let mut files = Files::default();
    add(path, follows, &mut files)?;
    Ok(files)
}

fn add(path: &Path, follows: &dyn Fn(&Path) -> bool, files: &mut Files) -> Result<()> {
    if files.0.contains_key(path) {
        return Ok(());
    }
    let content = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let included = includes(&String::from_utf8_lossy(&content), ['"', '"']);
    files.0.insert(path.to_owned(), content);
    for name in included {
        let beside = plain(&path.parent().unwrap_or(Path::new(".")).join(&name));
        let elsewhere = plain(&Path::new(ELSEWHERE).join(name));
        let included = if elsewhere.is_file() && !beside.is_file() { elsewhere } else { beside };
        if follows(&included) {
            add(&included, follows, files)?;
        }
    }
    Ok(())
}

/// Headers of a compiler's own folders, from those that are named on, in quotes or brackets, each from the first folder that has it; those that are elsewhere belong to
/// another compiler.
pub(crate) fn headers_of(folders: &[PathBuf], first: &[&str]) -> Files {
    let mut files = Files::default();
    let mut open: Vec<PathBuf> = first.iter().map(PathBuf::from).collect();
    while let Some(name) = open.pop() {
        if files.0.contains_key(&name) {
            continue;
        }
        let Some(content) = folders.iter().find_map(|folder| fs::read(folder.join(&name)).ok()) else {
            continue;
        };
        let text = String::from_utf8_lossy(&content);
        for quotes in [['"', '"'], ['<', '>']] {
            for included in includes(&text, quotes) {
                // Beside the one that names it, or from the folder.
                open.extend(name.parent().map(|below| plain(&below.join(&included))));
                open.push(plain(Path::new(&included)));
            }
        }
        files.0.insert(name, content);
    }
    files
}

/// The names in `#include "name"`, with those quotes.
fn includes(text: &str, [before, behind]: [char; 2]) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix('#')?.trim_start().strip_prefix("include"))
        .filter_map(|rest| rest.trim().strip_prefix(before)?.split_once(behind))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Without `..`, so that one file has one name.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => (),
            other => plain.push(other),
        }
    }
    plain
}
