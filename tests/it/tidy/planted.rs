//! Each rule with the fault that it is there for, planted into a copy of the repository: one fault, found once.

use super::repository::{Dependency, Kind, Package, Repository, Target};
use super::{REPOSITORY, Rule, kernels, layers, manifests, texts};

/// Plants a fault; its rule must say exactly this of it, beside what it said before.
#[track_caller]
fn check(rule: Rule, plant: impl FnOnce(&mut Repository), expected: &str) {
    let mut repository = REPOSITORY.clone();
    let before = rule(&repository);
    plant(&mut repository);
    let faults: Vec<String> = rule(&repository).into_iter().filter(|fault| !before.contains(fault)).collect();
    assert!(faults.len() == 1 && faults[0].contains(expected), "{faults:?}, should be one with {expected:?}");
}

impl Repository {
    fn package(&mut self, name: &str) -> &mut Package {
        self.packages.iter_mut().find(|package| package.name == name).expect("a package of ours")
    }

    fn depend(&mut self, package: &str, name: &str, kind: Kind) {
        self.package(package).dependencies.push(Dependency { name: name.to_owned(), kind });
    }

    fn write(&mut self, path: &str, text: &str) {
        self.files.insert(path.to_owned(), Some(text.to_owned()));
    }

    /// Changes a file, which must hold `old` for that.
    fn replace(&mut self, path: &str, old: &str, new: &str) {
        let text = self.text(path).to_owned();
        assert!(text.contains(old), "{path} does not hold {old}");
        self.write(path, &text.replace(old, new));
    }

    fn remove(&mut self, path: &str) {
        assert!(self.files.remove(path).is_some(), "there is no {path}");
    }

    /// Takes a crate's line out of the table.
    fn remove_row(&mut self, folder: &str) {
        let lines = self.text("docs/ARCHITECTURE.md").lines();
        let kept: Vec<&str> = lines.filter(|line| !line.contains(&format!("| `{folder}` |"))).collect();
        let text = kept.join("\n");
        self.write("docs/ARCHITECTURE.md", &text);
    }
}

#[test]
fn a_kernel_that_nothing_times() {
    let rest = "crates/driver/src/commands/bench/rest.rs";
    let expected = "kernel geglu: no line of it";
    check(kernels::benches, |r| r.replace(rest, "(\"geglu\", ", "(\"gate\", "), expected);
    // A line whose op nobody calls.
    check(kernels::benches, |r| r.replace(rest, "geglu(&", "gate(&"), expected);
    // Something else of that name is called, or the name stands elsewhere.
    let expected = "kernel add: no line of it";
    check(
        kernels::benches,
        |r| r.replace(rest, "Ok(add(&bench.queue, ", "Ok(add(&format!(\"{x}\"), "),
        expected,
    );
    check(kernels::benches, |r| r.replace(rest, "(\"add\", ", "(ADD, \"add\", "), expected);
}

#[test]
fn a_crate_without_a_row() {
    check(layers::names, |r| r.remove_row("crates/vae"), "no row for crates/vae");
}

#[test]
fn a_row_without_a_crate() {
    let plant = |r: &mut Repository| r.packages.retain(|package| package.name != "lighterage-vae");
    check(layers::names, plant, "names crates/vae, which is no package");
}

#[test]
fn a_root_package_without_a_row() {
    check(layers::names, |r| r.remove_row("kernels"), "no row for kernels: lighterage-kernels");
}

#[test]
fn an_upward_edge() {
    let expected = "lighterage-shape (At(0)) depends on lighterage-device (At(1))";
    check(layers::floors, |r| r.depend("lighterage-shape", "lighterage-device", Kind::Normal), expected);
    let expected = "lighterage-kernels (At(0)) depends on lighterage-ops (At(3))";
    check(layers::floors, |r| r.depend("lighterage-kernels", "lighterage-ops", Kind::Build), expected);
}

#[test]
fn an_edge_to_the_same_floor() {
    let expected = "lighterage-pager (At(3)) depends on lighterage-ops (At(3))";
    check(layers::floors, |r| r.depend("lighterage-pager", "lighterage-ops", Kind::Normal), expected);
}

#[test]
fn a_crate_raised_above_its_user() {
    let raise = |r: &mut Repository| {
        r.replace("docs/ARCHITECTURE.md", "| 5 | `crates/pipeline`", "| 6 | `crates/pipeline`");
    };
    check(layers::floors, raise, "lighterage (At(6)) depends on lighterage-pipeline (At(6))");
}

#[test]
fn a_crate_for_tests_outside_of_tests() {
    let expected = "lighterage-pager (At(3)) depends on lighterage-testkit (TestsOnly)";
    check(layers::floors, |r| r.depend("lighterage-pager", "lighterage-testkit", Kind::Normal), expected);
}

#[test]
fn an_edge_that_the_table_does_not_name() {
    let expected = "crates/vae uses rayon (Normal)";
    check(layers::uses, |r| r.depend("lighterage-vae", "rayon", Kind::Normal), expected);
    // Downwards, and still not said.
    let expected = "crates/pager uses allocator (Normal)";
    check(layers::uses, |r| r.depend("lighterage-pager", "lighterage-allocator", Kind::Normal), expected);
}

#[test]
fn a_build_dependency_that_the_table_does_not_name() {
    check(layers::uses, |r| r.depend("lighterage-shape", "cc", Kind::Build), "crates/shape uses cc (Build)");
    // It may build with it, not link it.
    let expected = "kernels uses cc (Normal)";
    check(layers::uses, |r| r.depend("lighterage-kernels", "cc", Kind::Normal), expected);
}

#[test]
fn a_common_package_taken_from_the_list() {
    let expected = "crates/shape uses bytemuck (Normal)";
    let plant = |r: &mut Repository| {
        r.depend("lighterage-shape", "bytemuck", Kind::Normal);
        for package in r.packages.iter_mut().filter(|package| package.name != "lighterage-shape") {
            package.dependencies.retain(|dependency| dependency.name != "bytemuck");
        }
        r.replace("docs/ARCHITECTURE.md", "`bytemuck`, ", "");
    };
    check(layers::uses, plant, expected);
}

#[test]
fn a_name_in_the_table_that_is_no_edge() {
    let plant = |r: &mut Repository| {
        r.package("lighterage-text").dependencies.retain(|dependency| dependency.name != "tokenizers");
    };
    check(layers::uses, plant, "says that crates/text uses tokenizers, which it does not");
    let plant = |r: &mut Repository| {
        r.replace("docs/ARCHITECTURE.md", "; the only crate that knows cudarc |", "; cudarc, wgpu |");
    };
    check(layers::uses, plant, "says that crates/device uses wgpu, which it does not");
}

#[test]
fn a_package_that_another_crate_alone_may_know() {
    let expected = "lighterage-ops knows cudarc, which only lighterage-device may";
    check(layers::exclusive, |r| r.depend("lighterage-ops", "cudarc", Kind::Normal), expected);
}

#[test]
fn a_library_without_an_essay() {
    let plant = |r: &mut Repository| {
        r.write("crates/vae/src/lib.rs", "//! The autoencoder.\n#![forbid(unsafe_code)]\n");
    };
    check(manifests::essays, plant, "crates/vae/src/lib.rs opens with less than five lines");
}

#[test]
fn unsafe_code_that_nobody_listed() {
    let plant = |r: &mut Repository| r.replace("crates/vae/src/lib.rs", "#![forbid(unsafe_code)]", "");
    check(manifests::unsafe_code, plant, "lighterage-vae neither forbids unsafe code nor is listed");
    let plant =
        |r: &mut Repository| r.replace("crates/ops/src/lib.rs", "//! ", "#![forbid(unsafe_code)]\n//! ");
    check(manifests::unsafe_code, plant, "lighterage-ops forbids unsafe code and is listed");
}

#[test]
fn a_library_that_is_benched() {
    let manifest = |r: &mut Repository, old: &str, new: &str| {
        let package = r.package("lighterage-vae");
        assert!(package.manifest.contains(old));
        package.manifest = package.manifest.replace(old, new);
    };
    let expected = "lighterage-vae, lighterage_vae: set bench = false";
    check(manifests::benched, |r| manifest(r, "bench = false", ""), expected);
    check(manifests::benched, |r| manifest(r, "bench = false", "bench = true"), expected);
    check(manifests::benched, |r| manifest(r, "bench = false", "# bench = false"), expected);
    // In another table it says nothing about the library.
    check(manifests::benched, |r| manifest(r, "[lib]", "[package.metadata]"), expected);
}

#[test]
fn a_second_target_that_is_benched() {
    let plant = |r: &mut Repository| {
        let kind = super::repository::Code::Binary;
        r.package("lighterage-vae").targets.push(Target { kind, name: "tool".to_owned() });
    };
    check(manifests::benched, plant, "lighterage-vae, tool: set bench = false");
    let plant = |r: &mut Repository| {
        let package = r.package("lighterage");
        package.manifest.push_str("\n[[bin]]\nname = \"tool\"\nbench = true\n");
        let kind = super::repository::Code::Binary;
        package.targets.push(Target { kind, name: "tool".to_owned() });
    };
    check(manifests::benched, plant, "lighterage, tool: set bench = false");
}

#[test]
fn a_kernel_without_one_of_its_parts() {
    let missing = |plant: &dyn Fn(&mut Repository), expected: &str| {
        check(kernels::parts, |r| plant(r), &format!("kernel geglu: {expected}"));
    };
    missing(&|r| r.remove("kernels/elementwise/geglu.cu"), "no kernels/elementwise/geglu.cu");
    missing(&|r| r.remove("kernels/elementwise/geglu.rs"), "no launches in kernels/elementwise/geglu.rs");
    missing(
        &|r| r.replace("kernels/params.h", "#include \"elementwise/geglu.h\"", ""),
        "elementwise/geglu.h is not in kernels/params.h",
    );
    missing(
        &|r| r.replace("kernels/params.rs", "pub struct GegluParams ", "pub struct Other "),
        "no GegluParams",
    );
    missing(
        &|r| r.replace("crates/ops/src/lib.rs", "pub use geglu::{Geglu, geglu};", ""),
        "crates/ops/src/lib.rs exports no geglu",
    );
    missing(&|r| r.replace("crates/ops/src/geglu.rs", "pub fn geglu<", "fn geglu<"), "no `pub fn geglu`");
    missing(&|r| r.replace("crates/ops/src/geglu.rs", "#[test]", ""), "no test in crates/ops/src/geglu");
    missing(&|r| r.remove("docs/kernels/geglu.md"), "no docs/kernels/geglu.md");
}

#[test]
fn a_kernel_of_an_op_in_a_folder_without_a_test() {
    let plant = |r: &mut Repository| r.replace("crates/ops/src/linear/tests.rs", "#[test]", "");
    check(kernels::parts, plant, "kernel linear: no test in crates/ops/src/linear");
}

#[test]
fn a_source_that_belongs_to_no_kernel() {
    let plant = |r: &mut Repository| r.write("kernels/norm/stray.cu", "__global__ void stray() {}\n");
    check(kernels::strays, plant, "kernels/norm/stray.cu belongs to no header");
    // The name of another family's kernel, and a variant that there is none of.
    check(
        kernels::strays,
        |r| r.write("kernels/norm/linear.cu", ""),
        "kernels/norm/linear.cu belongs to no header",
    );
    check(
        kernels::strays,
        |r| r.write("kernels/norm/softmax_fast.cu", ""),
        "softmax_fast.cu belongs to no header",
    );
    check(
        kernels::strays,
        |r| r.write("kernels/base/second_test.cu", ""),
        "second_test.cu belongs to no header",
    );
    check(kernels::strays, |r| r.write("kernels/new/new.cu", ""), "kernels/new/new.cu belongs to no header");
}

#[test]
fn a_kernel_that_no_test_emulates() {
    let plant = |r: &mut Repository| r.replace("tests/emu/rope.rs", "qk_norm_rope::launches", "other");
    check(kernels::strays, plant, "kernels/rope/qk_norm_rope.cu: no test in tests/emu launches it");
    let plant = |r: &mut Repository| r.replace("tests/emu/linear.rs", "\"linear_sm90a_", "\"");
    check(kernels::strays, plant, "kernels/gemm/linear_sm90a.cu: no test in tests/emu launches it");
}

#[test]
fn a_header_that_no_kernel_includes() {
    check(
        kernels::strays,
        |r| r.write("kernels/base/old.cuh", ""),
        "kernels/base/old.cuh is included by no kernel",
    );
}

#[test]
fn a_step_of_the_ladder_that_is_not_told() {
    let plant = |r: &mut Repository| r.write("docs/kernel-ladder/attention/step9_late.cu", "");
    check(kernels::strays, plant, "step9_late.cu is named with its time by no README");
}

#[test]
fn a_step_of_the_ladder_without_a_time() {
    let plant = |r: &mut Repository| r.replace("docs/kernel-ladder/rms_norm/README.md", "| 400 us |", "| |");
    check(kernels::strays, plant, "rms_norm/step1.cu is named with its time by no README");
}

#[test]
fn a_head_without_one_of_its_parts() {
    let without = |old: &str, new: &str, expected: &str| {
        let path = "kernels/elementwise/add.cu";
        check(kernels::heads, |r| r.replace(path, old, new), &format!("{path} has no {expected}"));
    };
    without("// out[r, c] = a", "// out[r, c]: a", "formula in its first line");
    without("// Mapping: ", "// Threads: ", "line `Mapping: ` in its head");
    without("// Bytes: ", "// Moved: ", "line `Bytes: ` in its head");
    without("25 us at", "fast at", "predicted time in its head");
    // A comment further down is no head.
    let plant =
        |r: &mut Repository| r.replace("kernels/norm/softmax.cu", "// Bytes", "#pragma once\n// Bytes");
    let mut repository = REPOSITORY.clone();
    plant(&mut repository);
    let faults = kernels::heads(&repository);
    assert_eq!(faults.len(), 2, "neither bytes nor time: {faults:?}");
}

#[test]
fn a_document_without_one_of_its_parts() {
    let without = |old: &str, new: &str, expected: &str| {
        let path = "docs/kernels/transpose.md";
        check(kernels::heads, |r| r.replace(path, old, new), &format!("{path} has no {expected}"));
    };
    without(" = ", " : ", "formula");
    without("threads", "lanes", "mapping of threads");
    without("11 us", "soon", "predicted time");
    // The word stands there twice, in either case.
    let plant = |r: &mut Repository| {
        let text = r.text("docs/kernels/transpose.md").replace("ytes", "its");
        r.write("docs/kernels/transpose.md", &text);
    };
    check(kernels::heads, plant, "docs/kernels/transpose.md has no bytes moved");
}

#[test]
fn a_document_of_no_kernel() {
    check(
        kernels::documents,
        |r| r.write("docs/kernels/old.md", ""),
        "docs/kernels/old.md describes no kernel",
    );
}

#[test]
fn a_field_renamed_in_a_header() {
    let plant = |r: &mut Repository| r.replace("kernels/norm/rms_norm.h", " columns;", " width;");
    check(kernels::fields, plant, "kernels/norm/rms_norm.h has the fields");
}

#[test]
fn a_path_that_does_not_exist() {
    let plant = |r: &mut Repository| {
        let text = format!("{}\nSee `docs/nowhere.md`.\n", r.text("README.md"));
        r.write("README.md", &text);
    };
    check(texts::paths, plant, "README.md names docs/nowhere.md, which does not exist");
    check(texts::paths, |r| r.remove("docs/images/heart.png"), "README.md names docs/images/heart.png");
}

#[test]
fn a_leftover() {
    let plant = |r: &mut Repository| r.write("crates/vae/src/new.rs", concat!("// TO", "DO: later\n"));
    check(texts::leftovers, plant, "crates/vae/src/new.rs holds");
}

#[test]
fn a_crate_that_reads_the_environment() {
    let plant = |r: &mut Repository| r.write("crates/vae/src/new.rs", "fn f() { std::env::var(\"X\"); }\n");
    check(texts::environment, plant, "crates/vae/src/new.rs reads the environment");
}
