//! Tests of the repository itself: the layering, the map, and that each kernel has all its parts.
//!
//! A rule is a function from the [`Repository`] to the faults it finds. Here each is held over the repository as it is; `planted` puts one fault into a copy and
//! demands that its rule finds it.

mod kernels;
mod layers;
mod manifests;
mod planted;
mod repository;
mod table;
mod texts;

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

pub(crate) use kernels::{camel, rust_fields};
pub(crate) use repository::root;

use repository::Repository;

/// Read once: the tests only look at it.
static REPOSITORY: LazyLock<Repository> = LazyLock::new(Repository::read);

/// What a rule has to say.
type Rule = fn(&Repository) -> Vec<String>;

#[track_caller]
fn hold(rule: Rule) {
    let faults = rule(&REPOSITORY);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn architecture_names_every_crate_and_no_other() {
    hold(layers::names);
}

#[test]
fn dependencies_point_downwards() {
    hold(layers::floors);
}

#[test]
fn crates_use_what_the_table_says() {
    hold(layers::uses);
}

#[test]
fn some_packages_are_known_to_one_crate_only() {
    hold(layers::exclusive);
}

#[test]
fn libraries_open_with_an_essay() {
    hold(manifests::essays);
}

#[test]
fn unsafe_code_is_forbidden_or_listed() {
    hold(manifests::unsafe_code);
}

#[test]
fn no_library_or_binary_is_benched_by_libtest() {
    hold(manifests::benched);
}

#[test]
fn every_kernel_has_all_its_parts() {
    hold(kernels::parts);
}

#[test]
fn every_kernel_is_timed() {
    hold(kernels::benches);
}

#[test]
fn no_source_is_without_a_kernel() {
    hold(kernels::strays);
}

#[test]
fn every_kernel_says_formula_mapping_bytes_and_time() {
    hold(kernels::heads);
}

#[test]
fn no_document_is_without_a_kernel() {
    hold(kernels::documents);
}

#[test]
fn committed_parameters_match_the_headers() {
    // The structs are regenerated with the feature `bindgen` (it needs libclang): CI runs this test with it.
    #[cfg(feature = "bindgen")]
    {
        let generated =
            fs::read_to_string(concat!(env!("OUT_DIR"), "/params.rs")).expect("build.rs wrote params.rs");
        assert!(
            generated == read("kernels/params.rs"),
            "kernels/params.rs differs from the headers: copy {}/params.rs there",
            env!("OUT_DIR")
        );
    }
    hold(kernels::fields);
}

#[test]
fn paths_in_the_documents_exist() {
    hold(texts::paths);
}

#[test]
fn sources_hold_no_leftovers() {
    hold(texts::leftovers);
}

#[test]
fn the_environment_is_read_in_few_places() {
    hold(texts::environment);
}

/// The header of every kernel.
pub(crate) fn headers() -> Vec<PathBuf> {
    let headers = REPOSITORY.below("kernels/", ".h").filter(|(path, _)| *path != "kernels/params.h");
    headers.map(|(path, _)| root().join(path)).collect()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
