//! How `build.rs` compiles kernels: what it reads out of ptxas' words, what it refuses, what changes a cached result.

use std::path::Path;
use std::time::Duration;

use lighterage_kernels::launch::Arch;

#[path = "../../kernels/build/mod.rs"]
#[allow(dead_code, clippy::print_stdout, reason = "written for the build script, which alone calls it all")]
pub(crate) mod cuda;

use self::cuda::budget::Table;
use self::cuda::nvcc::Nvcc;
use self::cuda::report::Report;
use self::cuda::{cache, includes, sources};
#[cfg(feature = "emu")]
use {
    self::cuda::objects::{self, Compiler, Unit},
    std::os::unix::fs::MetadataExt,
};

const LOG: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 1040 bytes smem, 488 bytes cmem[0]
ptxas info    : Compile time = 25.976 ms
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 0 barriers
";

#[test]
fn registers_and_shared_memory_are_read() {
    let report = Report::parse(LOG);
    let usages: Vec<_> = report.kernels.values().map(|usage| (usage.registers, usage.shared_bytes)).collect();
    assert_eq!((report.names(), usages), (vec!["first", "second"], vec![(32, 1040), (168, 0)]));
    assert_eq!(report.problems(), Vec::<String>::new());
}

#[test]
fn spills_local_memory_and_serialised_products_are_refused() {
    let bad = [
        ("0 bytes spill stores", "8 bytes spill stores"),
        ("0 bytes spill loads", "8 bytes spill loads"),
        ("0 bytes stack frame", "64 bytes stack frame"),
        ("used 1 barriers", "used 1 barriers, 16 bytes cumulative stack size"),
        ("0 bytes gmem", "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"),
        ("0 bytes gmem", "(C7519) Potential Performance Loss: wgmma.mma_async instructions are serialized"),
    ];
    for (good, bad) in bad {
        let problems = Report::parse(&LOG.replacen(good, bad, 1)).problems();
        assert_eq!(problems.len(), 1, "{bad}: {problems:?}");
    }
    assert_eq!(Report::parse("").problems(), ["no kernel in it"]);
}

#[test]
fn budget_is_held_by_kernel_and_architecture() {
    let head = "# what\n# compiler\nkernel\tsm_80\tsm_86\tsm_89\tsm_90a\tsm_100a\tsm_120a\n";
    let table = |line: &str| Table::parse(&format!("{head}{line}\n")).expect("a table");
    let budget = table("norm\t32\t34+1024\t-\t40\t-\t-");
    for fits in ["norm\t32\t34+1024\t-\t40\t-\t-", "norm\t31\t-\t-\t-\t-\t-", "norm\t32\t10\t-\t40\t-\t-"] {
        assert_eq!(table(fits).above(&budget), Vec::<String>::new(), "{fits}");
    }
    for (above, why) in [
        ("norm\t33\t-\t-\t-\t-\t-", "norm for sm_80: 33 registers"),
        ("norm\t-\t34+1025\t-\t-\t-\t-", "norm for sm_86: 34 registers and 1025 bytes"),
        ("norm\t-\t-\t20\t-\t-\t-", "norm for sm_89 has no entry"),
        ("other\t-\t-\t-\t20\t-\t-", "other for sm_90a has no entry"),
    ] {
        let problems = table(above).above(&budget);
        assert!(problems.len() == 1 && problems[0].starts_with(why), "{above}: {problems:?}");
    }
    assert_eq!(table("norm\t31\t-\t-\t-\t-\t-").leftovers(&budget).len(), 2);
    assert_eq!(Table::parse(&budget.text()).expect("a table"), budget);
    assert!(Table::parse(&format!("{head}norm\tmany\n")).is_err());
}

/// What is committed is what is compiled: no entry of a kernel that is gone. Only a build for all architectures can tell.
#[cfg(feature = "cuda")]
#[test]
fn committed_budget_has_no_leftovers() {
    let read = |path: &str| Table::parse(&std::fs::read_to_string(path).expect("readable")).expect("a table");
    let measured = read(concat!(env!("OUT_DIR"), "/budget.tsv"));
    let all = lighterage_kernels::images::ALL.iter().any(|image| image.archs.len() == Arch::ALL.len());
    if all {
        assert_eq!(measured.leftovers(&read("kernels/budget.tsv")), Vec::<String>::new());
    }
}

/// Registers that the documents name for an image.
#[test]
fn registers_in_the_documents_are_those_of_the_table() {
    let read = |path: &str| std::fs::read_to_string(path).expect("readable");
    let table = read("kernels/budget.tsv");
    let registers = |image: &str| -> Vec<u32> {
        let row = table.lines().find_map(|line| line.strip_prefix(image)?.strip_prefix('\t'));
        let cells = row.unwrap_or_else(|| panic!("{image} is not in the table")).split('\t');
        cells.filter_map(|cell| cell.split('+').next()?.parse().ok()).collect()
    };
    let rows = |path: &str| -> Vec<Vec<String>> {
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
        read(path).lines().map(cells).collect()
    };
    let mut found = [0; 2];
    // The first number is that of sm_80.
    for row in rows("docs/kernels/conv2d.md").iter().filter(|row| row.len() > 4) {
        let Some(image) = row[1].strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let Some(told) = row[3].split([' ', ',']).next().and_then(|word| word.parse::<u32>().ok()) else {
            continue;
        };
        assert_eq!(registers(image)[0], told, "{image}");
        found[0] += 1;
    }
    // The least and the most of all architectures.
    for row in rows("docs/kernels/attention.md").iter().filter(|row| row.len() > 4) {
        let (Some((dim, tiling)), Some((least, most))) = (row[1].split_once(' '), row[2].split_once(" - "))
        else {
            continue;
        };
        let (Ok(least), Ok(most)) = (least.parse::<u32>(), most.parse::<u32>()) else { continue };
        let all = registers(&format!("attention_sm80_{dim}_{tiling}_bf16"));
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&least), Some(&most)), "{dim} {tiling}");
        found[1] += 1;
    }
    assert_eq!(found, [5, 5], "images with their registers");
}

/// The steps that `docs/kernel-ladder` shows, as its pages have them compiled; no image holds them.
#[cfg(feature = "cuda")]
#[test]
fn steps_of_the_ladders_compile() {
    let nvcc = Nvcc::find(&|name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .expect("what built this");
    let folder = tempfile::tempdir().expect("a folder");
    let steps = sources::all(Path::new("docs/kernel-ladder")).expect("readable");
    assert!(!steps.is_empty(), "no step was found");
    let arguments = ["-std=c++20", "-O3", "-arch=sm_80", "-cubin"].map(str::to_owned);
    for step in &steps {
        let outcome = nvcc.compile(&step.path, &arguments, &folder.path().join("step.cubin"));
        assert!(outcome.is_ok(), "{}: {outcome:?}", step.path.display());
    }
}

#[test]
fn architectures_are_those_of_the_launches() {
    assert_eq!(sources::ARCHS, Arch::ALL.map(Arch::number));
    assert_eq!(sources::architectures(None), Ok(sources::ARCHS.to_vec()));
    assert_eq!(sources::architectures(Some("120a, 80")), Ok(vec!["80", "120a"]));
    for bad in ["90", "", "80;90a"] {
        assert!(sources::architectures(Some(bad)).is_err(), "{bad}");
    }
}

#[test]
fn kernels_of_one_architecture_are_compiled_for_it_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["plain.cu", "attention_sm90a.cu", "attention_sm80.cu"] {
        std::fs::write(folder.path().join(name), "").expect("writable");
    }
    let found = sources::all(folder.path()).expect("readable");
    let count = |arch| found.iter().filter(|source| source.is_for(arch)).count();
    assert_eq!((found.len(), count("90a"), count("80"), count("100a")), (3, 3, 2, 2));
    std::fs::create_dir(folder.path().join("below")).expect("writable");
    std::fs::write(folder.path().join("below/plain.cu"), "").expect("writable");
    assert!(sources::all(folder.path()).expect_err("two of one name").contains("have one name"));
}

#[test]
fn emulator_is_not_compiled_for_gpus() {
    let found = sources::all(Path::new("kernels")).expect("readable");
    assert!(found.iter().any(|source| source.stem == "rms_norm"));
    assert!(found.iter().all(|source| !source.path.starts_with("kernels/emu")));
}

#[test]
fn key_changes_with_file_header_and_arguments() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
    let key = |arguments: &str| {
        let source = &sources::all(folder.path()).expect("readable")[0];
        cache::key([arguments.as_bytes()].into_iter().chain(source.contents()))
    };
    write("a.cu", "# include \"b.cuh\"\n#include <c.h>\n");
    write("b.cuh", "#include \"d.h\"\n");
    write("d.h", "int one;\n");
    let first = key("-O3");
    assert_eq!(first, key("-O3"));
    assert_ne!(first, key("-O2"));
    write("d.h", "int two;\n");
    let second = key("-O3");
    assert_ne!(first, second);
    write("a.cu", "#include \"b.cuh\"\n");
    assert_ne!(second, key("-O3"));
    // A piece that moves from one file to the next is a change too.
    assert_ne!(
        cache::key([b"ab".as_slice(), b"c"].into_iter()),
        cache::key([b"a".as_slice(), b"bc"].into_iter())
    );
}

#[test]
fn headers_of_the_compiler_are_followed_through_their_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
        std::fs::write(path, text).expect("writable");
    };
    let folders = [folder.path().join("nothing"), folder.path().to_owned()];
    let key = || cache::key(includes::headers_of(&folders, &["first.h", "missing.h"]).pieces());
    write("first.h", "#include <below/second.h>\n#include <not_here.h>\n");
    write("below/second.h", "#include \"third.h\"\n# include \"../first.h\"\n");
    write("below/third.h", "int one;\n");
    write("other.h", "int one;\n");
    let first = key();
    write("other.h", "int two;\n");
    assert_eq!(first, key(), "nobody includes it");
    write("below/third.h", "int two;\n");
    assert_ne!(first, key());
}

/// A toolkit in the layout of conda, as far as a dry run tells of it: nvcc, its tools and headers, and a host compiler.
struct FakeToolkit(tempfile::TempDir);

impl FakeToolkit {
    fn new() -> Self {
        let toolkit = Self(tempfile::tempdir().expect("a folder"));
        let root = toolkit.0.path().canonicalize().expect("a folder");
        let root = root.display();
        let told = [
            "_HERE_=R/bin",
            "CICC_PATH=R/nvvm/bin",
            "NVVMIR_LIBRARY_DIR=R/nvvm/libdevice",
            "PATH=R/nvvm/bin:R/bin:R/host",
            "INCLUDES=\"-IR/targets/x86_64-linux/include\"  ",
            "SYSTEM_INCLUDES=\"-isystem\" \"R/targets/x86_64-linux/include/cccl\" ",
            "g++ -D__CUDA_ARCH__=800 -E -x c++ \"none.cu\"",
            "\"$CICC_PATH/cicc\" -arch compute_80",
        ];
        let told = told.map(|line| format!("#$ {}", line.replace('R', &root.to_string()))).join("\n");
        toolkit.write("dry", &told);
        for folder in ["bin", "host"] {
            std::fs::create_dir(toolkit.path(folder)).expect("writable");
        }
        let dry = format!("case $1 in --dryrun) cat '{root}/dry' >&2;; *) echo release 13.0;; esac");
        script(&toolkit.path("bin/nvcc"), &dry);
        toolkit.host("g++ 12.2.0");
        for file in ["bin/ptxas", "bin/fatbinary", "nvvm/bin/cicc", "nvvm/libdevice/libdevice.10.bc"] {
            toolkit.write(file, "0123456789abcdef0123");
        }
        toolkit.write("bin/nvcc.profile", "TOP = $(_HERE_)/..");
        toolkit.write(Self::HEADER, "#include \"below.h\"\n#include <nv/target>\n");
        toolkit.write("targets/x86_64-linux/include/below.h", "int one;\n");
        toolkit.write("targets/x86_64-linux/include/cccl/nv/target", "int one;\n");
        toolkit
    }

    const HEADER: &str = "targets/x86_64-linux/include/cuda_bf16.h";

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.0.path().join(below)
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
        std::fs::write(path, text).expect("writable");
    }

    fn host(&self, version: &str) {
        script(&self.path("host/g++"), &format!("echo '{version}'"));
    }

    fn nvcc_at(path: &Path) -> Nvcc {
        Nvcc::find(&|name: &str| (name == "NVCC").then(|| path.display().to_string())).expect("found")
    }

    fn key(&self) -> String {
        Self::nvcc_at(&self.path("bin/nvcc")).parts().to_owned()
    }
}

/// Each is a package of its own, and may be another one under the same nvcc; where headers are is another matter in each layout.
#[test]
fn key_changes_with_each_part_of_the_toolkit() {
    let plain = FakeToolkit::new().key();
    assert_eq!(FakeToolkit::new().key(), plain, "the same parts elsewhere");
    let parts = [
        // The same length; the middle of a word of eight, and what is behind the last one.
        ("nvvm/bin/cicc", "0123456789abcdeX0123"),
        ("bin/ptxas", "0123456789abcdef012X"),
        ("nvvm/libdevice/libdevice.10.bc", "X123456789abcdef0123"),
        ("bin/nvcc.profile", "TOP = $(_HERE_)/../.."),
        (FakeToolkit::HEADER, "#include \"below.h\"\n#include <nv/target>\nint one;\n"),
        ("targets/x86_64-linux/include/below.h", "int two;\n"),
        ("targets/x86_64-linux/include/cccl/nv/target", "int two;\n"),
    ];
    let mut keys = std::collections::BTreeSet::from([plain.clone()]);
    for (part, text) in parts {
        let toolkit = FakeToolkit::new();
        toolkit.write(part, text);
        assert!(keys.insert(toolkit.key()), "{part}");
    }
    let toolkit = FakeToolkit::new();
    toolkit.host("g++ 13.1.0");
    assert!(keys.insert(toolkit.key()), "the host compiler");
    toolkit.write("bin/fatbinary", "another");
    assert!(!keys.insert(toolkit.key()), "no cubin is made by it");
}

#[test]
fn toolkit_that_is_replaced_where_it_is_is_looked_at_again() {
    let toolkit = FakeToolkit::new();
    let link = toolkit.path("current");
    std::os::unix::fs::symlink(toolkit.path("bin"), &link).expect("writable");
    let watched = cuda::watched(&FakeToolkit::nvcc_at(&link.join("nvcc")).toolkit());
    let root = toolkit.0.path().canonicalize().expect("a folder");
    for part in ["bin/nvcc", "nvvm/bin/cicc", "bin/ptxas", "bin/fatbinary", "host/g++"] {
        let line = format!("cargo::rerun-if-changed={}", root.join(part).display());
        assert!(watched.contains(&line), "{line} is not in {watched:#?}");
    }
}

/// What nvcc tells is what is read here.
#[cfg(feature = "cuda")]
#[test]
fn parts_of_the_compiler_that_built_this_are_found() {
    let nvcc = Nvcc::find(&|name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .expect("what built this");
    let toolkit = nvcc.toolkit();
    let files = toolkit.files();
    let names: Vec<_> = files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    for part in ["nvcc", "cicc", "ptxas", "libdevice.10.bc", "nvcc.profile", "fatbinary"] {
        assert!(names.contains(&part), "{part}: {names:?}");
    }
    assert_eq!(names.len(), 7, "and the host compiler: {names:?}");
    // Names and contents.
    assert!(toolkit.headers().pieces().count() > 2 * 20, "some headers");
}

#[test]
fn cached_result_is_used_and_a_failed_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = cache::Cache::new(folder.path().join("cubins"), "cubin").expect("a folder");
    let k = cache::key([b"k".as_slice()].into_iter());
    let count = || std::fs::read_dir(folder.path().join("cubins")).expect("readable").count();
    assert!(cache.get(&k).is_none());
    let half = cache.put(&k, |path| {
        std::fs::write(path, b"half").expect("writable");
        Err("refused".to_owned())
    });
    assert_eq!((half, count()), (Err("refused".to_owned()), 0), "nothing of it is left");
    assert!(cache.get(&k).is_none());
    let made = cache
        .put(&k, |path| std::fs::write(path, b"cubin").map(|()| "log".to_owned()).map_err(|e| e.to_string()));
    assert_eq!(made, Ok("log".to_owned()));
    assert_eq!(cache.get(&k), Some((b"cubin".to_vec(), "log".to_owned())));
    // Without one of the two it is made again.
    std::fs::remove_file(cache.path(&k)).expect("it is there");
    assert_eq!((cache.get(&k), cache.log(&k)), (None, None));
    std::fs::write(folder.path().join("cubins/notes.txt"), "").expect("writable");
    cache.forget_unused(Duration::from_secs(60));
    assert_eq!(count(), 2);
    cache.forget_unused(Duration::ZERO);
    assert_eq!(count(), 1, "what is no entry is not touched");
}

/// A read-only folder, or one that is gone: no compiler runs for nothing, and what is wrong is said once.
#[test]
fn folder_that_cannot_be_written_is_one_error_before_anything_is_compiled() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = folder.path().join("gone");
    let cache = cache::Cache::new(gone.clone(), "o").expect("a folder");
    std::fs::remove_dir(&gone).expect("it is there");
    let items: Vec<usize> = (0..5).collect();
    let outcome =
        cuda::in_parallel(&items, 2, |item| cache.put(&item.to_string(), |_| panic!("a compiler runs")));
    let error = outcome.expect_err("nowhere to write");
    let names = format!("{}: ", gone.display());
    assert!(error.starts_with(&names) && error.lines().count() == 1, "{error}");
    std::fs::write(&gone, "").expect("writable");
    let error = cache::Cache::new(gone, "o").expect_err("a file");
    assert!(error.starts_with(&names), "{error}");
}

/// A process of the same number, in another container, writes its own file.
#[test]
fn file_of_a_build_that_is_under_way_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = cache::Cache::new(folder.path().to_owned(), "o").expect("a folder");
    let key = cache::key([b"k".as_slice()].into_iter());
    let other = folder.path().join(format!("{key}.{}-0.o.part", std::process::id()));
    std::fs::write(&other, "half").expect("writable");
    let made = cache.put(&key, |path| {
        std::fs::write(path, "whole").map(|()| String::new()).map_err(|error| error.to_string())
    });
    assert_eq!((made, cache.get(&key)), (Ok(String::new()), Some((b"whole".to_vec(), String::new()))));
    assert_eq!(std::fs::read(&other).expect("still there"), b"half");
}

/// What a full disk, or a machine that lost power, leaves of a cached cubin is made again.
#[test]
fn damaged_cubin_is_none() {
    let cubin = b"\x7fELF and more".as_slice();
    assert!(cuda::is_whole(cubin, LOG));
    assert!(!cuda::is_whole(b"", LOG) && !cuda::is_whole(&[0; 16], LOG) && !cuda::is_whole(cubin, ""));
}

/// Headers that the C++ compiler finds elsewhere may be other headers.
#[test]
fn where_headers_are_looked_for_is_part_of_a_cached_results_name() {
    assert_eq!(cuda::searched(&|_| None), Vec::<String>::new());
    let variable = |name: &str| (name == "CPLUS_INCLUDE_PATH").then(|| "/opt/include".into());
    assert_eq!(cuda::searched(&variable), ["CPLUS_INCLUDE_PATH=/opt/include"]);
}

/// Many at once, as two builds of one tree do it: whoever reads finds whole files.
#[test]
fn cache_is_filled_from_many_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let items: Vec<usize> = (0..64).collect();
    let bytes = vec![7_u8; 100_000];
    let outcome = cuda::in_parallel(&items, 8, |item| {
        let cache = cache::Cache::new(folder.path().to_owned(), "o")?;
        let key = format!("{}", item % 8);
        let made =
            |path: &Path| std::fs::write(path, &bytes).map(|()| key.clone()).map_err(|e| e.to_string());
        // A process makes each of its own once; here the eight that want one thing stand for eight builds.
        if *item < 8 {
            cache.put(&key, made)?;
        }
        Ok(cache.get(&key).is_none_or(|found| found == (bytes.clone(), key)))
    });
    assert_eq!(outcome, Ok(vec![true; 64]));
    let refused =
        cuda::in_parallel(
            &items,
            3,
            |item| {
                if item % 32 == 1 { Err(format!("item {item}")) } else { Ok(*item) }
            },
        );
    assert_eq!(refused, Err("item 1\nitem 33".to_owned()), "all that is wrong, in order");
    assert_eq!(cuda::in_parallel(&[] as &[u8], 2, |_| Ok(())), Ok(vec![]));
}

#[cfg(feature = "emu")]
#[test]
fn objects_are_compiled_once_and_again_after_a_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.cpp"), "#include \"a.hpp\"\nint f(int x) { return x + ONE; }\n")
        .expect("writable");
    std::fs::write(path("a.hpp"), "#define ONE 1\n").expect("writable");
    let compiler = |optimised: &str| {
        let arguments = ["-Wall", "-Wextra", optimised].map(str::to_owned);
        Compiler::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()).into(), arguments.into())
            .expect("a C++ compiler")
    };
    let plain = compiler("-O1");
    let source = path("a.cpp");
    let compile =
        |compiler: &Compiler| objects::all(path("objects"), &[Unit { source: &source, compiler }], 2);
    let made = |compiler: &Compiler| compile(compiler).expect("it compiles").remove(0);
    let first = made(&plain);
    let written = || std::fs::metadata(&first.path).expect("it is there").ino();
    let before = written();
    assert_eq!((made(&plain).path, written()), (first.path.clone(), before), "not again");
    let other = compiler("-O2");
    assert_ne!(made(&other).path, first.path);
    std::fs::write(path("a.hpp"), "#define ONE 1\nstatic int unused() { return 2; }\n").expect("writable");
    let second = made(&plain);
    assert_ne!(second.path, first.path);
    assert!(second.warnings.contains("unused"), "{}", second.warnings);
    assert_eq!(made(&plain).warnings, second.warnings, "and what was said is said again");
    std::fs::write(path("a.hpp"), "#define ONE \n").expect("writable");
    let error = compile(&plain).expect_err("it does not compile");
    assert!(error.contains("a.cpp:2"), "{error}");
}

#[test]
fn missing_compiler_is_one_error_that_says_how_to_get_it() {
    let nowhere = |name: &str| (name == "PATH").then(|| "/nonexistent".to_owned());
    // A machine with a toolkit in its usual place has it.
    if !Path::new("/usr/local/cuda/bin/nvcc").exists() {
        let error = Nvcc::find(&nowhere).expect_err("nowhere");
        assert!(error.starts_with("feature `cuda` needs nvcc"), "{error}");
        assert!(error.contains("pip install nvidia-cuda-nvcc==13.0.88"), "{error}");
    }
    let wrong = |name: &str| (name == "NVCC").then(|| "/nonexistent/nvcc".to_owned());
    let error = Nvcc::find(&wrong).expect_err("no such file");
    assert!(error.starts_with("NVCC is set: /nonexistent/nvcc"), "{error}");
}

/// A program.
pub(crate) fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("writable");
    let mut permissions = std::fs::metadata(path).expect("readable").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(path, permissions).expect("writable");
}

#[test]
fn old_compiler_is_refused_with_both_releases() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nvcc");
    let find = |said: &str| {
        script(&path, said);
        Nvcc::find(&|name: &str| (name == "NVCC").then(|| path.display().to_string()))
    };
    let error = find("echo 'Cuda compilation tools, release 12.8, V12.8.93'").expect_err("too old");
    assert!(error.contains("is of CUDA 12.8; feature `cuda` needs nvcc 13.0 or newer"), "{error}");
    assert!(error.contains("pip install"), "{error}");
    let error = find("echo something else").expect_err("no nvcc");
    assert!(error.contains("what release is it? something else"), "{error}");
    let error = find("echo broken >&2; exit 3").expect_err("it fails");
    assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
    find("echo 'Cuda compilation tools, release 13.1, V13.1.2'").expect("newer");
}

/// What the environment would add to every call of nvcc is not in the cached result's name, so it is not in the call either.
#[test]
fn compiler_gets_no_arguments_from_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nvcc");
    script(&path, "echo release 13.0; echo \"[$NVCC_APPEND_FLAGS$NVCC_PREPEND_FLAGS]\"");
    let nvcc = Nvcc::find(&|name: &str| (name == "NVCC").then(|| path.display().to_string())).expect("found");
    let said = nvcc.compile(Path::new("a.cu"), &[], Path::new("a.cubin")).expect("it ends well");
    assert!(said.ends_with("[]\n"), "{said}");
    // Whoever runs this sets neither: so it runs again where both are set.
    if std::env::var_os("NVCC_APPEND_FLAGS").is_none() {
        let name = "building::compiler_gets_no_arguments_from_the_environment";
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name])
            .env("NVCC_APPEND_FLAGS", "-G")
            .env("NVCC_PREPEND_FLAGS", "-g")
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

/// One kernel of a kind that the build has to refuse, compiled as `build.rs` does it.
#[cfg(feature = "cuda")]
fn planted(name: &str, arch: &str, text: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("writable");
    let nvcc = Nvcc::find(&|name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .expect("what built this");
    match nvcc.compile(&path, &cuda::nvcc::arguments(arch), &folder.path().join("planted.cubin")) {
        Ok(log) => Report::parse(&log).problems().join("\n"),
        Err(refused) => refused,
    }
}

/// More live values than registers; an array that is indexed by what is only known later; a warning of the front end; two groups of products whose sums are touched in between.
#[cfg(feature = "cuda")]
#[test]
fn planted_spills_and_serialised_products_fail() {
    let kernel = |body: &str| format!("extern \"C\" __global__ void planted(float* x, int n) {{ {body} }}\n");
    let spills = "extern \"C\" __global__ void __launch_bounds__(1024, 2) planted(float* x, int n) {
        float v[64];
        #pragma unroll
        for (int i = 0; i < 64; i++) v[i] = x[i * n + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 64; i++) x[(63 - i) * n + threadIdx.x] = v[i] * v[63 - i];
    }\n";
    let products = "extern \"C\" __global__ void planted(float* x, unsigned long long a) {
        float d[4] = {};
        asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\");
        for (int i = 0; i < 4; i++) {
            asm volatile(\"{ wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %4, 1, 1, 1, 0, 0; }\"
                : \"+f\"(d[0]), \"+f\"(d[1]), \"+f\"(d[2]), \"+f\"(d[3]) : \"l\"(a));
            d[0] += x[i];
        }
        asm volatile(\"wgmma.commit_group.sync.aligned;\" ::: \"memory\");
        asm volatile(\"wgmma.wait_group.sync.aligned 0;\" ::: \"memory\");
        x[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
    }\n";
    let cases = [
        ("spills.cu", "90a", spills.to_owned(), "spill"),
        (
            "local.cu",
            "80",
            kernel(
                "float v[512]; for (int i = 0; i < 512; i++) v[i] = x[i] * x[i + n]; for (int i = 0; i < n; i++) v[(i * 7 + n) & 511] += x[i]; x[0] = v[n];",
            ),
            "Local memory",
        ),
        ("warning.cu", "80", kernel("int unused; x[0] = n;"), "unused"),
        ("serialised_sm90a.cu", "90a", products.to_owned(), "C75"),
    ];
    let outcomes = cuda::in_parallel(&cases, 2, |(name, arch, text, _)| Ok(planted(name, arch, text)));
    for ((name, _, _, expected), said) in cases.iter().zip(outcomes.expect("each has an answer")) {
        assert!(said.contains(expected), "{name}: {said:?}");
    }
    let clean = planted("clean.cu", "80", &kernel("x[threadIdx.x] = n;"));
    assert_eq!(clean, "", "and a clean one does not");
}

#[test]
fn compiler_is_found_by_variable_home_path_and_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |below: &str| {
        let path = folder.path().join(below);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
        // A script that says its own place, so that the test sees which one was asked.
        script(&path, "echo release 13.0; echo \"$0\"");
        path
    };
    let wheel = put("venv/lib/python3.11/site-packages/nvidia/cu13/bin/nvcc");
    let path = put("path/nvcc");
    let home = put("home/bin/nvcc");
    let named = put("named/nvcc");
    let root = folder.path().display().to_string();
    let all = [
        ("NVCC", format!("{root}/named/nvcc")),
        ("CUDA_HOME", format!("{root}/home")),
        ("PATH", format!("{root}/nothing:{root}/path")),
        ("VIRTUAL_ENV", format!("{root}/venv")),
    ];
    for (first, expected) in [named, home, path, wheel].iter().enumerate() {
        // A machine with a toolkit of its own has it before the wheels.
        if first == 3 && Path::new("/usr/local/cuda/bin/nvcc").exists() {
            continue;
        }
        let variable = |name: &str| {
            all[first..].iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        let nvcc = Nvcc::find(&variable).expect("found");
        assert_eq!(nvcc.version(), expected.display().to_string());
    }
}
