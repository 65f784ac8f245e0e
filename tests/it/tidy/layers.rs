//! Rules of the layers: what each crate may use.

use super::repository::{Dependency, Kind, Package, Repository};
use super::table::{Floor, Row, Table};

/// Packages that one crate alone may know, whatever the table says.
const ONLY: [(&str, &str); 7] = [
    ("rten", "lighterage-identity"),
    ("image", "lighterage-identity"),
    ("cudarc", "lighterage-device"),
    ("rustix", "lighterage-device"),
    ("memmap2", "lighterage-checkpoint"),
    ("tokenizers", "lighterage-text"),
    ("clap", "lighterage"),
];

/// Every package has a row, and every row a package.
pub(crate) fn names(repository: &Repository) -> Vec<String> {
    let table = Table::of(repository);
    let is_row = |package: &&Package| table.row(&package.folder).is_none();
    let missing = repository.packages.iter().filter(is_row);
    let missing = missing
        .map(|package| format!("docs/ARCHITECTURE.md has no row for {}: {}", package.folder, package.name));
    let is_package = |row: &&Row| !repository.packages.iter().any(|package| package.folder == row.folder);
    let dead = table.rows.iter().filter(is_package);
    missing
        .chain(dead.map(|row| format!("docs/ARCHITECTURE.md names {}, which is no package", row.folder)))
        .collect()
}

/// A crate uses lower floors only, and a crate for tests in tests only.
pub(crate) fn floors(repository: &Repository) -> Vec<String> {
    let mut faults = Vec::new();
    for (package, row, dependency, other) in inner_edges(repository, &Table::of(repository)) {
        let is_low = match other.floor {
            Floor::At(_) => other.floor < row.floor,
            Floor::TestsOnly => false,
        };
        if !is_low && dependency.kind != Kind::Tests {
            faults.push(format!(
                "{} ({:?}) depends on {} ({:?}): only lower floors may be used",
                package.name, row.floor, dependency.name, other.floor
            ));
        }
    }
    faults
}

/// Every edge of `cargo metadata` is in the column "may use", and every name there is an edge. Tests may use what they like.
pub(crate) fn uses(repository: &Repository) -> Vec<String> {
    let table = Table::of(repository);
    let mut faults = Vec::new();
    for package in &repository.packages {
        let Some(row) = table.row(&package.folder) else { continue };
        let used: Vec<(Kind, String)> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != Kind::Tests)
            .map(|dependency| (dependency.kind, name_in_table(repository, &dependency.name)))
            .collect();
        let folder = &row.folder;
        let beyond = used.iter().filter(|edge| !may_use(repository, &table, row, edge));
        faults.extend(beyond.map(|(kind, name)| {
            format!(
                "{folder} uses {name} ({kind:?}), which its \"may use\" in docs/ARCHITECTURE.md does not name"
            )
        }));
        let unused = row.uses.iter().filter(|edge| !used.contains(edge));
        faults.extend(unused.map(|(_, name)| {
            format!("docs/ARCHITECTURE.md says that {folder} uses {name}, which it does not")
        }));
    }
    faults
}

/// Some packages are known to one crate only.
pub(crate) fn exclusive(repository: &Repository) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &repository.packages {
        let known = package.dependencies.iter().filter(|dependency| dependency.kind != Kind::Tests);
        for dependency in known {
            let owner = ONLY.iter().find(|(name, _)| *name == dependency.name).map(|(_, owner)| *owner);
            if owner.is_some_and(|owner| owner != package.name) {
                let owner = owner.unwrap_or_default();
                faults.push(format!("{} knows {}, which only {owner} may", package.name, dependency.name));
            }
        }
    }
    faults
}

fn may_use(repository: &Repository, table: &Table, row: &Row, edge: &(Kind, String)) -> bool {
    let (kind, name) = edge;
    let is_common = *kind == Kind::Normal && table.common.contains(name);
    let is_below = || repository.packages.iter().any(|package| short(&package.folder) == name);
    row.uses.contains(edge) || is_common || (row.all_below && is_below())
}

/// How the table calls a package: ours by the last part of its folder.
fn name_in_table(repository: &Repository, name: &str) -> String {
    let ours = repository.packages.iter().find(|package| package.name == name);
    ours.map_or(name, |package| short(&package.folder)).to_owned()
}

fn short(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap_or(folder)
}

/// Every edge between two packages of ours, with both rows.
fn inner_edges<'a>(
    repository: &'a Repository,
    table: &'a Table,
) -> Vec<(&'a Package, &'a Row, &'a Dependency, &'a Row)> {
    let mut edges = Vec::new();
    for package in &repository.packages {
        for dependency in &package.dependencies {
            let other = repository.packages.iter().find(|other| other.name == dependency.name);
            if let (Some(row), Some(other)) =
                (table.row(&package.folder), other.and_then(|other| table.row(&other.folder)))
            {
                edges.push((package, row, dependency, other));
            }
        }
    }
    edges
}
