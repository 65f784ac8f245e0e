//! Rules of the texts: what documents name is there, and sources hold no leftovers.

use super::repository::Repository;

/// Files that may read the environment: `build.rs`, the driver, the seed of a repeated test run, tests and benches.
const READS_ENVIRONMENT: [&str; 5] =
    ["build.rs", "kernels/build/", "crates/driver/", "crates/testkit/src/rng.rs", "crates/fakecuda/"];

/// Folders whose paths the documents name from the root.
const NAMED: [&str; 7] = ["crates/", "kernels/", "docs/", "tests/", "benches/", "assets/", ".ci/"];

/// Paths in the README and in the documents exist.
pub(crate) fn paths(repository: &Repository) -> Vec<String> {
    let mut faults = Vec::new();
    let readme = [("README.md", repository.text("README.md"))];
    for (document, text) in readme.into_iter().chain(repository.below("docs/", ".md")) {
        let separates = |c: char| c.is_whitespace() || "`()[],;:|".contains(c);
        for word in text.split(separates) {
            let path = word.trim_end_matches(['.', '/']);
            if is_path(path) && !repository.files.contains_key(path) {
                faults.push(format!("{document} names {path}, which does not exist"));
            }
        }
    }
    faults
}

fn is_path(word: &str) -> bool {
    NAMED.iter().any(|prefix| word.starts_with(prefix)) && !word.contains(['*', '<', '$', '{', '%', '"'])
}

/// No open ends: those are issues.
pub(crate) fn leftovers(repository: &Repository) -> Vec<String> {
    // Written in two halves, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let mut faults = Vec::new();
    for (path, text) in repository.below("", ".rs") {
        let found = words.iter().filter(|word| text.contains(**word));
        faults.extend(found.map(|word| format!("{path} holds {word}")));
    }
    faults
}

/// The environment is read in a few places only.
pub(crate) fn environment(repository: &Repository) -> Vec<String> {
    let may = |path: &str| {
        READS_ENVIRONMENT.iter().any(|place| path.starts_with(place))
            || path.contains("tests/")
            || path.contains("benches/")
    };
    let reads = repository.below("", ".rs").filter(|(path, text)| text.contains("env::var") && !may(path));
    reads.map(|(path, _)| format!("{path} reads the environment")).collect()
}
