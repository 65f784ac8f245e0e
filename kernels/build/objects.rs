//! The emulator's objects, each cached under the hash of all that went into it: builds with other features, and tests beside lints, compile none of them again, and
//! after a change of one kernel one file is compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::cache::{self, Cache, KEPT};
use super::includes::includes_of;

/// A C++ compiler with all that it is asked but the files.
#[derive(Debug)]
pub(crate) struct Compiler {
    program: PathBuf,
    arguments: Vec<String>,
    version: String,
}

/// A file to compile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    pub(crate) source: &'a Path,
    pub(crate) compiler: &'a Compiler,
}

/// An object, and what the compiler said about it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) path: PathBuf,
    pub(crate) warnings: String,
}

impl Compiler {
    pub(crate) fn new(program: PathBuf, arguments: Vec<String>) -> Result<Self> {
        let version = super::run(Command::new(&program).arg("--version"))?;
        Ok(Self { program, arguments, version })
    }
}

impl Unit<'_> {
    fn object(&self, cache: &Cache) -> Result<Object> {
        let files = includes_of(self.source, &|_| true)?;
        // Line tables name the folder in which a file was compiled.
        let place = std::env::current_dir().map_err(|error| error.to_string())?;
        let own = [self.compiler.version.as_bytes(), place.as_os_str().as_encoded_bytes()];
        let arguments = self.compiler.arguments.iter().map(String::as_bytes);
        let searched = super::searched(&|name| std::env::var_os(name));
        let searched = searched.iter().map(String::as_bytes);
        let key = cache::key(own.into_iter().chain(arguments).chain(searched).chain(files.pieces()));
        let warnings = match cache.log(&key) {
            Some(log) => log,
            None => cache.put(&key, |object| self.compile(object))?,
        };
        Ok(Object { path: cache.path(&key), warnings })
    }

    fn compile(&self, object: &Path) -> Result<String> {
        let mut command = Command::new(&self.compiler.program);
        super::run(command.args(&self.compiler.arguments).arg("-o").arg(object).arg("-c").arg(self.source))
    }
}

/// The objects, in the order of the units, `jobs` at a time.
pub(crate) fn all(folder: PathBuf, units: &[Unit<'_>], jobs: usize) -> Result<Vec<Object>> {
    let cache = Cache::new(folder, "o")?;
    let objects = super::in_parallel(units, jobs, |unit| unit.object(&cache));
    cache.forget_unused(KEPT);
    objects
}
