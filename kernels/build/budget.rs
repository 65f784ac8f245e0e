//! The table of what each kernel may take: `kernels/budget.tsv`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::nvcc::Nvcc;
use super::sources::ARCHS;
use super::{Cubin, Result};

/// Registers and static shared memory, by kernel and architecture.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// The compiler that it was measured with.
    compiler: String,
    cells: BTreeMap<(String, &'static str), (u32, u32)>,
}

impl Table {
    /// What was compiled.
    pub(crate) fn measured(nvcc: &Nvcc, cubins: &[Cubin]) -> Result<Self> {
        let mut table = Self { compiler: nvcc.version().to_owned(), cells: BTreeMap::new() };
        for cubin in cubins {
            for (name, usage) in &cubin.report.kernels {
                let cell = (usage.registers, usage.shared_bytes);
                if table.cells.insert((name.clone(), cubin.arch), cell).is_some() {
                    return Err(format!("two kernels are called {name}"));
                }
            }
        }
        Ok(table)
    }

    /// Writes it as text.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        super::written(fs::write(path, self.text()), path)
    }

    /// Holds what was compiled against the committed table. `fresh` is where the measured one lies.
    pub(crate) fn check(&self, committed: &Path, fresh: &Path) -> Result<()> {
        let text =
            fs::read_to_string(committed).map_err(|error| format!("{}: {error}", committed.display()))?;
        let mut budget = Self::parse(&text)?;
        if budget.compiler != self.compiler {
            // Another compiler allocates otherwise, and is not to be held to this one's figures.
            budget.cells.values_mut().for_each(|cell| *cell = (u32::MAX, u32::MAX));
        }
        let problems = self.above(&budget);
        if problems.is_empty() {
            return Ok(());
        }
        let help = format!("if that is right: cp {} {}", fresh.display(), committed.display());
        Err(format!("{}\n{help}", problems.join("\n")))
    }

    /// Entries of kernels that are not there any more.
    #[allow(dead_code, reason = "a build for some architectures cannot tell; the tests of one for all do")]
    pub(crate) fn leftovers(&self, budget: &Self) -> Vec<String> {
        let gone = budget.cells.keys().filter(|key| !self.cells.contains_key(*key));
        gone.map(|(kernel, arch)| format!("{kernel} for sm_{arch} is in kernels/budget.tsv and nowhere else"))
            .collect()
    }

    /// Where this table takes more than `budget` grants.
    pub(crate) fn above(&self, budget: &Self) -> Vec<String> {
        let mut problems = Vec::new();
        for ((kernel, arch), (registers, shared)) in &self.cells {
            match budget.cells.get(&(kernel.clone(), *arch)) {
                None => problems.push(format!("{kernel} for sm_{arch} has no entry in kernels/budget.tsv")),
                Some((most, shared_most)) if registers > most || shared > shared_most => problems.push(format!(
                    "{kernel} for sm_{arch}: {registers} registers and {shared} bytes of shared memory, {most} and {shared_most} are granted"
                )),
                Some(_) => (),
            }
        }
        problems
    }

    /// One line for each kernel; `registers` or `registers+shared bytes` for each architecture.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# Registers of a thread, + static shared memory of a block in bytes; checked by build.rs, which says how to renew it.\n# {}\nkernel",
            self.compiler
        );
        for arch in ARCHS {
            let _ = write!(text, "\tsm_{arch}");
        }
        let kernels: std::collections::BTreeSet<&String> =
            self.cells.keys().map(|(kernel, _)| kernel).collect();
        for kernel in kernels {
            let _ = write!(text, "\n{kernel}");
            for arch in ARCHS {
                let _ = match self.cells.get(&(kernel.clone(), arch)) {
                    None => write!(text, "\t-"),
                    Some((registers, 0)) => write!(text, "\t{registers}"),
                    Some((registers, shared)) => write!(text, "\t{registers}+{shared}"),
                };
            }
        }
        text.push('\n');
        text
    }

    /// Reads the text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut table = Self::default();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                // The second comment.
                comment.clone_into(&mut table.compiler);
                continue;
            }
            let mut cells = line.split('\t');
            let Some(kernel) = cells.next().filter(|name| *name != "kernel" && !name.is_empty()) else {
                continue;
            };
            for (arch, cell) in ARCHS.into_iter().zip(cells).filter(|(_, cell)| *cell != "-") {
                let (registers, shared) = cell.split_once('+').unwrap_or((cell, "0"));
                let number = |text: &str| {
                    text.parse().map_err(|_| format!("kernels/budget.tsv: {kernel}: {cell} is no entry"))
                };
                table.cells.insert((kernel.to_owned(), arch), (number(registers)?, number(shared)?));
            }
        }
        Ok(table)
    }
}
