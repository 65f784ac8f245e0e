//! Every kernel's page says where its formula is from.

use std::fs;
use std::path::Path;

#[test]
fn every_page_of_a_kernel_names_the_source_of_its_formula() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kernels");
    let mut pages: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() >= 20, "{}: {} pages", folder.display(), pages.len());
    let lacks = |page: &&std::path::PathBuf| source(&fs::read_to_string(page).unwrap()).is_none();
    let lacking: Vec<_> = pages.iter().filter(lacks).collect();
    assert!(lacking.is_empty(), "no line \"Source: ...\" in {lacking:?}");
}

/// What stands behind `Source:` at the beginning of a line.
fn source(page: &str) -> Option<&str> {
    page.lines().filter_map(|line| line.strip_prefix("Source: ")).find(|text| !text.trim().is_empty())
}

#[test]
fn a_source_is_a_line_of_its_own_that_says_something() {
    assert_eq!(source("# x\n\nSource: Gauss 1809.\n"), Some("Gauss 1809."));
    assert_eq!(source("# x\n\nSource: \nthe Source: of"), None);
}
