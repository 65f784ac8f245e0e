//! Tests of the repository itself: the layering, the map, and that each kernel has all its parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The floor of each crate. A crate may use lower floors only.
const FLOORS: [(&str, u8); 15] = [
    ("lighterage-kernels", 0),
    ("lighterage-shape", 0),
    ("lighterage-device", 1),
    ("lighterage-checkpoint", 1),
    ("lighterage-allocator", 2),
    ("lighterage-ops", 3),
    ("lighterage-pager", 3),
    ("lighterage-dit", 4),
    ("lighterage-text", 4),
    ("lighterage-vae", 4),
    ("lighterage-identity", 4),
    ("lighterage-pipeline", 5),
    ("lighterage", 6),
    ("lighterage-testkit", TESTS_ONLY),
    ("lighterage-fakecuda", TESTS_ONLY),
];

/// Above every floor: only a dev-dependency may point there.
const TESTS_ONLY: u8 = u8::MAX;

/// Packages that one crate alone may know.
const ONLY: [(&str, &str); 7] = [
    ("rten", "lighterage-identity"),
    ("image", "lighterage-identity"),
    ("cudarc", "lighterage-device"),
    ("rustix", "lighterage-device"),
    ("memmap2", "lighterage-checkpoint"),
    ("tokenizers", "lighterage-text"),
    ("clap", "lighterage"),
];

/// Crates that contain unsafe code, each block argued; every other one forbids it.
const UNSAFE: [&str; 8] = [
    "lighterage-kernels",
    "lighterage-device",
    "lighterage-checkpoint",
    "lighterage-allocator",
    "lighterage-ops",
    "lighterage-pager",
    "lighterage",
    "lighterage-fakecuda",
];

/// Files that may read the environment: `build.rs`, the driver, and the seed of a repeated test run.
const READS_ENVIRONMENT: [&str; 5] =
    ["build.rs", "kernels/build/", "crates/driver/", "crates/testkit/src/rng.rs", "crates/fakecuda/"];

struct Package {
    name: String,
    folder: PathBuf,
    root: PathBuf,
    dependencies: Vec<String>,
    dev_dependencies: Vec<String>,
    benched: Vec<String>,
}

#[test]
fn dependencies_point_downwards() {
    for package in packages() {
        let floor = floor(&package.name);
        for dependency in &package.dependencies {
            let Some(below) = floor_of(dependency) else { continue };
            assert!(
                below < floor,
                "{} (floor {floor}) depends on {dependency} (floor {below}): only lower floors may be used",
                package.name
            );
        }
    }
}

#[test]
fn every_crate_has_a_floor() {
    let packages = packages();
    for package in &packages {
        assert!(floor_of(&package.name).is_some(), "{} has no floor in tidy.rs", package.name);
    }
    for (name, _) in FLOORS {
        assert!(packages.iter().any(|package| package.name == name), "{name} has a floor and does not exist");
    }
}

#[test]
fn architecture_names_every_crate_and_no_other() {
    let text = read("docs/ARCHITECTURE.md");
    let floors: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let floor = cells.next()?.trim();
            let folder = cells.next()?.trim().strip_prefix('`')?.strip_suffix('`')?;
            (floor.len() == 1).then(|| (folder.to_owned(), floor.to_owned()))
        })
        .collect();
    for package in packages() {
        let folder = relative(&package.folder);
        let folder = if folder.as_os_str().is_empty() { PathBuf::from("kernels") } else { folder };
        let expected = match floor(&package.name) {
            TESTS_ONLY => "-".to_owned(),
            floor => floor.to_string(),
        };
        let found = floors.get(&folder.display().to_string());
        assert_eq!(found, Some(&expected), "floor of {} in docs/ARCHITECTURE.md", folder.display());
    }
    for folder in floors.keys() {
        assert!(root().join(folder).is_dir(), "docs/ARCHITECTURE.md names {folder}, which does not exist");
    }
}

#[test]
fn paths_in_the_documents_exist() {
    for document in ["README.md", "docs/ARCHITECTURE.md"] {
        for word in read(document).split(|c: char| c.is_whitespace() || "`()[],;:|".contains(c)) {
            let path = word.trim_end_matches(['.', '/']);
            let ours = ["crates/", "kernels/", "docs/", "tests/", "benches/", "assets/", ".ci/"];
            if ours.iter().any(|prefix| path.starts_with(prefix))
                && !path.contains(['*', '<', '$', '{', '%'])
                && path == path.trim_matches('"')
                && !path.chars().any(char::is_uppercase)
            {
                assert!(root().join(path).exists(), "{document} names {path}, which does not exist");
            }
        }
    }
}

#[test]
fn some_packages_are_known_to_one_crate_only() {
    for package in packages() {
        for (dependency, owner) in ONLY {
            let known = package.dependencies.iter().any(|name| name == dependency);
            assert!(
                !known || package.name == owner,
                "{} knows {dependency}, which only {owner} may",
                package.name
            );
        }
        let tests_only = package.dependencies.iter().find(|name| floor_of(name) == Some(TESTS_ONLY));
        assert_eq!(tests_only, None, "{} uses a crate for tests outside of its tests", package.name);
    }
}

#[test]
fn every_kernel_has_op_test_documents_and_parameters() {
    let parameters = read("kernels/params.rs");
    let list = read("kernels/params.h");
    let ops = read("crates/ops/src/lib.rs");
    let headers = headers();
    assert!(headers.len() >= 19, "only {} headers found", headers.len());
    for header in headers {
        let stem = header.file_stem().and_then(|stem| stem.to_str()).expect("a header has a name").to_owned();
        let family =
            header.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        let structure = format!("{}Params", camel(&stem));
        assert!(
            list.contains(&format!("\"{family}/{stem}.h\"")),
            "{family}/{stem}.h is not in kernels/params.h"
        );
        assert!(
            parameters.contains(&format!("pub struct {structure} ")),
            "no {structure} in kernels/params.rs"
        );
        assert!(exports(&ops, &stem), "kernel {stem} has no op: crates/ops/src/lib.rs exports no `{stem}`");
        assert!(root().join(format!("docs/kernels/{stem}.md")).exists(), "no docs/kernels/{stem}.md");
        let sources = sources_of_op(&stem);
        assert!(sources.contains(&format!("pub fn {stem}<")), "no `pub fn {stem}` in crates/ops/src/{stem}");
        assert!(sources.contains("#[test]"), "op {stem} has no test in crates/ops/src/{stem}");
    }
    let documents = fs::read_dir(root().join("docs/kernels")).expect("docs/kernels exists");
    for document in documents {
        let stem = document.expect("readable").path().file_stem().and_then(|s| s.to_str()).map(str::to_owned);
        let stem = stem.expect("a document has a name");
        assert!(list.contains(&format!("/{stem}.h\"")), "docs/kernels/{stem}.md describes no kernel");
    }
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
    // Without it, at least every field of every header must stand in the committed file, in the same order.
    for header in headers() {
        let text = fs::read_to_string(&header).expect("readable");
        let stem = header.file_stem().and_then(|stem| stem.to_str()).expect("a header has a name").to_owned();
        let fields: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_suffix(';')?.split_once(' '))
            .filter(|(kind, _)| ["uint64_t", "uint32_t", "float"].contains(kind))
            .map(|(_, name)| name)
            .collect();
        assert_eq!(fields, rust_fields(&format!("{}Params", camel(&stem))), "fields of {}", header.display());
    }
}

#[test]
fn libraries_open_with_an_essay_and_forbid_unsafe_code() {
    for package in packages() {
        let text = fs::read_to_string(&package.root).expect("readable");
        let essay = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(essay >= 5, "{} opens with {essay} lines of essay", relative(&package.root).display());
        let forbids = text.contains("#![forbid(unsafe_code)]");
        let listed = UNSAFE.contains(&package.name.as_str());
        assert!(forbids || listed, "{} neither forbids unsafe code nor is listed", package.name);
    }
}

#[test]
fn no_library_or_binary_is_benched_by_libtest() {
    for package in packages() {
        assert_eq!(package.benched, Vec::<String>::new(), "{}: set bench = false", package.name);
        assert!(package.dev_dependencies.len() < 64);
    }
}

#[test]
fn sources_hold_no_leftovers() {
    // Written in two halves, so that this file does not find itself.
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for path in sources() {
        let text = fs::read_to_string(&path).expect("readable");
        let name = relative(&path).display().to_string();
        for word in leftovers {
            assert!(!text.contains(word), "{name} holds {word}");
        }
        let reads = text.contains("env::var");
        let may = READS_ENVIRONMENT.iter().any(|place| name.starts_with(place))
            || name.contains("tests/")
            || name.contains("benches/");
        assert!(!reads || may, "{name} reads the environment");
    }
}

fn exports(ops: &str, name: &str) -> bool {
    ops.lines()
        .filter(|line| line.starts_with("pub use "))
        .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name))
}

/// All sources of one op: `NAME.rs` or the files of the folder `NAME`.
fn sources_of_op(name: &str) -> String {
    let base = root().join("crates/ops/src");
    let mut text = fs::read_to_string(base.join(format!("{name}.rs"))).unwrap_or_default();
    for path in files(&base.join(name), "rs") {
        text.push_str(&fs::read_to_string(path).expect("readable"));
    }
    text
}

pub(crate) fn rust_fields(structure: &str) -> Vec<String> {
    let text = read("kernels/params.rs");
    let body =
        text.split_once(&format!("pub struct {structure} {{")).map(|(_, rest)| rest).unwrap_or_default();
    let body = body.split_once('}').map(|(body, _)| body).unwrap_or_default();
    body.lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

pub(crate) fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

pub(crate) fn headers() -> Vec<PathBuf> {
    files(&root().join("kernels"), "h")
        .into_iter()
        .filter(|path| !path.ends_with("kernels/params.h"))
        .collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = vec![root().join("build.rs")];
    for folder in ["kernels", "crates", "tests", "benches"] {
        found.extend(files(&root().join(folder), "rs"));
    }
    found
}

/// All files below a folder with that extension, sorted; none if the folder does not exist.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    array(&metadata["packages"]).iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let named = |dev: bool| {
        array(&value["dependencies"])
            .iter()
            .filter(|dependency| (dependency["kind"] == "dev") == dev)
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    let targets = array(&value["targets"]);
    let kind = |target: &Value, kinds: &[&str]| {
        array(&target["kind"]).iter().any(|k| kinds.iter().any(|kind| k == kind))
    };
    let main =
        targets.iter().find(|target| kind(target, &["lib", "rlib", "bin"])).expect("a library or a binary");
    let manifest = fs::read_to_string(text(&value["manifest_path"])).expect("readable");
    let benched = if manifest.contains("bench = false") { vec![] } else { vec![text(&main["name"])] };
    Package {
        name: text(&value["name"]),
        folder: Path::new(&text(&value["manifest_path"]))
            .parent()
            .expect("a manifest lies in a folder")
            .to_owned(),
        root: PathBuf::from(text(&main["src_path"])),
        dependencies: named(false),
        dev_dependencies: named(true),
        benched,
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn floor_of(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, floor)| *floor)
}

fn floor(name: &str) -> u8 {
    floor_of(name).unwrap_or_else(|| panic!("{name} has no floor in tidy.rs"))
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_owned()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
