//! The table of floors in `docs/ARCHITECTURE.md`, read as data.

use super::repository::{Kind, Repository};

/// The table, and the packages that every crate may use.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) common: Vec<String>,
}

/// One crate's line.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) floor: Floor,
    pub(crate) folder: String,
    /// Packages that it may use beside the common ones, each with the table of Cargo.toml it may stand in.
    pub(crate) uses: Vec<(Kind, String)>,
    /// It may use every crate of a lower floor.
    pub(crate) all_below: bool,
}

/// How high a crate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Floor {
    At(u8),
    /// Above every floor: only a dev-dependency may point there.
    TestsOnly,
}

impl Table {
    pub(crate) fn of(repository: &Repository) -> Self {
        let text = repository.text("docs/ARCHITECTURE.md");
        let common = text.lines().find(|line| line.starts_with(COMMON)).unwrap_or_default();
        let quoted = common.split('`').skip(1).step_by(2);
        Self { rows: text.lines().filter_map(row).collect(), common: quoted.map(str::to_owned).collect() }
    }

    pub(crate) fn row(&self, folder: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.folder == folder)
    }
}

/// How the line with the common packages begins.
const COMMON: &str = "Any crate may use";

/// `| floor | folder | one sentence | may use |`; nothing for any other line.
fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    let [floor, folder, _, uses] = cells[..] else { return None };
    let folder = folder.strip_prefix('`')?.strip_suffix('`')?.to_owned();
    let floor = match floor {
        "-" => Floor::TestsOnly,
        number => Floor::At(number.parse().ok()?),
    };
    let (uses, all_below) = names(uses);
    Some(Row { floor, folder, uses, all_below })
}

/// Names between commas and semicolons. What stands in parentheses explains; behind `build only:` are build dependencies.
fn names(cell: &str) -> (Vec<(Kind, String)>, bool) {
    let (mut uses, mut kind, mut all_below) = (Vec::new(), Kind::Normal, false);
    for item in without_remarks(cell).split([',', ';']).map(str::trim).filter(|item| !item.is_empty()) {
        let mut item = item.strip_prefix("the only crate that knows ").unwrap_or(item);
        if let Some(rest) = item.strip_prefix("build only: ") {
            (kind, item) = (Kind::Build, rest);
        }
        if ["all", "floors below"].contains(&item) {
            all_below = true;
        } else {
            uses.push((kind, item.to_owned()));
        }
    }
    (uses, all_below)
}

fn without_remarks(text: &str) -> String {
    let mut depth = 0_usize;
    let outside = text.chars().filter(|c| {
        let was = depth;
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => (),
        }
        was == 0 && depth == 0
    });
    outside.collect()
}

#[test]
fn a_row_is_read() {
    let row = row("| 4 | `crates/x` | Says | nothing. | a | b |");
    assert!(row.is_none(), "too many cells");
    let row = self::row(
        "| 4 | `crates/x` | A sentence. | shape, all; rten (ONNX, pure Rust), the only crate that knows cudarc; build only: cc |",
    );
    let row = row.expect("four cells");
    assert_eq!((row.floor, row.folder.as_str(), row.all_below), (Floor::At(4), "crates/x", true));
    let uses =
        [(Kind::Normal, "shape"), (Kind::Normal, "rten"), (Kind::Normal, "cudarc"), (Kind::Build, "cc")];
    assert_eq!(row.uses, uses.map(|(kind, name)| (kind, name.to_owned())));
    assert!(self::row("| floor | folder | one sentence | may use |").is_none());
}
