//! The compiler: where it is, what it is asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// nvcc, and the tools beside it.
#[derive(Debug)]
pub(crate) struct Nvcc {
    path: PathBuf,
    version: String,
}

/// How to get it, where it is missing.
const HELP: &str = "feature `cuda` needs nvcc, and none was found: not by NVCC or CUDA_HOME, not in PATH, not in /usr/local/cuda, not in a Python environment\n\
    get it by NVIDIA's CUDA toolkit 13.0, or without root by: python3 -m venv cuda && cuda/bin/pip install nvidia-cuda-nvcc==13.0.88 'nvidia-nvvm==13.0.*' \
    'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' && export VIRTUAL_ENV=$PWD/cuda\n\
    or build without the feature: nothing but `--device cuda` needs it";

impl Nvcc {
    /// Looks in NVCC, `CUDA_HOME`, PATH, `/usr/local/cuda`, then where the Python wheels put it.
    pub(crate) fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some(path) = variable("NVCC") {
            return Self::at(PathBuf::from(path)).map_err(|error| format!("NVCC is set: {error}"));
        }
        let found = places(variable).into_iter().find(|path| path.is_file());
        Self::at(found.ok_or(HELP)?)
    }

    fn at(path: PathBuf) -> Result<Self> {
        let version = run(Command::new(&path).arg("--version"))?;
        // The last line names the build: "Build cuda_13.0.r13.0/compiler.36424714_0".
        let version =
            version.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
        Ok(Self { path, version })
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
        run(Command::new(&self.path).args(arguments).arg("-o").arg(cubin).arg(source))
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

/// Runs it to its end; both of its outputs, which are the error if it fails.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{name} ended with {}\n{text}", output.status))
    }
}
