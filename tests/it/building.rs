//! How `build.rs` compiles kernels: what it reads out of ptxas' words, what it refuses, what changes a cached result.

use std::path::Path;

use lighterage_kernels::launch::Arch;

#[path = "../../kernels/build/mod.rs"]
#[allow(dead_code, clippy::print_stdout, reason = "written for the build script, which alone calls it all")]
pub(crate) mod cuda;

use self::cuda::budget::Table;
use self::cuda::nvcc::Nvcc;
use self::cuda::report::Report;
use self::cuda::{cache, sources};

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
fn cached_result_is_used_and_a_failed_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = cache::Cache::new(folder.path().join("cubins")).expect("a folder");
    assert!(cache.get("k").is_none());
    assert_eq!(cache.put("k", |_| Err("refused".to_owned())), Err("refused".to_owned()));
    assert!(cache.get("k").is_none());
    let made = cache.put("k", |path| {
        std::fs::write(path, b"cubin").map(|()| "log".to_owned()).map_err(|e| e.to_string())
    });
    assert_eq!(made, Ok((b"cubin".to_vec(), "log".to_owned())));
    assert_eq!(cache.get("k"), Some((b"cubin".to_vec(), "log".to_owned())));
}

#[test]
fn missing_compiler_is_one_error_that_says_how_to_get_it() {
    // Python's own places are looked at last, so this holds where no wheel is installed for the system's Python.
    let nowhere = |name: &str| (name == "PATH").then(|| "/nonexistent".to_owned());
    if let Err(error) = Nvcc::find(&nowhere) {
        assert!(error.contains("pip install nvidia-cuda-nvcc==13.0.88"), "{error}");
    }
    let wrong = |name: &str| (name == "NVCC").then(|| "/nonexistent/nvcc".to_owned());
    let error = Nvcc::find(&wrong).expect_err("no such file");
    assert!(error.starts_with("NVCC is set: /nonexistent/nvcc"), "{error}");
}

#[test]
fn compiler_is_found_by_variable_home_path_and_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |below: &str| {
        let path = folder.path().join(below);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
        // A script that says its own place, so that the test sees which one was asked.
        std::fs::write(&path, "#!/bin/sh\necho \"$0\"\n").expect("writable");
        let mut permissions = std::fs::metadata(&path).expect("readable").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        std::fs::set_permissions(&path, permissions).expect("writable");
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
