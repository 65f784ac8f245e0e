//! Compiles the kernels with nvcc, for `build.rs` and feature `cuda`: one process for each file and architecture, in parallel, each result cached
//! under the hash of all that went into it: compiler, its parts and headers, arguments, the file and all that it includes. (The emulator's objects, of feature `emu`, are: `objects`.)
//!
//! The cubins of one file become one compressed fatbin, from which the driver takes the architecture that it has; the fatbins of all
//! files lie one after another in `OUT_DIR/images.fatbin`, as in the `.nv_fatbin` section of a program that nvcc links, and
//! `OUT_DIR/images.rs` says where and with which kernels. Linking the files into one image would need relocatable code, with which ptxas ignores
//! `setmaxnreg`.
//!
//! A build fails on a warning of nvcc, on a spill or local memory, on serialised wgmma (C7510, C7519), and on a kernel that takes more registers
//! or static shared memory than `kernels/budget.tsv` says.

pub(crate) mod budget;
pub(crate) mod cache;
pub(crate) mod includes;
pub(crate) mod nvcc;
pub(crate) mod objects;
pub(crate) mod offsets;
pub(crate) mod report;
pub(crate) mod sources;
pub(crate) mod toolkit;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use self::cache::{Cache, KEPT};
use self::nvcc::Nvcc;
use self::report::Report;
use self::sources::Source;
use self::toolkit::Toolkit;

/// Everything that can go wrong here is a text for whoever builds, one problem a line.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Environment variables that change the result.
const VARIABLES: [&str; 6] =
    ["NVCC", "CUDA_HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "LIGHTERAGE_CUDA_ARCHS", "LIGHTERAGE_CUDA_CACHE"];

/// Alignment of each fatbin; the driver reads it in place.
const ALIGN: usize = 64;

/// One file compiled for one architecture.
pub(crate) struct Cubin {
    source: usize,
    arch: &'static str,
    bytes: Vec<u8>,
    report: Report,
}

/// Compiles all kernels and leaves them in `OUT_DIR`.
pub(crate) fn compile() -> Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    for variable in VARIABLES.into_iter().chain(SEARCHED) {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = variable("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
    let out = Path::new(&out);
    let nvcc = Nvcc::find(&variable)?;
    watched(&nvcc.toolkit()).iter().for_each(|line| println!("{line}"));
    println!("cargo::rustc-env=LIGHTERAGE_CUDA_TOOLS={}", nvcc.folder().display());
    let archs = sources::architectures(variable("LIGHTERAGE_CUDA_ARCHS").as_deref())?;
    let sources = sources::all(Path::new("kernels"))?;
    let folder = variable("LIGHTERAGE_CUDA_CACHE").map_or_else(|| out.join("cubins"), Into::into);
    let cache = Cache::new(folder, "cubin")?;
    check_offsets(&nvcc, out)?;
    let cubins = all_cubins(&nvcc, &cache, &sources, &archs)?;
    let measured = budget::Table::measured(&nvcc, &cubins)?;
    measured.write(&out.join("budget.tsv"))?;
    measured.check(Path::new("kernels/budget.tsv"), &out.join("budget.tsv"))?;
    join(&nvcc, &sources, &cubins, out)
}

/// What tells cargo that a toolkit was replaced where it is: its images are made anew then. (Cargo compares times, so a part that comes with an older one than the last build goes unseen.)
pub(crate) fn watched(toolkit: &Toolkit) -> Vec<String> {
    toolkit.files().iter().map(|path| format!("cargo::rerun-if-changed={}", path.display())).collect()
}

/// The headers have to be laid out as `params.rs` says.
fn check_offsets(nvcc: &Nvcc, out: &Path) -> Result<()> {
    let params = Path::new("kernels/params.rs");
    let text = fs::read_to_string(params).map_err(|error| format!("{}: {error}", params.display()))?;
    let path = out.join("offsets.cu");
    written(fs::write(&path, offsets::checks(&text)), &path)?;
    let arguments = [&nvcc::arguments("80")[..], &["-Ikernels".to_owned()]].concat();
    let compiled = nvcc.compile(&path, &arguments, &out.join("offsets.cubin"));
    compiled.map(drop).map_err(|error| {
        // The first file of a build: what is missing beside nvcc shows here.
        let hint = if error.contains("static assertion failed") { "" } else { nvcc::PARTS };
        format!("{error}{hint}")
    })
}

/// Runs a program to its end; both of its outputs, which are the error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{name} ended with {}\n{}", output.status, text.trim_end()))
    }
}

/// How many processes cargo allows at a time.
pub(crate) fn jobs() -> usize {
    variable("NUM_JOBS").and_then(|jobs| jobs.parse().ok()).unwrap_or(1)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Compiles what the cache does not have, as many at a time as cargo allows; in the order of files and architectures.
fn all_cubins(nvcc: &Nvcc, cache: &Cache, sources: &[Source], archs: &[&'static str]) -> Result<Vec<Cubin>> {
    let wanted: Vec<(usize, &'static str)> = sources
        .iter()
        .enumerate()
        .flat_map(|(index, source)| {
            archs.iter().filter(|arch| source.is_for(arch)).map(move |arch| (index, *arch))
        })
        .collect();
    let cubins = in_parallel(&wanted, jobs(), |(source, arch)| {
        let (bytes, report) = one_cubin(nvcc, cache, &sources[*source], arch)?;
        Ok(Cubin { source: *source, arch, bytes, report })
    });
    cache.forget_unused(KEPT);
    cubins
}

/// What each item becomes, in their order; all problems, if there are any, each once.
pub(crate) fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    jobs: usize,
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<T>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while let Some((item, place)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).zip(done.get(index))
                } {
                    let outcome = work(item);
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                }
            });
        }
    });
    let outcomes = done.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner));
    let (made, problems): (Vec<_>, Vec<_>) = outcomes.flatten().partition(Result::is_ok);
    let mut problems: Vec<String> = problems.into_iter().filter_map(Result::err).collect();
    problems.dedup();
    if problems.is_empty() { Ok(made.into_iter().flatten().collect()) } else { Err(problems.join("\n")) }
}

/// Where the C++ compiler looks for headers beside what it is told, and which one nvcc takes. What is not set is nothing, and no piece of a cached result's name.
pub(crate) const SEARCHED: [&str; 4] = ["CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "NVCC_CCBIN"];

/// `CPATH=/opt/include`, of each of them that is set: other headers may be other objects.
pub(crate) fn searched(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<String> {
    let set = SEARCHED.into_iter().filter_map(|name| variable(name).map(|value| (name, value)));
    set.map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect()
}

/// A cubin is an ELF file, and ptxas names what is in it. What a full disk or a machine without power has left of one is made again.
pub(crate) fn is_whole(cubin: &[u8], log: &str) -> bool {
    cubin.starts_with(b"\x7fELF") && !Report::parse(log).names().is_empty()
}

fn one_cubin(nvcc: &Nvcc, cache: &Cache, source: &Source, arch: &'static str) -> Result<(Vec<u8>, Report)> {
    let arguments = nvcc::arguments(arch);
    let (asked, searched) = (arguments.join(" "), searched(&|name| std::env::var_os(name)));
    let own = [nvcc.version(), nvcc.parts(), &asked].into_iter().chain(searched.iter().map(String::as_str));
    let key = cache::key(own.map(str::as_bytes).chain(source.contents()));
    let (bytes, log) = match cache.get(&key).filter(|(bytes, log)| is_whole(bytes, log)) {
        Some(found) => found,
        None => {
            let log = cache.put(&key, |cubin| nvcc.compile(&source.path, &arguments, cubin))?;
            let bytes = fs::read(cache.path(&key)).map_err(|error| format!("{key}: {error}"))?;
            (bytes, log)
        }
    };
    let report = Report::parse(&log);
    let place = format!("{} for sm_{arch}", source.path.display());
    let problems = report.problems();
    if problems.is_empty() {
        return Ok((bytes, report));
    }
    Err(problems.iter().map(|problem| format!("{place}: {problem}")).collect::<Vec<_>>().join("\n"))
}

/// Writes the cubins beside each other (for nvdisasm), the fatbins behind each other, and the list of them.
fn join(nvcc: &Nvcc, sources: &[Source], cubins: &[Cubin], out: &Path) -> Result<()> {
    let folder = out.join("images");
    // Files of kernels that are gone would be checked, too.
    let _ = fs::remove_dir_all(&folder);
    written(fs::create_dir_all(&folder), &folder)?;
    let (mut fatbin, mut list) = (Vec::new(), String::new());
    for (index, source) in sources.iter().enumerate() {
        let mine: Vec<&Cubin> = cubins.iter().filter(|cubin| cubin.source == index).collect();
        let Some(first) = mine.first() else { continue };
        if let Some(other) = mine.iter().find(|cubin| cubin.report.names() != first.report.names()) {
            let name = source.path.display();
            return Err(format!("{name}: other kernels for sm_{} than for sm_{}", other.arch, first.arch));
        }
        let mut images = Vec::new();
        for cubin in &mine {
            let path = folder.join(format!("{}.sm_{}.cubin", source.stem, cubin.arch));
            written(fs::write(&path, &cubin.bytes), &path)?;
            images.push((cubin.arch, path));
        }
        let bytes = nvcc.fatbin(&images, &folder.join(format!("{}.fatbin", source.stem)))?;
        fatbin.resize(fatbin.len().next_multiple_of(ALIGN), 0);
        let archs: Vec<String> = mine.iter().map(|cubin| format!("Arch::Sm{}", cubin.arch)).collect();
        let _ = writeln!(
            list,
            "    Image {{ source: {:?}, fatbin: Fatbin::Embedded {{ start: {}, bytes: {} }}, kernels: &{:?}, archs: &[{}] }},",
            source.path.display().to_string(),
            fatbin.len(),
            bytes.len(),
            first.report.names(),
            archs.join(", ")
        );
        fatbin.extend(bytes);
    }
    let (path, text) = (out.join("images.rs"), format!("&[\n{list}]\n"));
    written(fs::write(&path, text), &path)?;
    let path = out.join("images.fatbin");
    written(fs::write(&path, fatbin), &path)
}

fn written(outcome: std::io::Result<()>, path: &Path) -> Result<()> {
    outcome.map_err(|error| format!("{}: {error}", path.display()))
}
