//! Memory for kernels: aligned as device memory is, with guards around it.

use half::bf16;
use lighterage_kernels::emu::Region;

/// Device memory is aligned to 256 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(256))]
struct Line([bf16; 128]);

const GUARD_LINES: usize = 1;

/// `count` bf16 numbers, a NaN each until written, between guards that nobody may touch.
pub(crate) struct Buffer {
    lines: Vec<Line>,
    count: usize,
}

impl Buffer {
    pub(crate) fn poisoned(count: usize) -> Self {
        Self { lines: vec![Line([bf16::NAN; 128]); count.div_ceil(128) + 2 * GUARD_LINES], count }
    }

    pub(crate) fn of(values: &[f32]) -> Self {
        let mut buffer = Self::poisoned(values.len());
        for (index, value) in values.iter().enumerate() {
            *buffer.at(index) = bf16::from_f32(*value);
        }
        buffer
    }

    fn at(&mut self, index: usize) -> &mut bf16 {
        &mut self.lines[GUARD_LINES + index / 128].0[index % 128]
    }

    /// The address of element 0, for a kernel to write through.
    pub(crate) fn address(&mut self) -> u64 {
        self.lines[GUARD_LINES..].as_mut_ptr().expose_provenance() as u64
    }

    pub(crate) fn region(&mut self) -> Region {
        Region { address: self.address(), bytes: self.count as u64 * 2 }
    }

    /// All elements; fails where a guard was touched.
    pub(crate) fn values(&self) -> Vec<f32> {
        let all = || self.lines.iter().flat_map(|line| line.0);
        let first = GUARD_LINES * 128;
        let guards = all().take(first).chain(all().skip(first + self.count));
        assert!(
            guards.clone().all(|guard| guard.to_bits() == bf16::NAN.to_bits()),
            "a guard was overwritten"
        );
        all().skip(first).take(self.count).map(bf16::to_f32).collect()
    }
}

/// Device memory is aligned to 256 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(256))]
struct FloatLine([f32; 64]);

/// The same of f32 numbers.
pub(crate) struct Floats {
    lines: Vec<FloatLine>,
    count: usize,
}

impl Floats {
    pub(crate) fn of(values: &[f32]) -> Self {
        let mut lines = vec![FloatLine([f32::NAN; 64]); values.len().div_ceil(64) + 2 * GUARD_LINES];
        for (index, value) in values.iter().enumerate() {
            lines[GUARD_LINES + index / 64].0[index % 64] = *value;
        }
        Self { lines, count: values.len() }
    }

    /// The address of element 0, for a kernel to write through.
    pub(crate) fn address(&mut self) -> u64 {
        self.lines[GUARD_LINES..].as_mut_ptr().expose_provenance() as u64
    }

    pub(crate) fn region(&mut self) -> Region {
        Region { address: self.address(), bytes: self.count as u64 * 4 }
    }

    /// All elements; fails where a guard was touched.
    pub(crate) fn values(&self) -> Vec<f32> {
        let all = || self.lines.iter().flat_map(|line| line.0);
        let first = GUARD_LINES * 64;
        let mut guards = all().take(first).chain(all().skip(first + self.count));
        assert!(guards.all(|guard| guard.to_bits() == f32::NAN.to_bits()), "a guard was overwritten");
        all().skip(first).take(self.count).collect()
    }
}
