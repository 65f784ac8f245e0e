//! What was compiled, by the hash of what it was compiled from; it survives as long as the folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Result;

/// A folder of compiled files of one kind, and of what the compiler said about each.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    extension: &'static str,
}

impl Cache {
    pub(crate) fn new(folder: PathBuf, extension: &'static str) -> Result<Self> {
        let cache = Self { folder, extension };
        fs::create_dir_all(&cache.folder).map_err(|error| cache.refused(&error))?;
        Ok(cache)
    }

    /// Where a compiled file lies, if it is there.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.{}", self.extension))
    }

    /// The compiler's words, if the file is there.
    pub(crate) fn log(&self, key: &str) -> Option<String> {
        let path = self.folder.join(format!("{key}.log"));
        // It is written last, so what it belongs to is whole.
        let log = fs::read_to_string(&path).ok().filter(|_| self.path(key).is_file())?;
        [path, self.path(key)].iter().for_each(|path| touch(path));
        Some(log)
    }

    /// The file and the compiler's words.
    pub(crate) fn get(&self, key: &str) -> Option<(Vec<u8>, String)> {
        let log = self.log(key)?;
        Some((fs::read(self.path(key)).ok()?, log))
    }

    /// Makes what is missing; the compiler's words. Two builds may do so at a time: each file appears whole, and both are alike. Of a failure nothing is left.
    pub(crate) fn put(&self, key: &str, make: impl FnOnce(&Path) -> Result<String>) -> Result<String> {
        let made = self.part(key, self.extension)?;
        let log = self.part(key, "log").inspect_err(|_| drop(fs::remove_file(&made)))?;
        let store = |text: String| {
            fs::write(&log, &text)?;
            // On the disk before it has its name: else a machine that loses power keeps the name of an empty file.
            [&made, &log].into_iter().try_for_each(|path| File::open(path)?.sync_all())?;
            fs::rename(&made, self.path(key))?;
            fs::rename(&log, self.folder.join(format!("{key}.log")))?;
            std::io::Result::Ok(text)
        };
        let stored = make(&made).and_then(|text| store(text).map_err(|error| self.refused(&error)));
        if stored.is_err() {
            // What is not there need not go.
            [made, log].iter().for_each(|path| drop(fs::remove_file(path)));
        }
        stored
    }

    /// A new file that nobody else writes, also no process of the same number: containers that share a folder have such. Made before a compiler runs for nothing.
    fn part(&self, key: &str, kind: &str) -> Result<PathBuf> {
        let names = (0..PARTS_MAX)
            .map(|number| self.folder.join(format!("{key}.{}-{number}.{kind}.part", std::process::id())));
        for path in names {
            match File::create_new(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => (),
                Err(error) => return Err(self.refused(&error)),
            }
        }
        Err(format!("{}: {PARTS_MAX} builds of {key} were killed; remove *.part", self.folder.display()))
    }

    /// The same words for every file, so that they are said once.
    fn refused(&self, error: &std::io::Error) -> String {
        format!("{}: {error}; what is compiled is kept there", self.folder.display())
    }

    /// Removes what no build has used for so long: also what a build that was killed left behind. Files of other names are somebody else's.
    pub(crate) fn forget_unused(&self, age: Duration) {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !is_key(entry.file_name().to_string_lossy().split('.').next().unwrap_or_default()) {
                continue;
            }
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| now.duration_since(used).is_ok_and(|since| since > age)) {
                // Another build may have removed it just now.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Builds of one file, in processes of one number, of which something is left.
const PARTS_MAX: u32 = 100;

/// How long a compiled file is kept that no build uses.
pub(crate) const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether it looks like what [`key`] makes.
fn is_key(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// It was used now. Where that cannot be written down it is made again some day.
fn touch(path: &Path) {
    let file = File::options().append(true).open(path);
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

/// As [`key`], of a program of many megabytes: eight bytes at a time, since a build script is not optimised.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut hash = OFFSET;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u128::from(u64::from_le_bytes(*word))).wrapping_mul(PRIME);
        // Bits of a product move up only.
        hash ^= hash >> 64;
    }
    key([hash.to_le_bytes().as_slice(), &(bytes.len() as u64).to_le_bytes(), rest].into_iter())
}

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;

/// 128 bits of FNV-1a over the pieces and their lengths: nobody forges kernels here, and it needs no dependency.
pub(crate) fn key<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = OFFSET;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    };
    for piece in pieces {
        add(&(piece.len() as u64).to_le_bytes());
        add(piece);
    }
    format!("{hash:032x}")
}
