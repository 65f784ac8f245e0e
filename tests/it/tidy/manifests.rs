//! Rules of single packages: what their Cargo.toml and the top of their root file say.

use super::repository::{Code, Package, Repository, Target};

/// Crates that contain unsafe code, each block argued; every other one forbids it.
const UNSAFE: [&str; 8] = [
    "lighterage-kernels",
    "lighterage-device",
    "lighterage-checkpoint",
    "lighterage-ops",
    "lighterage-pager",
    "lighterage-pipeline",
    "lighterage",
    "lighterage-fakecuda",
];

/// A library opens with its essay.
pub(crate) fn essays(repository: &Repository) -> Vec<String> {
    let lines = |package: &&Package| {
        let text = repository.text(&package.root);
        text.lines().take_while(|line| line.starts_with("//!")).count()
    };
    let short = repository.packages.iter().filter(|package| lines(package) < 5);
    short.map(|package| format!("{} opens with less than five lines of essay", package.root)).collect()
}

/// Unsafe code is forbidden where it is not listed, and listed where it is not forbidden.
pub(crate) fn unsafe_code(repository: &Repository) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &repository.packages {
        let forbids = repository
            .text(&package.root)
            .lines()
            .any(|line| line.starts_with("#![") && line.contains("forbid(unsafe_code)"));
        match (forbids, UNSAFE.contains(&package.name.as_str())) {
            (false, false) => {
                faults.push(format!("{} neither forbids unsafe code nor is listed", package.name));
            }
            (true, true) => {
                faults.push(format!("{} forbids unsafe code and is listed as having it", package.name));
            }
            (true, false) | (false, true) => (),
        }
    }
    faults
}

/// libtest, which cannot read criterion's options, benches no library and no binary.
pub(crate) fn benched(repository: &Repository) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &repository.packages {
        let benched = package.targets.iter().filter(|target| !is_benched_never(&package.manifest, target));
        faults.extend(benched.map(|target| format!("{}, {}: set bench = false", package.name, target.name)));
    }
    faults
}

/// `bench = false` stands in the target's own table: `[lib]`, or the `[[bin]]` with its name.
fn is_benched_never(manifest: &str, target: &Target) -> bool {
    let mut tables = tables(manifest).into_iter().filter(|table| match target.kind {
        Code::Library => table.head == "[lib]",
        Code::Binary => {
            table.head == "[[bin]]" && table.entries.contains(&("name", format!("\"{}\"", target.name)))
        }
    });
    tables.any(|table| table.entries.contains(&("bench", "false".to_owned())))
}

/// A table of a Cargo.toml with those of its entries that fill one line.
struct Entries<'a> {
    head: &'a str,
    entries: Vec<(&'a str, String)>,
}

fn tables(manifest: &str) -> Vec<Entries<'_>> {
    let mut tables = vec![Entries { head: "", entries: Vec::new() }];
    for line in manifest.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if line.starts_with('[') && line.ends_with(']') {
            tables.push(Entries { head: line, entries: Vec::new() });
        } else if let (Some(table), Some((key, value))) = (tables.last_mut(), line.split_once('=')) {
            table.entries.push((key.trim(), value.trim().to_owned()));
        }
    }
    tables
}
