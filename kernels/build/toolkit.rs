//! What an image depends on beside nvcc's release: the programs that nvcc starts, the headers and the library that come with it, the host compiler. nvcc itself says
//! where they are, since each is a package of its own, and each way to install them has another layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::includes::{Files, headers_of};
use super::{cache, run};

/// Where the parts are; what is not found is left out.
#[derive(Debug)]
pub(crate) struct Toolkit {
    nvcc: PathBuf,
    /// What a cubin is made by and of.
    makers: Vec<PathBuf>,
    /// What joins cubins: nothing in them depends on it.
    fatbinary: Option<PathBuf>,
    /// Folders of headers, in nvcc's order.
    includes: Vec<PathBuf>,
    /// The preprocessor.
    host: Option<PathBuf>,
}

/// What every compilation includes, or may.
const HEADERS: [&str; 2] = ["cuda_runtime.h", "cuda_bf16.h"];

impl Toolkit {
    /// That of the nvcc at this path.
    pub(crate) fn of(nvcc: &Path) -> Self {
        let mut command = Command::new(nvcc);
        command.env_remove("NVCC_PREPEND_FLAGS").env_remove("NVCC_APPEND_FLAGS");
        // Nothing is read or written. Where that fails, the first compilation says why.
        let said = run(command.args(["--dryrun", "-cubin", "-arch=sm_80", "none.cu"])).unwrap_or_default();
        let nvcc = nvcc.canonicalize().unwrap_or_else(|_| nvcc.to_owned());
        let own = nvcc.parent().unwrap_or(Path::new("."));
        let mut folders: Vec<PathBuf> = variable(&said, "CICC_PATH").map(PathBuf::from).into_iter().collect();
        folders.extend(std::env::split_paths(variable(&said, "PATH").unwrap_or_default()));
        folders.extend([own.to_owned(), own.join("../nvvm/bin")]);
        let library = variable(&said, "NVVMIR_LIBRARY_DIR").map(PathBuf::from);
        let library = library.unwrap_or_else(|| own.join("../nvvm/libdevice"));
        let makers = [
            found("cicc", &folders),
            found("ptxas", &folders),
            found("libdevice.10.bc", &[library]),
            found("nvcc.profile", &[own.to_owned()]),
        ];
        let mut includes: Vec<PathBuf> =
            ["INCLUDES", "SYSTEM_INCLUDES"].iter().flat_map(|name| folders_in(&said, name)).collect();
        if includes.is_empty() {
            includes.push(own.join("../include"));
        }
        Self {
            makers: makers.into_iter().flatten().collect(),
            fatbinary: found("fatbinary", &folders),
            host: preprocessor(&said).and_then(|name| found(&name, &folders)),
            includes,
            nvcc,
        }
    }

    /// The files whose change, by their time, may be another image. Under their own names: a link to another release has another target.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let parts = self.makers.iter().chain(&self.fatbinary).chain(&self.host);
        [&self.nvcc].into_iter().chain(parts).filter_map(|path| path.canonicalize().ok()).collect()
    }

    /// Names the contents of all parts, wherever they lie.
    pub(crate) fn key(&self) -> String {
        let digests = self.makers.iter().map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{name} {}", fs::read(path).map(|bytes| cache::digest(&bytes)).unwrap_or_default())
        });
        let host = self.host.as_ref().and_then(|host| run(Command::new(host).arg("--version")).ok());
        let host = host.as_ref().and_then(|said| said.lines().next()).unwrap_or_default();
        let own: Vec<String> = digests.chain([host.to_owned()]).collect();
        cache::key(own.iter().map(String::as_bytes).chain(self.headers().pieces()))
    }

    /// Those of [`HEADERS`], and what they include, that are its own.
    pub(crate) fn headers(&self) -> Files {
        headers_of(&self.includes, &HEADERS)
    }
}

/// The file of that name in the first folder that has it; a whole path is itself in each.
fn found(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The value that a dry run tells: `#$ CICC_PATH=/usr/local/cuda/bin/../nvvm/bin`.
fn variable<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines()
        .filter_map(|line| line.strip_prefix("#$ ")?.strip_prefix(name)?.strip_prefix('='))
        .next_back()
}

/// `"-I/one/include" "-isystem" "/another"`.
fn folders_in(said: &str, name: &str) -> Vec<PathBuf> {
    let words = words(variable(said, name).unwrap_or_default()).into_iter();
    let folders = words.map(|word| word.strip_prefix("-I").map(str::to_owned).unwrap_or(word));
    folders.filter(|word| !word.is_empty() && word != "-isystem").map(PathBuf::from).collect()
}

/// The program of the command that preprocesses, which nvcc calls by name or as it was told: `#$ gcc -D.. -E -x c++ ..`.
fn preprocessor(said: &str) -> Option<String> {
    let commands = said.lines().filter_map(|line| line.strip_prefix("#$ ")).map(words);
    commands.filter(|words| words.iter().any(|word| word == "-E")).find_map(|words| words.into_iter().next())
}

/// As a shell takes them apart, as far as nvcc goes: `"/usr/bin"/g++` is one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match words.last_mut() {
            _ if c == '"' => is_quoted = !is_quoted,
            Some(word) if is_quoted || !c.is_whitespace() => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
