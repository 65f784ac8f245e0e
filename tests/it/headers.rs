//! That a header cannot change without notice: the struct that Rust fills and the struct that the kernel reads are laid out alike, or nothing builds.

use std::fs;
use std::path::Path;

use crate::building::cuda::offsets;
use crate::tidy::{camel, headers, read, rust_fields};

/// Type and name of each field, with the line that it stands on.
fn fields(text: &str) -> Vec<(usize, &str, &str)> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(line, content)| {
            let (kind, name) = content.trim().strip_suffix(';')?.split_once(' ')?;
            ["uint64_t", "uint32_t", "float"].contains(&kind).then_some((line, kind, name))
        })
        .collect()
}

/// The header with two neighbouring fields exchanged, for each pair of them.
fn swapped(text: &str) -> Vec<String> {
    let found = fields(text);
    let pairs = found.windows(2).map(|pair| (pair[0].0, pair[1].0));
    pairs
        .map(|(first, second)| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.swap(first, second);
            lines.join("\n")
        })
        .collect()
}

/// Without any compiler: the names in the header, in order, are those of the committed struct.
fn names_agree(header: &Path, text: &str) -> bool {
    let stem = header.file_stem().and_then(|stem| stem.to_str()).expect("a header has a name");
    let names: Vec<&str> = fields(text).into_iter().map(|(_, _, name)| name).collect();
    names == rust_fields(&read("kernels/params.rs"), &format!("{}Params", camel(stem)))
}

#[test]
fn two_swapped_fields_are_noticed_without_a_compiler() {
    for header in headers() {
        let text = fs::read_to_string(&header).expect("readable");
        assert!(names_agree(&header, &text), "{}", header.display());
        for changed in swapped(&text) {
            assert!(!names_agree(&header, &changed), "unnoticed in {}:\n{changed}", header.display());
        }
    }
}

#[test]
fn every_field_has_its_offset_checked() {
    let checks = offsets::checks(&read("kernels/params.rs"));
    for header in headers() {
        let stem = header.file_stem().and_then(|stem| stem.to_str()).expect("a header has a name");
        let structure = format!("{}Params", camel(stem));
        assert!(checks.contains(&format!("static_assert(sizeof({structure}) ==")), "{structure}");
        for (_, _, name) in fields(&fs::read_to_string(&header).expect("readable")) {
            assert!(
                checks.contains(&format!("static_assert(offsetof({structure}, {name}) ==")),
                "{structure}::{name}"
            );
        }
    }
}

/// The build's own check, with the C++ compiler that it uses: each pair of neighbours swapped once in each header.
#[cfg(feature = "emu")]
#[test]
fn two_swapped_fields_do_not_compile() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernels = crate::tidy::root().join("kernels");
    fs::write(folder.path().join("offsets.cpp"), offsets::checks(&read("kernels/params.rs")))
        .expect("writable");
    let compiles = |changed: Option<(&Path, &str)>| {
        for header in headers().iter().chain([&kernels.join("params.h")]) {
            let copy = folder.path().join(header.strip_prefix(&kernels).expect("below kernels"));
            fs::create_dir_all(copy.parent().expect("a parent")).expect("writable");
            let text = match changed {
                Some((path, text)) if path == header => text.to_owned(),
                _ => fs::read_to_string(header).expect("readable"),
            };
            fs::write(copy, text).expect("writable");
        }
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let output = std::process::Command::new(compiler)
            .args(["-std=c++20", "-fsyntax-only", "-I.", "offsets.cpp"])
            .current_dir(folder.path())
            .output()
            .expect("a C++ compiler");
        output.status.success()
    };
    assert!(compiles(None), "the committed headers match params.rs");
    for header in headers() {
        let text = fs::read_to_string(&header).expect("readable");
        for changed in swapped(&text) {
            assert!(!compiles(Some((&header, &changed))), "unnoticed in {}:\n{changed}", header.display());
        }
    }
}
