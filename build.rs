//! Build script of the kernels: compiles them for GPUs and for the emulator, and regenerates the parameter structs, each on request.
//!
//! Without features it does nothing, so that a build needs no C++ compiler, no libclang and no nvcc. With `emu` every `.cu`
//! below `kernels/` is compiled as C++ against the emulator in `kernels/emu` and linked in. With `bindgen` the headers are turned
//! into `OUT_DIR/params.rs`; the test `tidy` compares that with the committed `kernels/params.rs`. With `cuda` nvcc compiles the kernels for
//! every architecture: see `kernels/build/mod.rs`.

#[cfg(any(feature = "cuda", feature = "emu"))]
#[path = "kernels/build/mod.rs"]
#[cfg_attr(
    not(all(feature = "cuda", feature = "emu")),
    expect(dead_code, reason = "one feature takes one half of it")
)]
mod compiling;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    stop_at(compiling::compile());
    #[cfg(feature = "bindgen")]
    params::generate_or_stop();
    #[cfg(feature = "emu")]
    stop_at(emulator::compile());
}

/// Ends the build with what is wrong, one error a line.
#[cfg(any(feature = "cuda", feature = "emu"))]
fn stop_at(outcome: compiling::Result<()>) {
    if let Err(problems) = outcome {
        problems.lines().for_each(|line| println!("cargo::error={line}"));
        std::process::exit(1);
    }
}

#[cfg(feature = "emu")]
mod emulator {
    use std::path::{Path, PathBuf};

    use super::compiling::objects::{self, Compiler, Object, Unit};
    use super::compiling::{Result, SEARCHED, jobs, offsets};
    use super::files;

    /// Two libraries: the runtime, and the kernels, whose loads and stores call the runtime's hooks.
    pub(super) fn compile() -> Result<()> {
        println!("cargo::rerun-if-changed=kernels");
        println!("cargo::rerun-if-changed=docs/kernel-ladder");
        SEARCHED.iter().for_each(|variable| println!("cargo::rerun-if-env-changed={variable}"));
        let params = std::fs::read_to_string("kernels/params.rs").expect("kernels/params.rs is readable");
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let checks = out.join("offsets.cpp");
        std::fs::write(&checks, offsets::checks(&params)).expect("OUT_DIR is writable");
        let mut parts = files(Path::new("kernels/emu"), "cpp");
        parts.push(checks);
        let mut sources = files(Path::new("kernels"), "cu");
        sources.extend(files(Path::new("docs/kernel-ladder"), "cu"));
        let (runtime_compiler, kernel_compiler) = (compiler(&runtime())?, compiler(&kernels())?);
        let units = [(&parts, &runtime_compiler), (&sources, &kernel_compiler)];
        let units = units
            .into_iter()
            .flat_map(|(sources, compiler)| sources.iter().map(move |source| Unit { source, compiler }));
        let made = objects::all(folder(&out), &units.collect::<Vec<_>>(), jobs())?;
        made.iter()
            .flat_map(|object| object.warnings.lines())
            .for_each(|line| println!("cargo::warning={line}"));
        let (of_runtime, of_kernels) = made.split_at(parts.len());
        with(runtime(), of_runtime).compile("lighterage_emu");
        // Nothing refers to a kernel but its own registration, so the linker has to be told to keep them all.
        with(kernels(), of_kernels).link_lib_modifier("+whole-archive").compile("lighterage_emu_kernels");
        Ok(())
    }

    /// Where objects are kept: beside all that cargo builds, for every profile and every set of features.
    fn folder(out: &Path) -> PathBuf {
        // target/PROFILE/build/PACKAGE/out, and deeper in newer layouts.
        let build = out.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "build"));
        build.and_then(|build| build.parent()?.parent()).unwrap_or(out).join("emulator")
    }

    fn compiler(build: &cc::Build) -> Result<Compiler> {
        let tool = build.try_get_compiler().map_err(|error| error.to_string())?;
        let arguments = tool.args().iter().map(|argument| argument.to_string_lossy().into_owned());
        Compiler::new(tool.path().to_owned(), arguments.collect())
    }

    fn with(mut build: cc::Build, objects: &[Object]) -> cc::Build {
        build.objects(objects.iter().map(|object| &object.path));
        build
    }

    fn runtime() -> cc::Build {
        let mut build = cc::Build::new();
        // Line tables always: a failure names source lines. No contraction: the same bits on every machine.
        build
            .include("kernels")
            .cpp(true)
            .std("c++20")
            .opt_level(2)
            .debug(true)
            .flag("-ffp-contract=off")
            .flag("-Wno-unknown-pragmas")
            // Counters of unrolled loops are int by the habit of this language; nvcc has no such warning either.
            .flag("-Wno-sign-compare");
        build
    }

    fn kernels() -> cc::Build {
        let mut build = runtime();
        // Each calls a hook, before every load and store or for a misaligned pointer; their own libraries are not linked, the runtime
        // has the hooks.
        build.flag("-fsanitize=thread").flag("-fsanitize=alignment").flag("-xc++");
        // One access in the source is one access here; a vector load made by the compiler would hide a misaligned one.
        build.flag("-fno-tree-vectorize").flag("-fno-strict-aliasing");
        // The address that a call returns to names its line: at a function's end it has to be a call still, and not a jump.
        build.flag("-fno-optimize-sibling-calls");
        build.flag_if_supported("--param=tsan-instrument-func-entry-exit=0");
        build
    }
}

#[cfg(feature = "bindgen")]
mod params {
    use std::path::{Path, PathBuf};

    #[derive(Debug)]
    struct Derives;

    impl bindgen::callbacks::ParseCallbacks for Derives {
        fn process_comment(&self, comment: &str) -> Option<String> {
            // `[rows, columns]` is a shape, not a link.
            Some(comment.replace('[', "\\[").replace(']', "\\]"))
        }

        fn add_derives(&self, _: &bindgen::callbacks::DeriveInfo<'_>) -> Vec<String> {
            // Pod refuses implicit padding at compile time: a header that forgets an explicit field does not build.
            vec!["bytemuck::Pod".into(), "bytemuck::Zeroable".into(), "PartialEq".into()]
        }
    }

    /// bindgen panics where there is no libclang.
    pub(super) fn generate_or_stop() {
        std::panic::set_hook(Box::new(|_| ()));
        if let Err(panic) = std::panic::catch_unwind(generate) {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("bindgen failed");
            println!("cargo::error={}", said.replace('\n', " "));
            println!(
                "cargo::error=feature `bindgen`, which only maintainers need, wants libclang: pip install libclang==18.1.1, and LIBCLANG_PATH for its folder"
            );
            std::process::exit(1);
        }
        drop(std::panic::take_hook());
    }

    fn generate() {
        let headers = super::files(Path::new("kernels"), "h");
        for header in &headers {
            println!("cargo::rerun-if-changed={}", header.display());
        }
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("params.rs");
        bindgen::Builder::default()
            .header("kernels/params.h")
            .allowlist_type(".*Params")
            .disable_header_comment()
            .raw_line("// Generated by bindgen from the headers beside it: see kernels/lib.rs. Do not edit.")
            .generate_comments(true)
            .clang_arg("-fparse-all-comments")
            .derive_default(true)
            .layout_tests(true)
            .parse_callbacks(Box::new(Derives))
            .generate()
            .expect("the parameter headers parse: see clang's messages above")
            .write_to_file(out)
            .expect("OUT_DIR is writable");
    }
}

/// All files below `folder` with that extension, sorted, so that nothing depends on the order of the file system.
#[cfg(any(feature = "bindgen", feature = "emu"))]
fn files(folder: &std::path::Path, wanted: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("kernels/ is readable") {
        let path = entry.expect("kernels/ is readable").path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if path.extension().is_some_and(|extension| extension == wanted) {
            found.push(path);
        }
    }
    found.sort();
    found
}
