//! What the rules look at, as plain values: a test may change them and see which rule notices.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The repository: its packages as `cargo metadata` tells of them, and its files.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) packages: Vec<Package>,
    /// Every file and folder below the root, `/` between names; with its text where it is one that a rule reads.
    pub(crate) files: BTreeMap<String, Option<String>>,
}

/// One package.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// As `docs/ARCHITECTURE.md` calls it: `kernels` for the root package.
    pub(crate) folder: String,
    /// Its Cargo.toml.
    pub(crate) manifest: String,
    /// The file of its library or, without one, of its binary.
    pub(crate) root: String,
    pub(crate) targets: Vec<Target>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A target that `cargo bench` would run by libtest.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Code,
    pub(crate) name: String,
}

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Library,
    Binary,
}

/// A package that another one names in its Cargo.toml.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// In which table of a Cargo.toml a dependency stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Normal,
    Build,
    Tests,
}

/// Folders whose contents are nobody's work: built, cached, or git's own.
const NOT_OURS: [&str; 3] = ["target", ".git", ".cache"];

/// Extensions of files whose text a rule reads.
const READ: [&str; 6] = ["rs", "md", "toml", "h", "cu", "cuh"];

impl Repository {
    pub(crate) fn read() -> Self {
        let mut files = BTreeMap::new();
        collect(root(), &mut files);
        Self { packages: packages(), files }
    }

    /// The text of a file; nothing if there is none.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.get(path).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Paths and texts below a folder (`kernels/`) with an extension (`.rs`), sorted.
    pub(crate) fn below<'a>(
        &'a self,
        folder: &'a str,
        extension: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let texts = self.files.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)));
        texts.filter(move |(path, _)| path.starts_with(folder) && path.ends_with(extension))
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, Option<String>>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if NOT_OURS.contains(&name.as_ref()) {
            continue;
        }
        let is_read = path.is_file() && path.extension().is_some_and(|e| READ.iter().any(|read| e == *read));
        let text = is_read.then(|| fs::read_to_string(&path).expect("text"));
        files.insert(relative(&path), text);
        if path.is_dir() {
            collect(&path, files);
        }
    }
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
    let manifest = PathBuf::from(text(&value["manifest_path"]));
    let folder = relative(manifest.parent().expect("a manifest lies in a folder"));
    let named: Vec<(Target, &Value)> = array(&value["targets"])
        .iter()
        .filter_map(|target| Some((Target { kind: code(target)?, name: text(&target["name"]) }, target)))
        .collect();
    let is_library = |target: &Target| target.kind == Code::Library;
    let main = named.iter().find(|(target, _)| is_library(target)).or(named.first());
    let (_, main) = main.expect("a library or a binary");
    Package {
        name: text(&value["name"]),
        folder: if folder.is_empty() { "kernels".to_owned() } else { folder },
        manifest: fs::read_to_string(&manifest).expect("readable"),
        root: relative(Path::new(&text(&main["src_path"]))),
        targets: named.iter().map(|(target, _)| target.clone()).collect(),
        dependencies: array(&value["dependencies"]).iter().map(dependency).collect(),
    }
}

fn code(target: &Value) -> Option<Code> {
    let kinds = array(&target["kind"]);
    let is = |names: &[&str]| kinds.iter().any(|kind| names.iter().any(|name| kind == name));
    if is(&["lib", "rlib", "dylib", "cdylib", "staticlib", "proc-macro"]) {
        Some(Code::Library)
    } else {
        is(&["bin"]).then_some(Code::Binary)
    }
}

fn dependency(value: &Value) -> Dependency {
    let kind = match value["kind"].as_str() {
        Some("dev") => Kind::Tests,
        Some("build") => Kind::Build,
        _ => Kind::Normal,
    };
    Dependency { name: text(&value["name"]), kind }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A path below the root, as the rules name it.
fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}
