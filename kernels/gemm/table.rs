//! Who multiplies a shape, where a measurement knows better than the model of [`linear`](super::linear): a table, as text.
//!
//! A table is made once (`lighterage bench machine --tune FILE`) and then fixed: what it says depends on architecture, sizes and what comes after
//! the sums, so the same table gives the same bits at every budget and on every run. Its form, fields between spaces or tabs:
//!
//! ```text
//! lighterage-gemm-table 1
//! # cublaslt  version  bytes of its workspace; before the first line that names it
//! cublaslt 130100 33554432
//! # architecture  rows  columns  inner  after the sums  who  how
//! 90a 4096 9216 3072 bias own linear_sm90a_128x128_bf16
//! 90a 4608 9216 3072 bias cublaslt 00000000000000150000...
//! ```
//!
//! An algorithm of cuBLASLt is the 64 bytes of its `cublasLtMatmulAlgo_t`, as eight numbers of 16 hexadecimal digits without a gap. They mean something
//! to the library's version that made them and to no other (`cublasLtMatmulAlgo_t` in the cuBLAS documentation), so the table names it; with another
//! version, or without the library, our own kernels multiply.

use std::fmt;
use std::sync::LazyLock;

use super::linear::{Alignment, Call, Config, Epilogue, Plan, Shape, variants};
use crate::launch::Arch;

/// An algorithm of cuBLASLt with all its settings: opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Algorithm(pub [u64; 8]);

/// The library whose algorithms a table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Library {
    /// As `cublasLtGetVersion` says it: 10000 major + 100 minor + patch.
    pub version: u64,
    /// The workspace that every product gets, whatever its size.
    pub workspace_bytes: u64,
}

/// On this architecture this call is multiplied so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The architecture.
    pub arch: Arch,
    /// The call; its operands can be read 16 bytes at a time.
    pub call: Call,
    /// Who multiplies.
    pub plan: Plan,
}

impl Line {
    fn key(&self) -> (Arch, Call) {
        (self.arch, self.call)
    }
}

/// Lines by architecture and call. Copying shares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Sorted by key, each key once.
    lines: &'static [Line],
    library: Option<Library>,
}

/// A line that cannot be meant, or a file that is no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for TableError {}

/// What the first line says.
const HEAD: &str = "lighterage-gemm-table 1";

/// Lines of a file at most: a model has some dozen shapes, at each size of picture.
pub const LINES_MAX: usize = 10_000;

/// Bytes of a workspace at most. cuBLASLt asks for 32 MiB where it asks for most.
pub const WORKSPACE_BYTES_MAX: u64 = 256 << 20;

impl Table {
    /// No lines: the model decides.
    pub const EMPTY: Self = Self { lines: &[], library: None };

    /// The committed table, `kernels/gemm/table.tsv`.
    ///
    /// ```
    /// use lighterage_kernels::gemm::table::Table;
    /// assert_eq!(Table::committed(), Table::committed());
    /// ```
    ///
    /// # Panics
    /// If the committed table is none, which the tests exclude.
    #[must_use]
    pub fn committed() -> Self {
        static COMMITTED: LazyLock<Table> = LazyLock::new(|| {
            let parsed = Table::parse(include_str!("table.tsv"));
            parsed.unwrap_or_else(|error| panic!("kernels/gemm/table.tsv: {error}"))
        });
        *COMMITTED
    }

    /// Reads a table. Its lines live as long as the program: a program reads one.
    ///
    /// ```
    /// use lighterage_kernels::gemm::table::Table;
    /// let text = "lighterage-gemm-table 1\n80 512 9216 3072 bias own linear_sm80_64x64_bf16\n";
    /// assert_eq!(Table::parse(text)?.lines().len(), 1);
    /// let error = Table::parse("lighterage-gemm-table 1\n80 512 9216 3072 bias own nothing\n").unwrap_err();
    /// assert_eq!(error.line, 2);
    /// # Ok::<(), lighterage_kernels::gemm::table::TableError>(())
    /// ```
    ///
    /// # Errors
    /// [`TableError`] with the first line that cannot be meant.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let mut reading = Reading { lines: Vec::new(), library: None };
        let mut rest = text.lines().zip(1..);
        if rest.next().map(|(first, _)| first.trim_end()) != Some(HEAD) {
            return Err(TableError { line: 1, reason: format!("{HEAD:?} is expected") });
        }
        for (line, number) in rest {
            reading.add(line).map_err(|reason| TableError { line: number, reason })?;
        }
        let Reading { mut lines, library } = reading;
        lines.sort_by_key(Line::key);
        Ok(Self { lines: Vec::leak(lines), library })
    }

    /// The text of a table, which [`parse`](Table::parse) reads.
    ///
    /// ```
    /// use lighterage_kernels::gemm::table::Table;
    /// assert_eq!(Table::parse(&Table::text(&[], None, "nothing"))?, Table::EMPTY);
    /// # Ok::<(), lighterage_kernels::gemm::table::TableError>(())
    /// ```
    #[must_use]
    pub fn text(lines: &[Line], library: Option<Library>, comment: &str) -> String {
        let mut text = format!("{HEAD}\n");
        for line in comment.lines() {
            text += &format!("# {line}\n");
        }
        if let Some(Library { version, workspace_bytes }) = library {
            text += &format!("cublaslt\t{version}\t{workspace_bytes}\n");
        }
        for line in lines {
            text += &format!("{line}\n");
        }
        text
    }

    /// What it says of a call on an architecture, if it says something that can be done here.
    #[must_use]
    pub fn get(&self, arch: Arch, call: Call) -> Option<Plan> {
        let found = self.lines.binary_search_by_key(&(arch, call), Line::key).ok()?;
        let plan = self.lines[found].plan;
        (self.library.is_some() || matches!(plan, Plan::Own(_))).then_some(plan)
    }

    /// Its lines.
    #[must_use]
    pub const fn lines(&self) -> &'static [Line] {
        self.lines
    }

    /// The library, if a line for this architecture names it.
    #[must_use]
    pub fn library_for(&self, arch: Arch) -> Option<Library> {
        let names_it = |line: &Line| line.arch == arch && matches!(line.plan, Plan::CublasLt(_));
        self.library.filter(|_| self.lines.iter().any(names_it))
    }

    /// The table where the library is not to be had: what it would multiply is ours.
    #[must_use]
    pub const fn without_library(self) -> Self {
        Self { lines: self.lines, library: None }
    }
}

struct Reading {
    lines: Vec<Line>,
    library: Option<Library>,
}

impl Reading {
    fn add(&mut self, text: &str) -> Result<(), String> {
        if text.trim().is_empty() || text.trim_start().starts_with('#') {
            return Ok(());
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        if let ["cublaslt", version, workspace] = fields[..] {
            return self.name_library(version, workspace);
        }
        let line = self.line(&fields)?;
        if self.lines.iter().any(|other| other.key() == line.key()) {
            return Err(format!("{} is there twice", fields[..5.min(fields.len())].join(" ")));
        }
        if self.lines.len() == LINES_MAX {
            return Err(format!("more than {LINES_MAX} lines"));
        }
        self.lines.push(line);
        Ok(())
    }

    fn name_library(&mut self, version: &str, workspace: &str) -> Result<(), String> {
        if self.library.is_some() {
            return Err("cublaslt is named twice".to_owned());
        }
        let version = number("version", version, u64::MAX)?;
        let workspace_bytes = number("workspace", workspace, WORKSPACE_BYTES_MAX)?;
        self.library = Some(Library { version, workspace_bytes });
        Ok(())
    }

    fn line(&self, fields: &[&str]) -> Result<Line, String> {
        let [arch, rows, columns, inner, epilogue, who, how] = fields else {
            return Err(format!(
                "{} fields; architecture, rows, columns, inner, plain or bias or fused, own or cublaslt, and how are expected",
                fields.len()
            ));
        };
        let known = Arch::ALL.into_iter().find(|known| known.number() == *arch);
        let arch = known.ok_or_else(|| format!("{arch:?} is no architecture that there are kernels for"))?;
        let size =
            |name, text| number(name, text, u64::from(u32::MAX)).map(|size| u32::try_from(size).unwrap_or(0));
        let shape = Shape {
            rows: size("rows", rows)?,
            columns: size("columns", columns)?,
            inner: size("inner", inner)?,
            alignment: Alignment::Bytes16,
        };
        let known = Epilogue::ALL.into_iter().find(|known| known.name() == *epilogue);
        let epilogue = known.ok_or_else(|| format!("{epilogue:?} is none of plain, bias and fused"))?;
        let plan = match *who {
            "own" => Plan::Own(own(how, shape, arch)?),
            "cublaslt" => Plan::CublasLt(self.algorithm(how, epilogue)?),
            _ => return Err(format!("{who:?} is neither own nor cublaslt")),
        };
        Ok(Line { arch, call: Call { shape, epilogue }, plan })
    }

    fn algorithm(&self, digits: &str, epilogue: Epilogue) -> Result<Algorithm, String> {
        if epilogue == Epilogue::Fused {
            return Err(
                "cublaslt has no activation, gate or residual that rounds as ours: fused is own".to_owned()
            );
        }
        if self.library.is_none() {
            return Err("no line `cublaslt VERSION BYTES` comes before".to_owned());
        }
        algorithm(digits)
            .ok_or_else(|| format!("{digits:?} is no algorithm, which has 128 hexadecimal digits"))
    }
}

fn algorithm(digits: &str) -> Option<Algorithm> {
    if digits.len() != 128 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut numbers = [0; 8];
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = u64::from_str_radix(&digits[index * 16..][..16], 16).ok()?;
    }
    Some(Algorithm(numbers))
}

fn own(image: &str, shape: Shape, arch: Arch) -> Result<Config, String> {
    let found = variants(shape, arch).into_iter().find(|config| config.image == image);
    found.ok_or_else(|| format!("{image:?} is no kernel that multiplies this on {arch}"))
}

/// From 1 to `most`.
fn number(name: &str, text: &str, most: u64) -> Result<u64, String> {
    let value = text.parse().ok().filter(|value| (1..=most).contains(value));
    value.ok_or_else(|| format!("{name} {text:?} is no number from 1 to {most}"))
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|number| write!(f, "{number:016x}"))
    }
}

/// As it stands in a table.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { rows, columns, inner, .. } = self.call.shape;
        let (arch, epilogue) = (self.arch.number(), self.call.epilogue.name());
        write!(f, "{arch}\t{rows}\t{columns}\t{inner}\t{epilogue}\t")?;
        match self.plan {
            Plan::Own(config) => write!(f, "own\t{}", config.image),
            Plan::CublasLt(algorithm) => write!(f, "cublaslt\t{algorithm}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "00000000000000010000000000000002000000000000000300000000000000040000000000000005000000000000000600000000000000070000000000000008";

    fn parse(lines: &str) -> Result<Table, TableError> {
        Table::parse(&format!("{HEAD}\n# a comment\n\n{lines}\n"))
    }

    fn call(rows: u32, epilogue: Epilogue) -> Call {
        Call { shape: Shape { rows, columns: 9216, inner: 3072, alignment: Alignment::Bytes16 }, epilogue }
    }

    #[test]
    fn lines_are_found_by_architecture_and_call() {
        let text = format!(
            "cublaslt 130100 33554432\n90a 4608 9216 3072 bias cublaslt {DIGITS}\n90a\t512\t9216 3072 fused own linear_sm90a_128x128_bf16\n\
             80 4608 9216 3072 bias own linear_sm80_64x64_bf16"
        );
        let table = parse(&text).unwrap();
        let library = Library { version: 130_100, workspace_bytes: 32 << 20 };
        assert_eq!(table.library_for(Arch::Sm90a), Some(library));
        assert_eq!(table.library_for(Arch::Sm80), None, "no line for it there");
        let foreign = Plan::CublasLt(Algorithm([1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(table.get(Arch::Sm90a, call(4608, Epilogue::Bias)), Some(foreign));
        assert_eq!(table.get(Arch::Sm90a, call(4608, Epilogue::Plain)), None);
        assert_eq!(table.get(Arch::Sm90a, call(4609, Epilogue::Bias)), None);
        let image = |found| match found {
            Some(Plan::Own(config)) => config.image,
            other => panic!("{other:?}"),
        };
        assert_eq!(image(table.get(Arch::Sm90a, call(512, Epilogue::Fused))), "linear_sm90a_128x128_bf16");
        assert_eq!(image(table.get(Arch::Sm80, call(4608, Epilogue::Bias))), "linear_sm80_64x64_bf16");
        let ours = table.without_library();
        assert_eq!(ours.get(Arch::Sm90a, call(4608, Epilogue::Bias)), None);
        assert_eq!(image(ours.get(Arch::Sm80, call(4608, Epilogue::Bias))), "linear_sm80_64x64_bf16");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = format!(
            "cublaslt 130100 33554432\n90a 4608 9216 3072 bias cublaslt {DIGITS}\n120a 9 9216 3072 plain own linear_sm80_rows16_bf16"
        );
        let table = parse(&text).unwrap();
        let written = Table::text(table.lines(), table.library_for(Arch::Sm90a), "two\nlines");
        assert!(written.contains("# two\n# lines\n"), "{written}");
        assert_eq!(Table::parse(&written), Ok(table));
    }

    fn check(lines: &str, line: usize, words: &str) {
        let error = parse(lines).unwrap_err();
        assert!(error.line == line + 3 && error.reason.contains(words), "{lines}: {error}");
    }

    #[test]
    fn bad_lines_are_named() {
        check("75 1 2 3 bias own x", 1, "\"75\" is no architecture");
        check("80 0 2 3 bias own x", 1, "rows \"0\" is no number from 1 to 4294967295");
        check("80 1 2 4294967296 bias own x", 1, "inner \"4294967296\"");
        check("80 1 x 3 bias own x", 1, "columns \"x\"");
        check("80 1 2 3 gelu own x", 1, "\"gelu\" is none of plain, bias and fused");
        check("80 1 2 3 bias other x", 1, "\"other\" is neither own nor cublaslt");
        check("80 1 2 3 bias own", 1, "6 fields");
        check(
            "80 100 256 256 bias own linear_sm90a_128x256_bf16",
            1,
            "no kernel that multiplies this on sm_80",
        );
        check("80 17 256 256 bias own linear_sm80_rows16_bf16", 1, "no kernel that multiplies this");
        check(&format!("90a 1 2 3 bias cublaslt {DIGITS}"), 1, "no line `cublaslt");
        check("cublaslt 130100 1\n90a 1 2 3 bias cublaslt 12", 2, "\"12\" is no algorithm");
        check(&format!("cublaslt 1 1\n90a 1 2 3 bias cublaslt +{}", &DIGITS[1..]), 2, "is no algorithm");
        check(&format!("cublaslt 1 1\n90a 1 2 3 fused cublaslt {DIGITS}"), 2, "fused is own");
        check("cublaslt 130100 999999999999", 1, "workspace \"999999999999\"");
        check("cublaslt 1 1\ncublaslt 1 1", 2, "named twice");
        let line = "80 100 256 256 bias own linear_sm80_64x64_bf16\n";
        check(&line.repeat(2), 2, "80 100 256 256 bias is there twice");
        let error = Table::parse("").unwrap_err();
        assert!(error.line == 1 && error.reason.contains(HEAD), "{error}");
    }

    #[test]
    fn the_committed_table_is_one() {
        assert!(Table::committed().lines().len() < LINES_MAX);
    }
}
