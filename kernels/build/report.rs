//! What ptxas says about the kernels of one file.

use std::collections::BTreeMap;

/// What one kernel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Registers of a thread.
    pub(crate) registers: u32,
    /// Static shared memory of a block, in bytes; dynamic shared memory is the launch's affair.
    pub(crate) shared_bytes: u32,
    /// Bytes spilled or kept in local memory.
    local_bytes: u32,
}

/// The kernels of one file, and complaints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kernels: BTreeMap<String, Usage>,
    complaints: Vec<String>,
}

/// wgmma that the assembler serialises: the kernel is right and slow.
const SERIALISED: [&str; 2] = ["C7510", "C7519"];

impl Report {
    /// Reads the output of `ptxas -v`.
    pub(crate) fn parse(log: &str) -> Self {
        let mut report = Self::default();
        let mut kernel = None;
        for line in log.lines() {
            if let Some(name) =
                line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next())
            {
                kernel = Some(report.kernels.entry(name.to_owned()).or_default());
            } else if let Some(usage) = &mut kernel {
                usage.read(line);
            }
            if SERIALISED.iter().any(|code| line.contains(code)) || line.contains("warning") {
                report.complaints.push(line.trim().to_owned());
            }
        }
        report
    }

    /// The kernels, by name.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.kernels.keys().map(String::as_str).collect()
    }

    /// Why the build has to fail.
    pub(crate) fn problems(&self) -> Vec<String> {
        let local = self.kernels.iter().filter(|(_, usage)| usage.local_bytes > 0).map(|(name, usage)| {
            format!(
                "{name} spills or keeps {} bytes in local memory: fewer registers, or constant indices",
                usage.local_bytes
            )
        });
        let none = self.kernels.is_empty().then(|| "no kernel in it".to_owned());
        self.complaints.iter().cloned().chain(local).chain(none).collect()
    }
}

impl Usage {
    /// `    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads`, or
    /// `ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem`.
    fn read(&mut self, line: &str) {
        let line = line.split("Used ").last().unwrap_or(line);
        for item in line.split(',') {
            let Some((number, what)) = item.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match what {
                "registers" => self.registers = number,
                "bytes smem" => self.shared_bytes = number,
                "bytes stack frame"
                | "bytes spill stores"
                | "bytes spill loads"
                | "bytes lmem"
                | "bytes cumulative stack size" => self.local_bytes = self.local_bytes.max(number),
                _ => (),
            }
        }
    }
}
