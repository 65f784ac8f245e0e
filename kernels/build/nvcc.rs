//! The compiler: where it is, what it is asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::toolkit::Toolkit;
use super::{Result, run};

/// nvcc, and the tools beside it.
#[derive(Debug)]
pub(crate) struct Nvcc {
    path: PathBuf,
    version: String,
    /// Found when they are first asked for: not every use of the compiler looks at them.
    parts: OnceLock<String>,
}

/// The oldest whose images, and whose architectures, are those that are meant here.
const RELEASE_MIN: (u32, u32) = (13, 0);

/// Where it was looked for.
const MISSING: &str = "feature `cuda` needs nvcc, and none was found: not by NVCC or CUDA_HOME, not in PATH, not in /usr/local/cuda, not in a Python environment";
/// How to get it.
const HELP: &str = "get it by NVIDIA's CUDA toolkit 13.0, or without root by: python3 -m venv cuda && cuda/bin/pip install nvidia-cuda-nvcc==13.0.88 'nvidia-nvvm==13.0.*' \
    'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' && export VIRTUAL_ENV=$PWD/cuda\n\
    or build without the feature: nothing but `--device cuda` needs it";

/// What it takes beside itself.
pub(crate) const PARTS: &str = "\nnvcc needs a host compiler (g++) in PATH or by NVCC_CCBIN, and of Python wheels all five: nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl";

impl Nvcc {
    /// Looks in NVCC, `CUDA_HOME`, PATH, `/usr/local/cuda`, then where the Python wheels put it.
    pub(crate) fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some(path) = variable("NVCC") {
            return Self::at(PathBuf::from(path)).map_err(|error| format!("NVCC is set: {error}"));
        }
        let found = places(variable).into_iter().find(|path| path.is_file());
        Self::at(found.ok_or_else(|| format!("{MISSING}\n{HELP}"))?)
    }

    fn at(path: PathBuf) -> Result<Self> {
        let text = run(Command::new(&path).arg("--version"))?;
        let release =
            release(&text).ok_or_else(|| format!("{}: what release is it? {text}", path.display()))?;
        if release < RELEASE_MIN {
            let ((major, minor), (needed, zero)) = (release, RELEASE_MIN);
            let path = path.display();
            return Err(format!(
                "{path} is of CUDA {major}.{minor}; feature `cuda` needs nvcc {needed}.{zero} or newer: NVCC may name another\n{HELP}"
            ));
        }
        // The last line names the build: "Build cuda_13.0.r13.0/compiler.36424714_0".
        let version = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
        Ok(Self { path, version, parts: OnceLock::new() })
    }

    /// What belongs to it.
    pub(crate) fn toolkit(&self) -> Toolkit {
        Toolkit::of(&self.path)
    }

    /// Names the contents of what belongs to it: its release alone is not that of its parts, as each has a package of its own.
    pub(crate) fn parts(&self) -> &str {
        self.parts.get_or_init(|| self.toolkit().key())
    }

    /// The line that tells one build of the compiler from another.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Where it and its tools are.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Compiles a file to a cubin; what the compiler says about it.
    pub(crate) fn compile(&self, source: &Path, arguments: &[String], cubin: &Path) -> Result<String> {
        let mut command = Command::new(&self.path);
        // Of what it is asked nothing comes from elsewhere: the arguments are part of the cached result's name.
        command.env_remove("NVCC_PREPEND_FLAGS").env_remove("NVCC_APPEND_FLAGS");
        run(command.args(arguments).arg("-o").arg(cubin).arg(source))
    }

    /// Joins the cubins of one file to a compressed fatbin.
    pub(crate) fn fatbin(&self, images: &[(&str, PathBuf)], fatbin: &Path) -> Result<Vec<u8>> {
        let mut command = Command::new(self.folder().join("fatbinary"));
        command
            .args(["--64", "--compress-all", "--compress-mode=size"])
            .arg(format!("--create={}", fatbin.display()));
        for (arch, path) in images {
            command.arg(format!("--image3=kind=elf,sm={arch},file={}", path.display()));
        }
        run(&mut command)?;
        std::fs::read(fatbin).map_err(|error| format!("{}: {error}", fatbin.display()))
    }
}

/// What is asked of nvcc for one architecture. Every warning is an error.
pub(crate) fn arguments(arch: &str) -> Vec<String> {
    let arch = format!("-arch=sm_{arch}");
    let rest =
        ["-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage"];
    [arch.as_str(), "-cubin"].into_iter().chain(rest).map(str::to_owned).collect()
}

/// `Cuda compilation tools, release 13.0, V13.0.88` gives 13 and 0.
fn release(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.split_once("release ")?.1.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Where nvcc may be, the first first.
fn places(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        variable("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc")).into_iter().collect();
    let path = variable("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).map(|folder| folder.join("nvcc")));
    places.push(PathBuf::from("/usr/local/cuda/bin/nvcc"));
    for root in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable) {
        places.extend(wheels(&Path::new(&root).join("lib")));
    }
    let python = Command::new("python3")
        .env("PATH", &path)
        .args(["-c", "import site; print(*site.getsitepackages(), site.getusersitepackages(), sep='\\n')"])
        .output();
    let sites = python.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    places.extend(sites.lines().map(|site| Path::new(site).join(IN_SITE)));
    places
}

/// Where the wheels nvidia-cuda-nvcc 13 and later put it.
const IN_SITE: &str = "nvidia/cu13/bin/nvcc";

fn wheels(lib: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(lib)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path().join("site-packages").join(IN_SITE))
        .collect();
    found.sort();
    found
}
