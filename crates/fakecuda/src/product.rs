//! Products, as the stand-in's cuBLASLt makes them when it is their turn.

use crate::abi::{ILLEGAL_ADDRESS, MISALIGNED_ADDRESS};
use crate::driver::Result;
use crate::memory::{Memory, pointer};

/// A matrix, column by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) address: u64,
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    pub(crate) stride: u64,
}

/// `out = a^T b + bias`, bf16 with f32 sums: [m, n] of [k, m] and [k, n].
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) out: Matrix,
    /// [m], or 0
    pub(crate) bias: u64,
    /// How many partial sums, neighbours in turn: the order of adding.
    pub(crate) sums: usize,
    /// Scratch memory, of which so many bytes are used.
    pub(crate) workspace: (u64, u64),
}

/// Alignment that every algorithm here takes for granted.
const ALIGNMENT: u64 = 16;

impl Matrix {
    fn check(&self, memory: &Memory) -> Result {
        if !self.address.is_multiple_of(ALIGNMENT) || !(self.stride * 2).is_multiple_of(ALIGNMENT) {
            return Err(MISALIGNED_ADDRESS);
        }
        memory.check(self.address, ((self.columns - 1) * self.stride + self.rows) * 2)
    }

    /// One column, as it lies there.
    fn column(&self, index: u64) -> &[u16] {
        let first = pointer(self.address + index * self.stride * 2).cast::<u16>();
        // SAFETY: `check` found the whole matrix mapped; nobody else runs while a piece of work does.
        unsafe { std::slice::from_raw_parts(first, usize::try_from(self.rows).unwrap_or(0)) }
    }
}

impl Product {
    pub(crate) fn run(&self, memory: &Memory) -> Result {
        [&self.a, &self.b, &self.out].into_iter().try_for_each(|matrix| matrix.check(memory))?;
        let (workspace, bytes) = self.workspace;
        if bytes > 0 {
            memory.check(workspace, bytes)?;
            let length = usize::try_from(bytes).map_err(|_| ILLEGAL_ADDRESS)?;
            // Whoever keeps something there finds NaN.
            // SAFETY: checked just now.
            unsafe { pointer(workspace).write_bytes(0xff, length) };
        }
        let bias = self.bias(memory)?;
        for column in 0..self.out.columns {
            let b = widened(self.b.column(column));
            for row in 0..self.out.rows {
                let sum = self.sum(self.a.column(row), &b);
                let bias = bias.get(usize::try_from(row).unwrap_or(0)).copied().unwrap_or(0.0);
                let place = pointer(self.out.address + (column * self.out.stride + row) * 2);
                // SAFETY: within the output, which was checked.
                unsafe { place.cast::<u16>().write(rounded(sum + bias)) };
            }
        }
        Ok(())
    }

    fn bias(&self, memory: &Memory) -> Result<Vec<f32>> {
        if self.bias == 0 {
            return Ok(Vec::new());
        }
        let bias = Matrix { address: self.bias, rows: self.out.rows, columns: 1, stride: 0 };
        bias.check(memory)?;
        Ok(widened(bias.column(0)))
    }

    fn sum(&self, a: &[u16], b: &[f32]) -> f32 {
        let mut sums = [0_f32; 4];
        for (index, (a, b)) in a.iter().zip(b).enumerate() {
            sums[index % self.sums] += widen(*a) * b;
        }
        sums.iter().sum()
    }
}

fn widened(values: &[u16]) -> Vec<f32> {
    values.iter().map(|value| widen(*value)).collect()
}

/// bf16 is the upper half of an f32.
fn widen(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// To nearest, ties to even; NaN stays one.
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let up = 0x7fff + (bits >> 16 & 1);
    let bits = if value.is_nan() { bits | 1 << 22 } else { bits.wrapping_add(up) };
    u16::try_from(bits >> 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        for (value, expected) in [
            (1.0_f32, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (-2.0, 0xc000),
            (3.4e38, 0x7f80),
        ] {
            assert_eq!(rounded(value), expected, "{value}");
        }
        assert!(widen(rounded(f32::NAN)).is_nan());
        assert_eq!(widen(0x3fc0), 1.5);
    }
}
