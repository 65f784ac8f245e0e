//! What an emulator would be told and would tell, in a build without one: the tests say it all the same.

/// As `lighterage_kernels::emu::Mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Eager,
    Late,
}

/// As `lighterage_kernels::emu::Start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "a GPU is told by the launch itself")]
pub(crate) enum Start {
    Behind,
    Overlapping,
}

/// As `lighterage_kernels::emu::Config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "a GPU has no such choices")]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    pub(crate) seed: u64,
    pub(crate) checks: bool,
    pub(crate) start: Start,
    pub(crate) shared_bytes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Mode::Late, seed: 0, checks: true, start: Start::Behind, shared_bytes_max: 232_448 }
    }
}

/// As `lighterage_kernels::emu::Region`.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "a GPU has no such bounds")]
pub(crate) struct Region {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

/// As `lighterage_kernels::emu::Report`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) blocks: u64,
    pub(crate) global_bytes_read: u64,
    pub(crate) global_bytes_written: u64,
    pub(crate) bank_conflicts: u64,
    pub(crate) matrix_loads: u64,
}
